# SPDX-License-Identifier: Apache-2.0
"""Messages arrive repeatedly, in any order or malformed; the provider does not respond."""

from pathlib import Path

import pytest

from local.demo.poison import every_kind
from local.servers.stack import Stack
from orderflow.events import EXCHANGE, OrderCreated
from tests.integration.faults import event_recorder
from tests.integration.faults.reordering import COPIES, Disorder
from tests.integration.faults.trial import Trial, trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]

POISON = 200
ACCEPTED = 1000


def no_fault(trial: Trial) -> None:
    """Orders, and nothing else."""
    trial.wait_for_orders(350)


def kill_the_provider(trial: Trial) -> None:
    """SIGKILL the payment provider while calls to it are open; its ledger survives."""
    for _ in range(3):
        trial.wait_for_orders(60)
        trial.system.supervisor.wait_ready("payment-simulator")
        trial.system.supervisor.kill("payment-simulator")
    trial.wait_for_orders(120)


def plant_poison(trial: Trial) -> None:
    """Malformed messages of every kind, among the valid ones."""
    with event_recorder.channel(trial.system.admin_url) as channel:
        channel.confirm_delivery()
        planted = 0
        while planted < POISON:
            for poison in list(every_kind())[: POISON - planted]:
                channel.basic_publish(
                    EXCHANGE, OrderCreated.routing_key, poison.body, poison.properties, mandatory=True
                )
                trial.poison[poison.reason] += 1
                planted += 1
    trial.wait_for_accepted(ACCEPTED)


def test_every_message_three_times_and_shuffled_breaks_no_promise(shop: Trial) -> None:
    with Disorder(shop.system.admin_url, shop.system.amqp_url("replay"), seed=shop.seed) as disorder:
        shop.sell(no_fault, rate=40, tokens={"ok": 0.8, "decline": 0.2})
        assert shop.judge() == []
    assert disorder.delivered > COPIES * 4 * len(shop.sale.record.accepted)


def test_malformed_messages_are_dead_lettered_with_their_reason_and_the_rest_goes_on(shop: Trial) -> None:
    kinds = {poison.kind for poison in every_kind()}
    assert len(kinds) >= 15
    shop.sell(plant_poison, rate=100)
    assert len(shop.sale.record.accepted) >= ACCEPTED
    assert shop.poison.total() == POISON
    assert shop.judge() == []


def test_a_charge_without_a_response_is_neither_assumed_nor_repeated(shop: Trial) -> None:
    tokens = {"ok": 0.5, "timeout_executed": 0.3, "error_once": 0.1, "slow": 0.1}
    shop.sell(no_fault, rate=40, tokens=tokens)
    assert shop.judge() == []
    charged = [token for token in shop.sale.record.accepted.values() if token == "timeout_executed"]
    assert len(charged) > 50


@pytest.mark.nightly
def test_orders_without_a_response_of_the_provider_end_cancelled_and_uncharged(
    breakable: Stack, tmp_path: Path
) -> None:
    tokens = {"ok": 0.5, "never": 0.15, "timeout_executed": 0.15, "slow": 0.2}
    with trial(breakable, tmp_path, seed=47, environ={"ORDERFLOW_HOLD_SECONDS": "6"}) as running:
        running.sell(kill_the_provider, rate=30, tokens=tokens)
        # A charge without a result is looked up for a minute before it counts as never executed.
        assert running.judge(seconds=180) == []
        assert "never" in running.sale.record.accepted.values()
