# SPDX-License-Identifier: Apache-2.0
"""Finds orders that share a charge, with bounded memory and without an index on the charges."""

from uuid import UUID

_LIMIT = 100_000


class ChargeIds:
    """Remembers the charge ids of one pass over all charges, at most ``limit`` of them.

    When there are more, it divides the ids by their hashes into two parts, four, and so on, and remembers only one part
    in each pass. So two orders with the same charge meet after at most as many passes as there are parts.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._orders: dict[int, UUID] = {}
        self._mask = 0
        self._part = 0

    @property
    def parts(self) -> int:
        """How many passes it takes to see all ids."""
        return self._mask + 1

    def add(self, charge_id: str, order_id: UUID) -> UUID | None:
        """Remember the charge of an order; another order with probably the same charge, if this pass has met one."""
        key = hash(charge_id)
        if (key ^ self._part) & self._mask:
            return None
        other = self._orders.setdefault(key, order_id)
        while len(self._orders) > self._limit:
            self._mask = self._mask << 1 | 1
            self._orders = {
                known: order for known, order in self._orders.items() if not (known ^ self._part) & self._mask
            }
        return None if other == order_id else other

    def next_pass(self) -> None:
        """Forget everything, and remember another part."""
        if len(self._orders) < self._limit // 4:
            self._mask >>= 1
        self._orders = {}
        self._part += 1
