# SPDX-License-Identifier: Apache-2.0
"""One child process of a supervisor: its description, its start, its end and its signals."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One program to keep running.

    ``ready`` is called until it returns true (an OSError counts as false); None: ready once it was started.
    ``env`` is the whole environment; None: the caller's. ``start_after`` names processes that must be ready first.
    ``restart``: start it again, after a back-off, whenever it ends by itself.
    ``niceness`` above 0: others are preferred while the CPU is short (https://man7.org/linux/man-pages/man7/sched.7.html).
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    directory: Path | None = None
    ready: Callable[[], bool | None] | None = None
    ready_seconds: float = 60.0
    restart: bool = True
    start_after: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 20.0
    niceness: int = 0

    def says_ready(self) -> bool:
        """Call ``ready`` once."""
        try:
            return self.ready is None or bool(self.ready())
        except OSError:
            return False


def launch(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own, with its output at the end of its log file.

    It is killed when the thread that called this ends. A program that cannot be executed leaves a line in its log.
    It starts with no signal ignored, even when this process ignores SIGINT, as background processes do.
    """
    prefix = ["env", "--default-signal", shutil.which("setpriv") or "/usr/bin/setpriv", "--pdeathsig", "KILL", "--"]
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with spec.log.open("ab") as log:
        child = subprocess.Popen(
            ["nice", "-n", str(spec.niceness), *prefix, *spec.argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=spec.env,
            cwd=spec.directory,
            start_new_session=True,
        )
    if spec.niceness:
        _yield_to_other_sessions(child.pid, spec.niceness)
    return child


def _yield_to_other_sessions(pid: int, niceness: int) -> None:
    """Where the kernel shares the CPU among sessions, niceness counts only within one: lower that of the session."""
    with suppress(OSError):  # the kernel has no such groups, or this user may change one only ten times a second
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether the leader of the group has ended; it stays a zombie, so that its pid is not reused."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_group(child: "subprocess.Popen[bytes]") -> int:
    """Kill the rest of the group of an ended child; its exit code, negative for a signal."""
    signal_group(child, signal.SIGKILL)
    return child.wait()


def signal_group(child: "subprocess.Popen[bytes]", signum: int) -> None:
    """Send a signal to the whole group, if it still exists."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signum)


def last_lines(log: Path, count: int = 20) -> str:
    """The end of a log file, for an error message."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    return "(no log)"
