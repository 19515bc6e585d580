# SPDX-License-Identifier: Apache-2.0
"""The command of the payment simulator."""

import socket

import pytest

from orderflow.__main__ import main


def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["payment-simulator", "--port", str(port)]) == 1
    assert f"--port {port}" in capsys.readouterr().err
