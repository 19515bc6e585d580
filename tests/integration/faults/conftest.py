# SPDX-License-Identifier: Apache-2.0
"""Separate servers, because these tests kill them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.servers.stack import Stack
from tests.integration.faults.trial import Trial, trial


def own_environment() -> dict[str, str]:
    """The environment without servers that are given by URL."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORDERFLOW_")}
    if cache := os.environ.get("ORDERFLOW_CACHE"):
        environ["ORDERFLOW_CACHE"] = cache
    return environ


@pytest.fixture(scope="session")
def breakable() -> Iterator[Stack]:
    """A stack that no other test uses; never one that was given by URL."""
    with Stack.start(suite=os.environ.get("SERVERS", "trixie"), environ=own_environment()) as stack:
        yield stack


@pytest.fixture
def shop(breakable: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A complete system for one test."""
    with trial(breakable, tmp_path, seed=20_000 + len(request.node.name)) as started:
        yield started
