# SPDX-License-Identifier: Apache-2.0
"""What payments does with messages: write down what the provider is to be asked. The asking is in ``charging``."""

from collections.abc import Callable, Sequence
from uuid import UUID

from orderflow.events import InventoryReserved, OrderCancelled
from orderflow.messaging.service import DONE, Incoming, Outcome, UnitOfWork
from orderflow.services.payments import store
from orderflow.services.payments.domain import State
from orderflow.services.payments.store import ChargeIntent


class PaymentRequests:
    """Handles queue ``payment_requests``: a reserved order is to be charged, a cancelled one is not, or no longer.

    One statement per batch. ``wake`` is called after the commit, so that the calls begin at once.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Every message is done; what it wants is in its order's row."""
        wishes = _wishes(messages)
        if wishes:
            store.request(unit_of_work, wishes)
            unit_of_work.after_commit(self._wake)
        return [DONE] * len(messages)


def _wishes(messages: Sequence[Incoming]) -> list[ChargeIntent]:
    """One wish per order: the first message's, but a cancellation beats a reservation."""
    wishes: dict[UUID, ChargeIntent] = {}
    for message in messages:
        wish = _wish(message)
        known = wishes.get(wish.order_id)
        if known is None or (known.state is not State.CANCELLED and wish.state is State.CANCELLED):
            wishes[wish.order_id] = wish
    return list(wishes.values())


def _wish(message: Incoming) -> ChargeIntent:
    event = message.event
    if not isinstance(event, InventoryReserved | OrderCancelled):
        raise TypeError(f"{type(event).__name__} is not handled by payments")
    return ChargeIntent(
        order_id=event.order_id,
        state=State.REQUESTED if isinstance(event, InventoryReserved) else State.CANCELLED,
        user_id=event.user_id,
        amount=event.total_amount,
        currency=event.currency,
        payment_token=event.payment_token if isinstance(event, InventoryReserved) else "",
        reason=None if isinstance(event, InventoryReserved) else event.reason,
        caused_by=message.message_id,
        trace=message.trace,
    )
