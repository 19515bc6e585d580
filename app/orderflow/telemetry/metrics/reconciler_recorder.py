# SPDX-License-Identifier: Apache-2.0
"""Records what the reconciler finds; findings that may be outdated are not exported."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from orderflow.instrumentation import OPEN_STATES, Reconciliation, Stuck
from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.metrics.types import Gauge

_NUMBERS: Mapping[Gauge, Callable[[Reconciliation], float | None]] = {
    catalogue.OVERSOLD: lambda found: found.oversold_units,
    catalogue.ENDED_TWICE: lambda found: found.ended_twice,
    catalogue.DUPLICATE_CHARGES: lambda found: found.duplicate_charges,
    catalogue.DUPLICATE_NOTIFICATIONS: lambda found: found.duplicate_notifications,
    catalogue.LEDGER_DRIFT: lambda found: found.ledger_drift_units,
    catalogue.CHARGE_MISMATCHES: lambda found: found.charge_mismatches,
    catalogue.STOCK_MISMATCHES: lambda found: found.stock_mismatches,
    catalogue.STALE_AVAILABILITY: lambda found: found.stale_availability,
    catalogue.MISSING_NOTIFICATIONS: lambda found: found.missing_notifications,
    catalogue.RECONCILER_BEHIND: lambda found: found.behind_seconds,
}
_STUCK: Mapping[Gauge, Callable[[Stuck], float]] = {
    catalogue.ORDERS_STUCK: lambda stuck: stuck.orders,
    catalogue.ORDERS_STUCK_AGE: lambda stuck: stuck.oldest_seconds,
}


class ReconcilerRecorder:
    """Exports the last findings while they are valid, and the ages, which always grow.

    Its metrics appear with the first report, so only the reconciler's process has them.
    """

    def __init__(self, registry: MetricRegistry, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._found: Reconciliation | None = None
        self._found_at = self._swept_at = monotonic()
        self._shown = False

    def reconciled(self, found: Reconciliation) -> None:
        """Show these findings from now on."""
        self._show()
        self._found, self._found_at = found, self._monotonic()
        self._swept_at = self._found_at - found.sweep_age_seconds
        self._registry.gauge(catalogue.RECONCILED_AT).set(time.time())

    def failed(self) -> None:
        """Show no findings until the next look."""
        self._show()
        self._found = None

    def _show(self) -> None:
        if self._shown:
            return
        self._shown = True
        for metric, number in _NUMBERS.items():
            self._registry.scraped(metric).read = partial(self._read, number)
        for metric, of_state in _STUCK.items():
            self._registry.scraped(metric).read = partial(self._read_stuck, of_state)
        self._registry.scraped(catalogue.LOOK_AGE).read = lambda: {"": self._monotonic() - self._found_at}
        self._registry.scraped(catalogue.SWEEP_AGE).read = lambda: {"": self._monotonic() - self._swept_at}

    def _valid(self) -> Reconciliation | None:
        found = self._found
        return found if found and self._monotonic() - self._found_at <= found.valid_seconds else None

    def _read(self, number: Callable[[Reconciliation], float | None]) -> dict[str, float]:
        found = self._valid()
        value = None if found is None else number(found)
        return {} if value is None else {"": value}

    def _read_stuck(self, of_state: Callable[[Stuck], float]) -> dict[str, float]:
        found = self._valid()
        return {} if found is None else {state: of_state(found.stuck.get(state, Stuck())) for state in OPEN_STATES}
