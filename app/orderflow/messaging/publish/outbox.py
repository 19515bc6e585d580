# SPDX-License-Identifier: Apache-2.0
"""Events stored in the transaction that caused them, published from memory after it, deleted once confirmed.

A row that nobody confirms in time (a crash, a return, a lost connection) is left to the relay. So publishing from
memory is only the fast way; the table is the truth.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from orderflow.messaging.broker import Publication, Publisher, Receipt
from orderflow.messaging.codec import Codec, Outgoing
from orderflow.messaging.service import Transaction
from orderflow.messaging.uuid7 import uuid7

# The server's clock tells when a lease is over: the clocks of the processes that share the table may differ.
_INSERT = """
insert into outbox (id, exchange, routing_key, properties, body, created_at, leased_until)
select id, exchange, routing_key, properties::jsonb, body, statement_timestamp(),
       statement_timestamp() + make_interval(secs => %(lease_seconds)s)
from unnest(%(ids)s::uuid[], %(exchanges)s::text[], %(routing_keys)s::text[], %(properties)s::text[],
            %(bodies)s::bytea[]) as rows (id, exchange, routing_key, properties, body)
"""
_DELETE = "delete from outbox where id = any(%(ids)s::uuid[])"
_encode = msgspec.json.Encoder().encode


class Draft(msgspec.Struct, frozen=True):
    """What a transaction that is about to commit adds to the outbox and takes from it."""

    publications: Sequence[Publication]
    deleted: int
    dispatch: bool


class Outbox:
    """One thread's way into the outbox table. It remembers what it published until the rows are deleted."""

    def __init__(self, publisher: Publisher, codec: Codec, *, lease_seconds: float) -> None:
        self._publisher = publisher
        self._codec = codec
        self._lease_seconds = float(lease_seconds)
        self._receipts: list[Receipt] = []
        self._confirmed: list[UUID] = []

    def write(self, transaction: Transaction, outgoing: Sequence[Outgoing]) -> Draft:
        """Insert a row per event, delete the rows confirmed since the last commit: at most two statements.

        When the publisher has no room the rows are free for the relay at once.
        """
        self.collect()
        if self._confirmed:
            transaction.execute(_DELETE, {"ids": self._confirmed})
        publications = [self._codec.publication(uuid7(), item) for item in outgoing]
        dispatch = bool(publications) and self._publisher.room > 0
        if publications:
            lease_seconds = self._lease_seconds if dispatch else 0.0
            transaction.execute(_INSERT, {**_columns(publications), "lease_seconds": lease_seconds})
        return Draft(publications, len(self._confirmed), dispatch)

    def committed(self, draft: Draft) -> None:
        """Publish what was written, forget what was deleted; call once the transaction is committed."""
        del self._confirmed[: draft.deleted]
        if draft.dispatch:
            self.publish(draft.publications)

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish rows that this process holds the lease of."""
        self._receipts.append(self._publisher.publish(publications))

    def collect(self) -> int:
        """Sort out settled receipts; the number of confirmed rows that wait for their deletion."""
        still_open = []
        for receipt in self._receipts:
            if receipt.settled:
                self._confirmed += receipt.confirmed
            else:
                still_open.append(receipt)
        self._receipts = still_open
        return len(self._confirmed)

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
