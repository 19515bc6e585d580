# SPDX-License-Identifier: Apache-2.0
"""Each test of the contract runs on both brokers."""

from collections.abc import Iterator

import pytest

from local.servers.stack import Stack
from tests.contract.grounds import Ground, MemoryGround, RabbitGround, rabbit_ground


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.integration)])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A fresh place with the queues of the contract."""
    if request.param == "memory":
        yield MemoryGround()
    else:
        yield request.getfixturevalue("rabbit")


@pytest.fixture
def rabbit(stack: Stack, vhost: str) -> Iterator[RabbitGround]:
    """The real broker, for what only a real one does."""
    with rabbit_ground(stack, vhost) as ground:
        yield ground
