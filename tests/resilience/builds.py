# SPDX-License-Identifier: Apache-2.0
"""The builds that are compared: this checkout, and another commit of it in a folder of its own."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.servers.stack import Stack
from local.system import ROOT, System


class UnknownCommit(Exception):
    """The commit cannot be checked out."""


@dataclass(frozen=True, slots=True)
class Build:
    """A checkout whose code runs."""

    name: str
    tree: Path

    def known(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The same without the settings that this build does not have; it refuses to start with them."""
        reference = (self.tree / "docs/reference/settings.md").read_text()
        names = set(re.findall(r"^\| `(ORDERFLOW_\w+)`", reference, re.MULTILINE))
        return {name: value for name, value in environ.items() if name in names or not name.startswith("ORDERFLOW_")}


class SystemOfBuild(System):
    """A system of one build: its settings, and the topology that its own command line applies."""

    def __init__(self, stack: Stack, directory: Path, *, build: Build, **options: Any) -> None:
        super().__init__(stack, directory, tree=build.tree, **options)
        self._build = build

    def environment(self, name: str) -> dict[str, str]:
        """The whole environment of one process, as that build accepts it."""
        return self._build.known(super().environment(name))

    def apply_topology(self) -> None:
        """Create users and queues as that build needs them."""
        passwords = self.directory / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps(self.passwords))
        names = ("--vhost", self.vhost, "--user-prefix", self.prefix)
        self.run_tool("topology", "apply", *names, "--passwords", str(passwords))


OURS = Build("this", ROOT)


@contextmanager
def checked_out(commit: str) -> Iterator[Build]:
    """The commit in a temporary folder outside the checkout, removed at the end; raises UnknownCommit."""
    with tempfile.TemporaryDirectory(prefix="orderflow-base-") as folder:
        tree = Path(folder) / "tree"
        done = _git("worktree", "add", "--detach", str(tree), commit)
        if done.returncode:
            raise UnknownCommit(f"{commit} cannot be checked out: {done.stderr.strip()}")
        try:
            yield Build(commit[:12], tree)
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
