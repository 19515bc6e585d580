# SPDX-License-Identifier: Apache-2.0
"""The dead letter queue on the broker: browse, replay, discard.

Browsing takes messages without acknowledging them and then closes the channel, so the broker requeues them. The policy
of the queue has no delivery limit, so browsing never drops a message. The broker does not keep the order when it
requeues more than 32 messages, so messages are ordered here by the time at which they were dead-lettered. Other clients
cannot see the messages while they are unacknowledged, so a browse must be short.
"""

import heapq
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, NackError, UnroutableError

from orderflow.broker_users import BrokerUsers
from orderflow.messaging.broker import Delivery
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.consume.settlement import DEAD_LETTER_QUEUE
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.messaging.publisher_check import REPLAY_EXCHANGE, PublisherCheck
from orderflow.messaging.rabbitmq.field_table_patch import read_all_tables
from orderflow.messaging.rabbitmq.properties import from_pika, text, to_pika
from orderflow.operations.dead_letters.model import DeadLetter, Selection, dead_letter, replay_headers
from orderflow.telemetry.tracing.pika_channel import TracedChannel

log = logging.getLogger(__name__)

MAX_UNACKED_SECONDS = 20 * 60
"""Longest time for which messages stay unacknowledged; after 30 minutes the broker closes the channel."""

_FULL = "its queue is full"
_GONE = "its queue does not exist"
_LATE = "the time limit was reached, run the command again"
_CUT = "the connection to the broker was lost, run the command again"
_UNCHECKED = PublisherCheck()
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

Fetched = tuple[int, DeadLetter]
"""A delivery tag and the dead letter that was delivered."""


@dataclass(frozen=True, slots=True)
class _FetchedLetters:
    """The fetched letters up to the limit; how many are selected in all; the size of the queue."""

    letters: list[Fetched]
    selected: int
    total: int


class Publishing(Protocol):
    """Publishes through one channel."""

    def publish(
        self, *, exchange: str, routing_key: str, body: bytes, properties: pika.BasicProperties, mandatory: bool
    ) -> None:
        """Publish a message in the trace that its headers name; raises what the channel raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Browsed:
    """The selected dead letters, and how many the queue had in all."""

    letters: tuple[DeadLetter, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The result of a replay or discard: dead letters that left the queue, and those that stayed with the reason."""

    gone: tuple[DeadLetter, ...]
    kept: tuple[tuple[DeadLetter, str], ...] = ()
    left: int = 0
    """How many selected messages this run did not reach, because the limit, the time or an error ended it."""


