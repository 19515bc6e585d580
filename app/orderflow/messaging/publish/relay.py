# SPDX-License-Identifier: Apache-2.0
"""Publishes the outbox rows that were not confirmed in time, and measures the outbox.

Invariants and failures are those of ``outbox``.
"""

import logging
import threading
from collections.abc import Mapping, Sequence

import msgspec

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.broker import Properties, Publication, Publisher, Receipt
from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.publish import slow_start
from orderflow.messaging.publish.measurement import measure
from orderflow.messaging.publish.slow_start import SlowStart
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory

log = logging.getLogger(__name__)

# Never an id cursor: ids are created before the commit, so the row of a late commit would be skipped for ever.
_TAKE = """
with due as materialized (
    select id from outbox where leased_until <= statement_timestamp()
    order by leased_until limit %(limit)s for update skip locked)
update outbox set leased_until = statement_timestamp() + make_interval(secs => %(lease_seconds)s),
                  leased_by = %(owner)s
from due where outbox.id = due.id
returning outbox.id, exchange, routing_key, properties::text, body
"""
_LIMIT = 500
_FULL_SECONDS = 0.05
"""Pause while the publish window is full: confirms come within milliseconds."""
_MEASURE_EVERY_SECONDS = 2.0


class Relay:
    """Takes rows whose lease expired, every ``interval_seconds``; any number of processes may do so concurrently."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        unit_of_work: UnitOfWorkFactory,
        instrumentation: MessagingInstrumentation,
        clock: Clock,
        interval_seconds: float,
        lease_seconds: float,
    ) -> None:
        self.name = "relay"
        self.last_progress = clock.monotonic()
        self.oldest_seconds = 0.0
        """Age of the oldest row that waits for its confirm, when it was last measured."""
        self._publisher = publisher
        self._unit_of_work = unit_of_work
        self._instrumentation = instrumentation
        self._clock = clock
        self._interval = interval_seconds
        self._lease_seconds = float(lease_seconds)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._backoff = Backoff()
        self._measured = float("-inf")
        self._slow_start = SlowStart(clock=clock, interval_seconds=interval_seconds)
        self._nacked: frozenset[str] = frozenset()

    def run(self) -> None:
        """Relay until stopped; back off while database or broker are unavailable."""
        while not self._stopping.is_set():
            self.last_progress = self._clock.monotonic()
            self._wake.clear()
            try:
                room = self._publisher.room
                taken = self.relay_once()
            except InfrastructureError as error:
                log.warning("relay.paused", extra={"error": str(error)})
                self._clock.wait(self._stopping, self._backoff.next())
                continue
            self._backoff.reset()
            if taken < min(room, _LIMIT):
                self._pause(min(self._interval, self._slow_start.pause_seconds()))
            elif not room:
                self._pause(min(_FULL_SECONDS, self._interval))
        self._finish()

    def stop(self) -> None:
        """Return from ``run`` after the current pass."""
        self._stopping.set()
        self._wake.set()

    def wake(self) -> None:
        """Rows became due: take them now, not after the interval. May be called from any thread."""
        self._wake.set()

    def relay_once(self) -> int:
        """Take as many due rows as the publish window has room for, and publish them; the number of rows.

        What room is left is for the rows that a full queue refused, as ``slow_start`` allows.
        """
        # Delete first: a confirmed row must not be taken again, even when its lease has expired.
        self._unit_of_work.delete_confirmed()
        self._measure()
        room = self._publisher.room
        if room == 0:
            return 0
        with self._unit_of_work.transaction() as work:
            lease = {"lease_seconds": self._lease_seconds, "owner": work.owner}
            rows = work.execute(_TAKE, {**lease, "limit": min(room, _LIMIT)})
            turns = {
                key: work.execute(slow_start.TAKE, {**lease, "limit": limit, "routing_key": key})
                for key, limit in self._slow_start.due(room - len(rows)).items()
            }
        self._publish(rows)
        for key, turn in turns.items():
            self._slow_start.began(key, self._publish(turn))
        return len(rows) + sum(map(len, turns.values()))

    def _publish(self, rows: Sequence[tuple[object, ...]]) -> Receipt:
        if rows:
            self._instrumentation.relayed(len(rows))
            log.info("relay.published", extra={"rows": len(rows)})
        return self._unit_of_work.outbox.publish([_publication(row) for row in rows])

    def _pause(self, seconds: float) -> None:
        if not self._stopping.is_set():
            self._clock.wait(self._wake, seconds)

    def _measure(self) -> None:
        now = self._clock.monotonic()
        if now - self._measured < _MEASURE_EVERY_SECONDS:
            return
        self._measured = now
        with self._unit_of_work.transaction() as work:
            found = measure(work)
        self.oldest_seconds = found.oldest_seconds
        self._instrumentation.outbox_measured(rows=found.rows, oldest_seconds=found.oldest_seconds)
        self._instrumentation.outbox_parked(found.parked)
        self._instrumentation.outbox_nacked(found.nacked)
        self._slow_start.measured(found.nacked)
        self._log_nacked(found.nacked)

    def _log_nacked(self, rows: Mapping[str, int]) -> None:
        """One line when events of a routing key begin to wait for a full queue, and one when none of them waits."""
        for key in sorted(rows.keys() - self._nacked):
            log.warning("outbox.nacked", extra={"routing_key": key, "rows": rows[key]})
        for key in sorted(self._nacked - rows.keys()):
            log.info("outbox.no_longer_nacked", extra={"routing_key": key})
        self._nacked = frozenset(rows)

    def _finish(self) -> None:
        self._unit_of_work.outbox.wait(2)
        try:
            self._unit_of_work.delete_confirmed()
        except InfrastructureError as error:
            log.warning("relay.delete_failed", extra={"error": str(error)})
        self._unit_of_work.close()


def _publication(row: tuple[object, ...]) -> Publication:
    values = dict(zip(("key", "exchange", "routing_key", "properties", "body"), row, strict=True))
    values["properties"] = msgspec.json.decode(str(values["properties"]), type=Properties)
    return msgspec.convert(values, Publication)
