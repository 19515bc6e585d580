# SPDX-License-Identifier: Apache-2.0
"""Reads rows of one database, and names a bounded part of it by the ids of orders."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orderflow.messaging.postgres.database import Database

FIRST, LAST = UUID(int=0), UUID(int=2**128 - 1)
_SELECTION = "{selection}"
# Any of the tables may have the most rows: after a restored backup even those of orders that do not exist.
_TABLES = (("orders", "orders"), ("payments", "charges"), ("inventory", "reservations"))
_NTH = "select order_id from {table} where order_id > %(after)s order by order_id offset %(rows)s - 1 limit 1"


@dataclass(frozen=True, slots=True)
class Selection:
    """Some orders: the SQL condition on ``order_id`` with its parameters."""

    condition: str
    parameters: Mapping[str, object]

    def rows(self, database: Database, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a statement that has ``{selection}`` in place of its condition."""
        return read(database, statement.replace(_SELECTION, self.condition), **self.parameters, **parameters)


def by_ids(order_ids: Iterable[UUID]) -> Selection:
    """Exactly these orders."""
    return Selection("order_id = any(%(ids)s::uuid[])", {"ids": list(order_ids)})


def between(after: UUID, last: UUID) -> Selection:
    """The orders above ``after`` up to ``last``, and what belongs to unknown orders there."""
    return Selection("order_id > %(after)s and order_id <= %(last)s", {"after": after, "last": last})


def read(database: Database, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    """The rows of one statement. Raises DatabaseUnavailable or TransactionAborted."""
    with database.transaction() as transaction:
        return transaction.execute(statement, parameters)


def page_end(databases: Mapping[str, Database], after: UUID, rows: int) -> UUID:
    """The last id of a range above ``after`` that has about ``rows`` rows in the largest table; LAST at the end."""
    ends = [LAST]
    for database, table in _TABLES:
        ends += (row[0] for row in read(databases[database], _NTH.replace("{table}", table), after=after, rows=rows))
    return min(ends)
