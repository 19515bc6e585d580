# SPDX-License-Identifier: Apache-2.0
"""What a broker's definitions say about the partitions of a queue: how many it has, and whether a change is unfinished.

The broker is the record of the count, so that neither a command that is repeated after a kill nor ``topology apply``
needs another one:

- The partitions that are bound to the queue's exchange get its events.
- The service's user may read them once those of the count before are empty. Before that the change is unfinished.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orderflow.broker_topology import declared_queue, work_queues
from orderflow.events import EXCHANGE
from orderflow.messaging.service import Queue, Service
from orderflow.operations.topology.diff import Difference
from orderflow.rabbitmq_definitions import Definitions


class UnfinishedChange(ValueError):
    """The count of a queue is being changed, so nothing else may be."""

    def __init__(self, queue: str, targets: Sequence[int]) -> None:
        names = " or ".join(f"`orderflow topology partitions {queue} {count}`" for count in targets)
        super().__init__(f"a change of the partitions of {queue} is not finished: run {names}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """The partitions of one queue on one broker. ``queue`` is as declared, whatever its count there."""

    queue: Queue
    bound: frozenset[int]
    """The counts whose partitions get events: two in the middle of a change, none in a new vhost."""
    closed: frozenset[int]
    """Those of them that the service's user may not read yet."""
    present: frozenset[str]
    """The work queues of any count that exist."""

    @property
    def targets(self) -> Sequence[int]:
        """The counts to which an unfinished change leads; empty when there is none."""
        if self.closed:
            return sorted(self.closed)
        return sorted(self.bound) if len(self.bound) > 1 else ()

    @property
    def count(self) -> int:
        """The number of partitions; that of the declaration when the broker has none. Raises UnfinishedChange."""
        if self.targets:
            raise UnfinishedChange(self.queue.name, self.targets)
        return next(iter(self.bound), self.queue.partitions)

    def others(self, count: int) -> Sequence[str]:
        """The work queues of other counts that exist."""
        return sorted(self.present - set(work_queues(replace(self.queue, partitions=count))))

    def other_counts(self, count: int) -> Sequence[int]:
        """The other counts of which work queues exist."""
        return sorted({int(name.rpartition("of")[2]) if name != self.queue.name else 1 for name in self.others(count)})


def partition_state(actual: Definitions, vhost: str, user: str, queue: Queue) -> PartitionState:
    """The partitions of a queue, for the user of its service."""
    bound = frozenset(_bound(actual, vhost, queue))
    entries = [entry.read for entry in actual.permissions if (entry.vhost, entry.user) == (vhost, user)]

    def readable(count: int) -> bool:
        names = work_queues(replace(queue, partitions=count))
        return not entries or all(re.search(entries[0], name) for name in names)

    return PartitionState(
        queue=queue,
        bound=bound,
        closed=frozenset(count for count in bound if not readable(count)),
        present=frozenset(
            found.name for found in actual.queues if found.vhost == vhost and declared_queue(found.name) == queue.name
        ),
    )


def as_on_broker(
    services: Sequence[Service], actual: Definitions, vhost: str, prefix: str, *, but: str = ""
) -> tuple[Service, ...]:
    """The services, each queue but one with the count that it has on the broker. Raises UnfinishedChange."""

    def counted(service: Service, queue: Queue) -> Queue:
        if queue.name == but:
            return queue
        return replace(queue, partitions=partition_state(actual, vhost, prefix + service.name, queue).count)

    return tuple(
        replace(service, queues=tuple(counted(service, queue) for queue in service.queues)) for service in services
    )


def other_counts(services: Sequence[Service], wanted: Sequence[Service]) -> Sequence[Difference]:
    """The queues that have another count than they should have."""
    pairs = zip(
        [queue for service in services for queue in service.queues],
        [queue for service in wanted for queue in service.queues],
        strict=True,
    )
    return [
        Difference(
            verdict="changed",
            kind="queue",
            key=(has.name,),
            detail=f"it has {has.partitions} partitions, should have {should.partitions}: `topology partitions`",
        )
        for has, should in pairs
        if has.partitions != should.partitions
    ]


def _bound(actual: Definitions, vhost: str, queue: Queue) -> Iterator[int]:
    """The counts whose partitions get events; one queue that gets them directly is a count of 1."""
    spread = re.compile(re.escape(queue.name) + r"\.of([0-9]+)")
    for binding in actual.bindings:
        if binding.vhost != vhost or binding.source not in (queue.name, EXCHANGE):
            continue
        if binding.destination_type == "queue" and binding.destination == queue.name:
            yield 1
        elif binding.source == queue.name and (found := spread.fullmatch(binding.destination)):
            yield int(found[1])
