# SPDX-License-Identifier: Apache-2.0
"""The composition root: which parts each process has, and its life from the first setting to the last confirm."""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from orderflow.http.keys import ApiKeys
from orderflow.http.reader import Reader
from orderflow.http.server import Application, HttpServer
from orderflow.http.watch import Watched
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.effects import Effecting
from orderflow.messaging.errors import SettingsError
from orderflow.messaging.group_commit import GroupCommit
from orderflow.messaging.service import Service
from orderflow.messaging.watchdog import Watchdog
from orderflow.operations import reconciler
from orderflow.parts import Parts, prepare_database
from orderflow.process import Process
from orderflow.services.inventory import INVENTORY
from orderflow.services.inventory.api import Shelving, StockApi
from orderflow.services.inventory.handlers import InventoryUpdates
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.notifications.handlers import NotificationRequests
from orderflow.services.notifications.sender import LogSender, Sender, SmtpSender, WebhookSender
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
from orderflow.telemetry.start import Telemetry
from orderflow.topology import work_queues

log = logging.getLogger(__name__)

_SENDING_SECONDS = 30.0


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
    relay, reader = parts.relay(), Reader(parts.database)
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
    writer = GroupCommit(parts.unit_of_work(), Shelving(moments), clock=parts.clock, name="write stock")
    api = StockApi(writer=writer, reader=Reader(parts.database), keys=_keys(settings), moments=moments)
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
    telemetry = parts.telemetry
    sending = Effecting(
        "notify",
        Notifying(_sender(parts), hooks=telemetry.hooks, moments=telemetry.moments),
        parts.unit_of_work(),
        clock=parts.clock,
        concurrency=32,
        lease_seconds=_SENDING_SECONDS,
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
        service=NOTIFICATIONS, build=_notifications, areas=(metrics.CONSUMING, metrics.NOTIFICATIONS)
    ),
}
"""Every process that ``orderflow serve`` can be."""


def serve(name: str, environ: Mapping[str, str]) -> int:
    """Run one process until it is told to stop; its exit code. Raises SettingsError before anything is started."""
    kind = KINDS[name]
    settings = Settings.from_env(environ, kind.needs)
    _keys(settings)
    queues = [work for queue in kind.service.queues for work in work_queues(queue)] if kind.consumes else []
    try:
        telemetry = Telemetry.start(settings, name, environ, areas=kind.areas, queues=queues)
    except OSError as error:
        sys.stderr.write(f"ORDERFLOW_TELEMETRY_PORT={settings.telemetry_port}: {error}\n")
        return 1
    parts = Parts(name, kind.service, settings, telemetry)
    log.info("process.settings", extra={"settings": settings.masked()})
    try:
        return _run(parts, kind)
    finally:
        telemetry.shutdown(timeout_seconds=5)


def reconcile(environ: Mapping[str, str]) -> int:
    """Run the process that recomputes every promise from the databases, again and again; its exit code."""
    settings = Settings.from_env(environ, reconciler.NEEDS)
    telemetry = Telemetry.start(settings, "reconciler", environ, areas=(metrics.RECONCILING,))
    clock, databases = SystemClock(), reconciler.databases(settings)
    process = Process("reconciler", clock=clock, drain_timeout_seconds=settings.drain_timeout_seconds)
    process.catch_signals()
    watching = reconciler.Reconciler(databases, moments=telemetry.moments, clock=clock)
    process.add(watching.loop(settings.reconciler_interval_seconds))

    def not_ready() -> list[str]:
        return [f"no database of {name}" for name, database in databases.items() if database.failing]

    telemetry.watch(idle_seconds=process.idle_seconds, stalled=dict, not_ready=not_ready)
    try:
        return process.run()
    finally:
        telemetry.shutdown(timeout_seconds=5)


def _run(parts: Parts, kind: Kind) -> int:
    process, settings = parts.process, parts.settings
    process.catch_signals()
    parts.broker.start()
    watchdog = Watchdog(process.idle_seconds, limit_seconds=settings.watchdog_seconds, clock=parts.clock)
    try:
        if not prepare_database(parts):
            return 0
        try:
            kind.build(parts)
        except OSError as error:
            log.error("http.port_taken", extra={"port": settings.http_port, "error": str(error)})
            return 1
        process.add(watchdog)
        parts.telemetry.watch(
            idle_seconds=process.idle_seconds, stalled=watchdog.stalled, not_ready=lambda: _not_ready(parts)
        )
        return process.run()
    finally:
        parts.broker.close(timeout_seconds=5)


def _not_ready(parts: Parts) -> list[str]:
    """Why no work should be sent to this process now."""
    reasons = []
    if parts.process.stopping.is_set():
        reasons.append("stopping")
    if not parts.broker.ready:
        reasons.append("no broker")
    if parts.database_failing():
        reasons.append("no database")
    return reasons


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
    if settings.api_auth == "off":
        return None
    try:
        return ApiKeys.parse(settings.api_keys)
    except ValueError as error:
        raise SettingsError([f"ORDERFLOW_API_KEYS: {error}"]) from None


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
