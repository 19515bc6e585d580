# SPDX-License-Identifier: Apache-2.0
"""The time and CPU of each process from exec to ready: five starts, one after the other.

The processes are those that the services declare. Broker, topology and databases exist before.
"""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from local.eventually import eventually
from local.servers.enclosed_server import responds
from local.servers.stack import Stack
from local.system import PROCESSES, System

_STARTS = 5
_DEADLINE_SECONDS = 60.0


def startup(stack: Stack) -> None:
    """Print the median of each process."""
    with tempfile.TemporaryDirectory(prefix="orderflow-bench-") as folder:
        system = System(stack, Path(folder), name="startup")
        try:
            system.prepare()
            for process in PROCESSES:
                starts = [_start(system, process) for _ in range(_STARTS)]
                seconds, cpu = (statistics.median(values) for values in zip(*starts, strict=True))
                print(
                    f"start {process:14} ready after {seconds:.2f} s, {cpu:.2f} s CPU (median of {_STARTS})", flush=True
                )
        finally:
            system.remove()
            system.ports.release()


def _start(system: System, process: str) -> tuple[float, float]:
    """Seconds from exec to ready, and CPU seconds until the orderly end."""
    spec = system.spec(process)
    url = f"http://127.0.0.1:{system.process_ports[process].telemetry}/readyz"
    begun = time.monotonic()
    with spec.log.open("ab") as log:
        child = subprocess.Popen(spec.argv, env=spec.env, cwd=spec.directory, stdout=log, stderr=log)

    def ready() -> bool:
        if child.poll() is not None:
            raise ChildProcessError(f"{process} has ended")
        return _ready(url)

    try:
        eventually(ready, seconds=_DEADLINE_SECONDS, what=f"{process} is ready", pause=0.01)
        seconds = time.monotonic() - begun
    except (ChildProcessError, TimeoutError) as error:
        raise RuntimeError(f"{process} did not become ready; see {spec.log.read_text()[-2000:]}") from error
    finally:
        child.terminate()
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0
    return seconds, usage.ru_utime + usage.ru_stime


def _ready(url: str) -> bool:
    try:
        return responds(url)
    except OSError:
        return False
