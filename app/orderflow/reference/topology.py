# SPDX-License-Identifier: Apache-2.0
"""The reference of the broker's topology: exchanges, queues, bindings, policies, users."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orderflow.broker_topology import definitions
from orderflow.rabbitmq_definitions import Definitions
from orderflow.services import SERVICES

EMPTY = '""'
"""How an empty name is shown, for example that of the default exchange."""


def topology() -> str:
    """The page about everything that ``orderflow topology apply`` creates."""
    document = definitions(SERVICES, vhost="orderflow")
    return "\n".join(
        [
            "# Topology",
            "",
            "What `orderflow topology apply` creates in a vhost. No user may declare, bind or delete anything.",
            *_section("Exchanges", ("Name", "Type"), ((f"`{e.name}`", e.type) for e in document.exchanges)),
            *_section("Queues", ("Name", "Arguments", "Policy"), _queues(document)),
            *_section("Bindings", ("From", "Routing key", "To"), _bindings(document)),
            *_section("Users", ("User", "Tags", "Configure", "Write", "Read"), _users(document)),
            *_section("Routing keys that a user may publish", ("User", "Exchange", "Keys"), _keys(document)),
        ]
    )


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from ("", f"## {title}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}")
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _queues(document: Definitions) -> Iterator[Sequence[str]]:
    policies = {policy.name: policy for policy in document.policies}
    for queue in document.queues:
        yield f"`{queue.name}`", _settings(queue.arguments), _settings(policies[queue.name].definition)


def _bindings(document: Definitions) -> Iterator[Sequence[str]]:
    for binding in document.bindings:
        yield f"`{binding.source}`", f"`{binding.routing_key}`", f"{binding.destination_type} `{binding.destination}`"


def _users(document: Definitions) -> Iterator[Sequence[str]]:
    tags = {user.name: ", ".join(user.tags) for user in document.users}
    for entry in document.permissions:
        yield entry.user, tags[entry.user], *(_code(part) for part in (entry.configure, entry.write, entry.read))


def _keys(document: Definitions) -> Iterator[Sequence[str]]:
    for entry in document.topic_permissions:
        yield entry.user, f"`{entry.exchange}`", _code(entry.write)


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} `{value or EMPTY}`" for name, value in settings.items())


def _code(pattern: str) -> str:
    """A regular expression in a table cell; the bar would end the cell."""
    return "nothing" if pattern == "^$" else f"`{pattern}`".replace("|", "\\|")
