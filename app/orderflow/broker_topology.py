# SPDX-License-Identifier: Apache-2.0
"""Everything on the broker, derived from what the services declare: one document in RabbitMQ's definitions format.

This module does no I/O. A queue's type and single active consumer are arguments, because a policy cannot set them.
Everything else is a policy, because a policy can be changed on a live queue. At most one policy applies to a queue, so
each policy is complete.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from orderflow.events import EVENTS, EXCHANGE
from orderflow.messaging.consume.settlement import (
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    DELAYS_SECONDS,
    RETRY_EXCHANGE,
    retry_queue,
)
from orderflow.messaging.event import Event
from orderflow.messaging.publisher_check import REPLAY_EXCHANGE
from orderflow.messaging.service import Queue, Service
from orderflow.rabbitmq_definitions import (
    NOTHING,
    Binding,
    Definitions,
    Exchange,
    Permission,
    Policy,
    QueueDefinition,
    TopicPermission,
    User,
    Value,
    VirtualHost,
)

OPERATORS = ("topology", "replay", "monitor")
"""Broker users of people and jobs. In addition, every service has a user with the service's name."""

DELIVERY_LIMIT = 20
"""Deliveries after which the broker dead-letters a message: a guard against crash loops, not the retry counter."""

MAX_LENGTH = 1_000_000
"""Number of messages at which a queue refuses more. Publishers then keep their outbox rows; nothing is dropped."""


_PARTITION = re.compile(r"\.[0-9]+of[0-9]+$")


def work_queues(queue: Queue) -> tuple[str, ...]:
    """The names under which a declared queue is consumed: one, or ``<name>.1of<n>`` … when it has n partitions.

    Two counts have no partition in common, so that a change of the count can empty the old ones before the new ones.
    """
    if queue.partitions == 1:
        return (queue.name,)
    return tuple(f"{queue.name}.{number}of{queue.partitions}" for number in range(1, queue.partitions + 1))


def declared_queue(work_queue: str) -> str:
    """The name of the declared queue to which a work queue belongs."""
    return _PARTITION.sub("", work_queue)


def partition_exchange(queue: Queue) -> str:
    """The exchange that spreads a queue over its partitions by order id."""
    return f"{queue.name}.of{queue.partitions}"


def user_names(services: Iterable[Service]) -> tuple[str, ...]:
    """Every broker user that needs a password."""
    return (*(service.name for service in services), *OPERATORS)


