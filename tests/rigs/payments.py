# SPDX-License-Identifier: Apache-2.0
"""Payments on a real database and the real simulator process, with a scripted broker."""

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import msgspec

from local.eventually import eventually
from local.http_json import http
from orderflow.events import InventoryReserved, OrderCancelled, decode
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.event import Event
from orderflow.messaging.service import Incoming
from orderflow.payment_simulator.provider import slow_seconds
from orderflow.services.payments import PAYMENTS
from orderflow.services.payments.effects import ChargeEffect, count_charges
from orderflow.services.payments.handlers import PaymentRequests
from orderflow.services.payments.http_provider import HttpPaymentProvider
from orderflow.services.payments.late_charges import decline_late
from orderflow.services.payments.provider import Payment
from tests.builders import an_event
from tests.rigs.effects import EffectsRig

ROOT = Path(__file__).parents[2]


def quickly_slow() -> UUID:
    """The id of an order whose slow charge takes between 2 and 2.3 s."""
    return next(order for order in iter(uuid4, None) if slow_seconds(str(order)) < 2.3)


def free_port() -> int:
    """A loopback port on which no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ProcessGroup:
    """A process in a session of its own, which is killed when the context is left."""

    def __init__(self, *argv: str) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'app'}{os.pathsep}{ROOT}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._argv], cwd=ROOT, env=environment, start_new_session=True
        )

    def kill(self) -> None:
        """SIGKILL, and wait for the end; also of a process that is suspended."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process is not None:
            process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Simulator(ProcessGroup):
    """The payment simulator as a process; ready when the context is entered."""

    def __init__(self, ledger: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("orderflow", "payment-simulator", "--port", str(self.port), "--ledger", str(ledger))

    def start(self) -> None:
        super().start()
        eventually(self._ready)

    def ledger(self) -> tuple[Counter[UUID], Counter[UUID]]:
        """The number of charges and of refunds of each order."""
        content = msgspec.json.decode(self.get("/v1/ledger"))
        captured = [row for row in content["charges"] if row["status"] == "captured"]
        return (
            Counter(UUID(row["reference"]) for row in captured),
            Counter(UUID(row["reference"]) for row in content["refunds"]),
        )

    def charged(self, order_id: UUID) -> int:
        """The number of charges of an order."""
        return self.ledger()[0][order_id]

    def refunded(self, order_id: UUID) -> int:
        """The number of refunds of an order."""
        return self.ledger()[1][order_id]

    def execute(self, event: InventoryReserved) -> None:
        """Charge an order as if our call reached the provider only now."""
        payment = Payment(
            order_id=event.order_id, amount=event.total_amount, currency=event.currency, payment_token="ok"
        )
        body = {
            "amount": event.total_amount,
            "currency": event.currency,
            "payment_token": "ok",
            "reference": str(event.order_id),
        }
        headers = {"Idempotency-Key": payment.charge_key}
        http("POST", f"{self.url}/v1/charges", headers=headers, body=body, timeout_seconds=5).raise_for_status()

    def refund_by_hand(self, charge_id: str, amount: int) -> None:
        """Refund a charge as an operator does who uses the provider's own pages."""
        headers = {"Idempotency-Key": f"by-hand-{charge_id}"}
        body = {"charge_id": charge_id, "amount": amount}
        http("POST", f"{self.url}/v1/refunds", headers=headers, body=body, timeout_seconds=5).raise_for_status()

    def get(self, path: str) -> bytes:
        response = http("GET", f"{self.url}{path}", timeout_seconds=5)
        response.raise_for_status()
        return response.content

    def _ready(self) -> bool:
        try:
            return bool(self.get("/healthz"))
        except OSError:
            return False


class RecordedPayments(Instrumentation):
    """Counts calls to the provider by operation and outcome, and what came too late for one."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.unknown: list[int] = []
        self.failed_refunds: list[int] = []
        self.expired = 0

    def charges_expired(self, count: int) -> None:
        self.expired += count

    def payment_call(self, operation: str, outcome: str, seconds: float) -> None:
        self.calls[operation, outcome] += 1

    def payments_unknown(self, count: int) -> None:
        self.unknown.append(count)

    def refunds_failed(self, count: int) -> None:
        self.failed_refunds.append(count)


class Payments(EffectsRig):
    """The payments service without a broker."""

    def __init__(
        self,
        database_url: str,
        provider_url: str,
        *,
        timeout_seconds: float = 0.5,
        lease_seconds: float = 2,
        concurrency: int = 64,
        settled_after_seconds: float = 60,
    ) -> None:
        self.recorded = RecordedPayments()
        gateway = HttpPaymentProvider(
            provider_url,
            timeout_seconds=timeout_seconds,
            instrumentation=self.recorded,
            clock=SystemClock(),
        )
        self.effects = ChargeEffect(gateway, settled_after_seconds=settled_after_seconds)
        super().__init__(
            PAYMENTS,
            database_url,
            self.effects,
            partial(PaymentRequests, instrumentation=self.recorded),
            concurrency=concurrency,
            lease_seconds=lease_seconds,
        )

    @contextmanager
    def cancelling(self, order_id: UUID) -> Generator[None]:
        """Handle a cancellation; its transaction is committed when the context is left."""
        message = Incoming(uuid4(), cancelled(order_id), 0)
        with self.consuming.transaction() as work:
            self.handler.handle([message], work)
            yield

    def decline_late(self) -> None:
        """Decline late charges, as the service does every second."""
        with self.consuming.transaction() as work:
            decline_late(work, instrumentation=self.recorded)

    def count_charges(self) -> None:
        """Count unknown charges and failed refunds, as the service does periodically."""
        with self.consuming.transaction() as work:
            count_charges(work, self.recorded)

    def published(self) -> Counter[tuple[str, UUID]]:
        """How often each event type was published for each order."""
        return Counter((type(event).__name__, getattr(event, "order_id", None)) for event in self.events())  # type: ignore[misc]

    def events(self) -> Sequence[Event]:
        return [decode(publication.body) for publication in self.publisher.published]


def reserved(token: str, **changes: Any) -> InventoryReserved:
    return an_event(InventoryReserved, payment_token=token, **changes)


def cancelled(order_id: UUID) -> OrderCancelled:
    return an_event(OrderCancelled, order_id=order_id, reason="hold_expired")
