# SPDX-License-Identifier: Apache-2.0
import contextlib
import gzip
import tracemalloc
import zlib
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from orderflow.events import EVENTS, OrderCancelled, OrderCreated, OrderLine
from orderflow.messaging.broker import Delivery, Publication
from orderflow.messaging.codec import Codec, Outgoing
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.event import Event, encode
from tests.builders import a_codec, an_event
from tests.rigs.scripted_broker import deliver

CODEC = a_codec("orders", threshold_bytes=2000, limit_bytes=64 * 1024)
KEY = UUID("01890000-0000-7000-8000-000000000001")

storable = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
amounts = st.integers(0, 2**53 - 1)
reasons = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
skus = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
lines = st.lists(
    st.fixed_dictionaries({"sku": skus, "quantity": st.integers(1, 10_000), "unit_price": amounts}),
    min_size=1,
    max_size=100,
)
fields = st.fixed_dictionaries(
    {
        "timestamp": st.datetimes(timezones=st.just(UTC), min_value=datetime(1971, 1, 1)),  # noqa: DTZ001
        "order_id": st.uuids(),
        "user_id": st.text(storable, min_size=1, max_size=64),
        "total_amount": amounts,
        "currency": st.from_regex(r"[A-Z]{3}", fullmatch=True),
        "payment_token": st.text(storable, min_size=1, max_size=128),
        "charge_id": st.text(st.characters(exclude_categories=["Cs"])),
        "reason": reasons,
        "sku": skus,
        "on_hand": st.integers(0, 2**31 - 1),
        "available": st.integers(0, 2**31 - 1),
        "unit_price": amounts,
        "stock_version": st.integers(1, 2**40),
    }
)


def delivered(publication: Publication) -> Delivery:
    return Delivery(
        1, publication.exchange, publication.routing_key, False, publication.properties, publication.body, 0.0
    )


def reason_of(delivery: Delivery, codec: Codec = CODEC, accepted: tuple[type[Event], ...] = EVENTS) -> str:
    with pytest.raises(MalformedMessage) as caught:
        codec.incoming(delivery, accepted, {})
    assert caught.value.detail
    return caught.value.reason


@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@given(compression=st.sampled_from(["zstd", "gzip", "off"]), values=fields, order_lines=lines)
def test_every_event_arrives_as_it_was_sent(
    kind: type[Event], compression: Literal["zstd", "gzip", "off"], values: dict[str, object], order_lines: object
) -> None:
    event = an_event(kind, **values, items=msgspec.convert(order_lines, tuple[OrderLine, ...]))
    codec = a_codec("orders", compression=compression, threshold_bytes=500, limit_bytes=64 * 1024)
    publication = codec.publication(KEY, Outgoing(event=event))
    incoming = codec.incoming(delivered(publication), EVENTS, {"traceparent": "t"})
    assert incoming.event == event
    assert type(incoming.event) is kind
    assert (incoming.message_id, incoming.retry_count, incoming.trace) == (KEY, 0, {"traceparent": "t"})
    assert publication.routing_key == kind.routing_key


def test_a_message_says_who_sent_it_when_and_why() -> None:
    cause, event = uuid4(), an_event(OrderCancelled)
    outgoing = Outgoing(event=event, causation_id=cause, trace={"traceparent": "00-a-b-01"})
    publication = CODEC.publication(KEY, outgoing)
    properties = publication.properties
    assert (publication.key, publication.exchange, publication.routing_key) == (KEY, "order_events", "order.cancelled")
    assert properties.message_id == str(KEY)
    assert (properties.app_id, properties.type) == ("orders", "ORDER_CANCELLED")
    assert properties.correlation_id == str(event.order_id)
    assert properties.timestamp == int(event.timestamp.timestamp())
    assert (properties.content_type, properties.content_encoding) == ("application/json", None)
    assert properties.headers == {
        "traceparent": "00-a-b-01",
        "x-occurred-at": event.timestamp.isoformat(),
        "x-causation-id": str(cause),
    }


