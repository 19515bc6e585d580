# SPDX-License-Identifier: Apache-2.0
"""Runs the commands for failed work."""

import argparse
import json
from io import StringIO
from typing import Any

from rich.console import Console

from orderflow.operations.failed_work.command import FailedWork
from orderflow.settings import Settings


def run(work: FailedWork, url: str, *words: str) -> int:
    """The exit code of a command."""
    return _run(work, url, words)[0]


def listed(work: FailedWork, url: str, *words: str) -> list[dict[str, Any]]:
    """The rows that ``list`` prints with these options."""
    code, printed = _run(work, url, ("list", "--json", *words))
    assert code == 0
    found: list[dict[str, Any]] = json.loads(printed)["found"]
    return found


def _run(work: FailedWork, url: str, words: tuple[str, ...]) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    work.arguments(parser)
    printed = StringIO()
    code = work.run(parser.parse_args(words), Settings(database_url=url), Console(file=printed, width=200))
    return code, printed.getvalue()
