# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest

from orderflow.events import InventoryReserved, OrderCancelled, OrderConfirmed
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.instance import NO_OWNER
from orderflow.messaging.service import DONE, Incoming
from orderflow.services.payments.handlers import PaymentRequests
from tests.builders import NOW, an_event


class Statements:
    """A transaction that records the parameters of its statements and its after-commit actions."""

    now = NOW
    owner = NO_OWNER

    def __init__(self) -> None:
        self.parameters: list[Mapping[str, Any]] = []
        self.actions: list[Callable[[], None]] = []

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        self.parameters.append(parameters or {})
        return []

    def publish(self, event: Event, **_: object) -> None:
        raise AssertionError(f"{event} is published before the provider responded")

    def after_commit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)


def incoming(event: Event) -> Incoming:
    return Incoming(uuid4(), event, 0)


def handled(*events: Event) -> Statements:
    transaction = Statements()
    handler = PaymentRequests(lambda: None, instrumentation=Instrumentation())
    outcomes = handler.handle([incoming(event) for event in events], transaction)
    assert outcomes == [DONE] * len(events)
    return transaction


def test_calls_begin_when_the_transaction_is_committed_and_not_before() -> None:
    woken: list[bool] = []
    transaction = Statements()
    handler = PaymentRequests(lambda: woken.append(True), instrumentation=Instrumentation())
    handler.handle([incoming(an_event(InventoryReserved))], transaction)
    assert woken == []
    for action in transaction.actions:
        action()
    assert woken == [True]


def test_a_batch_is_one_statement_with_one_intent_for_each_order() -> None:
    order, other = uuid4(), uuid4()
    (parameters,) = handled(
        an_event(InventoryReserved, order_id=order),
        an_event(OrderCancelled, order_id=order),
        an_event(InventoryReserved, order_id=order),
        an_event(InventoryReserved, order_id=other),
        an_event(InventoryReserved, order_id=other),
    ).parameters
    assert dict(zip(parameters["order_ids"], parameters["states"], strict=True)) == {
        order: "cancelled",
        other: "requested",
    }


def test_an_empty_batch_does_nothing() -> None:
    transaction = handled()
    assert (transaction.parameters, transaction.actions) == ([], [])


def test_an_event_that_payments_does_not_declare_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="OrderConfirmed"):
        handled(an_event(OrderConfirmed))
