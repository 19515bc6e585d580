# SPDX-License-Identifier: Apache-2.0
"""Which orderflow this is."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """The installed version of orderflow; ``source`` when it runs from a checkout."""
    try:
        return installed("orderflow")
    except PackageNotFoundError:
        return "source"
