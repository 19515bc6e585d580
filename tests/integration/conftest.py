# SPDX-License-Identifier: Apache-2.0
"""The database of one test, and faults between it and its clients."""

from collections.abc import Iterator

import pytest

from tests.rigs.tcp_proxy import Proxy


@pytest.fixture
def url(database: str) -> str:
    """The database of the test. Folders and modules override this to create the tables that they need."""
    return database


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    """The way to that database, which a test can disturb or cut."""
    with Proxy(url) as proxy:
        yield proxy
