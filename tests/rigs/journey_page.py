# SPDX-License-Identifier: Apache-2.0
"""The content of docs/journey.md: the linked functions of an order, and the other files that run."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "app/orderflow"
PAGE = (PACKAGE.parents[1] / "docs/journey.md").read_text()


def linked_functions() -> list[tuple[str, str]]:
    """Name and file of each linked function, in the order of the page."""
    return re.findall(r"\[`([\w.]+)`\]\(\.\./app/orderflow/([\w/.]+)\)", PAGE)


def named_files(heading: str) -> list[str]:
    """The files that a section names without a link."""
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([\w/]+\.py)`", section)
