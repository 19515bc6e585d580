# SPDX-License-Identifier: Apache-2.0
"""The services. A new one is a folder and a line in this list."""

from orderflow.messaging.service import Service
from orderflow.services.inventory import INVENTORY
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.orders import ORDERS
from orderflow.services.payments import PAYMENTS

SERVICES: tuple[Service, ...] = (ORDERS, INVENTORY, PAYMENTS, NOTIFICATIONS)
