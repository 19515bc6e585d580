# SPDX-License-Identifier: Apache-2.0
import re
from hashlib import sha256
from pathlib import Path

import pytest

from orderflow.database_schema import database_schema
from orderflow.messaging.postgres.migrations import Component
from orderflow.messaging.service import Service
from orderflow.services import SERVICES


def test_a_component_reads_its_migrations_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number, name in ((2, "second"), (1, "first"), (3, "third")):
        (tmp_path / f"{number:04}_{name}.sql").write_text(f"select {number};\n")
    found = Component.read("orders", tmp_path).migrations
    assert [str(migration) for migration in found] == [
        "orders 0001 (first)",
        "orders 0002 (second)",
        "orders 0003 (third)",
    ]
    assert [migration.checksum for migration in found] == [
        sha256((tmp_path / f"{migration.number:04}_{migration.name}.sql").read_bytes()).hexdigest()
        for migration in found
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("0002_first.sql",),
        ("0001_first.sql", "0003_third.sql"),
        ("0001_first.sql", "0001_other.sql"),
        ("0001_first.sql", "2_second.sql"),
        ("0001_First.sql",),
        ("0001_first.sql", "0002_second.sql.orig"),
        ("0001_first.sql", "notes.txt"),
    ],
)
def test_a_file_that_is_not_the_next_migration_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"{re.escape(max(names))} is not 000[12]_<name>.sql"):
        Component.read("orders", tmp_path)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_service_ships_migrations_that_can_run_in_a_transaction(service: Service) -> None:
    core, own = database_schema(service.name)
    assert core.name == "messaging" and own.name == service.name
    for migration in (*core.migrations, *own.migrations):
        assert not re.search(r"\b(begin|commit|rollback|concurrently)\b", migration.sql, re.IGNORECASE)
