# SPDX-License-Identifier: Apache-2.0
"""Notifications: informs customers about the end of their orders, and the operator about low stock."""

from orderflow.events import OrderCancelled, OrderConfirmed, OrderRejected, PaymentRefunded, StockLow
from orderflow.messaging.service import LeasedTable, Queue, Service

NOTIFICATIONS = Service(
    name="notifications",
    queues=(
        Queue(
            name="notification_requests",
            events=(OrderConfirmed, OrderRejected, OrderCancelled, PaymentRefunded, StockLow),
            background=True,
        ),
    ),
    publishes=(),
    processes={"notifications": "sends notifications through a webhook or by mail"},
    leased=(LeasedTable(name="notifications", key=("subject", "kind"), until="due_at"),),
)
