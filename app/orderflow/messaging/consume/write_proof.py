# SPDX-License-Identifier: Apache-2.0
"""Proves that the database stores what is committed, before messages are taken that depend on it."""

from orderflow.messaging.service import Transaction
from orderflow.messaging.uuid7 import uuid7

# A row of the inbox, because every batch begins with one. It has an id of its own and is deleted again, so no proof
# waits for another, and nothing is left. An assigned transaction id alone proves nothing: a transaction without a
# change does not wait for the disk (RecordTransactionCommit in PostgreSQL's xact.c).
_INSERT = "insert into inbox (queue, message_id, received_at) values ('', %(id)s, %(now)s)"
_DELETE = "delete from inbox where queue = '' and message_id = %(id)s"


def prove_write(transaction: Transaction) -> None:
    """Write, so that the commit of this transaction shows that a batch could be committed; it leaves nothing."""
    row = {"id": uuid7(), "now": transaction.now}
    transaction.execute(_INSERT, row)
    transaction.execute(_DELETE, row)
