# SPDX-License-Identifier: Apache-2.0
"""A pika connection that writes the frames of a message, or of many messages, with one system call.

A message is three frames, and pika 1.4 sends each with a call of its own. On loopback and with TCP_NODELAY each is also
a packet, which wakes the broker: most wake-ups of an idle broker were for a third of a message.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from pika.adapters.select_connection import SelectConnection


class JoiningConnection(SelectConnection):
    """A ``SelectConnection`` for which the frames of one call, and of one ``joined`` block, are one write."""

    _held: list[bytes] | None = None

    @contextmanager
    def joined(self) -> Generator[None]:
        """Write everything that is sent in the block together, at its end, also when it raises."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._write(held)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        """Overrides pika's: the only method through which it writes."""
        self.frames_sent += len(marshaled_frames)
        if self._held is None:
            self._write(marshaled_frames)
        else:
            self._held += marshaled_frames

    def _write(self, frames: Sequence[bytes]) -> None:
        data = b"".join(frames)
        if data:
            self.bytes_sent += len(data)
            self._adapter_emit_data(data)
