# SPDX-License-Identifier: Apache-2.0
"""A copy of the tree to which the examples of docs/extend.md are applied, section by section."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PART = re.compile(
    r"^## (?P<section>[^\n]+)$|^`(?P<path>[\w/.]+)`$|^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """One code block of the page: the whole text of a file, or a diff."""

    section: str
    path: str
    language: str
    text: str


def examples() -> Iterator[Example]:
    """Every code block of the page, in its order."""
    section = path = ""
    for part in _PART.finditer((ROOT / "docs/extend.md").read_text()):
        section, path = part["section"] or section, part["path"] or path
        if part["language"]:
            yield Example(section, path, part["language"], part["text"])


class ExtendedTree:
    """The copy, in ``folder``. Sections are applied in the order of the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            ROOT / "app", folder / "app"
        )  # with its bytecode, which stays valid because file times are kept

    def apply(self, section: str) -> dict[str, tuple[int, int]]:
        """Apply a section; returns the numbers of added and removed lines for each changed file in app/orderflow/."""
        changed: dict[str, tuple[int, int]] = {}
        for example in examples():
            if example.section == section:
                name = example.path.removeprefix("app/orderflow/")
                added, removed = changed.get(name, (0, 0))
                more, less = self._write(example)
                changed[name] = (added + more, removed + less)
        assert changed, f"docs/extend.md has no section {section!r}"
        return changed

    def run(self, *words: str, **environ: str) -> str:
        """Run this Python with the copy's packages; its output. Raises CalledProcessError when it fails."""
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.environ(**environ), stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode()

    def environ(self, **more: str) -> dict[str, str]:
        """The environment in which the copy's packages are found."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORDERFLOW_", "OTEL_"))}
        return kept | {"PYTHONPATH": str(self.folder / "app")} | more

    def _write(self, example: Example) -> tuple[int, int]:
        file = self.folder / example.path
        if example.language != "diff":
            assert not file.exists(), f"{example.path} exists already"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(example.text)
            return example.text.count("\n"), 0
        lines = example.text.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        text = file.read_text()
        # An example may end within a line, so that it need not repeat the rest of it.
        assert text.count(old.rstrip("\n")) == 1, f"{example.path} does not have exactly once:\n{old}"
        file.write_text(text.replace(old.rstrip("\n"), new.rstrip("\n")))
        return sum(line[0] == "+" for line in lines), sum(line[0] == "-" for line in lines)
