# SPDX-License-Identifier: Apache-2.0
"""Each test of the contract runs on both brokers."""

from collections.abc import Iterator

import pytest

from local.servers.stack import Stack
from tests.contract.broker_harness import BrokerHarness, MemoryHarness
from tests.contract.rabbit_harness import RabbitHarness, rabbit_harness


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.integration)])
def harness(request: pytest.FixtureRequest) -> Iterator[BrokerHarness]:
    """A fresh broker with the queues of the contract."""
    if request.param == "memory":
        yield MemoryHarness()
    else:
        yield request.getfixturevalue("rabbit")


@pytest.fixture
def rabbit(stack: Stack, vhost: str) -> Iterator[RabbitHarness]:
    """The real broker, for behaviour that only a real one has."""
    with rabbit_harness(stack, vhost) as harness:
        yield harness
