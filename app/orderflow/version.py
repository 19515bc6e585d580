# SPDX-License-Identifier: Apache-2.0
"""The version of orderflow."""

import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def version() -> str:
    """The installed version; in a checkout that of its pyproject.toml, followed by ``+source``."""
    try:
        return installed("orderflow")
    except PackageNotFoundError:
        project = tomllib.loads(_PROJECT.read_text())["project"]
        return f"{project['version']}+source"
