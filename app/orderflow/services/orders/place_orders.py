# SPDX-License-Identifier: Apache-2.0
"""Accepts orders, each idempotency key once. Requests that arrive together share one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Annotated

import msgspec

from orderflow.events import OrderCreated, OrderLine, PaymentToken, Quantity, Sku, UserId
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.errors import TransactionAborted
from orderflow.messaging.service import UnitOfWork
from orderflow.messaging.uuid7 import uuid7
from orderflow.services.orders import store
from orderflow.services.orders.store import IdempotencyRecord, NewOrder, Offer

_MAX_TOTAL = 2**53 - 1


class RequestedLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an order request."""

    sku: Sku
    quantity: Quantity


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/orders``."""

    user_id: UserId
    items: Annotated[tuple[RequestedLine, ...], msgspec.Meta(min_length=1, max_length=100)]
    payment_token: PaymentToken


class Accepted(msgspec.Struct, frozen=True):
    """The body of the response to an accepted order. ``total_amount`` is in minor units."""

    order_id: str
    status: str
    total_amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Submission:
    """One request. ``client`` is the name of its API key, ``key`` its Idempotency-Key."""

    client: str
    key: str
    order: OrderRequest
    trace: Mapping[str, str]

    @property
    def body_hash(self) -> bytes:
        """Equal for equal orders, whatever the whitespace and the field order of their JSON."""
        return sha256(msgspec.json.encode(self.order)).digest()


@dataclass(frozen=True, slots=True)
class Placed:
    """The order is stored. ``response`` is the body of the response, the same for every repetition."""

    response: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The order is not stored; ``reason`` is one of ``instrumentation.REFUSALS``."""

    reason: str
    detail: str


Result = Placed | Refused
_New = tuple[IdempotencyRecord, NewOrder, Submission]


class PlaceOrders:
    """Applies a group of submissions; for ``GroupCommit``. Seven statements, whatever the number of requests."""

    def __init__(self, *, deadline_seconds: float, hold_seconds: float, instrumentation: Instrumentation) -> None:
        self._deadline = timedelta(seconds=deadline_seconds)
        self._hold_seconds = hold_seconds
        self._instrumentation = instrumentation

    def __call__(self, submissions: Sequence[Submission], unit_of_work: UnitOfWork) -> list[Result]:
        """Store the acceptable orders and publish them; one result for each submission, in the same order.

        Raises TransactionAborted when a concurrent transaction used one of the keys; a repetition finds its record.
        """
        known = store.find_responses(unit_of_work, [(item.client, item.key) for item in submissions])
        offers = store.offers(unit_of_work, (line.sku for item in submissions for line in item.order.items))
        new: dict[tuple[str, str], _New] = {}
        results = [self._result(item, known, offers, new, unit_of_work) for item in submissions]
        if new:
            self._store(list(new.values()), unit_of_work)
        return results

    def _result(
        self,
        submission: Submission,
        known: dict[tuple[str, str], IdempotencyRecord],
        offers: Mapping[str, Offer],
        new: dict[tuple[str, str], _New],
        unit_of_work: UnitOfWork,
    ) -> Result:
        name = (submission.client, submission.key)
        record = known.get(name)
        if record is not None:
            if record.body_hash != submission.body_hash:
                return Refused("idempotency_key_reused", "this Idempotency-Key was used with another body")
            unit_of_work.after_commit(self._instrumentation.replayed)
            return Placed(record.response)
        priced = _priced(submission.order, offers)
        if isinstance(priced, Refused):
            return priced
        currency = offers[priced[0].sku].currency
        user_id, trace, client = submission.order.user_id, submission.trace, submission.client
        order = NewOrder(uuid7(), user_id, priced, _total(priced), currency, trace, client)
        known[name] = _record(submission, order)
        new[name] = (known[name], order, submission)
        return Placed(known[name].response)

    def _store(self, new: Sequence[_New], unit_of_work: UnitOfWork) -> None:
        records = sorted((record for record, _, _ in new), key=lambda record: (record.client, record.key))
        if len(store.claim_keys(unit_of_work, records)) < len(new):
            raise TransactionAborted("a concurrent request used the same idempotency key")
        deadline = unit_of_work.now + self._deadline
        store.insert(unit_of_work, [order for _, order, _ in new], deadline=deadline)
        for _, order, submission in new:
            event = OrderCreated(
                timestamp=unit_of_work.now,
                order_id=order.order_id,
                user_id=order.user_id,
                total_amount=order.total_amount,
                currency=order.currency,
                items=order.items,
                payment_token=submission.order.payment_token,
                deadline=deadline,
                hold_seconds=self._hold_seconds,
            )
            unit_of_work.publish(event, trace=order.trace)
            self._report_accepted(order, unit_of_work)

    def _report_accepted(self, order: NewOrder, unit_of_work: UnitOfWork) -> None:
        unit_of_work.after_commit(lambda: self._instrumentation.order_accepted(str(order.order_id), order.trace))


def _priced(order: OrderRequest, offers: Mapping[str, Offer]) -> tuple[OrderLine, ...] | Refused:
    """The lines with the current prices, or why the order is refused."""
    units: dict[str, int] = {}
    for line in order.items:
        units[line.sku] = units.get(line.sku, 0) + line.quantity
    unknown = [sku for sku in units if sku not in offers]
    if unknown:
        return Refused("unknown_sku", f"unknown SKU: {', '.join(sorted(unknown))}")
    if len({offers[sku].currency for sku in units}) > 1:
        return Refused("mixed_currencies", "the items are priced in different currencies")
    sold_out = [sku for sku, count in units.items() if offers[sku].available < count]
    if sold_out:
        return Refused("sold_out", f"not enough units available: {', '.join(sorted(sold_out))}")
    lines = tuple(
        OrderLine(sku=line.sku, quantity=line.quantity, unit_price=offers[line.sku].unit_price) for line in order.items
    )
    if _total(lines) > _MAX_TOTAL:
        return Refused("invalid", "the total is too large")
    return lines


def _total(lines: Sequence[OrderLine]) -> int:
    return sum(line.quantity * line.unit_price for line in lines)


def _record(submission: Submission, order: NewOrder) -> IdempotencyRecord:
    body = Accepted(str(order.order_id), "accepted", order.total_amount, order.currency)
    return IdempotencyRecord(
        submission.client, submission.key, submission.body_hash, order.order_id, msgspec.json.encode(body)
    )
