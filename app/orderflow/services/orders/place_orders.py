# SPDX-License-Identifier: Apache-2.0
"""Accepts orders: all requests that arrive at the same time in one transaction, each idempotency key once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

import msgspec

from orderflow.events import OrderCreated, OrderLine, PaymentToken, Quantity, Sku, UserId
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.errors import TransactionAborted
from orderflow.messaging.service import UnitOfWork
from orderflow.messaging.uuid7 import message_id
from orderflow.services.orders import store
from orderflow.services.orders.store import Answered, NewOrder, Offer

_MOST_TOTAL = 2**53 - 1


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
    """The body of the answer to an accepted order. ``total_amount`` is in minor units."""

    order_id: str
    status: str
    total_amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Submission:
    """One request with what identifies it. ``client`` is the name of its API key."""

    client: str
    key: str
    order: OrderRequest
    trace: Mapping[str, str]

    @property
    def body_hash(self) -> bytes:
        """Equal for equal orders, however their JSON was spaced or ordered."""
        return sha256(msgspec.json.encode(self.order)).digest()


@dataclass(frozen=True, slots=True)
class Placed:
    """The order is stored: ``response`` is the body of the answer, the same for every repetition."""

    response: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The order is not stored; ``kind`` is one of the words in ``moments.REFUSALS``."""

    kind: str
    detail: str


Result = Placed | Refused


class PlaceOrders:
    """Applies a group of submissions; for ``GroupCommit``. Seven statements, whatever the number of requests."""

    def __init__(self, *, hold_seconds: float, instrumentation: Instrumentation) -> None:
        self._hold = hold_seconds
        self._instrumentation = instrumentation

    def __call__(self, submissions: Sequence[Submission], work: UnitOfWork) -> list[Result]:
        """Store what can be accepted and tell it; one result for each submission, in their order.

        Raises TransactionAborted when a rival has just used one of the keys: then the answer is looked up.
        """
        answers = store.answered(work, [(item.client, item.key) for item in submissions])
        offers = store.offers(work, (line.sku for item in submissions for line in item.order.items))
        new: dict[tuple[str, str], tuple[Answered, NewOrder, Submission]] = {}
        results = [self._result(item, answers, offers, new, work.after_commit) for item in submissions]
        if new:
            self._store(list(new.values()), work)
        return results

    def _result(
        self,
        submission: Submission,
        answers: dict[tuple[str, str], Answered],
        offers: Mapping[str, Offer],
        new: dict[tuple[str, str], tuple[Answered, NewOrder, Submission]],
        after_commit: Callable[[Callable[[], None]], None],
    ) -> Result:
        name = (submission.client, submission.key)
        known = answers.get(name)
        if known is not None:
            if known.body_hash != submission.body_hash:
                return Refused("idempotency_key_reused", "this Idempotency-Key was used with another body")
            after_commit(self._instrumentation.replayed)
            return Placed(known.response)
        priced = _priced(submission.order, offers)
        if isinstance(priced, Refused):
            return priced
        order = NewOrder(
            message_id(), submission.order.user_id, priced, _total(priced), _currency(priced, offers), submission.trace
        )
        answers[name] = _answer(submission, order)
        new[name] = (answers[name], order, submission)
        return Placed(answers[name].response)

    def _store(self, new: Sequence[tuple[Answered, NewOrder, Submission]], work: UnitOfWork) -> None:
        claimed = store.claim(work, sorted((answer for answer, _, _ in new), key=lambda item: (item.client, item.key)))
        if len(claimed) < len(new):
            raise TransactionAborted("another request with the same idempotency key has just been answered")
        store.insert(work, [order for _, order, _ in new], hold_seconds=self._hold)
        for _, order, submission in new:
            event = OrderCreated(
                timestamp=work.now,
                order_id=order.order_id,
                user_id=order.user_id,
                total_amount=order.total_amount,
                currency=order.currency,
                items=order.items,
                payment_token=submission.order.payment_token,
            )
            work.publish(event, trace=order.trace)
            self._tell(order, work)

    def _tell(self, order: NewOrder, work: UnitOfWork) -> None:
        work.after_commit(lambda: self._instrumentation.order_accepted(str(order.order_id), order.trace))


def _priced(order: OrderRequest, offers: Mapping[str, Offer]) -> tuple[OrderLine, ...] | Refused:
    """The lines at today's prices, or why the order cannot be taken."""
    wanted: dict[str, int] = {}
    for line in order.items:
        wanted[line.sku] = wanted.get(line.sku, 0) + line.quantity
    unknown = [sku for sku in wanted if sku not in offers]
    if unknown:
        return Refused("unknown_sku", f"there is no {', '.join(sorted(unknown))}")
    if len({offers[sku].currency for sku in wanted}) > 1:
        return Refused("mixed_currencies", "the items are priced in different currencies")
    gone = [sku for sku, count in wanted.items() if offers[sku].available < count]
    if gone:
        return Refused("sold_out", f"there is not enough of {', '.join(sorted(gone))}")
    lines = tuple(
        OrderLine(sku=line.sku, quantity=line.quantity, unit_price=offers[line.sku].unit_price) for line in order.items
    )
    if _total(lines) > _MOST_TOTAL:
        return Refused("invalid", "the total is too large")
    return lines


def _total(lines: Sequence[OrderLine]) -> int:
    return sum(line.quantity * line.unit_price for line in lines)


def _currency(lines: Sequence[OrderLine], offers: Mapping[str, Offer]) -> str:
    return offers[lines[0].sku].currency


def _answer(submission: Submission, order: NewOrder) -> Answered:
    body = Accepted(str(order.order_id), "accepted", order.total_amount, order.currency)
    return Answered(submission.client, submission.key, submission.body_hash, order.order_id, msgspec.json.encode(body))
