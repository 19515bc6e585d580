# SPDX-License-Identifier: Apache-2.0
"""Inventory: reserves, sells and releases stock, and never oversells."""

from orderflow.events import (
    InventoryRejected,
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderRejected,
    StockChanged,
    StockLow,
)
from orderflow.messaging.service import Queue, Service

INVENTORY = Service(
    name="inventory",
    queues=(Queue(name="inventory_updates", events=(OrderCreated, OrderConfirmed, OrderRejected, OrderCancelled)),),
    publishes=(InventoryReserved, InventoryRejected, StockChanged, StockLow),
    processes={
        "inventory-api": "HTTP API: sets and shows the stock",
        "inventory": "reserves, sells and releases stock",
    },
)
