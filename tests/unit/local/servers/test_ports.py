# SPDX-License-Identifier: Apache-2.0
"""Ports for servers."""

import socket

import pytest

from local.servers import ports as module
from local.servers.ports import Ports


def test_two_stacks_never_get_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RANGE", range(9000, 9600))
    one, other = Ports(), Ports()
    taken = [one.take() for _ in range(50)] + [other.take() for _ in range(50)]
    assert len(set(taken)) == 100
    one.release()
    other.release()


def test_a_port_that_a_server_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr("random.sample", lambda *_, **__: [port])
        with pytest.raises(OSError, match="no free port"):
            Ports().take()


def test_a_released_port_can_be_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = Ports()
    port = ports.take()
    monkeypatch.setattr("random.sample", lambda *_, **__: [port])
    with pytest.raises(OSError, match="no free port"):
        Ports().take()
    ports.release()
    assert ports.take() == port
    ports.release()
