# SPDX-License-Identifier: Apache-2.0
"""The addresses of a running system; ``.demo/addresses.json`` is kept up to date."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from local.system import PROCESSES, System

_INTERVAL_SECONDS = 0.5
_MEASURED = (*PROCESSES, "reconciler")


def addresses(system: System) -> dict[str, Any]:
    """Every address, key and pid, for other programs."""
    return {
        "orders_api": system.orders_api,
        "inventory_api": system.inventory_api,
        "orders_key": system.orders_key,
        "stock_key": system.stock_key,
        "amqp_admin": system.admin_url,
        "databases": system.databases,
        "metrics": {name: f"http://{_telemetry(system, name)}/metrics" for name in _MEASURED},
        "processes": system.supervisor.pids(),
    }


def metrics_targets(system: System) -> dict[str, list[str]]:
    """The addresses that Prometheus can scrape, by job."""
    return {name: [_telemetry(system, name)] for name in _MEASURED}


def _telemetry(system: System, process: str) -> str:
    return f"127.0.0.1:{system.process_ports[process].telemetry}"


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
    text = json.dumps(addresses(system), indent=2)
    if text != last:
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.replace(path)
    return text
