# SPDX-License-Identifier: Apache-2.0
"""The services. A new one is a folder and a line in this list."""

from importlib import import_module

from orderflow.messaging.service import Service

NAMES = (
    "orders",
    "inventory",
    "payments",
    "notifications",
)
SERVICES: tuple[Service, ...] = tuple(getattr(import_module(f"{__name__}.{name}"), name.upper()) for name in NAMES)
"""The declaration in each service's folder: the constant with its name in capitals."""
