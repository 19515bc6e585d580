# SPDX-License-Identifier: Apache-2.0
"""Which versions an If-Match header names."""

import re

import pytest

from orderflow.http.entity_tags import TAGS_PATTERN, entity_tag, versions


def test_the_tag_of_a_version_names_it() -> None:
    assert versions(entity_tag(7)) == {7}


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ('"1"', {1}),
        ('"1", "23"', {1, 23}),
        ('"1","x" ,W/"3"', {1}),
        ('W/"1"', set()),
        ('""', set()),
        ('"-1"', set()),
        ('"' + "9" * 400 + '"', set()),
    ],
)
def test_strong_tags_name_versions(header: str, named: set[int]) -> None:
    assert re.match(TAGS_PATTERN, header)
    assert versions(header) == named


@pytest.mark.parametrize("header", ["1", '"1', '"1" "2"', "*, *", '*"1"', 'w/"1"', ""])
def test_what_is_no_list_of_tags_does_not_match(header: str) -> None:
    assert not re.match(TAGS_PATTERN, header)
