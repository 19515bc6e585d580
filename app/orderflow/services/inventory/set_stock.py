# SPDX-License-Identifier: Apache-2.0
"""Sets the stock of SKUs. Requests that arrive together share one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import UnitOfWork
from orderflow.services.inventory import store
from orderflow.services.inventory.condition import ALWAYS, Condition
from orderflow.services.inventory.handlers import stock_event
from orderflow.services.inventory.store import PutRefusal, Stock


@dataclass(frozen=True, slots=True, kw_only=True)
class StockUpdate:
    """One request: units on hand, including sold ones, and the price of one unit in minor units."""

    sku: str
    on_hand: int
    unit_price: int
    currency: str
    trace: Mapping[str, str]
    condition: Condition = ALWAYS


class SetStock:
    """Applies a group of stock updates; for ``GroupCommit``. See ``stock_event`` for ``low_units``."""

    def __init__(self, *, low_units: int, instrumentation: Instrumentation) -> None:
        self._low_units = low_units
        self._instrumentation = instrumentation

    def __call__(self, updates: Sequence[StockUpdate], unit_of_work: UnitOfWork) -> list[Stock | PutRefusal]:
        """The new stock for each update, or why it was not changed, in the same order."""
        # Rows are locked in the order of their keys, so that two groups never deadlock.
        order = sorted(range(len(updates)), key=lambda position: updates[position].sku)
        results = {position: self._set(updates[position], unit_of_work) for position in order}
        return [results[position] for position in range(len(updates))]

    def _set(self, update: StockUpdate, unit_of_work: UnitOfWork) -> Stock | PutRefusal:
        changed = store.put(
            unit_of_work,
            sku=update.sku,
            on_hand=update.on_hand,
            unit_price=update.unit_price,
            currency=update.currency,
            condition=update.condition,
        )
        if not isinstance(changed, tuple):
            return changed
        before, after = changed
        event = stock_event(before, after, unit_of_work.now, low_units=self._low_units)
        unit_of_work.publish(event, trace=update.trace)
        added = after.available - before.available
        unit_of_work.after_commit(lambda: self._instrumentation.stock_moved("put", added))
        return after
