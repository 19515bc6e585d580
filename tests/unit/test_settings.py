# SPDX-License-Identifier: Apache-2.0
"""Settings: all problems are reported together, and secrets are never shown."""

import dataclasses

import pytest

from orderflow.messaging.errors import SettingsError
from orderflow.settings import Settings, variable

AMQP = {"ORDERFLOW_AMQP_URL": "amqp://orders:s3cret@127.0.0.1:5672/"}


def test_defaults_are_used_for_what_is_not_given() -> None:
    settings = Settings.from_env({})
    assert (settings.batch_size, settings.prefetch, settings.publish_window) == (250, 1000, 1000)


def test_values_are_converted() -> None:
    settings = Settings.from_env({"ORDERFLOW_BATCH_SIZE": "50", "ORDERFLOW_HOLD_SECONDS": "1.5"})
    assert (settings.batch_size, settings.hold_seconds) == (50, 1.5)


def test_all_problems_are_reported_together() -> None:
    environ = {
        "ORDERFLOW_BATCH_SIZE": "many",
        "ORDERFLOW_PUBLISH_WINDOW": "5000",
        "ORDERFLOW_COMPRESSION": "lzma",
        "ORDERFLOW_BATCHSIZE": "1",
        "ORDERFLOW_NOTIFICATION_SENDER": "smtp",
        "ORDERFLOW_API_KEYS": "shop:orders:write:nohash",
    }
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ, frozenset({"amqp", "database"}))
    text = str(caught.value)
    for name in (*environ, "ORDERFLOW_AMQP_URL", "ORDERFLOW_DATABASE_URL", "ORDERFLOW_NOTIFICATION_SMTP_URL"):
        if name != "ORDERFLOW_NOTIFICATION_SENDER":
            assert name in text
    assert len(caught.value.problems) == 8


def test_a_prefetch_under_two_batches_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least twice"):
        Settings.from_env({"ORDERFLOW_PREFETCH": "300"})


def test_secrets_are_neither_printed_nor_quoted_in_problems() -> None:
    settings = Settings.from_env(AMQP, frozenset({"amqp"}))
    assert "s3cret" not in repr(settings)
    assert settings.masked()["amqp_url"] == "***"
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"ORDERFLOW_AMQP_URL": "http://orders:s3cret@host"})
    assert "s3cret" not in str(caught.value)


def test_every_setting_has_a_meaning_that_is_a_sentence() -> None:
    for field in dataclasses.fields(Settings):
        assert field.metadata["meaning"].endswith("."), variable(field.name)


def test_duplicates_are_recognised_for_longer_than_a_message_may_be_retried() -> None:
    environ = {"ORDERFLOW_INBOX_RETENTION_DAYS": "1", "ORDERFLOW_RETRY_MAX_AGE_SECONDS": "86400"}
    with pytest.raises(SettingsError, match=r"ORDERFLOW_INBOX_RETENTION_DAYS=1: must be longer"):
        Settings.from_env(environ)
    assert Settings.from_env(environ | {"ORDERFLOW_RETRY_MAX_AGE_SECONDS": "86399"}).inbox_retention_days == 1


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"ORDERFLOW_RETENTION_DAYS": "30"},
            r"RETENTION_DAYS=30: must be longer than ORDERFLOW_INBOX_RETENTION_DAYS=30",
        ),
        (
            {
                "ORDERFLOW_RETENTION_DAYS": "3",
                "ORDERFLOW_INBOX_RETENTION_DAYS": "1",
                "ORDERFLOW_IDEMPOTENCY_HOURS": "72",
            },
            r"RETENTION_DAYS=3: must be longer than ORDERFLOW_IDEMPOTENCY_HOURS=72",
        ),
    ],
)
def test_orders_are_kept_for_longer_than_what_recognises_repetitions(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        Settings.from_env(environ)
    assert Settings.from_env({"ORDERFLOW_RETENTION_DAYS": "31"}).retention_days == 31
    assert Settings.from_env({}).retention_days == 0
