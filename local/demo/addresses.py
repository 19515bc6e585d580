# SPDX-License-Identifier: Apache-2.0
"""``.demo/addresses.json``: the addresses of a running system, kept up to date."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from local.system import System

_INTERVAL_SECONDS = 0.5


@contextmanager
def kept_current(system: System, path: Path) -> Iterator[None]:
    """Write the file again whenever an address or a pid changes; delete it at the end.

    A reader never sees half a file. Only its owner may read it, because it holds keys and passwords.
    """
    ended = threading.Event()
    _write(system, path, "")
    writer = threading.Thread(target=_follow, args=(system, path, ended), name="addresses")
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()
        path.unlink(missing_ok=True)


def _follow(system: System, path: Path, ended: threading.Event) -> None:
    last = ""
    while not ended.wait(_INTERVAL_SECONDS):
        with suppress(OSError):  # a full disk: the next attempt may succeed
            last = _write(system, path, last)


def _write(system: System, path: Path, last: str) -> str:
    text = json.dumps(system.addresses(), indent=2)
    if text != last:
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.replace(path)
    return text