class DeadLetterQueue:
    """The dead letter queue of one vhost. Every method raises BrokerUnavailable when the broker fails or refuses."""

    def __init__(
        self,
        url: str,
        *,
        users: BrokerUsers | None = None,
        traced: Callable[[BlockingChannel], Publishing] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Without ``users`` a replayed message names no publisher: enough for all but a replay."""
        self._url = url
        self._user_id = users.own if users else None
        self._checks = _checks(users) if users else {}
        self._traced = traced or partial(TracedChannel, provider=None)
        self._clock = clock or SystemClock()

    def browse(self, selection: Selection, *, limit: int) -> Browsed:
        """The selected dead letters, oldest first, at most ``limit``; all of them stay in the queue."""
        with self._connected() as connection:
            fetched = self._fetch(connection.channel(), selection, limit)
        return Browsed(letters=tuple(letter for _, letter in fetched.letters), total=fetched.total)

    def replay(
        self, selection: Selection, *, limit: int, operator: str, per_second: float, dry_run: bool = False
    ) -> Settled:
        """Send a copy of each selected dead letter back to the queue in which it failed, then remove it.

        The copy has the same message id. It is confirmed before the dead letter is removed, so a crash in between
        leaves both; when the dead letter is replayed again the inbox drops the second copy. A message that cannot
        be routed stays. A full queue or a lost connection ends the run.
        """
        gone: list[DeadLetter] = []
        kept: list[tuple[DeadLetter, str]] = []
        with self._connected() as connection:
            reading, publishing = connection.channel(), connection.channel()
            publishing.confirm_delivery()
            copies = self._traced(publishing)
            deadline = self._clock.monotonic() + MAX_UNACKED_SECONDS
            fetched = self._fetch(reading, selection, limit)
            for tag, letter in [] if dry_run else fetched.letters:
                late = self._clock.monotonic() > deadline
                wait = partial(connection.sleep, 1 / per_second)
                send = partial(self._publish, copies, letter, operator)
                remove = partial(reading.basic_ack, tag)
                obstacle = _LATE if late else _obstacle(wait, send, remove)
                if not obstacle:
                    _audit("dead_letters.replayed", letter, operator)
                    gone.append(letter)
                    continue
                kept.append((letter, obstacle))
                if obstacle != _GONE:
                    break
        if dry_run:
            gone = [letter for _, letter in fetched.letters]
        return Settled(gone=tuple(gone), kept=tuple(kept), left=fetched.selected - len(gone) - len(kept))

    def discard(self, selection: Selection, *, limit: int, operator: str, dry_run: bool = False) -> Settled:
        """Remove the selected dead letters for ever; each is recorded in the audit log."""
        with self._connected() as connection:
            reading = connection.channel()
            fetched = self._fetch(reading, selection, limit)
            for tag, letter in [] if dry_run else fetched.letters:
                _audit("dead_letters.discarded", letter, operator)
                reading.basic_ack(tag)
        return Settled(
            gone=tuple(letter for _, letter in fetched.letters), left=fetched.selected - len(fetched.letters)
        )

    @contextmanager
    def _connected(self) -> Iterator[pika.BlockingConnection]:
        """A connection; when it closes, the broker requeues what was not acknowledged."""
        read_all_tables()
        try:
            connection = pika.BlockingConnection(pika.URLParameters(self._url))
            try:
                yield connection
            finally:
                if connection.is_open:
                    connection.close()
        except (AMQPError, OSError) as error:
            raise BrokerUnavailable(f"the dead letter queue: {error!r}") from error

    def _fetch(self, channel: BlockingChannel, selection: Selection, limit: int) -> _FetchedLetters:
        """Get every message without acknowledging it, and return the selected ones, oldest first.

        Memory is bounded by ``limit``, not by the queue. A message that arrives meanwhile, for example a replay that
        failed again, is ignored.
        """
        now, total, others = self._clock.now(), 0, 0

        def selected() -> Iterator[Fetched]:
            nonlocal total, others
            for tag, letter, count in self._all(channel):
                total = count
                if selection(letter, now):
                    yield tag, letter
                else:
                    others += 1

        letters = heapq.nsmallest(limit, selected(), key=_age_order)
        return _FetchedLetters(letters=letters, selected=total - others, total=total)

    def _all(self, channel: BlockingChannel) -> Iterator[tuple[int, DeadLetter, int]]:
        """(delivery tag, dead letter, messages in the queue at first) for each message, in the queue's order."""
        deadline = self._clock.monotonic() + MAX_UNACKED_SECONDS / 2
        seen, total = 0, 1
        while seen < total and self._clock.monotonic() < deadline:
            method, properties, body = channel.basic_get(DEAD_LETTER_QUEUE)
            if method is None or properties is None or body is None:
                return
            total = total if seen else method.message_count + 1
            seen += 1
            yield method.delivery_tag, self._letter(method, properties, body), total

    def _letter(self, method: Any, properties: pika.BasicProperties, body: bytes) -> DeadLetter:
        queue, user_id = text(method.routing_key) or "", text(properties.user_id)
        delivery = Delivery(
            method.delivery_tag,
            method.exchange,
            queue,
            method.redelivered,
            from_pika(properties),
            body,
            self._clock.monotonic(),
            user_id,
        )
        return dead_letter(delivery, properties.headers or {}, self._checks.get(queue, _UNCHECKED))

    def _publish(self, copies: Publishing, letter: DeadLetter, operator: str) -> None:
        """Publish the copy; raises UnroutableError or NackError."""
        headers = replay_headers(letter, operator=operator, now=self._clock.now())
        properties = to_pika(msgspec.structs.replace(letter.properties, headers=headers), user_id=self._user_id)
        copies.publish(
            exchange=REPLAY_EXCHANGE, routing_key=letter.queue, body=letter.body, properties=properties, mandatory=True
        )


def _checks(users: BrokerUsers) -> Mapping[str, PublisherCheck]:
    """What the consumers of each queue check."""
    return {queue.name: users.check(service.name) for service in users.services for queue in service.queues}


def _age_order(fetched: Fetched) -> tuple[datetime, str]:
    """The order of dead-lettering; message ids sort by time, so messages of one batch keep their order."""
    return fetched[1].dead_lettered_at or _LONG_AGO, fetched[1].message_id


def _obstacle(*steps: Callable[[], object]) -> str:
    """Run the steps in order; why one of them failed, or an empty text."""
    try:
        for step in steps:
            step()
    except UnroutableError:
        return _GONE
    except NackError:
        return _FULL
    except (AMQPError, OSError) as error:
        log.warning("dead_letters.cut", extra={"error": repr(error)})
        return _CUT
    return ""


def _audit(event: str, letter: DeadLetter, operator: str) -> None:
    log.info(
        event,
        extra={
            "operator": operator,
            "message_id": letter.message_id,
            "order_id": letter.order_id,
            "event_type": letter.event_type,
            "reason": letter.reason,
            "queue": letter.queue,
            "trace_id": letter.trace_id,
        },
    )
