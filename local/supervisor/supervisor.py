# SPDX-License-Identifier: Apache-2.0
"""Starts processes in order of readiness, restarts crashed ones as Kubernetes does, and leaves none behind."""

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from local.supervisor.child import ProcessSpec, has_ended, kill_group, last_lines, launch, signal_group

__all__ = ["RestartBackoff", "ProcessFailed", "ProcessSpec", "Supervisor"]

_TICK_SECONDS = 0.02
_EXITS_BEFORE_GIVING_UP = 3
_NOT_STARTED = 127  # the exit code that shells use


class ProcessFailed(Exception):
    """A process did not become ready, or cannot be signalled; the message ends with its last log lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartBackoff:
    """The delay before a crashed process is restarted: it doubles, with jitter, and is reset after a long run."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0
    forgotten_after_seconds: float = 60.0

    def delay(self, crashes: int, chance: float) -> float:
        """Seconds before the restart after this many crashes in a row; ``chance`` in [0, 1) takes off up to half."""
        whole = min(self.most_seconds, self.first_seconds * 2.0 ** min(crashes - 1, 32))
        return whole * (1 - chance / 2)


@dataclass(slots=True)
class _Process:
    spec: ProcessSpec
    wanted: bool = False
    child: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    started: float = 0.0
    crashes: int = 0
    killed: bool = False
    exits: list[int] = field(default_factory=list)
    unrequested: list[int] = field(default_factory=list)
    ready: bool = False


