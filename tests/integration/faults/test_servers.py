# SPDX-License-Identifier: Apache-2.0
"""The broker and the database are killed under load; nothing is lost, doubled or oversold."""

import pytest

from tests.integration.faults.trial import Trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]


def kill_the_broker(trial: Trial) -> None:
    trial.wait_for_orders(240)
    trial.system.stack.rabbitmq.kill()
    trial.wait_for_orders(100)  # the outage lasts while orders arrive
    trial.system.stack.rabbitmq.start()
    trial.wait_for_orders(200)


def stop_the_database(trial: Trial) -> None:
    for _ in range(2):
        trial.wait_for_orders(200)
        trial.system.stack.postgresql.stop_immediate()
        trial.wait_for_orders(80)  # the outage lasts while orders arrive
        trial.system.stack.postgresql.start()
    trial.wait_for_orders(200)


def test_killing_the_broker_breaks_no_promise(shop: Trial) -> None:
    shop.sell(kill_the_broker)
    assert shop.judge() == []
    assert len(shop.sale.record.accepted) > 400


def test_stopping_the_database_without_a_checkpoint_breaks_no_promise(shop: Trial) -> None:
    shop.sell(stop_the_database)
    assert shop.judge() == []
    assert len(shop.sale.record.accepted) > 400
