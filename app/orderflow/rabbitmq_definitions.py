# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's definitions document as typed values: what it imports at boot, and what its management API returns.

Fields that we do not use are ignored when a broker's own export is read.
"""

from typing import Any

import msgspec

Value = str | int | float | bool | list[Any] | dict[str, Any] | None

NOTHING = "^$"
"""The permission that matches no name."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange."""

    name: str
    vhost: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: dict[str, Value] = {}


class QueueDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as the broker stores it."""

    name: str
    vhost: str
    durable: bool = True
    auto_delete: bool = False
    arguments: dict[str, Value] = {}


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A binding of a queue or an exchange to an exchange."""

    source: str
    vhost: str
    destination: str
    destination_type: str
    routing_key: str
    arguments: dict[str, Value] = {}


class Policy(msgspec.Struct, frozen=True, kw_only=True, rename={"apply_to": "apply-to"}):
    """Settings for all queues whose name matches the pattern."""

    vhost: str
    name: str
    pattern: str
    apply_to: str = "quorum_queues"
    definition: dict[str, Value]
    priority: int = 0


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A broker user. The broker exports a hash in place of the password; a user without either cannot be created."""

    name: str
    tags: list[str]
    password: str | None = None
    password_hash: str | None = None
    hashing_algorithm: str | None = None


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """What a user may do in a vhost, each as a regular expression on names."""

    user: str
    vhost: str
    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING


class TopicPermission(msgspec.Struct, frozen=True, kw_only=True):
    """Which routing keys a user may publish to a topic exchange."""

    user: str
    vhost: str
    exchange: str
    write: str
    read: str = NOTHING


class VirtualHost(msgspec.Struct, frozen=True):
    """A vhost."""

    name: str


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document; ``msgspec.json.encode`` returns the JSON that the broker imports."""

    vhosts: list[VirtualHost] = []
    users: list[User] = []
    permissions: list[Permission] = []
    topic_permissions: list[TopicPermission] = []
    policies: list[Policy] = []
    exchanges: list[Exchange] = []
    queues: list[QueueDefinition] = []
    bindings: list[Binding] = []
