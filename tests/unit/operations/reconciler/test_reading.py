# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta

from orderflow.messaging.uuid7 import first_uuid7
from orderflow.operations.reconciler.reading import FIRST, kept_since

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_without_retention_every_order_has_all_its_rows() -> None:
    assert kept_since(NOW, 0) == FIRST


def test_with_retention_rows_of_orders_may_be_deleted_up_to_a_day_early_because_clocks_differ() -> None:
    assert kept_since(NOW, 90) == first_uuid7(NOW - timedelta(days=89))
