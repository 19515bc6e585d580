# SPDX-License-Identifier: Apache-2.0
"""All settings, read once from a mapping; the only module that reads ``ORDERFLOW_*`` variables."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from orderflow.http.api_keys import ApiKeys
from orderflow.messaging.errors import SettingsError
from orderflow.setting_values import any_text, checked, counts, number, one_of, pairs, url

Need = Literal["amqp", "management", "database", "payment", "reconciler"]


def _setting(
    default: Any,
    parse: Callable[[str], Any],
    meaning: str,
    *,
    secret: bool = False,
    need: Need | None = None,
) -> Any:
    return dataclasses.field(
        default=default, metadata={"parse": parse, "meaning": meaning, "secret": secret, "need": need}
    )


_AMQP = url("amqp", "amqps")
_HTTP = url("http", "https")
_POSTGRES = url("postgresql", "postgres")
_PORT = number(int, 0, 65535)
_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. Times are in seconds and sizes in bytes, as the names say."""

    amqp_url: str = _setting("", _AMQP, "The broker, with this service's own user.", secret=True, need="amqp")
    management_url: str = _setting(
        "", _HTTP, "The broker's management API, for the topology command.", secret=True, need="management"
    )
    publisher_check: Literal["enforce", "accept-missing", "off"] = _setting(
        "enforce",
        one_of("enforce", "accept-missing", "off"),
        "Whether messages name the broker user who publishes them, and an event counts only from the user of the"
        " service that owns it. `accept-missing`: one that names no user counts too, for an upgrade. `off`: neither.",
    )
    broker_users: str = _setting(
        "",
        checked(pairs),
        "The user of each service and of `replay` as `orders=user,inventory=user,…`, when their names do not end in"
        " the service's name.",
    )
    partitions: str = _setting(
        "",
        checked(counts),
        "Numbers of partitions that differ from the declarations, as `order_updates=4`. While one changes, both numbers"
        " are named, as `order_updates=2+4`, and a process consumes the partitions of both (`topology partitions`).",
    )
    database_url: str = _setting(
        "", _POSTGRES, "The PostgreSQL database of this service.", secret=True, need="database"
    )
    migrate: Literal["on", "off", "accept-newer"] = _setting(
        "on",
        one_of("on", "off", "accept-newer"),
        "Whether a process applies pending migrations at its start. `off`: it exits with 2 when one is pending."
        " `accept-newer`: the same, but it also starts on a newer database, for a rollback to the previous version.",
    )
    accept_data_loss: Literal["on", "off"] = _setting(
        "off",
        one_of("on", "off"),
        "Whether a process starts on a server with fsync=off or synchronous_commit=off, which may lose accepted orders"
        " when it crashes. `off`: it exits with 2.",
    )
    log_level: str = _setting("info", one_of("debug", "info", "warning", "error"), "Minimum log level.")

    http_host: str = _setting("127.0.0.1", any_text, "Address on which the HTTP API listens.")
    http_port: int = _setting(8080, _PORT, "Port of the HTTP API; 0 takes a free port.")
    http_connections: int = _setting(
        2000,
        number(int, 10, 100_000),
        "Maximum number of open connections of an API. At the limit a new one replaces the one that has waited longest"
        " for a request, first among clients that never sent a known key.",
    )
    http_head_bytes: int = _setting(
        16 * _KIB, number(int, _KIB, _MIB), "Maximum length of a request's first line and headers; above it 431."
    )
    http_request_seconds: float = _setting(
        10, number(float, 1, 600), "Time in which a new connection, and each request, must send a whole request."
    )
    http_idle_seconds: int = _setting(
        65,
        number(int, 1, 3600),
        "How long an API keeps a connection open without a request; longer than the load balancer before it.",
    )
    http_rate_limit: float = _setting(
        0,
        number(float, 0, 100_000),
        "Requests per second that each process of an API allows each client (name of an API key); above it 429."
        " 0: no limit.",
    )
    http_rate_burst: int = _setting(
        100, number(int, 1, 100_000), "Requests that a client may send at once after a pause, with a rate limit."
    )
    telemetry_host: str = _setting("127.0.0.1", any_text, "Address of /metrics, /healthz and /readyz.")
    telemetry_port: int = _setting(9464, _PORT, "Port of /metrics, /healthz and /readyz; 0 takes a free port.")

    batch_size: int = _setting(250, number(int, 1, 1000), "Maximum number of messages in one transaction.")
    batch_linger_seconds: float = _setting(
        0.08,
        number(float, 0, 1),
        "Longest wait for a batch to fill, since the batch before it; a single message does not wait. More makes larger"
        " batches, which cost less CPU, and later ones. Queues for which no order waits take four times as long.",
    )
    batch_bytes: int = _setting(4 * _MIB, number(int, _KIB, 64 * _MIB), "Size at which a batch is full.")
    prefetch: int = _setting(
        1000,
        number(int, 1, 2000),
        "Maximum number of unacknowledged messages per consumer; the broker's limit is 2000.",
    )
    publish_window: int = _setting(
        1000,
        number(int, 1, 2000),
        "Maximum number of unconfirmed publishes; above 2000 the throughput of a deep quorum queue collapses.",
    )
    compression: Literal["zstd", "gzip", "off"] = _setting(
        "zstd", one_of("zstd", "gzip", "off"), "Content encoding of large messages."
    )
    compression_threshold_bytes: int = _setting(
        8 * _KIB, number(int, 0, 16 * _MIB), "Size from which bodies are compressed."
    )
    max_message_bytes: int = _setting(
        1 * _MIB, number(int, _KIB, 16 * _MIB), "Largest body published or accepted, without compression."
    )
    retry_max_attempts: int = _setting(8, number(int, 0, 100), "Retries before a message is dead-lettered.")
    retry_max_age_seconds: float = _setting(
        3600, number(float, 1, 86400 * 30), "Time after the first failure at which a message is dead-lettered."
    )
    outbox_lease_seconds: float = _setting(
        10,
        number(float, 1, 3600),
        "Time in which only the process that wrote a row publishes it; after that a relay may.",
    )
    outbox_park_seconds: float = _setting(
        3600,
        number(float, 0, 86400 * 30),
        "How long the broker may refuse an event before it is parked; one that is too large is parked at once.",
    )
    relay_interval_seconds: float = _setting(1, number(float, 0.05, 10), "Interval of the relay.")
    inbox_retention_days: int = _setting(30, number(int, 1, 3650), "Days for which duplicates are recognised by id.")
    retention_days: int = _setting(
        0,
        number(int, 0, 36_500),
        "Days after which ended orders, charges, notifications and the ledgers of stock are deleted; their sums stay."
        " 0: never. The same for all processes of a service.",
    )
    drain_timeout_seconds: float = _setting(
        20, number(float, 0, 600), "Maximum duration of an orderly stop, after the lame-duck time."
    )
    lame_duck_seconds: float = _setting(
        3, number(float, 0, 120), "How long an API serves requests after a stop has begun; it is unready then."
    )
    watchdog_seconds: float = _setting(
        60,
        number(float, 45, 3600),
        "Time without progress of a loop after which a process exits; a statement may take 30 s.",
    )

    api_keys: str = _setting(
        "",
        checked(ApiKeys.parse),
        "API keys as name:scope+scope:sha256, separated by commas (see `orderflow api-key`).",
        secret=True,
    )
    api_auth: str = _setting("on", one_of("on", "off"), "Whether the APIs require a key.")
    idempotency_hours: int = _setting(72, number(int, 1, 720), "Hours for which an Idempotency-Key is stored.")
    order_deadline_seconds: float = _setting(
        60, number(float, 1, 86400), "Time in which the stock of an order must be reserved, or it is cancelled."
    )
    hold_seconds: float = _setting(
        120, number(float, 1, 86400), "How long reserved stock is held for the payment; then the order is cancelled."
    )
    admission_limit_seconds: float = _setting(
        10, number(float, 0.1, 3600), "Predicted time until a new order is decided above which it is refused (503)."
    )
    low_stock_units: int = _setting(10, number(int, 0, 1_000_000), "Available units at which STOCK_LOW is published.")

    payment_url: str = _setting("", _HTTP, "The payment provider.", need="payment")
    payment_timeout_seconds: float = _setting(3, number(float, 0.1, 60), "Timeout of one call to the provider.")
    payment_concurrency: int = _setting(
        256, number(int, 1, 1000), "Maximum number of concurrent calls to the provider."
    )

    notification_sender: str = _setting(
        "log", one_of("log", "webhook", "smtp"), "How notifications are sent; `log` writes one log line for each."
    )
    notification_webhook_url: str = _setting("", _HTTP, "Receives each notification as JSON by POST.")
    notification_retry_hours: float = _setting(
        24, number(float, 0, 720), "Hours for which a notification that is not accepted is sent again, with back-off."
    )
    notification_smtp_url: str = _setting("", url("smtp", "smtps"), "Mail server for notifications.", secret=True)
    notification_mail_from: str = _setting("orders@localhost", any_text, "Sender of notification mails.")
    notification_mail_to: str = _setting(
        "{user_id}@localhost", any_text, "Recipient of notification mails; {user_id} is replaced."
    )

    reconciler_orders_url: str = _setting(
        "",
        _POSTGRES,
        "The database of orders, for the reconciler; read access is enough.",
        secret=True,
        need="reconciler",
    )
    reconciler_inventory_url: str = _setting(
        "", _POSTGRES, "The database of inventory, for the reconciler.", secret=True, need="reconciler"
    )
    reconciler_payments_url: str = _setting(
        "", _POSTGRES, "The database of payments, for the reconciler.", secret=True, need="reconciler"
    )
    reconciler_notifications_url: str = _setting(
        "", _POSTGRES, "The database of notifications, for the reconciler.", secret=True, need="reconciler"
    )
    reconciler_management_url: str = _setting(
        "",
        _HTTP,
        "The broker's management API with the user `monitor`, for the reconciler to find queues that nobody reads."
        " Without it, it does not look.",
        secret=True,
    )
    reconciler_vhost: str = _setting("orderflow", any_text, "The vhost in which the reconciler looks.")
    reconciler_interval_seconds: float = _setting(
        30, number(float, 1, 3600), "Interval of the reconciler; longer after a long run."
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], needs: frozenset[Need] = frozenset()) -> Self:
        """Read ``ORDERFLOW_*``; raises SettingsError that lists every problem."""
        values, problems = {}, []
        known = {variable(field.name): field for field in dataclasses.fields(cls)}
        for name, field in known.items():
            text = environ.get(name, "")
            if text:
                try:
                    values[field.name] = field.metadata["parse"](text)
                except ValueError as error:
                    shown = "***" if field.metadata["secret"] else repr(text)
                    problems.append(f"{name}={shown}: {error}")
            elif field.metadata["need"] in needs:
                problems.append(f"{name} is missing: {field.metadata['meaning']}")
        unknown = [name for name in environ if name.startswith("ORDERFLOW_") and name not in known]
        problems += [f"{name} is not a setting" for name in unknown if name not in _TOOLS]
        settings = cls(**values)
        problems += settings._contradictions()
        if problems:
            raise SettingsError(problems)
        return settings

    def _contradictions(self) -> Iterator[str]:
        if self.prefetch < 2 * self.batch_size:
            yield (
                f"ORDERFLOW_PREFETCH={self.prefetch}: must be at least twice ORDERFLOW_BATCH_SIZE={self.batch_size}, "
                "or the broker waits while a batch is in the database"
            )
        if self.inbox_retention_days * 86400 <= self.retry_max_age_seconds:
            yield (
                f"ORDERFLOW_INBOX_RETENTION_DAYS={self.inbox_retention_days}: must be longer than "
                f"ORDERFLOW_RETRY_MAX_AGE_SECONDS={self.retry_max_age_seconds:g}, "
                "or a duplicate may return from a retry queue when its id is forgotten"
            )
        if 0 < self.retention_days <= self.inbox_retention_days:
            yield (
                f"ORDERFLOW_RETENTION_DAYS={self.retention_days}: must be longer than "
                f"ORDERFLOW_INBOX_RETENTION_DAYS={self.inbox_retention_days}, "
                "or a duplicate may come when neither its id nor its effect is known any more"
            )
        if 0 < self.retention_days * 24 <= self.idempotency_hours:
            yield (
                f"ORDERFLOW_RETENTION_DAYS={self.retention_days}: must be longer than "
                f"ORDERFLOW_IDEMPOTENCY_HOURS={self.idempotency_hours}, "
                "or a repeated request is answered with an order that is deleted"
            )
        if self.admission_limit_seconds >= self.order_deadline_seconds:
            yield (
                f"ORDERFLOW_ADMISSION_LIMIT_SECONDS={self.admission_limit_seconds:g}: must be less than "
                f"ORDERFLOW_ORDER_DEADLINE_SECONDS={self.order_deadline_seconds:g}, "
                "or orders are accepted that cannot be decided in time"
            )
        if self.notification_sender == "webhook" and not self.notification_webhook_url:
            yield "ORDERFLOW_NOTIFICATION_WEBHOOK_URL is missing: the sender is webhook"
        if self.notification_sender == "smtp" and not self.notification_smtp_url:
            yield "ORDERFLOW_NOTIFICATION_SMTP_URL is missing: the sender is smtp"

    def masked(self) -> dict[str, object]:
        """Every setting by name, with secrets masked, to be logged at start."""
        return {
            field.name: "***" if field.metadata["secret"] and getattr(self, field.name) else getattr(self, field.name)
            for field in dataclasses.fields(self)
        }

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.masked().items())})"


_TOOLS = frozenset({"ORDERFLOW_CACHE"})
"""Variables that only the local tools read; a service ignores them."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"ORDERFLOW_{name.upper()}"
