# SPDX-License-Identifier: Apache-2.0
"""Deletes what a broker has and the document does not, without the loss of a message.

Invariants:

- A queue is deleted only when it and the queues whose messages return to it are empty and have no consumer. So a work
  queue and its retry queues are deleted together: a copy that expires without its work queue is lost. The retry queues
  of a queue with partitions return to its exchange, and so to all partitions that are bound to it.
- A queue that stays keeps its policy, its bindings, and the exchanges on the way to it.
- The broker's counts are up to ``COUNTS_AGE_SECONDS`` old, and quorum queues do not support deletion only if empty. So
  a queue is first found empty, then unbound, and deleted only when it is still empty that long afterwards. A queue that
  received a message or a consumer meanwhile is bound again.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from threading import Event
from typing import Any

import msgspec

from orderflow.messaging.clock import Clock
from orderflow.operations.management_api import Management, ManagementRefused
from orderflow.operations.topology.diff import Difference, Key
from orderflow.rabbitmq_definitions import Binding

log = logging.getLogger(__name__)

COUNTS_AGE_SECONDS = 12.0
"""Two of the broker's intervals of 5 s, and some time to spare."""


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as the management API describes it. A count is None until the broker has measured it."""

    name: str
    messages: int | None = None
    consumers: int | None = None
    policy: str | None = None
    effective_policy_definition: Any = None
    arguments: dict[str, Any] = {}

    @property
    def idle(self) -> bool:
        """True when it is known to be empty and without a consumer."""
        return self.messages == 0 and self.consumers == 0

    def returns_to(self, reached: Mapping[str, Collection[str]]) -> set[str]:
        """The queues to which its messages may go when they expire; ``reached`` are the queues of each exchange."""
        policy = self.effective_policy_definition or {}

        def setting(name: str) -> Any:
            return self.arguments.get(f"x-{name}", policy.get(name))

        exchange, key = setting("dead-letter-exchange"), setting("dead-letter-routing-key")
        return {key} if exchange == "" else set(reached.get(exchange, ()))


def prune(management: Management, vhost: str, extra: Sequence[Difference], clock: Clock) -> None:
    """Delete everything in ``extra`` that is safe to delete; what stays is logged.

    Raises BrokerUnavailable or ManagementRefused.
    """
    pruning = _Pruning(management, vhost, extra)
    if pruning.queues:
        clock.wait(Event(), COUNTS_AGE_SECONDS)
    pruning.find_idle()
    if pruning.unbind():
        try:
            clock.wait(Event(), COUNTS_AGE_SECONDS)
            pruning.find_idle()
        except BaseException:  # an operator may interrupt the wait
            pruning.keep_all()
            raise
        finally:
            pruning.bind_again()
    pruning.delete()


def busy_queues(
    extra: Collection[str], states: Sequence[QueueState], reached: Mapping[str, Collection[str]] | None = None
) -> set[str]:
    """Those of the extra queues that must stay: they, or queues that belong to them, have messages or consumers."""
    found = {state.name: state.returns_to(reached or {}) & set(extra) for state in states if state.name in extra}
    stay = {state.name for state in states if state.name in extra and not state.idle}
    stay |= {target for name in stay for target in found[name]}
    return {name for name, targets in found.items() if name in stay or targets & stay}


class _Pruning:
    """One run: what is extra, and which extra queues are idle."""

    def __init__(self, management: Management, vhost: str, extra: Sequence[Difference]) -> None:
        self._management = management
        self._vhost = vhost
        self._extra = extra
        self.queues = {found.key[0] for found in extra if found.kind == "queue"}
        self._exchanges = {found.key[0] for found in extra if found.kind == "exchange"}
        self._bindings = [found for found in extra if found.kind == "binding"]
        self._reached = {name: self._queues_of(name) for name in self._exchanges}
        self._idle = set(self.queues)
        self._unbound: list[Difference] = []

    def find_idle(self) -> None:
        """Look which extra queues may be deleted; one that was found busy once stays."""
        self._idle -= busy_queues(self.queues, self._states(), self._reached)

    def keep_all(self) -> None:
        """Delete no queue: nobody looked whether they are still idle."""
        self._idle.clear()

    def unbind(self) -> bool:
        """Delete the bindings on no way to a queue that stays; true when a queue lost one."""
        stay = self._destinations_that_stay()
        for found in self._bindings:
            if _destination(found.key) not in stay:
                self._delete(found)
                self._unbound.append(found)
        return any(_destination(found.key)[0] == "queue" and found.key[2] in self.queues for found in self._unbound)

    def bind_again(self) -> None:
        """Restore the bindings on the way to a queue that turned out not to be idle."""
        stay = self._destinations_that_stay()
        for found in self._unbound:
            if _destination(found.key) in stay:
                source, kind, destination, routing_key, arguments = found.key
                body = msgspec.json.encode({"routing_key": routing_key, "arguments": msgspec.Raw(arguments.encode())})
                self._management.post("bindings", self._vhost, "e", source, kind[0], destination, body=body)

    def delete(self) -> None:
        """Delete the idle queues, then what no remaining queue needs."""
        stay = self._destinations_that_stay()
        for found in self._of("queue"):
            if found.key[0] in self._idle:
                self._delete(found)
            else:
                _kept(found, "it, or a queue that belongs to it, has messages or consumers")
        for found in self._of("exchange"):
            if ("exchange", found.key[0]) in stay:
                _kept(found, "a queue that stays is bound to it")
            else:
                self._delete(found)
        # The broker tells which policies the remaining queues have, also those that it refused to delete.
        used = {state.policy for state in self._states() if state.name in self.queues}
        for found in self._of("policy"):
            if found.key[0] in used:
                _kept(found, "a queue that stays has it")
            else:
                self._delete(found)
        for found in (*self._of("topic permission"), *self._of("permission")):
            self._delete(found)

    def _queues_of(self, exchange: str) -> set[str]:
        """The extra queues that messages reach through an extra exchange."""
        seen: set[str] = set()
        reached, more = set[str](), {exchange}
        while more := more - seen:
            seen |= more
            leading = [_destination(found.key) for found in self._bindings if found.key[0] in more]
            more = {name for kind, name in leading if kind == "exchange"}
            reached |= {name for kind, name in leading if kind == "queue"}
        return reached & self.queues

    def _of(self, kind: str) -> Iterator[Difference]:
        return (found for found in self._extra if found.kind == kind)

    def _states(self) -> list[QueueState]:
        if not self.queues:
            return []
        return msgspec.json.decode(self._management.get("queues", self._vhost), type=list[QueueState])

    def _destinations_that_stay(self) -> set[tuple[str, str]]:
        """The extra queues that stay, and the extra exchanges on the way to them."""
        stay = {("queue", name) for name in self.queues - self._idle}
        while True:
            sources = {("exchange", found.key[0]) for found in self._bindings if _destination(found.key) in stay}
            new = {source for source in sources - stay if source[1] in self._exchanges}
            if not new:
                return stay
            stay |= new

    def _delete(self, extra: Difference) -> None:
        """Delete one object; when the broker refuses, it stays and a warning is logged."""
        key, management, vhost = extra.key, self._management, self._vhost
        try:
            match extra.kind:
                case "binding":
                    delete_binding(management, vhost, key)
                case "queue":
                    management.delete("queues", vhost, key[0])
                case "exchange":
                    management.delete("exchanges", vhost, key[0], condition="if-unused")
                case "policy":
                    management.delete("policies", vhost, key[0])
                case "topic permission":
                    management.delete("topic-permissions", vhost, *key)
                case _:
                    management.delete("permissions", vhost, key[0])
        except ManagementRefused as refused:
            _kept(extra, str(refused))


def _destination(key: Key) -> tuple[str, str]:
    """Kind and name of a binding's destination."""
    return key[1], key[2]


def _kept(extra: Difference, why: str) -> None:
    log.warning("topology.kept", extra={"kept": str(extra), "error": why})


def delete_binding(management: Management, vhost: str, key: Key) -> None:
    """Delete a binding by the broker's own key for it."""

    class Listed(Binding, frozen=True, kw_only=True):
        properties_key: str

    source, kind, destination, routing_key, arguments = key
    path = ("bindings", vhost, "e", source, kind[0], destination)
    for found in msgspec.json.decode(management.get(*path), type=list[Listed]):
        same = found.routing_key == routing_key and found.arguments == msgspec.json.decode(arguments)
        if same:
            management.delete(*path, found.properties_key)