def test_bodies_are_compressed_from_the_threshold_on_and_not_below() -> None:
    event = an_event(OrderCancelled)
    size = len(encode(event))
    for threshold, encoding in ((size, "zstd"), (size + 1, None)):
        codec = a_codec("orders", threshold_bytes=threshold)
        sent = codec.publication(KEY, Outgoing(event=event))
        assert sent.properties.content_encoding == encoding
        assert (sent.body == encode(event)) is (encoding is None)


def test_the_same_event_always_has_the_same_gzip_body() -> None:
    codec = a_codec("orders", compression="gzip", threshold_bytes=0)
    outgoing = Outgoing(event=an_event(OrderCancelled))
    assert codec.publication(KEY, outgoing).body == codec.publication(KEY, outgoing).body


def test_an_event_above_the_limit_is_not_sent() -> None:
    with pytest.raises(ValueError, match=r"OrderCancelled has .* bytes, more than 100"):
        a_codec("orders", limit_bytes=100).publication(KEY, Outgoing(event=an_event(OrderCancelled)))


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8"])
@pytest.mark.parametrize("content_encoding", [None, "", "identity"])
def test_plain_json_is_read_however_it_is_announced(content_type: str | None, content_encoding: str | None) -> None:
    delivery = deliver(content_type=content_type, content_encoding=content_encoding)
    assert isinstance(CODEC.incoming(delivery, EVENTS, {}).event, OrderCancelled)


