# SPDX-License-Identifier: Apache-2.0
"""A vhost with the complete topology and its users, as in an installation."""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from local.eventually import eventually
from orderflow.broker_topology import definitions, user_names
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import apply
from orderflow.operations.topology.unread import unread
from orderflow.rabbitmq_definitions import Definitions, User
from orderflow.services import SERVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installation on a shared broker, with users of its own."""

    admin_url: str
    management_url: str
    vhost: str
    document: Definitions

    def user(self, name: str) -> str:
        """The whole name of one of its users."""
        return self._user(name).name

    def url(self, name: str) -> str:
        """The URL of one of its users."""
        user = self._user(name)
        parts = urlsplit(self.admin_url)
        return urlunsplit(parts._replace(netloc=f"{user.name}:{user.password}@{parts.hostname}:{parts.port}"))

    def api(self, name: str) -> Management:
        """The management API as one of its users."""
        user = self._user(name)
        parts = urlsplit(self.management_url)
        return Management(f"http://{user.name}:{user.password}@{parts.hostname}:{parts.port}")

    def _user(self, name: str) -> User:
        return next(user for user in self.document.users if user.name.endswith(f"-{name}"))


@pytest.fixture
def wanted(vhost: str, management_url: str) -> Iterator[Definitions]:
    """The document for a fresh vhost, not applied yet; its users are removed afterwards."""
    passwords = {name: secrets.token_urlsafe(12) for name in user_names(SERVICES)}
    name = unquote(urlsplit(vhost).path[1:])
    document = definitions(SERVICES, vhost=name, passwords=passwords, user_prefix=f"t{secrets.token_hex(4)}-")
    yield document
    for user in document.users:
        Management(management_url).delete("users", user.name)


@pytest.fixture
def shop(vhost: str, management_url: str, wanted: Definitions) -> Installation:
    """An installation with everything applied."""
    applied = apply(Management(management_url), wanted)
    assert not applied.left
    return Installation(admin_url=vhost, management_url=management_url, vhost=wanted.vhosts[0].name, document=wanted)


@pytest.fixture
def channels() -> Iterator["Channels"]:
    """Opens channels with confirms, each on its own connection, and closes them afterwards."""
    opened = Channels()
    yield opened
    opened.close()


class Channels:
    """Channels of a test."""

    def __init__(self) -> None:
        self._connections: list[pika.BlockingConnection] = []

    def open(self, url: str) -> BlockingChannel:
        """A channel in confirm mode on a new connection."""
        connection = pika.BlockingConnection(pika.URLParameters(url))
        self._connections.append(connection)
        channel = connection.channel()
        channel.confirm_delivery()
        return channel

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            with suppress(pika.exceptions.AMQPError):
                connection.close()


def consume_all(shop: Installation, channels: Channels, *, but: str = "") -> None:
    """Consume every queue that gets events, as the running services do; returns when the broker has counted them."""
    queues = {found.destination for found in shop.document.bindings if found.source == "order_events"} - {but}
    channel = channels.open(shop.admin_url)
    for queue in queues:
        channel.basic_consume(queue, lambda *_: None)
    management, expected = Management(shop.management_url), [but] if but else []
    eventually(lambda: [left.key[0] for left in unread(management, shop.vhost)] == expected, 30, pause=0.2)
