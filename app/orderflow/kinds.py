# SPDX-License-Identifier: Apache-2.0
"""Every kind of process, and what it is made of. Nothing else knows all the services."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from orderflow.http.keys import ApiKeys
from orderflow.http.server import Application, HttpServer
from orderflow.http.watch import Watched
from orderflow.messaging.effects import Effecting
from orderflow.messaging.group_commit import GroupCommit
from orderflow.messaging.service import Service
from orderflow.parts import Parts
from orderflow.services.inventory import INVENTORY
from orderflow.services.inventory.api import Shelving, StockApi
from orderflow.services.inventory.handlers import InventoryUpdates
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.notifications.handlers import NotificationRequests
from orderflow.services.notifications.sender import SENDS_AT_ONCE, LogSender, Sender, SmtpSender, WebhookSender
from orderflow.services.notifications.sending import Notifying
from orderflow.services.orders import ORDERS
from orderflow.services.orders.api import OrdersApi
from orderflow.services.orders.expiry import expire_holds
from orderflow.services.orders.handlers import AvailabilityUpdates, OrderUpdates
from orderflow.services.orders.intake import Intake
from orderflow.services.orders.store import forget_answers
from orderflow.services.payments import PAYMENTS
from orderflow.services.payments.charging import Charging, count_unknown
from orderflow.services.payments.handlers import PaymentRequests
from orderflow.services.payments.http_gateway import HttpGateway
from orderflow.settings import Need, Settings
from orderflow.telemetry import metrics
from orderflow.telemetry.metric import Area

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of process: its service, what it needs to be told, what it does, and how its parts are added."""

    service: Service
    build: Callable[[Parts], None]
    needs: frozenset[Need] = frozenset({"amqp", "database"})
    areas: tuple[Area, ...]
    consumes: bool = True


def _orders_api(parts: Parts) -> None:
    settings, moments = parts.settings, parts.telemetry.moments
    intake = Intake(hold_seconds=settings.hold_seconds, moments=moments)
    writer = GroupCommit(parts.unit_of_work(), intake, clock=parts.clock, name="write orders")
    relay, reader = parts.relay(), parts.reader()
    api = OrdersApi(
        writer=writer,
        reader=reader,
        keys=_keys(settings),
        moments=moments,
        outbox_age=lambda: relay.oldest_seconds,
        outbox_max_age_seconds=settings.outbox_max_age_seconds,
    )
    _serve_http(parts, api.app())
    parts.process.add(writer)
    parts.process.add(relay)


def _orders(parts: Parts) -> None:
    moments, hours = parts.telemetry.moments, parts.settings.idempotency_hours
    parts.process.add(
        *parts.consumers("order_updates", lambda: OrderUpdates(moments)),
        *parts.consumers("availability_updates", AvailabilityUpdates),
        parts.periodic("expire holds", 1, partial(expire_holds, moments=moments)),
        parts.periodic("forget answers", 3600, partial(forget_answers, hours=hours)),
        parts.prune_inbox(),
    )
    parts.process.add(parts.relay())


def _inventory_api(parts: Parts) -> None:
    settings, moments = parts.settings, parts.telemetry.moments
    writer = GroupCommit(
        parts.unit_of_work(),
        Shelving(low_units=settings.low_stock_units, moments=moments),
        clock=parts.clock,
        name="write stock",
    )
    api = StockApi(writer=writer, reader=parts.reader(), keys=_keys(settings), moments=moments)
    _serve_http(parts, api.app())
    parts.process.add(writer)
    parts.process.add(parts.relay())


def _inventory(parts: Parts) -> None:
    low, moments = parts.settings.low_stock_units, parts.telemetry.moments
    parts.process.add(
        *parts.consumers("inventory_updates", lambda: InventoryUpdates(low_units=low, moments=moments)),
        parts.prune_inbox(),
    )
    parts.process.add(parts.relay())


