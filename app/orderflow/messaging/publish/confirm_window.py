# SPDX-License-Identifier: Apache-2.0
"""The publish window: the publications that wait, those on the wire, and their results. Uses no broker library.

Tags are those of one channel in confirm mode: 1 for its first publish, increased by one for each further publish.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from orderflow.messaging.broker import Failure, Properties, Publication, Receipt
from orderflow.messaging.instrumentation import PublishObserver

HARD_CAP = 2000
"""Above this many unconfirmed messages a quorum queue with a deep backlog collapses to a sixth of its throughput."""


@dataclass(slots=True)
class _Group:
    """Publications that were written together; their observer is called once, when the last is settled."""

    observer: PublishObserver
    written_at: float
    size: int
    open: int
    failures: Counter[Failure]


@dataclass(slots=True, eq=False)
class _Entry:
    publication: Publication
    receipt: Receipt
    group: _Group
    returned: bool = False


GroupSettled = Callable[[PublishObserver, int, Counter[Failure], float], None]
"""Called for a settled group: its observer, how many were confirmed, the failures, when it was written."""


class ConfirmWindow:
    """Bounds the publications on the wire and settles their receipts. For one thread."""

    def __init__(self, size: int, group_settled: GroupSettled) -> None:
        self._size = min(size, HARD_CAP)
        self._group_settled = group_settled
        self._pending: deque[tuple[Publication, Receipt]] = deque()
        self._wire: OrderedDict[int, _Entry] = OrderedDict()
        self._next_tag = 1
        self._suspects = 0

    @property
    def unconfirmed(self) -> int:
        """Publications on the wire."""
        return len(self._wire)

    @property
    def waiting(self) -> int:
        """Publications queued behind the window."""
        return len(self._pending)

    def add(self, publications: Iterable[Publication], receipt: Receipt) -> None:
        """Queue publications behind those that wait already."""
        self._pending.extend((publication, receipt) for publication in publications)

    def due(self) -> list[Publication]:
        """What may be written now, in order; one by one while it is not known which of them the broker refuses."""
        free = max(0, (1 if self._suspects else self._size) - len(self._wire))
        return [publication for publication, _ in islice(self._pending, free)]

    def written(self, count: int, observer: PublishObserver, now: float) -> range:
        """Record that the first ``count`` due publications were written; their tags."""
        group = _Group(observer, now, count, count, Counter())
        for _ in range(count):
            publication, receipt = self._pending.popleft()
            self._wire[self._next_tag] = _Entry(publication, receipt, group)
            self._next_tag += 1
        return range(self._next_tag - count, self._next_tag)

    def returned(self, exchange: str, routing_key: str, properties: Properties, body: bytes) -> bool:
        """The broker returned a publication; its confirm follows. False when no publication on the wire matches.

        Two publications may share a message id, so exchange, routing key and body are compared too. When two match, it
        does not matter which is marked. Other properties are not compared: the broker's message interceptors may add
        headers and times before the return. Without a match, every publication on the wire with this exchange and
        routing key counts as returned: publishing a routed message again is harmless, losing an unroutable one is not.
        """
        same_route = []
        for entry in self._wire.values():
            publication = entry.publication
            if entry.returned or publication.routing_key != routing_key or publication.exchange != exchange:
                continue
            if publication.properties.message_id == properties.message_id and publication.body == body:
                entry.returned = True
                return True
            same_route.append(entry)
        for entry in same_route:
            entry.returned = True
        return False

    def settle(self, tag: int, *, multiple: bool, acked: bool) -> None:
        """A confirm (or nack) arrived for this tag, or for all tags up to it."""
        if multiple:
            tags = []
            for known in self._wire:
                if known > tag:
                    break
                tags.append(known)
        else:
            tags = [tag] if tag in self._wire else []
        self._suspects = max(0, self._suspects - len(tags))
        self._close([(self._wire.pop(known), None if acked else Failure.NACKED) for known in tags])

    def refused(self, failure: Failure, *, size_bytes: int | None = None) -> int:
        """The broker closed the channel because of one publication; the number of those that fail with ``failure``.

        Those are the ones of this size, when the broker told it, or the only one on the wire. When that finds none, all
        on the wire are suspects: they are written again one by one, before the others. What is not refused is written
        again on the next channel, with the same message id.
        """
        wire = list(self._wire.values())
        found = [entry for entry in wire if len(entry.publication.body) == size_bytes]
        if not found and len(wire) == 1:
            found = wire
        others = [entry for entry in wire if entry not in found]
        self._suspects = max(0, self._suspects - len(found)) if found else max(self._suspects, len(wire))
        self._pending.extendleft((entry.publication, entry.receipt) for entry in reversed(others))
        self._wire.clear()
        self._next_tag = 1
        for entry in others:
            entry.group.failures[Failure.LOST] += 1
            self._count_down(entry.group)
        self._close([(entry, failure) for entry in found])
        return len(found)

    def lose(self) -> int:
        """The channel is closed: every publication on the wire and behind the window fails as LOST; their number."""
        lost = [(entry, Failure.LOST) for entry in self._wire.values()]
        pending = list(self._pending)
        self._wire.clear()
        self._pending.clear()
        self._next_tag = 1
        self._suspects = 0
        self._close(lost)
        for publication, receipt in pending:
            receipt.fail(publication.key, Failure.LOST)
        return len(lost) + len(pending)

    def _close(self, entries: Sequence[tuple[_Entry, Failure | None]]) -> None:
        settled: dict[int, tuple[Receipt, int]] = {}
        for entry, lost in entries:
            failure = lost or (Failure.RETURNED if entry.returned else None)
            if failure is not None:
                entry.receipt.failures[entry.publication.key] = failure
                entry.group.failures[failure] += 1
            _, count = settled.get(id(entry.receipt), (entry.receipt, 0))
            settled[id(entry.receipt)] = (entry.receipt, count + 1)
            self._count_down(entry.group)
        for receipt, count in settled.values():
            receipt.settle(count)

    def _count_down(self, group: _Group) -> None:
        group.open -= 1
        if group.open == 0:
            self._group_settled(group.observer, group.size - group.failures.total(), group.failures, group.written_at)
