# SPDX-License-Identifier: Apache-2.0
"""Builds the Go programs in ``go/``: once for each version of their sources and of Go, into the cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from local.servers.roots import cache_directory

SOURCES = Path(__file__).parent / "go"
PROGRAMS = ("idiomatic", "batched")
_INSTALL = "install Go 1.25 or newer (https://go.dev/dl) with `go` on PATH, and run this again."
_BUILD_SECONDS = 600


class GoUnavailable(Exception):
    """The programs cannot be built here; the message says why, and what to do."""


def build(report: Callable[[str], None], *, sources: Path = SOURCES, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder with the programs, built when it is not in the cache (about a minute); raises GoUnavailable.

    Several programs may call this concurrently: one builds, the others wait. The modules have the versions of go.mod
    and the hashes of go.sum.
    """
    go = shutil.which("go", path=environ.get("PATH"))
    if go is None:
        raise GoUnavailable(f"Go is not installed: {_INSTALL}")
    programs = cache_directory(environ) / "go"
    folder = programs / _key(sources, _run([go, "version"], sources, environ))
    programs.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            report("building the Go programs (once)")
            _build(go, sources, folder, environ)
    return folder


def _build(go: str, sources: Path, folder: Path, environ: Mapping[str, str]) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    packages = [f"./{program}" for program in PROGRAMS]
    command = [go, "build", "-mod=readonly", "-trimpath", "-o", f"{unfinished}/", *packages]
    _run(command, sources, {**environ, "CGO_ENABLED": "0"})
    unfinished.rename(folder)


def _run(command: list[str], sources: Path, environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=sources, env=dict(environ), capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.splitlines()[-1:]) or f"exit {done.returncode}"
        raise GoUnavailable(f"`go {command[1]}` failed ({said}): {_INSTALL}")
    return done.stdout


def _key(sources: Path, version: str) -> str:
    digest = hashlib.sha256(version.encode())
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        digest.update(f"\0{path.relative_to(sources)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
