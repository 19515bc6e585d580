# SPDX-License-Identifier: Apache-2.0
"""Changes the number of partitions of a queue while the system runs.

No message is lost, none is handled twice, and the events of one order stay in their order:

1. The service's user is held to the old partitions. Those of the new count are made: nobody may read them.
2. They are bound, so events reach both. Then the old ones are unbound by one command, which is one step of the broker:
   no event overtakes an earlier one of its order. What reached both is a duplicate, which the inbox recognises.
3. When the old partitions have been empty for as long as the broker's counts may be old, the new ones are opened.
4. The old ones are deleted (``prune``) as soon as nobody consumes them.

Retry queues, dead letters and replays belong to the declared queue, and lead to the partitions that get events then. So
they are neither waited for nor moved.

Each step looks at the broker first and may be repeated. A command that was killed continues when it is run again.

Not covered: in a cluster the other nodes learn of the unbinding some milliseconds late. Two events of an order that are
published within this time, through two nodes, may change places.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Literal

import msgspec

from orderflow.messaging.clock import Clock
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import exported
from orderflow.operations.topology.diff import compare
from orderflow.operations.topology.partition_parts import PartitionParts
from orderflow.operations.topology.partition_state import PartitionState, UnfinishedChange
from orderflow.operations.topology.prune import COUNTS_AGE_SECONDS, QueueState, delete_binding, prune
from orderflow.rabbitmq_definitions import Binding, Definitions, Permission

Step = Literal["make", "bind", "unbind", "drain", "open", "tidy"]
LOOK_SECONDS = 5.0
"""The broker counts every five seconds."""


class PartitionChange:
    """One change of the count of one queue. Every method raises BrokerUnavailable or ManagementRefused.

    ``say`` gets one line for each step and each look. A drain takes at most ``drain_seconds``.
    """

    def __init__(
        self,
        management: Management,
        parts: PartitionParts,
        *,
        vhost: str,
        clock: Clock,
        say: Callable[[str], None],
        drain_seconds: float,
    ) -> None:
        self._management = management
        self._parts = parts
        self._vhost = vhost
        self._clock = clock
        self._say = say
        self._drain_seconds = drain_seconds

    def steps(self) -> Sequence[str]:
        """What ``run`` would do now, one sentence each. Raises ValueError when it would refuse."""
        actual = exported(self._management)
        return [self._sentence(step) for step in self._steps(actual, self._checked(actual))]

    def run(self) -> Sequence[str]:
        """Do what is not done yet; what is left afterwards, one sentence each. Raises ValueError when it refuses."""
        actual = exported(self._management)
        for step in self._steps(actual, self._checked(actual)):
            self._say(self._sentence(step))
            if left := self._do(step):
                return left
        return ()

    def _do(self, step: Step) -> Sequence[str]:
        match step:
            case "make":
                self._make()
            case "bind":
                self._bind()
            case "unbind":
                self._unbind()
            case "drain":
                return self._drain()
            case "open":
                self._permit(self._parts.permission())
            case "tidy":
                return self._tidy()
        return ()

    def _steps(self, actual: Definitions, state: PartitionState) -> Iterator[Step]:
        alone = state.bound == {self._parts.count}
        if self._parts.count not in state.bound:
            yield from ("make", "bind")
        if not alone:
            yield "unbind"
        if not alone or state.closed:
            yield from ("drain", "open")
        if not alone or state.closed or self._parts.leftovers(actual):
            yield "tidy"

    def _sentence(self, step: Step) -> str:
        return {
            "make": f"make the partitions of {self._parts.name} for a count of {self._parts.count}, readable by nobody",
            "bind": "bind them: events reach both the old ones and them",
            "unbind": "unbind the old ones: from now on events wait in the new ones",
            "drain": f"wait until the old ones are empty, at least {COUNTS_AGE_SECONDS:g} s",
            "open": f"let {self._parts.service.name} read the new ones",
            "tidy": "delete the old ones, if nobody consumes them",
        }[step]

    def _checked(self, actual: Definitions) -> PartitionState:
        """The state on the broker. Raises ValueError when a change to this count must not begin or continue."""
        parts = self._parts
        state = parts.state(actual)
        if state.targets and parts.count not in state.targets:
            raise UnfinishedChange(parts.name, state.targets)
        if not state.bound or (self._vhost, parts.user) not in {(p.vhost, p.user) for p in actual.permissions}:
            raise ValueError(
                f"{parts.name} or the permission of {parts.user} is missing: run `orderflow topology apply`"
            )
        if state.bound == {parts.count} and not state.closed:
            return state
        if others := parts.other_readers(actual):
            raise ValueError(
                f"{', '.join(others)} may read {parts.work[0]}, but only {parts.user} should: the events of an order"
                " could be handled in the wrong order. Take the permission away and run the command again"
            )
        if state.bound != {parts.count}:
            self._require_readers(state)
        return state

    def _require_readers(self, state: PartitionState) -> None:
        old = self._queues(state.others(self._parts.count))
        if unread := [found.name for found in old if found.messages and found.consumers == 0]:
            raise ValueError(
                f"{', '.join(unread)} has messages and nobody reads it, so it would never be empty: start a process of"
                f" {self._parts.service.name} with {self._setting(state, both=True)}"
            )

    def _make(self) -> None:
        actual, parts = exported(self._management), self._parts
        state = parts.state(actual)
        self._permit(parts.permission(only=state.count))
        if state.count == 1:  # events reach the queue through the exchange, too, before they no longer do directly
            self._require(parts.way_to_one_queue())
        self._require(parts.unbound())
        if state.count == 1:
            self._unbind_all(parts.direct(exported(self._management)))
        if state.present & set(parts.work):
            self._require_unused()

    def _require_unused(self) -> None:
        """Partitions that are left from an earlier change must not have a consumer, which would begin too early."""
        self._clock.wait(Event(), COUNTS_AGE_SECONDS)
        if used := [found.name for found in self._queues(self._parts.work) if not found.idle]:
            raise ValueError(
                f"{', '.join(used)} is left from an earlier change, with consumers or messages: start the processes of"
                f" {self._parts.service.name} without this count and run the command again"
            )

    def _bind(self) -> None:
        entries = exported(self._management).permissions
        if any(entry.user == self._parts.user and self._parts.may_be_read(entry) for entry in entries):
            raise ValueError("the new partitions may be read already: something else changes the permissions")
        self._require(self._parts.bound())

    def _unbind(self) -> None:
        actual = exported(self._management)
        self._unbind_all(self._parts.ways_to_others(actual))
        if self._parts.count > 1:
            self._unbind_all(self._parts.direct(actual))

    def _drain(self) -> Sequence[str]:
        """Wait until the old partitions are known to be empty; empty, or what is left when the time is over."""
        state = self._parts.state(exported(self._management))
        names = state.others(self._parts.count)
        deadline = self._clock.monotonic() + self._drain_seconds
        self._clock.wait(Event(), COUNTS_AGE_SECONDS)
        while full := [found for found in self._queues(names) if found.messages != 0]:
            lines = [self._still(found, state) for found in full]
            if self._clock.monotonic() >= deadline:
                return lines
            for line in lines:
                self._say(line)
            self._clock.wait(Event(), LOOK_SECONDS)
        return ()

    def _still(self, found: QueueState, state: PartitionState) -> str:
        if found.messages is None:
            return f"the broker has not counted the messages of {found.name} yet"
        text = f"the number of messages that are left in {found.name} is {found.messages}"
        unread = f", and nobody reads it: start a process of {self._parts.service.name} with"
        return f"{text}{unread} {self._setting(state, both=True)}" if found.consumers == 0 else text

    def _tidy(self) -> Sequence[str]:
        """Delete what belongs to other counts, unless it is in use; what is left to do."""
        self._require(self._parts.document)
        state = self._parts.state(exported(self._management))
        used, unread = self._in_use(state.others(self._parts.count))
        start = f"start the processes of {self._parts.service.name} with {self._setting(state)}"
        left = [f"nobody reads {name}: {start}" for name in unread]
        if used:
            return [*left, f"{', '.join(used)} still has consumers: {start}, then run this command again"]
        prune(self._management, self._vhost, self._parts.leftovers(exported(self._management)), self._clock)
        stays = self._parts.leftovers(exported(self._management))
        return [*left, *(f"{found}: run this command again" for found in stays)]

    def _in_use(self, old: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """The old partitions with a consumer and the new ones without, as soon as the broker has counted."""
        deadline = self._clock.monotonic() + COUNTS_AGE_SECONDS
        while True:
            used = [found.name for found in self._queues(old) if found.consumers]
            unread = [found.name for found in self._queues(self._parts.work) if not found.consumers]
            if not (used or unread) or self._clock.monotonic() >= deadline:
                return used, unread
            self._clock.wait(Event(), LOOK_SECONDS)

    def _require(self, part: Definitions) -> None:
        """Import a part of the document. Raises ValueError when the broker has something else afterwards."""
        self._management.post("definitions", body=msgspec.json.encode(part))
        wrong = [found for found in compare(part, exported(self._management)) if found.verdict != "extra"]
        if wrong:
            raise ValueError(f"the broker has something else: {', '.join(map(str, wrong))}")

    def _permit(self, entry: Permission) -> None:
        body = {"configure": entry.configure, "write": entry.write, "read": entry.read}
        self._management.put("permissions", self._vhost, entry.user, body=body)

    def _unbind_all(self, bindings: Iterable[Binding]) -> None:
        for found in bindings:
            arguments = msgspec.json.encode(found.arguments, order="sorted").decode()
            key = (found.source, found.destination_type, found.destination, found.routing_key, arguments)
            delete_binding(self._management, self._vhost, key)

    def _queues(self, names: Sequence[str]) -> list[QueueState]:
        found = msgspec.json.decode(self._management.get("queues", self._vhost), type=list[QueueState])
        return sorted((state for state in found if state.name in names), key=lambda state: state.name)

    def _setting(self, state: PartitionState, *, both: bool = False) -> str:
        counts = [*state.other_counts(self._parts.count), self._parts.count] if both else [self._parts.count]
        return f"ORDERFLOW_PARTITIONS={self._parts.name}={'+'.join(map(str, counts))}"
