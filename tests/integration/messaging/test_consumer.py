# SPDX-License-Identifier: Apache-2.0
import random
from functools import partial
from threading import Barrier, Thread

import psycopg
import pytest

from local.eventually import eventually
from orderflow.events import OrderCancelled
from orderflow.messaging.broker import Failure, Publication
from tests.builders import a_retry_policy, an_event
from tests.rigs.consumer import ConsumerRig, cancelled, effects, one, order, query, settled
from tests.rigs.scripted_broker import deliver

pytestmark = pytest.mark.integration


def inbox(url: str) -> set[str]:
    return {str(row[0]) for row in query(url, "select message_id from inbox")}


def ids(*deliveries: object) -> set[str]:
    return {delivery.properties.message_id for delivery in deliveries}  # type: ignore[attr-defined]


def test_a_message_has_its_effect_once_however_often_it_comes(url: str) -> None:
    messages = [cancelled() for _ in range(40)]
    thrice = messages * 3
    random.Random(1).shuffle(thrice)
    rig = settled(url, *thrice, batch_size=25)
    assert effects(url) == {order(message): 1 for message in messages}
    assert (rig.total.done, rig.total.duplicates) == (40, 80)
    assert rig.consumer.acknowledged == thrice
    assert len(rig.publisher.to("order_events")) == 40
    assert inbox(url) == ids(*messages)


def test_two_consumers_with_the_same_messages_in_other_orders_neither_double_nor_deadlock(url: str) -> None:
    messages = [cancelled() for _ in range(300)]
    shuffled = random.Random(2).sample(messages, len(messages))
    with (
        ConsumerRig(url, *messages, batch_size=100) as first,
        ConsumerRig(url, *shuffled, batch_size=100) as second,
    ):
        for rig in (first, second):
            rig.loop.stop()
        for rig in (first, second):
            rig.join(30)
    assert effects(url) == {order(message): 1 for message in messages}
    assert first.total.done + second.total.done == 300
    assert first.total.duplicates + second.total.duplicates == 300
    assert first.recorded.pauses == second.recorded.pauses == []


def test_a_batch_of_250_costs_less_than_a_twentieth_of_a_statement_per_message(url: str) -> None:
    rig = settled(url, *[cancelled() for _ in range(1000)])
    assert [batch.done for batch in rig.recorded.batches] == [250] * 4
    assert [batch.published for batch in rig.recorded.batches] == [250] * 4
    for batch in rig.recorded.batches:
        assert batch.statements / 250 <= 0.05
    assert rig.recorded.batches[-1].statements == 6, "begin, inbox, effects, delete of confirmed rows, outbox, commit"


def test_retried_and_rejected_messages_leave_as_copies_and_are_not_marked_as_handled(url: str) -> None:
    good, later, never = cancelled(), cancelled("later"), cancelled("never")
    rig = settled(url, later, good, never)
    (retry,), (dead,) = rig.publisher.to("retry"), rig.publisher.to("dlx")
    assert (retry.routing_key, retry.body) == ("work.retry.1s", later.body)
    assert retry.properties.headers["x-reason"] == "later"
    assert (dead.routing_key, dead.body) == ("work", never.body)
    assert dead.properties.headers["x-reason"] == "never"
    assert (rig.total.done, rig.total.retried, rig.total.dead) == (1, [(0, "later", 1)], [(2, "never")])
    assert rig.consumer.acknowledged == [later, good, never]
    assert inbox(url) == ids(good)


def test_a_retried_message_that_comes_back_is_handled_then(url: str) -> None:
    later = cancelled("later")
    (copy,) = settled(url, later).publisher.to("retry")
    better = deliver(
        body=copy.body.replace(b"later", b"good"),
        message_id=copy.properties.message_id,
        headers=copy.properties.headers,
        correlation_id=copy.properties.correlation_id,
    )
    assert settled(url, better, better).total.done == 1
    assert effects(url) == {order(later): 1}


def test_a_message_whose_retries_are_used_up_is_a_dead_letter_with_its_reason(url: str) -> None:
    rig = settled(url, cancelled("later", headers={"x-retry-count": 2}), policy=a_retry_policy(max_attempts=2))
    (dead,) = rig.publisher.to("dlx")
    assert (dead.properties.headers["x-reason"], dead.properties.headers["x-retry-count"]) == ("later", 2)
    assert rig.publisher.to("retry") == []


@pytest.mark.parametrize("position", [0, 100, 249])
def test_poison_is_isolated_and_its_neighbours_have_their_effect(url: str, position: int) -> None:
    messages = [cancelled() for _ in range(248)]
    poison = [*messages[:position], cancelled("bad"), cancelled("bug"), *messages[position:]]
    rig = settled(url, *poison)
    assert effects(url) == {order(message): 1 for message in messages}
    assert rig.total.done == 248
    (retry,), (dead,) = rig.publisher.to("retry"), rig.publisher.to("dlx")
    assert dead.properties.headers["x-reason"] == "bad_data"
    assert retry.properties.headers["x-reason"] == "handler_error"
    assert rig.consumer.acknowledged == poison
    assert inbox(url) == ids(*messages)
    assert one(url, "select count(*) from outbox") == 0


def test_malformed_messages_are_dead_letters_and_never_reach_the_handler(url: str) -> None:
    good = cancelled()
    bodies = {b"": "empty_body", b"?": "not_json", b"{}": "not_an_event", b"\x1f\x8b": "not_json"}
    rig = settled(url, *[deliver(body=body) for body in bodies], good, deliver(message_id="7"))
    assert [reason for _, reason in rig.total.dead] == [*bodies.values(), "invalid_message_id"]
    assert len(rig.publisher.to("dlx")) == 5
    assert effects(url) == {order(good): 1}


