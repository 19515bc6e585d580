# SPDX-License-Identifier: Apache-2.0
"""Runs the orderflow command line and records which of its functions are called.

``python -m tests.rigs.profiled_process SOCKET COMMAND…``: the response to any datagram on the
Unix socket is a JSON list of [thread, file, function]; ``reset`` also clears it.
"""

import json
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from orderflow.__main__ import main

APP = f"{Path(main.__code__.co_filename).parent}/"
_called: set[tuple[str, str, str]] = set()


def _record(frame: FrameType, event: str, _argument: Any) -> None:
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(APP) and code.co_name != "<module>":
        _called.add((threading.current_thread().name, code.co_filename.removeprefix(APP), code.co_qualname))


def _serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(path)
        while True:
            message, sender = control.recvfrom(16)
            called = sorted(_called)
            if message == b"reset":
                _called.clear()
            control.sendto(json.dumps(called).encode(), sender)


if __name__ == "__main__":
    threading.Thread(target=_serve, args=(sys.argv[1],), name="profile", daemon=True).start()
    threading.setprofile(_record)
    sys.setprofile(_record)
    sys.exit(main(sys.argv[2:]))