class Supervisor:
    """Runs processes, each in its own group with its own log file; a context manager that stops them all.

    Methods may be called from any thread. The processes are also killed when this program is killed.
    """

    def __init__(self, *, backoff: RestartBackoff | None = None, report: Callable[[str], None] | None = None) -> None:
        self._backoff = backoff or RestartBackoff()
        self._report = report or (lambda _line: None)
        self._processes: dict[str, _Process] = {}
        self._changed = threading.Condition()
        self._closed = False
        # Processes are started from one thread that lives as long as the supervisor: Linux sends the parent-death
        # signal when the *thread* that started the child ends.
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *specs: ProcessSpec) -> None:
        """Start these in the order of ``start_after``, independent ones together; returns when all are ready.

        Raises ProcessFailed when one does not become ready in time or ends three times before.
        """
        with self._changed:
            for spec in specs:
                if (known := self._processes.get(spec.name)) and (known.wanted or known.child):
                    raise ValueError(f"{spec.name} is already running")
            self._processes.update({spec.name: _Process(spec) for spec in specs})
            for name in {after for spec in specs for after in spec.start_after} - self._processes.keys():
                raise ValueError(f"start_after names {name}, which is unknown")
        self._start([spec.name for spec in specs])

    def resume(self, *names: str) -> None:
        """Start processes again that were stopped or are held; returns when they are ready."""
        self._start(list(names))

    def wait_ready(self, *names: str) -> None:
        """Return when these processes run and are ready, for example after a crash; raises ProcessFailed."""
        waits = {name: _Wait(self._processes[name]) for name in names}
        while waits:
            for name in [name for name, wait in waits.items() if self._became_ready(name, wait)]:
                del waits[name]
            self._pause()

    def pid(self, name: str) -> int:
        """The pid, also the process group, of a running process; raises ProcessFailed when it does not run."""
        with self._changed:
            child = self._processes[name].child
            if child is None:
                raise ProcessFailed(f"{name} is not running{self._ending(name)}")
            return child.pid

    def pids(self) -> dict[str, int]:
        """The pid of every process that runs now, by name."""
        with self._changed:
            return {name: process.child.pid for name, process in self._processes.items() if process.child}

    def exits(self, name: str) -> list[int]:
        """The exit codes of this process so far, oldest first; negative for signals."""
        with self._changed:
            return list(self._processes[name].exits)

    def unrequested_exits(self) -> dict[str, list[int]]:
        """The exit codes of processes that ended without ``stop`` or ``kill`` of this supervisor, by name."""
        with self._changed:
            return {name: list(process.unrequested) for name, process in self._processes.items() if process.unrequested}

    def kill(self, name: str, signum: int = signal.SIGKILL, *, hold: bool = False) -> None:
        """Send a signal to the process group; after SIGKILL, returns when it has ended.

        With ``hold`` it stays down until ``resume``; otherwise it is restarted as after any crash.
        """
        with self._changed:
            process = self._processes[name]
            process.wanted = process.wanted and not hold
            if (child := process.child) is None:
                raise ProcessFailed(f"{name} is not running{self._ending(name)}")
            process.killed = True
            signal_group(child, signum)
            if signum == signal.SIGKILL:
                self._changed.wait_for(lambda: process.child is not child)

    def hold(self, name: str) -> None:
        """From now on the process is not restarted when it ends, until ``resume``."""
        with self._changed:
            self._processes[name].wanted = False

    def wait_gone(self, name: str) -> None:
        """Return when the process has ended; kills it after its grace period."""
        with self._changed:
            process = self._processes[name]
            self._await_end(process, time.monotonic() + process.spec.grace_seconds)

    def stop(self, name: str, *, grace_seconds: float | None = None) -> None:
        """Ask the process to end, and kill its group after the grace period; it stays down."""
        self._stop([name], grace_seconds)

    def stop_all(self) -> None:
        """Stop every process, dependents first; if this is interrupted, kill them all."""
        try:
            while names := self._undepended():
                self._stop(names, None)
        except BaseException:
            for name in self.pids():
                with suppress(ProcessFailed):
                    self.kill(name, hold=True)
            raise

    def close(self) -> None:
        """Stop every process and end the supervisor itself."""
        try:
            self.stop_all()
        finally:
            with self._changed:
                self._closed = True
            self._thread.join()

    def _start(self, names: list[str]) -> None:
        waiting, launched = dict.fromkeys(names), dict[str, _Wait]()
        while waiting or launched:
            free = [name for name in waiting if all(map(self._is_ready, self._processes[name].spec.start_after))]
            if waiting and not free and not launched:
                raise ValueError(f"these wait for each other or for a process that is down: {', '.join(waiting)}")
            for name in free:
                del waiting[name]
                launched[name] = self._want(name)
            for name in [name for name, wait in launched.items() if self._became_ready(name, wait)]:
                del launched[name]
            self._pause()

    def _want(self, name: str) -> "_Wait":
        with self._changed:
            process = self._processes[name]
            process.wanted, process.ready, process.due, process.crashes = True, False, 0.0, 0
            self._changed.notify_all()
            return _Wait(process)

    def _is_ready(self, name: str) -> bool:
        return self._processes[name].ready

    def _became_ready(self, name: str, wait: "_Wait") -> bool:
        process = self._processes[name]
        child, spec = process.child, process.spec
        if child is not None and spec.says_ready() and process.child is child:
            process.ready = True
            return True
        if time.monotonic() > wait.deadline:
            raise ProcessFailed(f"{name} was not ready after {spec.ready_seconds:g} s{self._ending(name)}")
        if len(process.exits) - wait.exits_before >= (_EXITS_BEFORE_GIVING_UP if spec.restart else 1):
            raise ProcessFailed(f"{name} ended before it was ready{self._ending(name)}")
        return False

    def _ending(self, name: str) -> str:
        process = self._processes[name]
        codes = f" (exit codes {process.exits[-5:]})" if process.exits else ""
        return f"{codes}; the end of {process.spec.log}:\n{last_lines(process.spec.log)}"

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait(_TICK_SECONDS)

    def _stop(self, names: Sequence[str], grace_seconds: float | None) -> None:
        with self._changed:
            processes = [self._processes[name] for name in names]
            for process in processes:
                process.wanted = False
                if process.child:
                    signal_group(process.child, process.spec.stop_signal)
            begun = time.monotonic()
            for process in processes:
                grace = process.spec.grace_seconds if grace_seconds is None else grace_seconds
                self._await_end(process, begun + grace)

    def _await_end(self, process: _Process, deadline: float) -> None:
        if self._changed.wait_for(lambda: process.child is None, max(0.0, deadline - time.monotonic())):
            return
        self._report_line(f"{process.spec.name} did not stop in time and is killed")
        if process.child:
            signal_group(process.child, signal.SIGKILL)
        self._changed.wait_for(lambda: process.child is None)

    def _undepended(self) -> list[str]:
        with self._changed:
            running = {name: process for name, process in self._processes.items() if process.child or process.wanted}
            needed = {after for process in running.values() for after in process.spec.start_after}
            return [name for name in running if name not in needed] or list(running)

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                for process in self._processes.values():
                    self._check_process(process)
                self._changed.wait(_TICK_SECONDS)

    def _check_process(self, process: _Process) -> None:
        if process.child and has_ended(process.child):
            process.exits.append(kill_group(process.child))
            if process.wanted and not process.killed:
                process.unrequested.append(process.exits[-1])
            process.child, process.ready = None, False
            if process.wanted:
                self._plan_restart(process)
            self._changed.notify_all()
        if process.wanted and not process.child and time.monotonic() >= process.due:
            process.started, process.killed = time.monotonic(), False
            try:
                process.child = launch(process.spec)
            except OSError as error:
                self._report_line(f"{process.spec.name} cannot be started: {error}")
                process.exits.append(_NOT_STARTED)
                self._plan_restart(process)
            self._changed.notify_all()

    def _report_line(self, line: str) -> None:
        with suppress(Exception):  # a closed terminal must not end this thread: its processes would be killed
            self._report(line)

    def _plan_restart(self, process: _Process) -> None:
        now, name = time.monotonic(), process.spec.name
        good_run = now - process.started > self._backoff.forgotten_after_seconds
        process.crashes = 1 if good_run else process.crashes + 1
        process.wanted = process.spec.restart
        if not process.wanted:
            self._report_line(f"{name} ended ({process.exits[-1]})")
            return
        delay = self._backoff.delay(process.crashes, random.random())
        process.due = now + delay
        self._report_line(f"{name} ended ({process.exits[-1]}), starting it again in {delay:.1f} s")


class _Wait:
    """The deadline of a wait for a process, and how often it had ended before."""

    def __init__(self, process: _Process) -> None:
        self.deadline = time.monotonic() + process.spec.ready_seconds
        self.exits_before = len(process.exits)
