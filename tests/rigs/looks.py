# SPDX-License-Identifier: Apache-2.0
"""A reconciler on the tables of all services, and what it records."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg

from orderflow.database_schema import database_schema
from orderflow.instrumentation import Instrumentation, Reconciliation
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import migrate
from orderflow.operations.reconciler.reconciler import Reconciler
from orderflow.services import SERVICES
from tests.integration.operations.corruptions import CONSISTENT


@contextmanager
def all_services(url: str) -> Iterator[dict[str, Database]]:
    """All four services' tables with consistent orders, in one database; the queries never join across services."""
    opened = Database(url)
    for service in SERVICES:
        migrate(opened, database_schema(service.name))
    with opened.transaction() as transaction:
        transaction.run_script(CONSISTENT)
    yield dict.fromkeys([service.name for service in SERVICES], opened)
    opened.close()


def change(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for part in statement.split(";"):
            if part.strip():
                connection.execute(part.encode())


class RecordedLooks(Instrumentation):
    """Records what each look found."""

    def __init__(self) -> None:
        self.found: list[Reconciliation] = []
        self.failures = 0

    def reconciled(self, found: Reconciliation) -> None:
        self.found.append(found)

    def reconciliation_failed(self) -> None:
        self.failures += 1

    @property
    def wrong(self) -> dict[str, object]:
        """What the last look reported, by the name of its number."""
        return numbers(self.found[-1])

    @property
    def reported(self) -> list[set[str]]:
        """What each look reported."""
        return [set(numbers(found)) for found in self.found]


def numbers(found: Reconciliation) -> dict[str, object]:
    """The findings that are not 0."""
    names = set(found.__struct_fields__) - {"behind_seconds", "sweep_age_seconds", "valid_seconds"}
    return {name: getattr(found, name) for name in names if getattr(found, name)}


class OnePage(ManualClock):
    """A second passes at each look at the clock, so each part of a look reads exactly one page."""

    def monotonic(self) -> float:
        self.advance(1)
        return super().monotonic()


def reconciler(shop: Mapping[str, Database], *, clock: ManualClock | None = None) -> tuple[Reconciler, RecordedLooks]:
    recorded = RecordedLooks()
    clock = clock or ManualClock()
    found = Reconciler(shop, instrumentation=recorded, clock=clock)
    return found, recorded
