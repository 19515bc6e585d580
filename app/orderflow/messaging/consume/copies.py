# SPDX-License-Identifier: Apache-2.0
"""Copies of a message on its way to a retry queue or to the dead letters."""

from orderflow.messaging.broker import Delivery, Headers, Properties, Publication
from orderflow.messaging.uuid7 import uuid7

ORIGINAL_ROUTING_KEY = "x-original-routing-key"
_LONGEST_ROUTING_KEY = 255
"""In bytes, by the protocol."""
_MOST_HEADER_BYTES = 64 * 1024


def copy(delivery: Delivery, *, exchange: str, routing_key: str, added: Headers) -> Publication:
    """A publication of the same body and properties to another place, with more headers.

    The headers are ``bounded``, as in every copy.
    """
    old = delivery.properties
    properties = Properties(
        message_id=old.message_id,
        correlation_id=old.correlation_id,
        type=old.type,
        timestamp=old.timestamp,
        app_id=old.app_id,
        content_type=old.content_type,
        content_encoding=old.content_encoding,
        headers={**bounded(old.headers), **added},
    )
    return Publication(uuid7(), exchange, routing_key, properties, delivery.body)


def original_routing_key(delivery: Delivery) -> str:
    """The routing key with which the event was published: the header of an earlier copy tells, if it can be one."""
    told = delivery.properties.headers.get(ORIGINAL_ROUTING_KEY)
    return told if isinstance(told, str) and len(told.encode()) <= _LONGEST_ROUTING_KEY else delivery.routing_key


def bounded(headers: Headers) -> Headers:
    """The headers, or as many as there is room for beside those of a copy, the smallest first.

    All properties must fit one frame (128 KiB unless the broker is told otherwise), and those that came may fill it. A
    copy that does not fit would end the connection each time it is sent.
    """
    sizes = {name: _size(name, value) for name, value in headers.items()}
    if sum(sizes.values()) <= _MOST_HEADER_BYTES:
        return headers
    kept, room = dict[str, str | int](), _MOST_HEADER_BYTES
    for name in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[name]
        if room < 0:
            break
        kept[name] = headers[name]
    return kept


def _size(name: str, value: str | int) -> int:
    """Bytes of a header in its table: the name and its length, the kind, the value, and the length of a text."""
    return 1 + len(name.encode()) + 1 + (4 + len(value.encode()) if isinstance(value, str) else 8)
