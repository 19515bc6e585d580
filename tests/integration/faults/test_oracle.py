# SPDX-License-Identifier: Apache-2.0
"""The judge is judged: each seeded bug must turn it red, and the same trouble without the bug must leave it green."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.servers.stack import Stack
from orderflow.broker_topology import definitions
from orderflow.events import EXCHANGE, OrderConfirmed
from orderflow.services import SERVICES
from tests.integration.faults import event_recorder
from tests.integration.faults.trial import Trial, trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]

Fault = Callable[[Trial], None]
STILL_SECONDS = 8
"""What has not moved for so long, while no queue, outbox or charge has anything to do, is taken for lost."""


def nothing(_: Trial) -> None:
    """No trouble from outside."""


def second_inventory(running: Trial) -> None:
    """A second process takes its share of the messages."""
    running.system.replicate("inventory")


def nobody_hears_confirmations(running: Trial) -> None:
    """For a few seconds no queue is bound for order.confirmed; then all are again.

    All at the same moment, through one exchange on the way: an event that some queue gets counts as routed.
    """
    document, key, way = definitions(SERVICES, vhost=running.system.vhost), OrderConfirmed.routing_key, "confirmations"
    bound = [b.destination for b in document.bindings if (b.source, b.routing_key) == (EXCHANGE, key)]
    with event_recorder.channel(running.system.admin_url) as channel:
        channel.exchange_declare(way, exchange_type="fanout", durable=True)
        for queue in (*bound, event_recorder.QUEUE):
            channel.queue_bind(queue, way)
        channel.exchange_bind(way, EXCHANGE, key)
        for queue in (*bound, event_recorder.QUEUE):
            channel.queue_unbind(queue, EXCHANGE, key)
        time.sleep(2)
        channel.exchange_unbind(way, EXCHANGE, key)
        time.sleep(3)
        channel.exchange_bind(way, EXCHANGE, key)


CASES: dict[str, tuple[str, float, Fault, dict[str, float], tuple[str, ...]]] = {
    # bug: (process, deaths before commit, trouble, payment tokens, what the oracle must see)
    "ack-before-commit": ("inventory", 0.1, nothing, {"ok": 1}, ("lost: order", "drift")),
    "publish-before-commit": ("inventory", 0.1, nothing, {"ok": 1}, ("doubled",)),
    "inbox-outside": ("inventory", 0.1, nothing, {"ok": 1}, ("lost: order", "drift")),
    "not-mandatory": ("orders", 0, nobody_hears_confirmations, {"ok": 1}, ("drift", "lost")),
    "read-then-write": ("inventory", 0, second_inventory, {"ok": 1}, ("drift", "oversold")),
    "timeout-is-failure": ("payments", 0, nothing, {"ok": 0.5, "timeout_executed": 0.5}, ("money",)),
}


def run(stack: Stack, directory: Path, bug: str, case: str) -> list[str]:
    """What the oracle says of a case's trouble, with a bug in the case's process."""
    process, deaths, fault, tokens, _ = CASES[case]
    command = [sys.executable, "-m", "tests.integration.faults.seeded_bugs", bug, str(deaths), "serve", process]
    # A hold longer than the trial: an order whose message is lost stays open instead of being cancelled in peace.
    with trial(stack, directory, seed=31, commands={process: command}) as running:
        running.sell(fault, rate=40, seconds=8, tokens=tokens)
        assert deaths == 0 or -signal.SIGKILL in running.system.supervisor.exits(process)
        return running.judge(still_seconds=STILL_SECONDS)


@pytest.mark.parametrize("bug", list(CASES))
def test_a_seeded_bug_turns_the_oracle_red(breakable: Stack, tmp_path: Path, bug: str) -> None:
    found = run(breakable, tmp_path, bug, bug)
    kinds = CASES[bug][-1]
    assert [violation for violation in found if violation.startswith(kinds)], found


@pytest.mark.parametrize(
    "case",
    [
        "ack-before-commit",
        pytest.param("not-mandatory", marks=pytest.mark.nightly),
        pytest.param("read-then-write", marks=pytest.mark.nightly),
    ],
)
def test_the_same_trouble_without_the_bug_leaves_it_green(breakable: Stack, tmp_path: Path, case: str) -> None:
    assert run(breakable, tmp_path, "none", case) == []
