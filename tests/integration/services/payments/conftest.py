# SPDX-License-Identifier: Apache-2.0
"""A provider, and the tables of payments."""

from collections.abc import Iterator

import pytest

from tests.rigs.payments import Simulator
from tests.rigs.service_database import prepare_service


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with Simulator(tmp_path_factory.mktemp("provider") / "ledger.jsonl") as simulator:
        yield simulator


@pytest.fixture
def url(database: str) -> str:
    prepare_service(database, "payments")
    return database
