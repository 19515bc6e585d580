# SPDX-License-Identifier: Apache-2.0
"""The provider refuses a refund for good: the others are made, and an operator settles that one."""

from pathlib import Path
from typing import Any

import pytest

from local.demo.sale import put_stock
from local.eventually import eventually
from local.servers.stack import Stack
from local.system import System
from orderflow.operations.failed_work.refunds import REFUNDS
from tests.integration.faults.trial import QUICK, STOCK
from tests.rigs.consumer import query
from tests.rigs.failed_work import listed, run
from tests.rigs.system_orders import place_order

pytestmark = [pytest.mark.integration, pytest.mark.faults]

SHORT_HOLD = {"ORDERFLOW_HOLD_SECONDS": "1"}
"""Shorter than a slow charge takes, so that the order is cancelled before it is charged."""


def test_a_refund_that_is_refused_is_not_asked_for_again_and_does_not_stop_the_others(
    breakable: Stack, tmp_path: Path
) -> None:
    with System.started(breakable, tmp_path, environ=QUICK | SHORT_HOLD, name="refused-refund") as system:
        put_stock(system, STOCK)
        payments = system.databases["payments"]
        refused = place_order(system, "sku-1", payment_token="slow_no_refund")
        others = [place_order(system, "sku-1", payment_token="slow") for _ in range(3)]

        def charges() -> dict[str, tuple[Any, ...]]:
            rows = query(payments, "select order_id::text, state, refusal, due_at from charges")
            return {order_id: tuple(rest) for order_id, *rest in rows}

        ended: dict[str, tuple[Any, ...]] = dict.fromkeys(others, ("refunded", None, None))
        ended[refused] = ("refund_failed", "not_refundable", None)
        eventually(lambda: charges() == ended, seconds=60, what="the refunds have ended")
        (found,) = listed(REFUNDS, payments)
        assert (found["order_id"], found["reason"]) == (refused, "not_refundable")
        assert run(REFUNDS, payments, "settle", refused, "--yes") == 0
        assert charges()[refused][0] == "refunded"
