# SPDX-License-Identifier: Apache-2.0
"""A claim never leases more rows than its limit, whatever the plan of its statement."""

from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest

from orderflow.events import OrderConfirmed
from orderflow.services.notifications.senders import LogSender
from tests.builders import an_event
from tests.rigs.effects import EffectsRig
from tests.rigs.notifications import Notifications
from tests.rigs.payments import Payments, reserved
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration
DISABLED = ("hashagg", "hashjoin", "material", "mergejoin", "sort")
# With the oldest row first in the table, each row that is found is found by an execution of its own.
OLDEST_FIRST = """
update {table} set due_at = now() - interval '1 h' + numbered.position * interval '1 s'
from (select ctid, row_number() over (order by ctid) as position from {table}) as numbered
where {table}.ctid = numbered.ctid
"""


def execute_subqueries_for_every_row(url: str, table: str) -> None:
    """Forbid every plan but the one that executes a subquery again for each row of the table."""
    with psycopg.connect(url, autocommit=True) as connection:
        for method in DISABLED:
            connection.execute(f'alter database "{urlsplit(url).path[1:]}" set enable_{method} = off'.encode())
        connection.execute(OLDEST_FIRST.format(table=table).encode())


def claimed(rig: EffectsRig) -> int:
    """How many of a hundred due rows a claim of at most five takes, on a new connection."""
    rig.work.close()
    try:
        with rig.work.transaction() as work:
            return len(rig.runner._effects.claim(work, limit=5, lease=timedelta(seconds=30)))
    finally:
        rig.close()


def test_a_claim_of_charges_takes_no_more_than_its_limit(database: str) -> None:
    prepare_service(database, "payments")
    payments = Payments(database, "http://127.0.0.1:1")
    payments.receive(*[reserved("ok") for _ in range(100)])
    execute_subqueries_for_every_row(database, "charges")
    assert claimed(payments) == 5


def test_a_claim_of_notifications_takes_no_more_than_its_limit(database: str) -> None:
    prepare_service(database, "notifications")
    notifications = Notifications(database, LogSender())
    notifications.receive(*[an_event(OrderConfirmed) for _ in range(100)])
    execute_subqueries_for_every_row(database, "notifications")
    assert claimed(notifications) == 5
