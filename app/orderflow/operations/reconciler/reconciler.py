# SPDX-License-Identifier: Apache-2.0
"""Looks at the databases periodically, and reports the findings of two consecutive looks."""

import logging
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.findings import Findings
from orderflow.operations.reconciler.look import Look, Looks
from orderflow.settings import Need, Settings

log = logging.getLogger(__name__)

NEEDS: frozenset[Need] = frozenset({"reconciler"})
LOOK_STATEMENT_SECONDS = 5.0
COMPLETE_STATEMENT_SECONDS = 300.0
"""The complete comparison of the command reads whole tables."""
LONGEST_LOOK_SECONDS = 50 * LOOK_STATEMENT_SECONDS
"""A look has fewer statements that may take that long: it reads no further page when its time is over."""
_REST_FACTOR = 9
"""Looks take at most a tenth of a database's time, even when they fail."""
_VALID_INTERVALS = 4
"""After so many intervals without a complete look its findings are outdated."""


class Reconciler:
    """Looks at the databases, and reports the findings of two consecutive looks. For one thread."""

    def __init__(
        self,
        databases: Mapping[str, Database],
        *,
        instrumentation: Instrumentation,
        clock: Clock,
        interval_seconds: float = 30,
    ) -> None:
        self.has_run = False
        """True after the first complete look."""
        self._databases = databases
        self._instrumentation = instrumentation
        self._clock = clock
        self._interval = interval_seconds
        self._looks = Looks(databases, clock=clock)
        self._earlier: Findings | None = None

    def run_once(self) -> bool:
        """Look once; true when the next look should follow soon. Raises InfrastructureError after reporting it."""
        begun = self._clock.monotonic()
        try:
            look = self._looks.look()
        except InfrastructureError:
            self._instrumentation.reconciliation_failed()
            raise
        sure = look.found.confirmed_by(self._earlier)
        self._earlier = look.found.merged(look.doubtful)
        took = self._clock.monotonic() - begun
        self._report(look, sure, _VALID_INTERVALS * max(self._interval, _REST_FACTOR * took))
        self.has_run = True
        return not look.stock_known

    def loop(self) -> Periodic:
        """The loop for a process; it closes the databases at its end."""
        return Periodic(
            "reconcile",
            self._interval,
            self.run_once,
            clock=self._clock,
            rest_factor=_REST_FACTOR,
            close=self._close,
        )

    def _report(self, look: Look, sure: Findings, valid_seconds: float) -> None:
        changes = {
            "behind_seconds": look.behind_seconds,
            "sweep_age_seconds": look.sweep_age_seconds,
            "valid_seconds": valid_seconds,
        }
        unknown = {} if look.stock_known else {"oversold_units": None, "ledger_drift_units": None}
        self._instrumentation.reconciled(msgspec.structs.replace(sure.reconciliation(), **changes, **unknown))
        for check in sure.checks():
            if not check.kept:
                extra = {"promise": check.promise, "numbers": check.numbers, "examples": check.examples}
                log.error("promise.broken", extra=extra)

    def _close(self) -> None:
        for database in self._databases.values():
            with suppress(InfrastructureError):
                database.close()


def databases(settings: Settings, *, statement_timeout_seconds: float) -> dict[str, Database]:
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
            statement_timeout_seconds=statement_timeout_seconds,
            read_only=True,
        )
        for name, url in urls.items()
    }
