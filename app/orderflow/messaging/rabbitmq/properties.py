# SPDX-License-Identifier: Apache-2.0
"""Our properties as pika's, and back."""

import pika

from orderflow.messaging.broker import Headers, Properties


def to_pika(properties: Properties) -> pika.BasicProperties:
    """Pika's properties of a persistent message."""
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
    )


def from_pika(properties: pika.BasicProperties) -> Properties:
    """Our properties. Headers that are neither text nor a whole number (the broker's x-death tables) are left out."""
    given = properties.headers
    headers: Headers = {name: value for name, value in given.items() if isinstance(value, str | int)} if given else {}
    return Properties(
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        type=properties.type,
        timestamp=properties.timestamp,
        app_id=properties.app_id,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=headers,
    )
