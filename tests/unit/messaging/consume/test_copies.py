# SPDX-License-Identifier: Apache-2.0
import pika
import pytest
from pika import frame

from orderflow.messaging.consume.settlement import copy
from orderflow.messaging.rabbitmq.properties import from_pika, to_pika
from tests.rigs.scripted_broker import deliver

FRAME_BYTES = 128 * 1024


@pytest.mark.parametrize(
    "headers",
    [
        {"large": "x" * 131_000, "small": 1},
        {"large": "é" * 65_000, "small": 1},
        {f"{number}": "x" * 100 for number in range(1100)} | {"small": 1},
        {"x" * 255: 2**62, "small": 1} | {f"{number:0>255}": 0 for number in range(480)},
    ],
)
def test_a_copy_fits_a_frame_although_headers_come_on_top(headers: dict[str, str | int]) -> None:
    sent = copy(deliver(headers=headers), exchange="e", routing_key="k", added={"x-detail": "d" * 255, "x-count": 1})
    kept = dict(sent.properties.headers)
    assert (kept.pop("x-detail"), kept.pop("x-count")) == ("d" * 255, 1)
    assert kept.items() <= headers.items()
    assert kept["small"] == 1
    assert len(frame.Header(1, 0, to_pika(sent.properties)).marshal()) < FRAME_BYTES - 1000


def test_headers_that_fit_are_kept_as_they_are() -> None:
    headers = {"a": "x" * 60_000, "b": 1}
    assert copy(deliver(headers=headers), exchange="e", routing_key="k", added={}).properties.headers == headers


def test_a_copy_never_takes_its_publisher_from_what_the_sender_wrote() -> None:
    forged = deliver(headers={"x-original-user-id": "payments", "a": 1})
    assert copy(forged, exchange="e", routing_key="k", added={}).properties.headers == {"a": 1}


@pytest.mark.parametrize("name", ["message_id", "correlation_id", "type", "app_id", "content_type", "content_encoding"])
@pytest.mark.parametrize(("sent", "read"), [("é", "é"), (b"\xffab", "?ab"), (b"\xff" * 255, "?" * 255), (None, None)])
def test_properties_that_are_not_text_become_text_of_at_most_the_same_length(
    name: str, sent: str | bytes | None, read: str | None
) -> None:
    properties = from_pika(pika.BasicProperties(**{name: sent}, headers={b"\xff": "x", "y": 1, "z": b"\xff"}))
    assert getattr(properties, name) == read
    assert properties.headers == {"y": 1}
