# SPDX-License-Identifier: Apache-2.0
"""Who published an event, and whether that service may: no service can speak for another.

An event counts when it came by its own routing key, from the broker user of the service that owns it. The broker
guarantees both for a first delivery: topic permissions bind routing keys to users, and it closes the channel of a
publisher that names another user than its own (https://www.rabbitmq.com/docs/validated-user-id).

A retry comes back through the default exchange or the exchange of a queue with partitions, to which no service may
publish, and a replay through exchange ``replay``. Both are published by another user than the event was. Such a copy
says in its headers how the event was first published. Headers are believed only when the copy names the one user who
may write it: the queue's own service for a retry, the replay user for a replay.

=================================== ===================================================================================
A delivery                          Its origin
=================================== ===================================================================================
through any other exchange          its user and its routing key; headers of copies are ignored
a copy of the user who may write it the headers of the copy
a copy of another user              that user and the copy's routing key, which is no event's: never accepted
a copy that names no user           no user, and the routing key in its headers: written before users were named
=================================== ===================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from orderflow.messaging.broker import Delivery, Headers
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.event import Event, event_type

REPLAY_EXCHANGE = "replay"
"""Bound to the work queues only, so that the replay user needs no right on the default exchange."""

ORIGINAL_ROUTING_KEY = "x-original-routing-key"
ORIGINAL_USER_ID = "x-original-user-id"
COPIED_THROUGH = frozenset({"", REPLAY_EXCHANGE})
"""The exchanges through which copies come back to a queue without partitions."""
_MAX_SHORT_BYTES = 255
"""Of a routing key and of a user, by the protocol."""

Mode = Literal["enforce", "accept-missing", "off"]


class Origin(msgspec.Struct, frozen=True):
    """How an event was first published. ``user_id`` is None when no publisher is known."""

    user_id: str | None
    routing_key: str

    def headers(self) -> Headers:
        """The headers that carry it in a copy."""
        key = {ORIGINAL_ROUTING_KEY: self.routing_key}
        return key if self.user_id is None else {**key, ORIGINAL_USER_ID: self.user_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherCheck:
    """Which broker users the consumers of one service believe.

    ``own_user`` is that service's, ``replay_user`` the operators', ``owners`` has the user that publishes each event.
    ``accept-missing`` also accepts what names no user, ``off`` looks at routing keys only. ``copied_through``
    are the exchanges through which copies come back, those of its queues with partitions included.
    """

    mode: Mode = "off"
    own_user: str = ""
    replay_user: str = ""
    owners: Mapping[type[Event], str] = field(default_factory=dict)
    copied_through: frozenset[str] = COPIED_THROUGH

    def require_owner(self, event: Event, delivery: Delivery) -> None:
        """Raise MalformedMessage unless the event came by its own routing key, from the service that owns it."""
        if delivery.exchange in self.copied_through:
            origin = self.origin(delivery)
            user_id, routing_key = origin.user_id, origin.routing_key
        else:
            user_id, routing_key = delivery.user_id, delivery.routing_key
        kind = type(event)
        if routing_key != kind.routing_key:
            raise MalformedMessage("wrong_routing_key", f"{event_type(kind)} did not come by {kind.routing_key}")
        if self.mode == "off":
            return
        if user_id is None:
            if self.mode == "enforce":
                raise MalformedMessage("missing_user_id", "the message does not name the user who published it")
        elif user_id != self.owners.get(kind):
            raise MalformedMessage("wrong_publisher", f"{event_type(kind)} is not an event of user {user_id}")

    def origin(self, delivery: Delivery) -> Origin:
        """How the event in a delivery was first published, as far as it can be believed."""
        user_id, headers = delivery.user_id, delivery.properties.headers
        if delivery.exchange not in self.copied_through:
            return Origin(user_id, delivery.routing_key)
        key = _short(headers, ORIGINAL_ROUTING_KEY) or delivery.routing_key
        if user_id is None or self.mode == "off":
            return Origin(None, key)
        if user_id == (self.replay_user if delivery.exchange == REPLAY_EXCHANGE else self.own_user):
            return Origin(_short(headers, ORIGINAL_USER_ID), key)
        return Origin(user_id, delivery.routing_key)


def _short(headers: Headers, name: str) -> str | None:
    value = headers.get(name)
    return value if isinstance(value, str) and 0 < len(value.encode()) <= _MAX_SHORT_BYTES else None