def _payments(parts: Parts) -> None:
    settings, telemetry = parts.settings, parts.telemetry
    gateway = HttpGateway(
        settings.payment_url,
        timeout_seconds=settings.payment_timeout_seconds,
        hooks=telemetry.hooks,
        moments=telemetry.moments,
        clock=parts.clock,
    )
    charging = Effecting(
        "charge",
        Charging(gateway),
        parts.unit_of_work(),
        clock=parts.clock,
        concurrency=settings.payment_concurrency,
        lease_seconds=settings.payment_timeout_seconds * 2 + 5,
    )
    parts.process.add(
        *parts.consumers("payment_requests", lambda: PaymentRequests(charging.wake)),
        parts.periodic("count unknown payments", 5, partial(count_unknown, moments=telemetry.moments)),
        parts.prune_inbox(),
    )
    parts.process.add(charging)
    parts.process.add(parts.relay())


def _notifications(parts: Parts) -> None:
    telemetry, sender = parts.telemetry, _sender(parts)
    sending = Effecting(
        "notify",
        Notifying(sender, hooks=telemetry.hooks, moments=telemetry.moments),
        parts.unit_of_work(),
        clock=parts.clock,
        concurrency=SENDS_AT_ONCE,
        lease_seconds=sender.longest_seconds + 10,
    )
    parts.process.add(
        *parts.consumers("notification_requests", lambda: NotificationRequests(sending.wake)),
        parts.prune_inbox(),
    )
    parts.process.add(sending)


KINDS: Mapping[str, Kind] = {
    "orders-api": Kind(
        service=ORDERS, build=_orders_api, areas=(metrics.PUBLISHING, metrics.INTAKE, metrics.HTTP), consumes=False
    ),
    "orders": Kind(service=ORDERS, build=_orders, areas=(metrics.CONSUMING, metrics.PUBLISHING, metrics.ORDERS)),
    "inventory-api": Kind(
        service=INVENTORY,
        build=_inventory_api,
        areas=(metrics.PUBLISHING, metrics.HTTP, metrics.STOCK),
        consumes=False,
    ),
    "inventory": Kind(
        service=INVENTORY, build=_inventory, areas=(metrics.CONSUMING, metrics.PUBLISHING, metrics.STOCK)
    ),
    "payments": Kind(
        service=PAYMENTS,
        build=_payments,
        needs=frozenset({"amqp", "database", "payment"}),
        areas=(metrics.CONSUMING, metrics.PUBLISHING, metrics.PAYMENTS),
    ),
    "notifications": Kind(
        service=NOTIFICATIONS,
        build=_notifications,
        areas=(metrics.CONSUMING, metrics.PUBLISHING, metrics.NOTIFICATIONS),  # it publishes retries and dead letters
    ),
}
"""Every process that ``orderflow serve`` can be."""


def _serve_http(parts: Parts, app: Application) -> None:
    settings = parts.settings
    watched = Watched(app, parts.telemetry.moments)
    server = HttpServer(parts.telemetry.traced(watched), settings.http_host, settings.http_port, clock=parts.clock)
    log.info("http.listening", extra={"host": settings.http_host, "port": server.port})

    def lame_duck() -> None:
        watched.leaving = True
        parts.clock.wait(parts.process.impatient, settings.lame_duck_seconds)

    parts.process.before_stop(lame_duck)
    parts.process.add(server)


def _keys(settings: Settings) -> ApiKeys | None:
    """The known API keys, None when they are switched off."""
    return None if settings.api_auth == "off" else ApiKeys.parse(settings.api_keys)


def _sender(parts: Parts) -> Sender:
    settings = parts.settings
    if settings.notification_sender == "webhook":
        return WebhookSender(settings.notification_webhook_url)
    if settings.notification_sender == "smtp":
        return SmtpSender(
            settings.notification_smtp_url,
            mail_from=settings.notification_mail_from,
            mail_to=settings.notification_mail_to,
            clock=parts.clock,
        )
    return LogSender()
