# SPDX-License-Identifier: Apache-2.0
"""Which extra queues must stay: a work queue and its retry queues stay together."""

from orderflow.operations.topology.prune import QueueState, busy_queues


def queue(name: str, *, messages: int | None = 0, consumers: int | None = 0) -> QueueState:
    return QueueState(name=name, messages=messages, consumers=consumers)


def retry(name: str, *, messages: int = 0) -> QueueState:
    work = name.split(".", maxsplit=1)[0]
    policy = {"dead-letter-exchange": "", "dead-letter-routing-key": work, "message-ttl": 1000}
    return QueueState(name=name, messages=messages, consumers=0, effective_policy_definition=policy)


FAMILY = {"old", "old.retry.1s", "old.retry.5s"}


def test_idle_queues_need_not_stay() -> None:
    assert busy_queues(FAMILY, [queue("old"), retry("old.retry.1s"), retry("old.retry.5s")]) == set()


def test_a_message_in_one_retry_queue_keeps_the_work_queue_and_the_other_retry_queues() -> None:
    assert busy_queues(FAMILY, [queue("old"), retry("old.retry.1s", messages=1), retry("old.retry.5s")]) == FAMILY


def test_a_consumer_of_the_work_queue_keeps_the_retry_queues() -> None:
    assert busy_queues(FAMILY, [queue("old", consumers=1), retry("old.retry.1s"), retry("old.retry.5s")]) == FAMILY


def test_a_queue_that_was_not_measured_yet_stays() -> None:
    assert busy_queues({"old"}, [queue("old", messages=None, consumers=None)]) == {"old"}


def test_the_old_retry_queue_of_a_queue_in_the_document_is_judged_alone() -> None:
    states = [queue("work", messages=7), retry("work.retry.2m"), retry("work.retry.9m", messages=1)]
    assert busy_queues({"work.retry.2m", "work.retry.9m"}, states) == {"work.retry.9m"}


def test_a_return_that_is_an_argument_of_the_queue_counts_too() -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "old"}
    waiting = QueueState(name="wait", messages=1, consumers=0, effective_policy_definition=[], arguments=arguments)
    assert busy_queues({"old", "wait"}, [queue("old"), waiting]) == {"old", "wait"}


def test_a_retry_queue_with_messages_keeps_all_partitions_to_which_these_may_return() -> None:
    policy = {"dead-letter-exchange": "old", "dead-letter-routing-key": "old", "message-ttl": 1000}
    waiting = QueueState(name="old.retry.1s", messages=1, consumers=0, effective_policy_definition=policy)
    states = [queue("old.1of2"), queue("old.2of2"), queue("other"), waiting]
    extra = {"old.1of2", "old.2of2", "other", "old.retry.1s"}
    reached = {"old": {"old.1of2", "old.2of2"}}
    assert busy_queues(extra, states, reached) == {"old.1of2", "old.2of2", "old.retry.1s"}
