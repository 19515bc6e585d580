# SPDX-License-Identifier: Apache-2.0
"""Publishes the rows that a full queue refused: one first, and twice as many after each success.

When one of several queues is full, the broker nacks the message to its publisher, although the others have taken it.
Each repetition costs those others a duplicate that they drop.

Invariants, for each routing key and each relay:

- A nacked row is published again only in a turn. A turn is one row after a start and after a nack, twice as many as the
  last one after a turn that was confirmed as a whole, and never more than ``MAX_ROWS``. The rows of a turn are leased:
  when its connection or its process is lost, they are published again as any others.
- The next turn begins when every result of the last one is known; after a nack not before the relay's interval is over.
  So the broker nacks at most as many repetitions as it confirms, and one more per interval.
- Rows take turns in the order of their last nack. A row that is nacked again goes to the end, so that the rows of
  another queue, or of another partition, do not wait behind it.
- The state is in memory, so a relay that starts begins with one row. Relays of other processes do the same, each with
  rows of its own: what is said of a relay is multiplied by their number.

The relay finds out with its measurement which routing keys have such rows. Without any there is no statement more.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from orderflow.messaging.broker import Receipt
from orderflow.messaging.clock import Clock

MAX_ROWS = 50
GROWTH_SECONDS = 0.2
"""From one turn to the next while all is confirmed. With ``MAX_ROWS`` it bounds the duplicates of other queues."""
_RESULT_SECONDS = 0.05
"""Pause while results are open: confirms come within milliseconds."""

TAKE = """
with turn as materialized (
    select id from outbox
    where reason = 'nacked' and leased_until = 'infinity' and routing_key = %(routing_key)s
    order by refused_at, id limit %(limit)s for update skip locked)
update outbox set leased_until = statement_timestamp() + make_interval(secs => %(lease_seconds)s),
                  leased_by = %(owner)s
from turn where outbox.id = turn.id
returning outbox.id, exchange, outbox.routing_key, properties::text, body
"""


@dataclass(slots=True)
class _Turn:
    rows: int = 1
    """How many rows the next turn may have."""
    began_at: float = -math.inf
    next_at: float = -math.inf
    receipt: Receipt | None = None
    """Of the last turn, while its results are open."""


class SlowStart:
    """How many nacked rows of each routing key one relay may publish, and when. For one thread."""

    def __init__(self, *, clock: Clock, interval_seconds: float) -> None:
        self._clock = clock
        self._interval = interval_seconds
        self._turns: dict[str, _Turn] = {}

    def measured(self, routing_keys: Collection[str]) -> None:
        """These routing keys have nacked rows; the others are forgotten once their last turn is over."""
        now = self._clock.monotonic()
        kept = {
            key: turn
            for key, turn in self._turns.items()
            if key in routing_keys or turn.receipt is not None or now < turn.next_at
        }
        self._turns = {key: _Turn() for key in sorted(routing_keys)} | kept

    def due(self, room: int) -> dict[str, int]:
        """How many rows of each routing key may be published now; in all no more than there is room for."""
        now = self._clock.monotonic()
        due = {}
        for key, turn in self._turns.items():
            self._settle(turn)
            if room > 0 and turn.receipt is None and now >= turn.next_at:
                due[key] = min(turn.rows, room)
                room -= due[key]
        return due

    def began(self, routing_key: str, receipt: Receipt) -> None:
        """The rows of a turn were published; none: the routing key is forgotten until it is measured again."""
        if receipt.keys:
            turn = self._turns[routing_key]
            turn.began_at, turn.receipt = self._clock.monotonic(), receipt
        else:
            del self._turns[routing_key]

    def pause_seconds(self) -> float:
        """How long until a turn may be due; infinite when no row waits for one."""
        now = self._clock.monotonic()
        pauses = [
            _RESULT_SECONDS if turn.receipt is not None else max(0.0, turn.next_at - now)
            for turn in self._turns.values()
        ]
        return min(pauses, default=math.inf)

    def _settle(self, turn: _Turn) -> None:
        if turn.receipt is None or not turn.receipt.settled:
            return
        if turn.receipt.failures:
            turn.rows, seconds = 1, self._interval
        else:
            turn.rows, seconds = min(2 * len(turn.receipt.keys), MAX_ROWS), min(GROWTH_SECONDS, self._interval)
        turn.next_at = turn.began_at + seconds
        turn.receipt = None
