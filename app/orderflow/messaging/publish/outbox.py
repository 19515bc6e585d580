# SPDX-License-Identifier: Apache-2.0
"""Events: stored in the transaction that caused them, published from memory after its commit, deleted once confirmed.

Invariants, together with ``relay``:

- An event is stored exactly when its transaction commits. The row is deleted after the confirm, with the next commit.
- A row has a lease. Until it ends only the process that wrote or relayed the row publishes it. It ends by its time, or
  when its owner is gone (``lease_sweeper``).
- The relay finds rows by their lease, never by an id cursor: ids are created before the commit, so the row of a late
  commit would be skipped for ever.
- Publishing is at least once. The id of the row is the message id, so consumers recognise duplicates.

==================================== ==================================================================================
Failure                              Consequence
==================================== ==================================================================================
process killed after the commit      its leases are ended within a second, a relay publishes the row
message returned                     the row stays; the relay tries again when its lease expires
message nacked: a queue is full      the row stays; the relay tries again in its turn (``slow_start``)
message refused for good             the row stays; it is parked with its reason (``parking``)
connection lost before the confirm   its lease ends with the next commit, a relay publishes it, perhaps again
publish window full                  the row is stored with an expired lease: the relay publishes it when there is room
database lost after the confirm      the row is deleted with the next commit; until then it may be published again
==================================== ==================================================================================

Writing and deleting cost two statements for a batch of any size
(tests/integration/messaging/test_consumer.py). The broker returns an unroutable message before it confirms it:
https://www.rabbitmq.com/docs/publishers#unroutable
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
from msgspec.structs import replace

from orderflow.messaging.broker import Failure, Publication, Publisher, Receipt
from orderflow.messaging.codec import Codec, Outgoing
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.publish import parking
from orderflow.messaging.service import LeasedTable, Transaction
from orderflow.messaging.uuid7 import uuid7

# Leases use the server's clock: the clocks of the processes that share the table may differ.
_INSERT = """
insert into outbox (id, exchange, routing_key, properties, body, created_at, leased_until, leased_by)
select id, exchange, routing_key, properties::jsonb, body, statement_timestamp(),
       statement_timestamp() + make_interval(secs => %(lease_seconds)s), %(owner)s
from unnest(%(ids)s::uuid[], %(exchanges)s::text[], %(routing_keys)s::text[], %(properties)s::text[],
            %(bodies)s::bytea[]) as rows (id, exchange, routing_key, properties, body)
"""
_DELETE = "delete from outbox where id = any(%(ids)s::uuid[])"
# Only its own lease: another process may have taken the row since.
_RELEASE = """
update outbox set leased_until = statement_timestamp() where id = any(%(ids)s::uuid[]) and leased_by = %(owner)s
"""
LEASED = LeasedTable(name="outbox", key=("id",), until="leased_until")
_encode = msgspec.json.Encoder().encode


class OutboxChange(msgspec.Struct, frozen=True):
    """What a transaction adds to the outbox and deletes from it; final after the commit."""

    publications: Sequence[Publication]
    deleted: int
    released: int
    refused: Sequence[UUID]
    parked: Mapping[UUID, str]
    dispatch: bool


class Outbox:
    """The outbox of one thread. Keeps the ids of confirmed rows until the rows are deleted."""

    def __init__(
        self,
        publisher: Publisher,
        codec: Codec,
        *,
        lease_seconds: float,
        park_seconds: float = parking.PARK_SECONDS,
        instrumentation: MessagingInstrumentation | None = None,
    ) -> None:
        self._publisher = publisher
        self._codec = codec
        self._lease_seconds = float(lease_seconds)
        self._receipts: list[Receipt] = []
        self._confirmed: list[UUID] = []
        self._lost: list[UUID] = []
        self._park_seconds = park_seconds
        self._instrumentation = instrumentation or MessagingInstrumentation()
        self._refused: dict[UUID, Failure] = {}

    def write(self, transaction: Transaction, outgoing: Sequence[Outgoing]) -> OutboxChange:
        """Insert a row per event, delete the rows confirmed since the last commit: at most two statements.

        After a lost connection a third one ends the leases of the events that were lost with it, and after a refusal
        one records it. When the publisher has no room, the relay may take the rows immediately.
        """
        self.collect()
        if self._confirmed:
            transaction.execute(_DELETE, {"ids": self._confirmed})
        if self._lost:
            transaction.execute(_RELEASE, {"ids": self._lost, "owner": transaction.owner})
        refused = dict(self._refused)
        parked = parking.refuse(transaction, refused, park_seconds=self._park_seconds) if refused else {}
        publications = self._created(outgoing)
        dispatch = bool(publications) and self._publisher.room > 0
        if publications:
            lease_seconds = self._lease_seconds if dispatch else 0.0
            lease = {"lease_seconds": lease_seconds, "owner": transaction.owner}
            transaction.execute(_INSERT, {**_columns(publications), **lease})
        return OutboxChange(publications, len(self._confirmed), len(self._lost), tuple(refused), parked, dispatch)

    def _created(self, outgoing: Sequence[Outgoing]) -> Sequence[Publication]:
        """The messages for events, each with the trace headers of its creation."""
        publications = [self._codec.publication(uuid7(), item) for item in outgoing]
        if publications:
            for position, trace in self._instrumentation.created(publications).items():
                properties = publications[position].properties
                properties = replace(properties, headers={**properties.headers, **trace})
                publications[position] = replace(publications[position], properties=properties)
        return publications

    def committed(self, change: OutboxChange) -> None:
        """Publish the written rows, forget the deleted ones; call it after the commit."""
        del self._confirmed[: change.deleted]
        del self._lost[: change.released]
        for key in change.refused:
            del self._refused[key]
        if change.parked:
            parking.log_parked(change.parked)
        if change.dispatch:
            self.publish(change.publications)

    def publish(self, publications: Sequence[Publication]) -> Receipt:
        """Publish rows that this process holds the lease of; their results."""
        receipt = self._publisher.publish(publications)
        self._receipts.append(receipt)
        return receipt

    def collect(self) -> int:
        """Collect settled receipts; the number of rows to delete, to release, or to record as refused."""
        still_open = []
        for receipt in self._receipts:
            if receipt.settled:
                self._confirmed += receipt.confirmed
                self._lost += [key for key, failure in receipt.failures.items() if failure is Failure.LOST]
                self._refused |= {key: word for key, word in receipt.failures.items() if word in parking.REFUSALS}
            else:
                still_open.append(receipt)
        self._receipts = still_open
        return len(self._confirmed) + len(self._lost) + len(self._refused)

    def wait(self, seconds: float) -> bool:
        """Wait until all that was published is settled, or the seconds are over; true when all is settled."""
        return all(receipt.wait(seconds) for receipt in self._receipts)


def _columns(publications: Sequence[Publication]) -> dict[str, object]:
    return {
        "ids": [publication.key for publication in publications],
        "exchanges": [publication.exchange for publication in publications],
        "routing_keys": [publication.routing_key for publication in publications],
        "properties": [_encode(publication.properties).decode() for publication in publications],
        "bodies": [publication.body for publication in publications],
    }
