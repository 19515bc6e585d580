# SPDX-License-Identifier: Apache-2.0
"""Everything that can be set from outside, read once from a mapping; the only reader of the environment."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from orderflow.http.api_keys import ApiKeys
from orderflow.messaging.errors import SettingsError

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


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"must be a URL like {schemes[0]}://user:password@host:port/name")
        return text

    return parse


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
        if not low <= value <= high:
            raise ValueError(f"must be between {low:g} and {high:g}")
        return value

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return parse


def _text(text: str) -> str:
    return text


def _api_keys(text: str) -> str:
    ApiKeys.parse(text)
    return text


_AMQP = _url("amqp", "amqps")
_HTTP = _url("http", "https")
_POSTGRES = _url("postgresql", "postgres")
_PORT = _number(int, 0, 65535)
_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. Times are in seconds and sizes in bytes, as the names say."""

    amqp_url: str = _setting("", _AMQP, "The broker, with this service's own user.", secret=True, need="amqp")
    management_url: str = _setting(
        "", _HTTP, "The broker's management API, for the topology command.", secret=True, need="management"
    )
    database_url: str = _setting(
        "", _POSTGRES, "The PostgreSQL database of this service.", secret=True, need="database"
    )
    migrate: Literal["on", "off", "accept-newer"] = _setting(
        "on",
        _one_of("on", "off", "accept-newer"),
        "Whether a process applies pending migrations at its start. `off`: it exits with 2 when any is pending."
        " `accept-newer`: the same, but it starts on a newer database, to go back to the version before.",
    )
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"), "Minimum log level.")

    http_host: str = _setting("127.0.0.1", _text, "Address on which the HTTP API listens.")
    http_port: int = _setting(8080, _PORT, "Port of the HTTP API; 0 takes a free one.")
    telemetry_host: str = _setting("127.0.0.1", _text, "Address of /metrics, /healthz and /readyz.")
    telemetry_port: int = _setting(9464, _PORT, "Port of /metrics, /healthz and /readyz; 0 takes a free one.")

    batch_size: int = _setting(250, _number(int, 1, 1000), "Maximum number of messages in one transaction.")
    batch_linger_seconds: float = _setting(0.005, _number(float, 0, 1), "Longest wait for a batch to fill.")
    batch_bytes: int = _setting(4 * _MIB, _number(int, _KIB, 64 * _MIB), "Size at which a batch is full.")
    prefetch: int = _setting(
        1000, _number(int, 1, 2000), "Unacknowledged messages a consumer may hold; the broker caps at 2000."
    )
    publish_window: int = _setting(
        1000,
        _number(int, 1, 2000),
        "Unconfirmed publishes on the wire; above 2000 a deep quorum queue collapses.",
    )
    compression: Literal["zstd", "gzip", "off"] = _setting(
        "zstd", _one_of("zstd", "gzip", "off"), "Content encoding of large messages."
    )
    compression_threshold_bytes: int = _setting(
        8 * _KIB, _number(int, 0, 16 * _MIB), "Bodies from this size on are compressed."
    )
    max_message_bytes: int = _setting(
        1 * _MIB, _number(int, _KIB, 16 * _MIB), "Largest body accepted, after decompression."
    )
    retry_max_attempts: int = _setting(8, _number(int, 0, 100), "Retries before a message is dead-lettered.")
    retry_max_age_seconds: float = _setting(
        3600, _number(float, 1, 86400 * 30), "Time after the first failure at which a message is dead-lettered."
    )
    outbox_lease_seconds: float = _setting(
        10, _number(float, 1, 3600), "Time in which the process that wrote a row publishes it; after that a relay may."
    )
    relay_interval_seconds: float = _setting(1, _number(float, 0.05, 10), "Interval of the relay.")
    outbox_max_age_seconds: float = _setting(
        30, _number(float, 1, 3600), "Age of the oldest unpublished row at which the API refuses orders (503)."
    )
    inbox_retention_days: int = _setting(30, _number(int, 1, 3650), "Days for which duplicates are recognised by id.")
    drain_timeout_seconds: float = _setting(
        20, _number(float, 0, 600), "Longest orderly stop, after the lame-duck time."
    )
    lame_duck_seconds: float = _setting(
        3, _number(float, 0, 120), "How long an API serves after it has become unready."
    )
    watchdog_seconds: float = _setting(
        60,
        _number(float, 45, 3600),
        "A process without progress for so long ends itself; a statement may take 30 s.",
    )

    api_keys: str = _setting(
        "",
        _api_keys,
        "API keys as name:scope+scope:sha256, separated by commas (see `orderflow api-key`).",
        secret=True,
    )
    api_auth: str = _setting("on", _one_of("on", "off"), "Whether the APIs demand a key.")
    idempotency_hours: int = _setting(72, _number(int, 1, 720), "How long an Idempotency-Key is remembered.")
    hold_seconds: float = _setting(120, _number(float, 1, 86400), "How long an order may wait for its payment.")
    low_stock_units: int = _setting(10, _number(int, 0, 1_000_000), "Available units at which STOCK_LOW is sent.")

    payment_url: str = _setting("", _HTTP, "The payment provider.", need="payment")
    payment_timeout_seconds: float = _setting(3, _number(float, 0.1, 60), "Timeout of one call to the provider.")
    payment_concurrency: int = _setting(
        256, _number(int, 1, 1000), "Maximum number of concurrent calls to the provider."
    )

    notification_sender: str = _setting(
        "log", _one_of("log", "webhook", "smtp"), "Where notifications go; `log` writes one line each."
    )
    notification_webhook_url: str = _setting("", _HTTP, "Receives each notification as JSON by POST.")
    notification_smtp_url: str = _setting("", _url("smtp", "smtps"), "Mail server for notifications.", secret=True)
    notification_mail_from: str = _setting("orders@localhost", _text, "Sender of notification mails.")
    notification_mail_to: str = _setting(
        "{user_id}@localhost", _text, "Recipient of notification mails; {user_id} is replaced."
    )

    reconciler_orders_url: str = _setting(
        "", _POSTGRES, "The database of orders, for the reconciler; reading is enough.", secret=True, need="reconciler"
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
    reconciler_interval_seconds: float = _setting(
        30, _number(float, 1, 3600), "Interval of the reconciler; longer when a run takes long."
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], needs: frozenset[Need] = frozenset()) -> Self:
        """Read ``ORDERFLOW_*``; raises SettingsError with every problem at once."""
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
"""Variables that the set-up around the services reads; a service leaves them alone."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"ORDERFLOW_{name.upper()}"