GOOD = encode(an_event(OrderCancelled))
ZSTD_UNSIZED = zstandard.ZstdCompressor(write_content_size=False)
MALFORMED = {
    "content type": (deliver(content_type="application/xml"), "unknown_content_type"),
    "content encoding": (deliver(content_encoding="br"), "unknown_content_encoding"),
    "blank message id": (deliver(message_id=" "), "invalid_message_id"),
    "message id is not a uuid": (deliver(message_id="order-7"), "invalid_message_id"),
    "retry count is text": (deliver(headers={"x-retry-count": "two"}), "invalid_header"),
    "retry count is negative": (deliver(headers={"x-retry-count": -1}), "invalid_header"),
    "no bytes": (deliver(body=b""), "empty_body"),
    "not json": (deliver(body=b"hello"), "not_json"),
    "cut off": (deliver(body=GOOD[:-5]), "not_json"),
    "not utf-8": (deliver(body=GOOD.replace(b"customer-1", b"\xff\xfe")), "invalid_body"),
    "deep": (deliver(body=b"[" * 50_000), "not_an_event"),
    "a list": (deliver(body=b"[1]"), "not_an_event"),
    "no type": (deliver(body=b"{}"), "not_an_event"),
    "foreign type": (deliver(body=b'{"event_type":"X"}'), "unknown_event_type"),
    "next version": (deliver(body=GOOD.replace(b'"version":1', b'"version":2')), "unknown_version"),
    "version zero": (deliver(body=GOOD.replace(b'"version":1', b'"version":0')), "unknown_version"),
    "a field is missing": (deliver(body=GOOD.replace(b'"currency"', b'"courtesy"')), "invalid_body"),
    "wrong type": (deliver(body=GOOD.replace(b"1999", b'"1999"')), "invalid_body"),
    "not a number": (deliver(body=GOOD.replace(b"1999", b"NaN")), "not_json"),
    "a huge number": (deliver(body=GOOD.replace(b"1999", b"9" * 10_000)), "invalid_body"),
    "negative": (deliver(body=GOOD.replace(b"1999", b"-1")), "invalid_body"),
    "no time zone": (deliver(body=GOOD.replace(b'12:00:00Z"', b'12:00:00"')), "invalid_body"),
    "too large": (deliver(body=GOOD + b" " * CODEC.limit_bytes), "too_large"),
    "not gzip": (deliver(body=GOOD, content_encoding="gzip"), "corrupt_compression"),
    "not zstd": (deliver(body=GOOD, content_encoding="zstd"), "corrupt_compression"),
    "gzip cut off": (deliver(body=gzip.compress(GOOD)[:-9], content_encoding="gzip"), "corrupt_compression"),
    "zstd cut off": (deliver(body=zstandard.compress(GOOD)[:-9], content_encoding="zstd"), "corrupt_compression"),
    "zstd of nothing": (deliver(body=ZSTD_UNSIZED.compress(b""), content_encoding="zstd"), "corrupt_compression"),
    "gzip header only": (
        deliver(body=gzip.compress(GOOD)[:10] + b"\xff" * 40, content_encoding="gzip"),
        "corrupt_compression",
    ),
    "gzip checksum": (
        deliver(body=gzip.compress(GOOD)[:-8] + b"\0" * 8, content_encoding="gzip"),
        "corrupt_compression",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_every_malformed_kind_has_its_reason(kind: str) -> None:
    delivery, reason = MALFORMED[kind]
    assert reason_of(delivery) == reason


def test_without_a_message_id_a_message_is_malformed() -> None:
    delivery = deliver()
    bare = msgspec.structs.replace(delivery, properties=msgspec.structs.replace(delivery.properties, message_id=None))
    assert reason_of(bare) == "missing_message_id"


def test_an_event_that_the_queue_does_not_handle_is_malformed_there() -> None:
    assert reason_of(deliver(an_event(OrderCancelled)), accepted=(OrderCreated,)) == "unexpected_event"


def bomb(encoding: str, plain_bytes: int) -> bytes:
    if encoding == "gzip":
        return gzip.compress(b"\0" * plain_bytes)
    if encoding == "zstd":
        return zstandard.compress(b"\0" * plain_bytes)
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return writer.compress(b"\0" * plain_bytes) + writer.flush()


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [("gzip", "too_large"), ("zstd", "too_large"), ("zstd with a huge window", "corrupt_compression")],
)
def test_a_bomb_is_refused_without_being_unpacked(encoding: str, reason: str) -> None:
    delivery = deliver(body=bomb(encoding, 32 * 1024 * 1024), content_encoding=encoding[:4])
    tracemalloc.start()
    try:
        assert reason_of(delivery) == reason
        assert tracemalloc.get_traced_memory()[1] < 16 * CODEC.limit_bytes
    finally:
        tracemalloc.stop()


def test_what_unpacks_to_more_than_the_limit_is_too_large() -> None:
    body = zstandard.compress(GOOD + b" " * CODEC.limit_bytes)
    assert reason_of(deliver(body=body, content_encoding="zstd")) == "too_large"


@settings(max_examples=200, deadline=None)
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)).map(
            lambda at: GOOD[: at[0]] + bytes([at[1]]) + GOOD[at[0] + 1 :]
        ),
    ),
    packed=st.sampled_from([None, "gzip", "zstd"]),
    announced=st.sampled_from([None, "gzip", "zstd"]),
    damage=st.tuples(st.integers(0, 400), st.integers(0, 255)) | st.none(),
)
def test_no_body_raises_another_error_than_malformed_message(
    body: bytes, packed: str | None, announced: str | None, damage: tuple[int, int] | None
) -> None:
    if packed:
        body = gzip.compress(body) if packed == "gzip" else zstandard.compress(body)
    if damage and damage[0] < len(body):
        body = body[: damage[0]] + bytes([damage[1]]) + body[damage[0] + 1 :]
    with contextlib.suppress(MalformedMessage):
        incoming = CODEC.incoming(deliver(body=body, content_encoding=announced), EVENTS, {})
        assert isinstance(incoming.event, EVENTS)


def test_damaged_deflate_data_is_malformed_like_any_other_damage() -> None:
    body = bytearray(gzip.compress(GOOD))
    body[12] ^= 0xFF
    with pytest.raises(zlib.error):
        gzip.decompress(bytes(body))
    assert reason_of(deliver(body=bytes(body), content_encoding="gzip")) == "corrupt_compression"
