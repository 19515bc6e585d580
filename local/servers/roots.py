# SPDX-License-Identifier: Apache-2.0
"""Root folders with the servers' Debian packages, one for each suite, built once and then read-only."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RECIPE = 1
"""Increase this when the build changes, so that old roots are not used."""
PACKAGES = ("rabbitmq-server", "postgresql", "prometheus", "prometheus-alertmanager")

# The Release file of a testing suite can be out of date in a mirror; its signature is still checked.
SUITES: Mapping[str, tuple[str, ...]] = {
    "trixie": (),
    "forky": ('--aptopt=Acquire::Check-Valid-Until "false"',),
}

_SLIM = tuple(
    f"--dpkgopt={option}"
    for option in (
        "path-exclude=/usr/share/man/*",
        "path-exclude=/usr/share/locale/*",
        "path-exclude=/usr/share/doc/*",
        "path-include=/usr/share/doc/*/copyright",
    )
)
_CLUSTER_CONFIG = "etc/postgresql-common/createcluster.conf"
_HOOKS = (
    # Without this, PostgreSQL's package creates an unused database cluster in the root.
    f'--essential-hook=mkdir -p "$1/etc/postgresql-common" && echo create_main_cluster=false > "$1/{_CLUSTER_CONFIG}"',
    '--customize-hook=mkdir "$1/data" && printf "127.0.0.1 localhost\\n" > "$1/etc/hosts"',
)
_ENCLOSED = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child")
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
_OWN_SERVERS = "set ORDERFLOW_AMQP_URL, ORDERFLOW_MANAGEMENT_URL and ORDERFLOW_DATABASE_URL to your own servers."


class ServersUnavailable(Exception):
    """This machine cannot run the servers; the message says what to do."""


@dataclass(frozen=True, slots=True)
class User:
    """An unprivileged account of a package, with the ids that it has inside the root folder."""

    name: str
    uid: int
    gid: int


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for everything that can be rebuilt: ``ORDERFLOW_CACHE``, else a folder in the user's cache."""
    if given := environ.get("ORDERFLOW_CACHE"):
        return Path(given)
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orderflow"


def ensure_root(suite: str, progress: Callable[[str], None], *, environ: Mapping[str, str] = os.environ) -> Path:
    """The root folder of one suite, built when it is not in the cache (about a minute, 0.9 GB).

    Several programs may call this concurrently: one builds, the others wait. Raises ServersUnavailable.
    """
    if suite not in SUITES:
        raise ServersUnavailable(f"Unknown suite {suite!r}; there are {', '.join(SUITES)}.")
    roots = cache_directory(environ) / "roots"
    root = roots / f"{suite}-{_key(suite)}"
    _check_host(building=not root.is_dir())
    if root.is_dir():
        return root
    roots.mkdir(parents=True, exist_ok=True)
    with _locked(root.with_suffix(".lock")):
        if not root.is_dir():
            progress(f"making the {suite} root folder (once; about a minute)")
            _build(suite, root, progress)
    return root


def user_of(root: Path, name: str) -> User:
    """The account ``name`` of the root folder; raises KeyError when it has none."""
    for line in (root / "etc/passwd").read_text().splitlines():
        user, _, uid, gid, *_ = line.split(":")
        if user == name:
            return User(name, int(uid), int(gid))
    raise KeyError(name)


def _key(suite: str) -> str:
    recipe = repr((RECIPE, PACKAGES, SUITES[suite], _SLIM, _HOOKS))
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def _check_host(*, building: bool) -> None:
    if os.geteuid() != 0 or (building and shutil.which("mmdebstrap") is None):
        raise ServersUnavailable(
            "Starting the servers needs root and mmdebstrap (Debian or Ubuntu: run `make setup` as root);"
            f" or {_OWN_SERVERS}"
        )
    if subprocess.run((*_ENCLOSED, "true"), capture_output=True, check=False).returncode:
        raise ServersUnavailable(
            "This root user may not create namespaces, as in a container without `--privileged`: add that option;"
            f" or {_OWN_SERVERS}"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(suite: str, root: Path, progress: Callable[[str], None]) -> None:
    unfinished = root.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}"]
    command += [*_SLIM, *_HOOKS, *SUITES[suite], suite, str(unfinished)]
    # Mounts of an interrupted build end with its namespace, so that the next build's rmtree cannot reach into them.
    # The build ends with this process, so that it cannot write into the folder of the next build.
    enclosed = [*_DIES_WITH_US, *_ENCLOSED, *command]
    with subprocess.Popen(enclosed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as builder:
        try:
            lines = _follow(builder, progress)
        except BaseException:
            builder.kill()
            raise
    if builder.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        said = "\n".join(lines[-20:])
        raise ServersUnavailable(f"mmdebstrap could not make the {suite} root folder; its last lines:\n{said}")
    unfinished.chmod(0o755)
    unfinished.rename(root)


def _follow(builder: "subprocess.Popen[str]", progress: Callable[[str], None]) -> list[str]:
    assert builder.stdout is not None
    lines: list[str] = []
    for line in builder.stdout:
        lines.append(line.rstrip())
        if line.startswith("I: ") and line.endswith("...\n"):
            progress(f"  {line[3:].strip()}")
    return lines
