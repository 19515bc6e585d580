# SPDX-License-Identifier: Apache-2.0
"""A service's database as version 0.1.0 left it."""

from pathlib import Path

import psycopg

_FOLDER = Path(__file__).parents[1] / "data/schema-0.1.0"
_TABLE = "create table if not exists migrations (name text primary key, applied_at timestamptz not null default now());"


def create_schema_0_1_0(url: str, *services: str) -> None:
    """Create the tables of the core and of the services, and the names under which 0.1.0 recorded them."""
    with psycopg.connect(url) as connection:
        connection.execute(_TABLE)
        components = {"messaging": "orderflow.messaging"} | {name: f"orderflow.services.{name}" for name in services}
        for file, name in components.items():
            connection.execute((_FOLDER / f"{file}.sql").read_bytes())
            connection.execute("insert into migrations (name) values (%s)", (name,))