def mistakes(services: Sequence[Service]) -> list[str]:
    """What is wrong with the declarations taken together, one sentence each."""
    publishers = Counter(event for service in services for event in service.publishes)
    published = {event for service in services for event in service.publishes}
    queues = [queue for service in services for queue in service.queues]
    consumed = {event for queue in queues for event in queue.events}
    names = [name for queue in queues for name in work_queues(queue)]
    found = [f"{event.__name__} is published, but not consumed" for event in _sorted(published - consumed)]
    found += [f"{event.__name__} is consumed, but not published" for event in _sorted(consumed - published)]
    found += [f"{event.__name__} exists, but is not published" for event in EVENTS if event not in published]
    found += [f"{event.__name__} is published by two services" for event in publishers if publishers[event] > 1]
    found += [f"the queue {name} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})]
    found += [f"the queue {queue.name} has {queue.partitions} partitions" for queue in queues if queue.partitions < 1]
    taken = [*user_names(services)]
    return found + [f"the user {name} is declared twice" for name in sorted({n for n in taken if taken.count(n) > 1})]


def definitions(
    services: Sequence[Service],
    *,
    vhost: str,
    passwords: Mapping[str, str] | None = None,
    user_prefix: str = "",
) -> Definitions:
    """The definitions of a vhost; raises ValueError that lists every mistake in the declarations.

    ``passwords`` maps user names, without the prefix, to passwords. Without ``passwords`` the document can be read and
    compared, but it cannot create users. ``user_prefix`` distinguishes several installations on one broker, because
    users do not belong to a vhost.
    """
    found = mistakes(services)
    if passwords is not None:
        found += [f"there is no password for {name}" for name in user_names(services) if not passwords.get(name)]
    if found:
        raise ValueError("\n".join(found))
    queues = [queue for service in services for queue in service.queues]
    work = [(queue, name) for queue in queues for name in work_queues(queue)]
    retries = [(queue, delay) for queue in queues for delay in DELAYS_SECONDS]
    return Definitions(
        vhosts=[VirtualHost(vhost)],
        users=list(_users(services, passwords or {}, user_prefix)),
        permissions=list(_permissions(services, vhost, user_prefix)),
        topic_permissions=list(_topic_permissions(services, vhost, user_prefix)),
        policies=[
            *(_work_policy(vhost, queue, name) for queue, name in work),
            *(_retry_policy(vhost, queue, delay) for queue, delay in retries),
            _dead_letter_policy(vhost),
        ],
        exchanges=list(_exchanges(queues, vhost)),
        queues=[
            *(_queue(vhost, name, single=queue.partitions > 1) for queue, name in work),
            *(_queue(vhost, retry_queue(queue.name, delay)) for queue, delay in retries),
            _queue(vhost, DEAD_LETTER_QUEUE),
        ],
        bindings=list(_bindings(queues, vhost)),
    )


def _exchanges(queues: Sequence[Queue], vhost: str) -> Iterator[Exchange]:
    # `retry` is a topic exchange because only topic permissions limit routing keys: with a direct exchange every
    # service could publish to the queues of every other service.
    for name in (EXCHANGE, RETRY_EXCHANGE, DEAD_LETTER_EXCHANGE):
        yield Exchange(name=name, vhost=vhost, type="topic")
    yield Exchange(name=REPLAY_EXCHANGE, vhost=vhost, type="direct")
    for queue in queues:
        if queue.partitions > 1:
            # The one binding between the two decides which partitions get events: a change of the count replaces it.
            yield Exchange(name=queue.name, vhost=vhost, type="fanout")
            arguments: dict[str, Value] = {"hash-property": "correlation_id"}
            yield Exchange(name=partition_exchange(queue), vhost=vhost, type="x-consistent-hash", arguments=arguments)


def _queue(vhost: str, name: str, *, single: bool = False) -> QueueDefinition:
    arguments: dict[str, Value] = {"x-queue-type": "quorum"}
    if single:
        arguments["x-single-active-consumer"] = True
    return QueueDefinition(name=name, vhost=vhost, arguments=arguments)


def _bindings(queues: Sequence[Queue], vhost: str) -> Iterator[Binding]:
    def bind(source: str, destination: str, key: str, kind: str = "queue") -> Binding:
        return Binding(source=source, vhost=vhost, destination=destination, destination_type=kind, routing_key=key)

    for queue in queues:
        kind = "exchange" if queue.partitions > 1 else "queue"
        for event in queue.events:
            yield bind(EXCHANGE, queue.name, event.routing_key, kind)
        yield bind(REPLAY_EXCHANGE, queue.name, queue.name, kind)
        for delay in DELAYS_SECONDS:
            yield bind(RETRY_EXCHANGE, retry_queue(queue.name, delay), retry_queue(queue.name, delay))
        if queue.partitions > 1:
            yield bind(queue.name, partition_exchange(queue), "", "exchange")
            for name in work_queues(queue):
                yield bind(partition_exchange(queue), name, "1")  # a hash exchange reads the key as a weight
    yield bind(DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, "#")


def _guarded(**settings: Value) -> dict[str, Value]:
    """Policy settings under which the broker drops nothing: a full queue refuses the publisher.

    In a cluster the leaders of new queues are spread over the nodes. A policy can say so for an existing installation,
    a queue argument cannot; leaders that exist stay where they are (https://www.rabbitmq.com/docs/clustering#queue-leader-locator).
    """
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    return {"max-length": MAX_LENGTH, "overflow": "reject-publish", "queue-leader-locator": "balanced", **names}


def _work_policy(vhost: str, queue: Queue, name: str) -> Policy:
    # The routing key is the declared queue's name, as in the dead letters that a service publishes itself: a dead
    # letter can be replayed, whatever the number of partitions is then.
    settings = _guarded(
        delivery_limit=DELIVERY_LIMIT,
        dead_letter_exchange=DEAD_LETTER_EXCHANGE,
        dead_letter_routing_key=queue.name,
        dead_letter_strategy="at-least-once",
    )
    return Policy(vhost=vhost, name=name, pattern=_exactly(name), definition=settings)


def _retry_policy(vhost: str, queue: Queue, delay_seconds: int) -> Policy:
    # With partitions a copy returns through the queue's exchange, to the partitions that get events then.
    name = retry_queue(queue.name, delay_seconds)
    settings = _guarded(
        message_ttl=delay_seconds * 1000,
        dead_letter_exchange=queue.name if queue.partitions > 1 else "",
        dead_letter_routing_key=queue.name,
        dead_letter_strategy="at-least-once",
    )
    return Policy(vhost=vhost, name=name, pattern=_exactly(name), definition=settings)


def _dead_letter_policy(vhost: str) -> Policy:
    # An inspection can count as a delivery, so a limit would drop messages that were inspected often.
    settings = _guarded(delivery_limit=-1)
    return Policy(vhost=vhost, name=DEAD_LETTER_QUEUE, pattern=_exactly(DEAD_LETTER_QUEUE), definition=settings)


def _users(services: Sequence[Service], passwords: Mapping[str, str], prefix: str) -> Iterator[User]:
    tags = {"topology": ["administrator"], "monitor": ["monitoring"]}
    for name in user_names(services):
        yield User(name=prefix + name, tags=tags.get(name, []), password=passwords.get(name))


def _permissions(services: Sequence[Service], vhost: str, prefix: str) -> Iterator[Permission]:
    for service in services:
        yield service_permission(service, vhost, prefix)
    yield Permission(user=f"{prefix}topology", vhost=vhost)
    yield Permission(
        user=f"{prefix}replay", vhost=vhost, write=_exactly(REPLAY_EXCHANGE), read=_exactly(DEAD_LETTER_QUEUE)
    )
    yield Permission(user=f"{prefix}monitor", vhost=vhost)


def service_permission(
    service: Service, vhost: str, prefix: str, *, only: Mapping[str, Sequence[str]] | None = None
) -> Permission:
    """What a service's user may do: write to the exchanges that it needs, read its queues, configure nothing.

    With partitions it may read those of every count. ``only`` has the work queues that alone may be read of a queue.
    """
    write = [EXCHANGE] if service.publishes else []
    narrowed = only or {}
    patterns: list[str] = []
    for queue in service.queues:
        if queue.name in narrowed:
            patterns += [re.escape(name) for name in narrowed[queue.name]]
        else:
            patterns.append(re.escape(queue.name) + (r"(\.[0-9]+of[0-9]+)?" if queue.partitions > 1 else ""))
    return Permission(
        user=prefix + service.name,
        vhost=vhost,
        write=_one_of([*write, RETRY_EXCHANGE, DEAD_LETTER_EXCHANGE]),
        read=f"^({'|'.join(patterns)})$" if patterns else NOTHING,
    )


def _topic_permissions(services: Sequence[Service], vhost: str, prefix: str) -> Iterator[TopicPermission]:
    """A user without an entry for an exchange may use every key there, so there is one for each exchange."""
    for service in services:
        queues = [queue.name for queue in service.queues]
        keys = {
            EXCHANGE: [event.routing_key for event in service.publishes],
            RETRY_EXCHANGE: [retry_queue(name, delay) for name in queues for delay in DELAYS_SECONDS],
            DEAD_LETTER_EXCHANGE: queues,
        }
        for exchange, allowed in keys.items():
            yield TopicPermission(user=prefix + service.name, vhost=vhost, exchange=exchange, write=_one_of(allowed))


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}$"


def _one_of(names: Collection[str]) -> str:
    return f"^({'|'.join(re.escape(name) for name in names)})$" if names else NOTHING


def _sorted(events: Iterable[type[Event]]) -> list[type[Event]]:
    return sorted(events, key=lambda event: event.__name__)
