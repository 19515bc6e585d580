# SPDX-License-Identifier: Apache-2.0
"""Orders: accepts orders over HTTP, and is the only service that decides their final state."""

from orderflow.events import (
    InventoryRejected,
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderRejected,
    PaymentCaptured,
    PaymentDeclined,
    StockChanged,
    StockLow,
)
from orderflow.messaging.service import Queue, Service

ORDERS = Service(
    name="orders",
    queues=(
        Queue(name="order_updates", events=(InventoryRejected, InventoryReserved, PaymentCaptured, PaymentDeclined)),
        Queue(name="availability_updates", events=(StockChanged, StockLow), background=True),
    ),
    publishes=(OrderCreated, OrderConfirmed, OrderRejected, OrderCancelled),
    processes={
        "orders-api": "HTTP API: accepts orders and shows their state",
        "orders": "the state machine of orders, and the view of prices and availability",
    },
)
