# SPDX-License-Identifier: Apache-2.0
"""One trial: a system, load, a fault, and the check by the oracle."""

import math
import random
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local.demo.load_generator import Plan
from local.demo.sale import Sale, put_stock
from local.eventually import eventually
from local.servers.rabbitmq import RabbitMQ
from local.servers.stack import Stack
from local.system import System
from orderflow.messaging.consume.settlement import DEAD_LETTER_QUEUE
from tests.integration.faults import event_recorder
from tests.integration.faults.oracle import Evidence, settle, violations

STOCK = {f"sku-{number}": 100_000 for number in range(1, 9)} | {"scarce": 60}
QUICK = {
    "ORDERFLOW_HOLD_SECONDS": "60",
    "ORDERFLOW_LAME_DUCK_SECONDS": "0",
    "ORDERFLOW_OUTBOX_LEASE_SECONDS": "2",
    "ORDERFLOW_RELAY_INTERVAL_SECONDS": "0.25",
    "ORDERFLOW_PAYMENT_TIMEOUT_SECONDS": "1",
    "OTEL_TRACES_SAMPLER": "always_off",
}
_WAIT_SECONDS = 300.0
"""Bound of a wait that usually takes seconds; a machine may have other work."""
_LONGEST_SALE_SECONDS = 600.0
"""Bound of a sale whose fault never returns; every wait within a fault ends sooner."""


class Trial:
    """A running system with stock and a recorder at the exchange."""

    def __init__(self, system: System, *, seed: int) -> None:
        self.system = system
        self.seed = seed
        self.random = random.Random(seed)
        self.poison: Counter[str] = Counter()
        self.recorder = event_recorder.EventRecorder(system.admin_url)
        self.sale: Sale

    def sell(self, fault: Callable[["Trial"], None], *, rate: float = 80, **plan: Any) -> None:
        """Place orders until ``fault`` has returned, however long it takes; returns when every order has a response."""
        options: dict[str, Any] = {"skus": list(STOCK), "duplicate_share": 0.1, "seed": self.seed, **plan}
        self.sale = Sale(self.system, Plan(rate=rate, seconds=_LONGEST_SALE_SECONDS, **options))
        self.sale.run_until(lambda: fault(self))

    def wait_for_orders(self, count: int) -> None:
        """Wait until this many more orders were sent, so that a fault begins or ends under load."""
        wanted = self.sale.record.sent + count
        eventually(lambda: self.sale.record.sent >= wanted, seconds=_WAIT_SECONDS, what=f"{count} more orders sent")

    def wait_for_accepted(self, count: int) -> None:
        """Wait until so many orders were accepted in all."""
        accepted = self.sale.record.accepted
        eventually(lambda: len(accepted) >= count, seconds=_WAIT_SECONDS, what=f"{count} orders are accepted")

    def judge(self, *, seconds: float = 240, still_seconds: float = math.inf) -> list[str]:
        """Wait until the system has settled (see ``settle``); what did not settle, and every broken promise."""
        evidence = Evidence(self.system, self.recorder, self.sale.record, STOCK, self.poison)
        found = settle(evidence, seconds=seconds, still_seconds=still_seconds) + violations(evidence)
        if found:
            self._print_details(found)
        return found

    def _print_details(self, found: list[str]) -> None:
        """Print seed, findings and logs, which pytest shows when the test fails."""
        lines = [f"seed {self.seed}", *found[:50]]
        for log in sorted(self.system.directory.glob("*.log")):
            lines += [f"== {log.name}", log.read_text(errors="replace")[-1500:]]
        sys.stdout.write("\n".join(lines) + "\n")


@contextmanager
def trial(
    stack: Stack, directory: Path, *, seed: int, environ: Mapping[str, str] | None = None, **system: Any
) -> Iterator[Trial]:
    """A system of its own on the given servers, with everything in place before the first order."""
    directory.mkdir(exist_ok=True)
    name = f"trial-{secrets.token_hex(4)}"
    with System.started(stack, directory, environ=QUICK | dict(environ or {}), name=name, **system) as started:
        event_recorder.install(started.admin_url)
        broker = stack.rabbitmq
        assert isinstance(broker, RabbitMQ)
        # A broker that is killed within a second of a declaration forgets the queue.
        eventually(lambda: broker.keeps(DEAD_LETTER_QUEUE), seconds=10, what="the broker keeps its queues")
        eventually(lambda: broker.keeps(event_recorder.QUEUE), seconds=10, what="the broker keeps the event recorder")
        put_stock(started, STOCK)
        yield Trial(started, seed=seed)
