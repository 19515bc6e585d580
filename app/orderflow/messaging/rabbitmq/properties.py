# SPDX-License-Identifier: Apache-2.0
"""Converts our properties to pika's, and back."""

import pika

from orderflow.messaging.broker import Headers, Properties


def to_pika(properties: Properties, *, user_id: str | None = None) -> pika.BasicProperties:
    """Pika's properties of a persistent message. ``user_id`` must be the user of the connection that publishes it."""
    return pika.BasicProperties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=dict(properties.headers),
        delivery_mode=2,
        correlation_id=properties.correlation_id,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.type,
        app_id=properties.app_id,
        user_id=user_id,
    )


def from_pika(properties: pika.BasicProperties) -> Properties:
    """Our properties. Headers that are neither text nor a whole number (the broker's x-death tables) are left out."""
    given = properties.headers
    headers: Headers = {name: value for name, value in given.items() if _is_ours(name, value)} if given else {}
    return Properties(
        message_id=text(properties.message_id),
        correlation_id=text(properties.correlation_id),
        type=text(properties.type),
        timestamp=properties.timestamp,
        app_id=text(properties.app_id),
        content_type=text(properties.content_type),
        content_encoding=text(properties.content_encoding),
        headers=headers,
    )


def text(short: str | bytes | None) -> str | None:
    """A short string as text: pika returns bytes that are not UTF-8 undecoded. Never longer than it was on the wire."""
    return short.decode(errors="replace").replace("\ufffd", "?") if isinstance(short, bytes) else short


def _is_ours(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, str | int)
