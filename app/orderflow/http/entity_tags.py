# SPDX-License-Identifier: Apache-2.0
"""Entity tags (RFC 9110, section 8.8.3) of resources whose versions are numbers."""

import re

TAGS_PATTERN = r'^(\*|(W/)?"[!#-~]*"( ?, ?(W/)?"[!#-~]*")*)$'
"""A value of If-Match."""
_TAG = re.compile(r'(W/)?"([!#-~]*)"')


def entity_tag(version: int) -> str:
    """The strong tag of a version."""
    return f'"{version}"'


def versions(if_match: str) -> frozenset[int]:
    """The versions that a value of If-Match other than ``*`` names; weak tags and those of others name none."""
    return frozenset(int(tag) for weak, tag in _TAG.findall(if_match) if not weak and re.fullmatch("[0-9]{1,18}", tag))
