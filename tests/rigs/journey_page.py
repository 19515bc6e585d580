# SPDX-License-Identifier: Apache-2.0
"""What docs/journey.md says: the stations of an order, and the parts that they use."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "app/orderflow"
PAGE = (PACKAGE.parents[1] / "docs/journey.md").read_text()


def stations() -> list[tuple[str, str]]:
    """Function and file of each station, in the order of the page."""
    return re.findall(r"\[`([\w.]+)`\]\(\.\./app/orderflow/([\w/.]+)\)", PAGE)


def named_files(heading: str) -> list[str]:
    """The files that a section names without a link."""
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([\w/]+\.py)`", section)
