# SPDX-License-Identifier: Apache-2.0
"""Loopback ports that stay reserved while a server is down, also from other stacks on the same machine."""

import random
import socket

_RANGE = range(
    10_000, 32_000
)  # below the ephemeral ports, so a client's own port never takes the port of a stopped server


class Ports:
    """Reserves free ports of 127.0.0.1, until ``release`` or the end of this process."""

    def __init__(self) -> None:
        self._reservations: list[socket.socket] = []

    def take(self) -> int:
        """A port without a server, which no other ``Ports`` has reserved; raises OSError when there is none."""
        for port in random.sample(_RANGE, k=500):
            reservation = _reserve(port)
            if reservation is None:
                continue
            if _is_free(port):
                self._reservations.append(reservation)
                return port
            reservation.close()
        raise OSError("no free port on 127.0.0.1")

    def release(self) -> None:
        """Release all of them."""
        while self._reservations:
            self._reservations.pop().close()


def _reserve(port: int) -> socket.socket | None:
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0orderflow-port-{port}")  # abstract: it ends with this process and leaves no file
    except OSError:
        reservation.close()
        return None
    return reservation


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
