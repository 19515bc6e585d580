# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.messaging.broker import Properties
from orderflow.messaging.consume.settlement import DELAYS_SECONDS, first_failure, retry_copy, retry_queue
from orderflow.messaging.publisher_check import Origin
from tests.builders import NOW, a_retry_policy
from tests.rigs.scripted_broker import deliver


@pytest.mark.parametrize(
    ("seconds", "label"), [(1, "1s"), (5, "5s"), (30, "30s"), (60, "1m"), (90, "90s"), (300, "5m")]
)
def test_a_retry_queue_is_named_after_its_queue_and_delay(seconds: int, label: str) -> None:
    assert retry_queue("order_updates", seconds) == f"order_updates.retry.{label}"


def test_the_delay_grows_with_each_attempt_until_the_chances_are_used_up() -> None:
    policy = a_retry_policy(max_attempts=6)
    delays = [policy.delay(Properties(headers={"x-retry-count": count}), NOW) for count in range(7)]
    assert delays == [1, 5, 30, 300, 300, 300, None]


@pytest.mark.parametrize(("age_seconds", "delay"), [(3600, 1), (3601, None), (-1000, 1)])
def test_the_age_since_the_first_failure_ends_the_retries(age_seconds: int, delay: int | None) -> None:
    first = NOW - timedelta(seconds=age_seconds)
    headers = {"x-first-failure-at": first.isoformat()}
    assert a_retry_policy(max_age_seconds=3600).delay(Properties(headers=headers), NOW) == delay


def test_with_no_attempts_allowed_nothing_is_tried_again() -> None:
    assert a_retry_policy(max_attempts=0).delay(Properties(), NOW) is None


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T11:00:00", 7])
def test_a_first_failure_that_cannot_be_read_is_now(text: str | int) -> None:
    assert first_failure({"x-first-failure-at": text}, NOW) == NOW


@given(st.text() | st.integers(), st.text() | st.integers(-(2**62), 2**62), st.datetimes(timezones=st.timezones()))
def test_no_header_makes_the_policy_fail(first: str | int, count: str | int, moment: datetime) -> None:
    for text in (first, moment.isoformat()):
        headers = {"x-first-failure-at": text, "x-retry-count": count}
        assert a_retry_policy().delay(Properties(headers=headers), NOW) in {None, *DELAYS_SECONDS}


def test_a_copy_is_the_same_message_with_its_history() -> None:
    key = uuid4()
    delivery = deliver(message_id=key, headers={"traceparent": "00-a-b-01"}, content_encoding="gzip")
    origin = Origin("orders", "order.cancelled")
    copy = retry_copy(delivery, origin=origin, queue="order_updates", reason="later", delay_seconds=5, now=NOW)
    assert (copy.exchange, copy.routing_key, copy.body) == ("retry", "order_updates.retry.5s", delivery.body)
    assert copy.key != key
    assert copy.properties.message_id == str(key)
    assert copy.properties.headers == {
        "traceparent": "00-a-b-01",
        "x-retry-count": 1,
        "x-reason": "later",
        "x-first-failure-at": NOW.isoformat(),
        "x-original-routing-key": "order.cancelled",
        "x-original-user-id": "orders",
    }
    for name in ("correlation_id", "type", "timestamp", "app_id", "content_type", "content_encoding"):
        assert getattr(copy.properties, name) == getattr(delivery.properties, name)


def test_the_copy_of_a_copy_counts_on_and_keeps_where_it_began() -> None:
    first = {"x-retry-count": 3, "x-first-failure-at": "2026-01-01T11:00:00+00:00", "x-original-routing-key": "a.b"}
    later = datetime(2026, 1, 1, 13, tzinfo=UTC)
    origin = Origin(None, "a.b")
    copy = retry_copy(deliver(headers=first), origin=origin, queue="q", reason="later", delay_seconds=1, now=later)
    assert copy.properties.headers == {**first, "x-retry-count": 4, "x-reason": "later"}
