# SPDX-License-Identifier: Apache-2.0
"""The frames of many messages are one write, in the order in which they were sent."""

from pika import BasicProperties, URLParameters, spec

from orderflow.messaging.rabbitmq.joined_frames import JoiningConnection


class Written(JoiningConnection):
    """A connection that is not connected; it records its writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        super().__init__(URLParameters("amqp://127.0.0.1"), internal_connection_workflow=False)
        self._body_max_length = 1 << 17  # known once the connection is open

    def _adapter_emit_data(self, data: bytes) -> None:
        self.writes.append(data)

    def send(self, body: bytes) -> None:
        method = spec.Basic.Publish(exchange="e", routing_key="k", mandatory=True)
        self._send_method(1, method, (BasicProperties(message_id="m"), body))


def test_a_message_is_one_write_also_outside_of_a_block() -> None:
    connection = Written()
    connection.send(b"one")
    connection.send(b"two")
    assert [(b"one" in data, b"two" in data) for data in connection.writes] == [(True, False), (False, True)]


def test_a_block_is_one_write_of_the_same_bytes() -> None:
    apart, together = Written(), Written()
    for body in (b"one", b"two", b"", b"x" * 300_000):
        apart.send(body)
    with together.joined():
        for body in (b"one", b"two", b"", b"x" * 300_000):
            together.send(body)
        assert together.writes == []
    assert together.writes == [b"".join(apart.writes)]
    assert (together.bytes_sent, together.frames_sent) == (apart.bytes_sent, apart.frames_sent)


def test_an_empty_block_writes_nothing() -> None:
    connection = Written()
    with connection.joined():
        pass
    assert connection.writes == []
