# SPDX-License-Identifier: Apache-2.0
"""Compares the databases periodically, and reports the findings of two consecutive runs."""

import logging
from collections.abc import Mapping
from contextlib import suppress

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.integrity import Integrity
from orderflow.operations.reconciler.queries import integrity
from orderflow.settings import Need, Settings

log = logging.getLogger(__name__)

NEEDS: frozenset[Need] = frozenset({"reconciler"})
_STATEMENT_TIMEOUT_SECONDS = 300
LONGEST_RUN_SECONDS = 15 * _STATEMENT_TIMEOUT_SECONDS
"""A run has about fifteen long statements, each with this timeout; those for a page of orders are short."""
_REST_FACTOR = 9
"""Runs take at most a tenth of a database's time, even when they fail."""


class Reconciler:
    """Compares the databases, and reports the findings of two consecutive runs. For one thread."""

    def __init__(self, databases: Mapping[str, Database], *, instrumentation: Instrumentation, clock: Clock) -> None:
        self._databases = databases
        self._instrumentation = instrumentation
        self._clock = clock
        self.has_run = False
        """True after the first complete run."""
        self._earlier: Integrity | None = None

    def run_once(self) -> None:
        """Compare once. Raises InfrastructureError; then nothing is reported."""
        found = integrity(self._databases)
        sure, self._earlier = found.confirmed_by(self._earlier), found
        self._instrumentation.reconciled(sure.reconciliation())
        self.has_run = True
        for check in sure.checks():
            if not check.kept:
                extra = {"promise": check.promise, "numbers": check.numbers, "examples": check.examples}
                log.error("promise.broken", extra=extra)

    def loop(self, interval_seconds: float) -> Periodic:
        """The loop for a process; it closes the databases at its end."""
        return Periodic(
            "reconcile",
            interval_seconds,
            self.run_once,
            clock=self._clock,
            rest_factor=_REST_FACTOR,
            close=self._close,
        )

    def _close(self) -> None:
        for database in self._databases.values():
            with suppress(InfrastructureError):
                database.close()


def databases(settings: Settings) -> dict[str, Database]:
    """A connection to each service's database, for one thread."""
    urls = {
        "orders": settings.reconciler_orders_url,
        "inventory": settings.reconciler_inventory_url,
        "payments": settings.reconciler_payments_url,
        "notifications": settings.reconciler_notifications_url,
    }
    return {
        name: Database(
            url,
            application_name="orderflow reconciler",
            statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS,
            read_only=True,
        )
        for name, url in urls.items()
    }
