# SPDX-License-Identifier: Apache-2.0
"""Adds up the stock ledger once, a page at a time, and then only what is new.

Invariants:

- Lines of the ledger are never changed. So the lines up to a moment have one sum, whenever they are read; lines that
  are written later, also about old orders, are after it.
- The moment is a minute ago: what a transaction writes with an earlier time is committed by then, or it was cut off.
- Deleted lines are in the table of their sums. The pages are whole orders, and the deleted ones are read last. When
  more was deleted meanwhile, a line may have been counted twice, and everything is added up again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.reading import LAST, read

COMMITTED_SECONDS = 60
"""After that time a transaction is committed, or was cut off."""
_ROWS = 20_000

_START = """
select now() - make_interval(secs => %(committed)s), (select coalesce(sum(sold), 0)::bigint from retired_stock)
"""
_PAGE_START = """
select order_id from stock_ledger where order_id < %(before)s order by order_id desc offset %(rows)s - 1 limit 1
"""
_PAGE = """
select sku, 0::bigint, sum(d_available)::bigint, sum(d_reserved)::bigint, sum(d_sold)::bigint from stock_ledger
where order_id >= %(first)s and order_id < %(before)s and at <= %(until)s group by sku
"""
# One snapshot of the oldest orders, the lines without an order, and the sums of what was deleted.
_LAST_PAGE = """
with moves as (
    select sku, 0 as put, d_available as available, d_reserved as reserved, d_sold as sold, 0 as deleted
    from stock_ledger where order_id < %(before)s and at <= %(until)s
    union all select sku, d_available, d_available, d_reserved, d_sold, 0
    from stock_ledger where order_id is null and at <= %(until)s
    union all select sku, put, available, reserved, sold, sold from retired_stock
)
select sku, sum(put)::bigint, sum(available)::bigint, sum(reserved)::bigint, sum(sold)::bigint, sum(deleted)::bigint
from moves group by sku
"""
_NEW_END = """
with target as (select now() - make_interval(secs => %(committed)s) as at)
select coalesce((select at from stock_ledger where at > %(until)s and at <= (select at from target)
                 order by at offset %(rows)s - 1 limit 1), greatest(%(until)s, (select at from target))),
       (select at from target)
"""
_NEW = """
select sku, coalesce(sum(d_available) filter (where kind = 'put'), 0)::bigint,
       sum(d_available)::bigint, sum(d_reserved)::bigint, sum(d_sold)::bigint
from stock_ledger where at > %(until)s and at <= %(end)s group by sku
"""


@dataclass(slots=True)
class Moved:
    """Units of one SKU that the ledger moved. ``put`` is the stock that was ever set."""

    put: int = 0
    available: int = 0
    reserved: int = 0
    sold: int = 0

    def plus(self, put: int, available: int, reserved: int, sold: int) -> "Moved":
        """The sum of both."""
        return Moved(self.put + put, self.available + available, self.reserved + reserved, self.sold + sold)


@dataclass(slots=True)
class _Sums:
    """The sums by SKU of the lines up to a moment; while they are built, without the orders below ``before``."""

    until: datetime
    deleted: int
    before: UUID = LAST
    by_sku: dict[str, Moved] = field(default_factory=dict)

    def add(self, rows: Iterable[tuple[str, int, int, int, int]]) -> None:
        for sku, *units in rows:
            self.by_sku[sku] = self.by_sku.get(sku, Moved()).plus(*units)


class LedgerSums:
    """The sums of the ledger by SKU. For one thread; its memory grows with the number of SKUs only."""

    def __init__(self, inventory: Database) -> None:
        self.builds = 0
        """How often everything was added up."""
        self._inventory = inventory
        self._sums: _Sums | None = None
        self._next: _Sums | None = None

    @property
    def until(self) -> datetime:
        """The time of the newest lines in the sums."""
        assert self._sums is not None
        return self._sums.until

    @property
    def by_sku(self) -> dict[str, Moved]:
        """The sums of the lines up to ``until``."""
        assert self._sums is not None
        return self._sums.by_sku

    def rebuild(self) -> None:
        """Add everything up again, unless that is under way; until then the present sums stay."""
        if self._next is None:
            ((until, deleted),) = read(self._inventory, _START, committed=COMMITTED_SECONDS)
            self._next = _Sums(until, deleted)

    def advance(self, enough: Callable[[], bool]) -> bool:
        """Read a page, and more until it is ``enough``; true when the sums reach to a minute ago.

        Raises DatabaseUnavailable or TransactionAborted; the next call continues.
        """
        if self._sums is None:
            self.rebuild()
        while self._next is not None:
            self._build_page(self._next)
            if enough():
                break
        if self._sums is None:
            return False
        while not self._add_new(self._sums):
            if enough():
                return False
        return True

    def _build_page(self, sums: _Sums) -> None:
        start = read(self._inventory, _PAGE_START, before=sums.before, rows=_ROWS)
        if start:
            ((first,),) = start
            sums.add(read(self._inventory, _PAGE, first=first, before=sums.before, until=sums.until))
            sums.before = first
            return
        rows = read(self._inventory, _LAST_PAGE, before=sums.before, until=sums.until)
        sums.add(row[:5] for row in rows)
        self._next = None
        if sum(row[5] for row in rows) == sums.deleted:
            self._sums = sums
            self.builds += 1
        else:
            self.rebuild()

    def _add_new(self, sums: _Sums) -> bool:
        """Add the next page of new lines; true when there are no more."""
        parameters = {"until": sums.until, "committed": COMMITTED_SECONDS}
        ((end, target),) = read(self._inventory, _NEW_END, **parameters, rows=_ROWS)
        if end > sums.until:
            sums.add(read(self._inventory, _NEW, until=sums.until, end=end))
            sums.until = end
        return bool(end >= target)
