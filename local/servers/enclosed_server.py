# SPDX-License-Identifier: Apache-2.0
"""What every server of a root folder has in common: start, stop, kill, restart, and where its data is."""

import abc
import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from local.http_json import http
from local.servers.enclosure import ENVIRONMENT, enclosed, inner_pid, own
from local.servers.ports import Ports
from local.servers.roots import user_of
from local.supervisor.supervisor import ProcessSpec, Supervisor


class NotOurServer(Exception):
    """The server was given by URL: it is used, but never started, stopped or killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """Where a server runs: root folder of its programs, folder for its data and log, supervisor, ports."""

    root: Path
    directory: Path
    supervisor: Supervisor
    ports: Ports


class EnclosedServer(abc.ABC):
    """One server from a root folder. It keeps its data, password and ports after ``stop`` and ``kill``.

    Its own folder, in the folder of the context, is mounted as /data.
    """

    name: ClassVar[str]
    account: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, context: ServerContext) -> None:
        self.root = context.root
        self.directory = context.directory / self.name
        self.log = context.directory / f"{self.name}.log"
        self.port = context.ports.take()
        self._supervisor = context.supervisor
        self._user = user_of(context.root, self.account)
        self._prepared = False

    def prepare(self) -> ProcessSpec:
        """Write the files that the server reads when it starts; returns how to start it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_files()
        own(self.directory, self._user)
        self._prepared = True
        return ProcessSpec(
            name=self.name,
            argv=enclosed(self._command(), root=self.root, data=self.directory, user=self._user),
            env={**ENVIRONMENT, **self._environment()},
            log=self.log,
            ready=self.is_ready,
            ready_seconds=120,
            stop_signal=self.stop_signal,
            grace_seconds=30,
        )

    def start(self) -> None:
        """Start it, or start it again with its data and ports; returns when it is ready."""
        if self._prepared:
            self._supervisor.resume(self.name)
        else:
            self._supervisor.start(self.prepare())

    def stop(self) -> None:
        """Shut it down; it stays down until ``start``."""
        self._supervisor.stop(self.name)

    def kill(self) -> None:
        """SIGKILL all its processes; it stays down until ``start``."""
        self._supervisor.kill(self.name, hold=True)

    def restart(self) -> None:
        """Shut it down, then start it again."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """The host's pid of the server itself."""
        return inner_pid(self._supervisor.pid(self.name))

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves requests now; an OSError means no."""

    def _write_files(self) -> None:  # noqa: B027 - most servers need none
        """Write configuration into the directory; by default none."""

    @abc.abstractmethod
    def _command(self) -> Sequence[str]:
        """The program and its arguments, as seen inside the root folder."""

    def _environment(self) -> Mapping[str, str]:
        return {}


def kept_password(directory: Path) -> str:
    """A random password that is stored in the directory, readable only by its owner; the same at every call."""
    file = directory / "password"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))
    return file.read_text()


def responds(url: str, *, headers: Mapping[str, str] | None = None) -> bool:
    """Whether a GET of a loopback URL gets status 200 within two seconds."""
    try:
        return http("GET", url, headers=headers, timeout_seconds=2).status_code == 200
    except OSError:
        return False
