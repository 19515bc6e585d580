# SPDX-License-Identifier: Apache-2.0
"""The services. To add one, create its folder and add its name to ``NAMES``."""

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
