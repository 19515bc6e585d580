# SPDX-License-Identifier: Apache-2.0
"""Converts events to AMQP messages and back: properties, headers, compression, and checks for malformed deliveries."""

import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import msgspec
import zstandard

from orderflow.messaging.broker import Delivery, Properties, Publication
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.event import Event, encode
from orderflow.messaging.publisher_check import PublisherCheck
from orderflow.messaging.service import Incoming

JSON = "application/json"
RETRY_COUNT = "x-retry-count"
_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""Memory that a zstd frame may require of its decoder; the specification recommends this minimum for every decoder."""
_CONTENT_TYPES = frozenset({None, JSON, "application/json; charset=utf-8"})


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """An event, with the causation id and the trace headers of its message."""

    event: Event
    causation_id: UUID | None = None
    trace: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """Writes and reads messages of one service. Sizes are in bytes, of the body before compression."""

    app_id: str
    exchange: str
    decode: Callable[[bytes], Event]
    compression: Literal["zstd", "gzip", "off"]
    threshold_bytes: int
    limit_bytes: int
    publishers: PublisherCheck

    def publication(self, key: UUID, outgoing: Outgoing) -> Publication:
        """The message for an event; ``key`` becomes its message id. Raises ValueError above the size limit."""
        event = outgoing.event
        body = encode(event)
        if len(body) > self.limit_bytes:
            raise ValueError(f"{type(event).__name__} has {len(body)} bytes, more than {self.limit_bytes}")
        body, encoding = self._compressed(body)
        headers = {**outgoing.trace, "x-occurred-at": event.timestamp.isoformat()}
        if outgoing.causation_id is not None:
            headers["x-causation-id"] = str(outgoing.causation_id)
        properties = Properties(
            message_id=str(key),
            correlation_id=event.correlation_id,
            type=str(event.__struct_config__.tag),
            timestamp=int(event.timestamp.timestamp()),
            app_id=self.app_id,
            content_type=JSON,
            content_encoding=encoding,
            headers=headers,
        )
        return Publication(key, self.exchange, event.routing_key, properties, body)

    def incoming(self, delivery: Delivery, accepted: tuple[type[Event], ...], trace: Mapping[str, str]) -> Incoming:
        """The event in a delivery; raises MalformedMessage when this queue does not handle it, or it is forged.

        ``trace`` are the trace headers for what the message causes.
        """
        properties = delivery.properties
        if properties.content_type not in _CONTENT_TYPES:
            raise MalformedMessage("unknown_content_type", "the content type is not JSON")
        message_id = _message_id(properties.message_id)
        event = self.decode(decompressed(delivery.body, properties.content_encoding, limit_bytes=self.limit_bytes))
        if not isinstance(event, accepted):
            raise MalformedMessage("unexpected_event", f"{type(event).__name__} is not handled by this queue")
        self.publishers.require_owner(event, delivery)
        return Incoming(message_id, event, _retry_count(properties), trace)

    def _compressed(self, body: bytes) -> tuple[bytes, str | None]:
        if self.compression == "off" or len(body) < self.threshold_bytes:
            return body, None
        if self.compression == "gzip":
            return gzip.compress(body, compresslevel=5, mtime=0), "gzip"
        return zstandard.ZstdCompressor(level=3).compress(body), "zstd"


def decompressed(body: bytes, encoding: str | None, *, limit_bytes: int) -> bytes:
    """The plain body; raises MalformedMessage when it cannot be decompressed or exceeds the limit.

    Memory use is bounded, whatever the sender claims: the limit plus one byte, and the decompression window of 32 KiB
    for gzip and at most 8 MiB (or the limit, if that is larger) for zstd.
    """
    if encoding in {None, "", "identity"}:
        plain = body
    elif encoding in {"zstd", "gzip"}:
        plain = _read_limited(body, encoding or "", limit_bytes)
    else:
        raise MalformedMessage("unknown_content_encoding", "the content encoding is neither zstd nor gzip")
    if len(plain) > limit_bytes:
        raise MalformedMessage("too_large", f"the body has more than {limit_bytes} bytes")
    return plain


def _read_limited(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    try:
        if encoding == "gzip":
            with gzip.open(io.BytesIO(body)) as stream:
                return stream.read(limit_bytes + 1)
        window = max(_MAX_WINDOW_BYTES, limit_bytes)
        with zstandard.ZstdDecompressor(max_window_size=window).stream_reader(body) as reader:
            plain = reader.read(limit_bytes + 1)
        cut_off = len(plain) < min(zstandard.frame_content_size(body), limit_bytes + 1)
    except (OSError, EOFError, ValueError, zlib.error, zstandard.ZstdError) as error:
        raise MalformedMessage("corrupt_compression", f"the body is not {encoding}") from error
    if cut_off or not plain:
        raise MalformedMessage("corrupt_compression", f"the body is not {encoding}")
    return plain


def _message_id(text: str | None) -> UUID:
    if not text:
        raise MalformedMessage("missing_message_id", "without a message id a duplicate cannot be recognised")
    try:
        return UUID(text)
    except ValueError as error:
        raise MalformedMessage("invalid_message_id", "the message id is not a UUID") from error


def _retry_count(properties: Properties) -> int:
    count = properties.headers.get(RETRY_COUNT, 0)
    if not isinstance(count, int) or count < 0:
        raise MalformedMessage("invalid_header", f"{RETRY_COUNT} is not a count")
    return count
