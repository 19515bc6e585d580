# SPDX-License-Identifier: Apache-2.0
"""Payments: charges and refunds through a provider, each at most once."""

from orderflow.events import (
    InventoryReserved,
    OrderCancelled,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
)
from orderflow.messaging.service import LeasedTable, Queue, Service

PAYMENTS = Service(
    name="payments",
    queues=(Queue(name="payment_requests", events=(InventoryReserved, OrderCancelled)),),
    publishes=(PaymentCaptured, PaymentDeclined, PaymentRefunded),
    processes={"payments": "charges and refunds through the payment provider"},
    leased=(LeasedTable(name="charges", key=("order_id",), until="due_at"),),
)
