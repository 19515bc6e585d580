# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from orderflow.messaging.broker import Delivery, Failure, Properties, Publication
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.instrumentation import BatchResult
from orderflow.telemetry.metrics.recorder import Recorder, occurred_at
from orderflow.telemetry.metrics.registry import MetricRegistry
from tests.rigs.scripted_broker import deliver

Value = Callable[..., float | None]
Q = "order_updates"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def recorder(instruments: MetricRegistry, clock: ManualClock) -> Recorder:
    return Recorder(instruments, clock)


def aged(clock: ManualClock, seconds: float) -> Delivery:
    return deliver(headers={"x-occurred-at": (clock.now() - timedelta(seconds=seconds)).isoformat()})


def test_a_batch_is_counted_by_how_its_messages_ended(recorder: Recorder, clock: ManualClock, value: Value) -> None:
    deliveries = [deliver(user_id=None if number < 3 else "payments") for number in range(10)]
    span = recorder.batch_received(Q, deliveries)
    clock.advance(0.2)
    span.handled(
        BatchResult(
            done=5,
            duplicates=2,
            retried=[(0, "handler_error", 1.0)],
            dead=[(1, "not_json"), (2, "not_json")],
            published=7,
            statements=6,
        )
    )
    names = {
        "messages_consumed": 10,
        "consumed_bytes": sum(len(delivery.body) for delivery in deliveries),
        "messages_redelivered": 0,
        "messages_without_user_id": 3,
        "messages_handled": 5,
        "messages_duplicate": 2,
        "events_stored": 7,
        "sql_statements": 6,
    }
    assert {name: value(f"orderflow_{name}_total", queue=Q) for name in names} == names
    assert value("orderflow_messages_retried_total", queue=Q, reason="handler_error") == 1
    assert value("orderflow_messages_dead_lettered_total", queue=Q, reason="not_json") == 2
    assert value("orderflow_batch_messages_sum", queue=Q) == 10
    assert value("orderflow_batch_duration_seconds_sum", queue=Q) == pytest.approx(0.2)


def test_the_age_of_each_message_is_observed_at_receipt(recorder: Recorder, clock: ManualClock, value: Value) -> None:
    recorder.batch_received(Q, [aged(clock, 3), aged(clock, 40)])
    assert value("orderflow_message_age_seconds_count", queue=Q) == 2
    assert value("orderflow_message_age_seconds_sum", queue=Q) == 43
    assert value("orderflow_message_age_seconds_bucket", queue=Q, le="5.0") == 1


def test_the_oldest_unprocessed_age_grows_until_the_batch_is_handled(
    recorder: Recorder, clock: ManualClock, value: Value
) -> None:
    name = "orderflow_oldest_unprocessed_age_seconds"
    recorder.watch([Q])
    assert value(name, queue=Q) == 0
    span = recorder.batch_received(Q, [aged(clock, 3), aged(clock, 40)])
    clock.advance(10)
    span.failed(DatabaseUnavailable("away"))
    assert value(name, queue=Q) == 50
    span.handled(BatchResult())
    assert value(name, queue=Q) == 0
    assert value("orderflow_batch_failures_total", queue=Q) == 1


@pytest.mark.parametrize("text", ["yesterday", "", 7, "2026-13-01T00:00:00+00:00"])
def test_the_timestamp_replaces_a_header_that_is_not_a_time(text: object) -> None:
    assert occurred_at(deliver(headers={"x-occurred-at": text}, timestamp=1000), 5.0) == 1000.0
    assert occurred_at(deliver(headers={"x-occurred-at": text}, timestamp=None), 5.0) == 5.0


def test_a_message_from_the_future_has_no_age(recorder: Recorder, clock: ManualClock, value: Value) -> None:
    recorder.batch_received(Q, [aged(clock, -100)])
    assert value("orderflow_message_age_seconds_sum", queue=Q) == 0


def test_publications_are_counted_by_their_result(recorder: Recorder, value: Value) -> None:
    publication = Publication(uuid4(), "order_events", "order.created", Properties(), b"{}")
    recorder.publishing([publication] * 5).settled(
        confirmed=3, failures={Failure.RETURNED: 1, Failure.LOST: 1}, seconds=0.02
    )
    assert value("orderflow_messages_published_total") == 5
    assert value("orderflow_messages_confirmed_total") == 3
    assert value("orderflow_publish_failures_total", failure="returned") == 1
    assert value("orderflow_publish_failures_total", failure="lost") == 1
    assert value("orderflow_publish_confirm_seconds_count") == 3


def test_the_state_of_the_broker_is_shown(recorder: Recorder, value: Value) -> None:
    recorder.connected("publish", connected=True)
    recorder.connected("consume", connected=True)
    recorder.connected("consume", connected=False)
    recorder.connected("consume", connected=True)
    recorder.blocked(blocked=True)
    recorder.window(unconfirmed=12, waiting=3)
    assert value("orderflow_broker_connected", role="publish") == 1
    assert value("orderflow_broker_connects_total", role="consume") == 2
    assert value("orderflow_broker_blocked") == 1
    assert value("orderflow_publish_unconfirmed_messages") == 12
    assert value("orderflow_publish_waiting_messages") == 3


def test_the_outbox_age_grows_while_it_cannot_be_measured(recorder: Recorder, clock: ManualClock, value: Value) -> None:
    recorder.outbox_measured(rows=4, oldest_seconds=2.0)
    recorder.outbox_parked(3)
    assert value("orderflow_outbox_parked_rows") == 3
    clock.advance(30)
    assert value("orderflow_outbox_rows") == 4
    assert value("orderflow_outbox_oldest_age_seconds") == 32
    recorder.outbox_measured(rows=0, oldest_seconds=0.0)
    clock.advance(30)
    assert value("orderflow_outbox_oldest_age_seconds") == 0


def test_a_routing_key_that_has_no_nacked_rows_any_more_is_shown_with_none(recorder: Recorder, value: Value) -> None:
    recorder.outbox_nacked({"order.confirmed": 5, "order.rejected": 2})
    recorder.outbox_nacked({"order.rejected": 1})
    assert value("orderflow_outbox_nacked_rows", routing_key="order.confirmed") == 0
    assert value("orderflow_outbox_nacked_rows", routing_key="order.rejected") == 1


def test_the_time_since_the_last_round_of_pruning_grows_until_the_next(
    recorder: Recorder, clock: ManualClock, value: Value
) -> None:
    recorder.pruned("inbox:work", 2000, 100.0)
    recorder.prune_failed("inbox:work")
    clock.advance(20)
    assert value("orderflow_prune_finished_age_seconds", rows="inbox:work") == 120
    recorder.pruned("inbox:work", 5, 0.0)
    assert value("orderflow_prune_finished_age_seconds", rows="inbox:work") == 0
    assert value("orderflow_pruned_rows_total", rows="inbox:work") == 2005
    assert value("orderflow_prune_failures_total", rows="inbox:work") == 1


def test_pauses_are_counted_by_what_failed(recorder: Recorder, value: Value) -> None:
    recorder.consumer_paused(Q, DatabaseUnavailable("away"), 1.0)
    recorder.consumer_paused(Q, KeyError("odd"), 1.0)
    recorder.relayed(9)
    assert value("orderflow_consumer_pauses_total", queue=Q, reason="database_unavailable") == 1
    assert value("orderflow_consumer_pauses_total", queue=Q, reason="other") == 1
    assert value("orderflow_outbox_relayed_total") == 9