def test_events_know_their_order_their_cause_and_are_confirmed_before_their_rows_go(url: str) -> None:
    message = cancelled()
    with ConsumerRig(url) as rig:
        rig.publisher.holding = True
        rig.consumer.put(message)
        eventually(lambda: rig.recorded.batches)
        ((row_id,),) = query(url, "select id from outbox")
        rig.publisher.release()
        eventually(lambda: one(url, "select count(*) from outbox") == 0)
    (event,) = rig.publisher.published
    assert event.key == row_id
    assert event.properties.message_id == str(row_id)
    assert event.properties.correlation_id == message.properties.correlation_id
    assert event.properties.headers["x-causation-id"] == message.properties.message_id


def settled_batches(rig: ConsumerRig, number: int) -> bool:
    return len(rig.recorded.batches) == number


def test_rows_stay_while_their_confirm_is_on_the_way_whatever_is_committed_meanwhile(url: str) -> None:
    with ConsumerRig(url) as rig:
        rig.publisher.holding = True
        for batches in (1, 2, 3):
            rig.consumer.put(cancelled())
            eventually(partial(settled_batches, rig, batches))
        assert rig.outbox.collect() == 0
        assert one(url, "select count(*) from outbox") == 3
        rig.publisher.release()
        eventually(lambda: one(url, "select count(*) from outbox") == 0)


def test_poison_that_fails_at_the_commit_is_isolated_and_leaves_no_confirmed_row(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("""
            create function refuse() returns trigger language plpgsql as $$
            begin raise exception 'refused' using errcode = 'check_violation'; end $$;
            create constraint trigger refuse after insert on effects deferrable initially deferred
            for each row when (new.amount = 17) execute function refuse()""")
    good = [cancelled() for _ in range(3)]
    poison = deliver(an_event(OrderCancelled, reason="good", total_amount=17))
    rig = settled(url, good[0], poison, good[1], good[2], batch_size=2)
    assert effects(url) == {order(message): 1 for message in good}
    assert rig.total.dead == [(1, "bad_data")]
    assert one(url, "select count(*) from outbox") == 0


@pytest.mark.parametrize("failure", Failure)
def test_an_event_that_did_not_reach_a_queue_keeps_its_row(url: str, failure: Failure) -> None:
    first, second = cancelled(), cancelled()

    def fate(publication: Publication) -> Failure | None:
        return failure if publication.properties.correlation_id == first.properties.correlation_id else None

    with ConsumerRig(url) as rig:
        rig.publisher.fate = fate
        rig.consumer.put(first, second)
        eventually(lambda: rig.recorded.batches)
        eventually(lambda: one(url, "select count(*) from outbox") == 1)
        rig.loop.stop()
        rig.join()
    properties = one(url, "select properties from outbox")
    assert properties["correlation_id"] == first.properties.correlation_id


def test_copies_that_cannot_be_published_keep_the_batch_until_they_can(url: str) -> None:
    messages = [cancelled(), cancelled("later"), cancelled("never")]
    with ConsumerRig(url) as rig:
        rig.publisher.fate = lambda copy: Failure.RETURNED if copy.exchange == "retry" else None
        rig.consumer.put(*messages)
        eventually(lambda: len(rig.recorded.pauses) >= 3)
        assert rig.consumer.acknowledged == []
        rig.publisher.fate = lambda copy: None
        eventually(lambda: rig.consumer.acknowledged == messages)
    assert len(rig.publisher.to("dlx")) == 1, "a confirmed copy is not published again"
    assert len(rig.publisher.to("order_events")) == 1
    assert effects(url) == {order(messages[0]): 1}
    assert rig.total.done == 1


def test_while_the_publish_window_is_full_no_batch_is_taken(url: str) -> None:
    rig = ConsumerRig(url)
    rig.publisher.room = 0
    with rig:
        rig.consumer.put(cancelled())
        for _ in range(3):  # at least the last turn begins after the message came
            progress = rig.loop.last_progress
            eventually(lambda progress=progress: rig.loop.last_progress > progress)  # type: ignore[misc]
        assert rig.recorded.batches == []
        rig.publisher.room = 1000
        eventually(lambda: rig.recorded.batches)


def test_stopping_finishes_what_had_arrived_and_deletes_its_rows(url: str) -> None:
    messages = [cancelled() for _ in range(700)]
    rig = settled(url, *messages)
    assert rig.consumer.acknowledged == messages
    assert len(effects(url)) == 700
    assert one(url, "select count(*) from outbox") == 0
    # The server's process ends a moment after its client has closed the connection.
    eventually(lambda: one(url, "select count(*) from pg_stat_activity where application_name = 'rig'") == 0)


def test_concurrent_consumers_share_a_queue_of_duplicates(url: str) -> None:
    messages = [cancelled() for _ in range(200)]
    rigs = [ConsumerRig(url, *random.Random(seed).sample(messages, 200), batch_size=17) for seed in range(3)]
    start = Barrier(3)

    def work(rig: ConsumerRig) -> None:
        start.wait(10)
        with rig:
            rig.loop.stop()
            rig.join(30)

    threads = [Thread(target=work, args=(rig,)) for rig in rigs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert effects(url) == {order(message): 1 for message in messages}
    assert sum(rig.total.done for rig in rigs) == 200
