# SPDX-License-Identifier: Apache-2.0
"""Servers, and fresh vhosts and databases on them, for the tests that need real ones."""

import gc
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import requests
from hypothesis import settings

from local.servers.stack import Stack

ROOT = Path(__file__).parents[1]
# For the programs that tests start; pytest itself uses pythonpath of pyproject.toml.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "app"), str(ROOT)])

# Collected tests live until the end. Scanning them in every collection takes a tenth of the time of the fast tests.
gc.set_threshold(50_000, 20, 20)

# No deadline, because the machine may be busy. Thirty examples keep the unit suite short; each run tries other ones.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.load_profile("quick")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restore logging: a command under test configures it, and the next test must not write to its stream."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if [type(handler) for handler in root.handlers] != [type(handler) for handler in handlers]:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """RabbitMQ and PostgreSQL of the suite in SERVERS, or those given by URL; one pair for each worker."""
    with Stack.start(suite=os.environ.get("SERVERS", "trixie")) as servers:
        yield servers


@pytest.fixture(scope="session")
def amqp_url(stack: Stack) -> str:
    """The administrator's URL of the broker's vhost ``/``."""
    return stack.rabbitmq.amqp_url


@pytest.fixture(scope="session")
def management_url(stack: Stack) -> str:
    """The broker's management API, with the administrator's credentials."""
    return stack.rabbitmq.management_url


@pytest.fixture(scope="session")
def database_url(stack: Stack) -> str:
    """The administrator's URL of the PostgreSQL server."""
    return stack.postgresql.url()


def management(url: str, method: str, path: str, body: bytes = b"") -> bytes:
    """One call of the management API; raises HTTPError when it is refused."""
    headers = {"Content-Type": "application/json"}
    response = requests.request(method, f"{url}/api/{path}", data=body or None, headers=headers, timeout=10)
    response.raise_for_status()
    return response.content


@pytest.fixture
def vhost(amqp_url: str, management_url: str) -> Iterator[str]:
    """The admin's URL of a fresh vhost."""
    name = f"test-{secrets.token_hex(6)}"
    management(management_url, "PUT", f"vhosts/{name}")
    user = urlsplit(amqp_url).username
    management(management_url, "PUT", f"permissions/{name}/{user}", b'{"configure":".*","write":".*","read":".*"}')
    yield urlunsplit(urlsplit(amqp_url)._replace(path=f"/{name}"))
    management(management_url, "DELETE", f"vhosts/{name}")


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    """The admin's URL of a fresh, empty database."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
    yield urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)'.encode())
