# SPDX-License-Identifier: Apache-2.0
"""Brings a database to the numbered migrations of its components, each applied once and recorded.

A component is a folder of files ``0001_<name>.sql``, ``0002_<name>.sql`` and so on. The table ``orderflow_migrations``
holds what was applied, with the SHA-256 of each file: a file that was applied is never edited again, and every change
is a new file. A migration must keep serving the version before it, whose processes still run while it is applied: it
may add a table, or a column that has a default or may be null; it removes what no released version reads any more.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from orderflow.messaging.errors import BadData, InfrastructureError, SchemaMismatch
from orderflow.messaging.postgres.database import Database, SqlTransaction

log = logging.getLogger(__name__)

LOCK_TIMEOUT = "5s"
"""How long a migration may wait for a table's lock: every other transaction on that table waits behind it."""
_ADVISORY_LOCK = 7201955
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """
create table if not exists orderflow_migrations (
    component  text        not null,
    number     integer     not null,
    name       text        not null,
    checksum   text        not null,
    applied_at timestamptz not null default now(),
    primary key (component, number)
)
"""
_EXISTING = """
select to_regclass('orderflow_migrations') is not null,
       exists (select from pg_attribute where attrelid = to_regclass('migrations') and attname = 'applied_at')
"""
# Version 0.1.0 recorded one name for each component in a table `migrations`. Its rows stay: it reads them at its start.
_OF_0_1_0 = (
    "select regexp_replace(name, '^orderflow[.](services[.])?', '') from migrations where name ~ '^orderflow[.]'"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of a component's migrations."""

    component: str
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file, in hexadecimal digits."""
        return sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.component} {self.number:04} ({self.name})"


@dataclass(frozen=True, slots=True)
class Component:
    """The migrations of one part of a database's schema, numbered from 1 without a gap."""

    name: str
    migrations: Sequence[Migration]

    @classmethod
    def read(cls, name: str, folder: Traversable) -> "Component":
        """The migrations in a folder; raises ValueError when a file is named or numbered wrongly."""
        found: list[Migration] = []
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            match = _FILE.fullmatch(file.name)
            if match is None or int(match[1]) != len(found) + 1:
                raise ValueError(f"{file} is not {len(found) + 1:04}_<name>.sql, the next migration of {name}")
            sql = file.read_bytes().decode()
            found.append(Migration(name, int(match[1]), match[2], sql))
        return cls(name, found)


Record = tuple[str, str | None]
"""Name and checksum of an applied migration; the checksum is None when version 0.1.0 applied it."""


def messaging_schema() -> Component:
    """The tables of the messaging core, which every service's database has."""
    return Component.read("messaging", files("orderflow.messaging.postgres").joinpath("schema"))


def migrate(database: Database, components: Sequence[Component]) -> list[Migration]:
    """Apply what is pending, each migration in a transaction of its own; the migrations applied now.

    Safe to run from many processes at once: an advisory lock admits one at a time. A migration that fails leaves
    nothing, and its error names it. Raises SchemaMismatch when the database is newer than the code or has other
    migrations.
    """
    with database.transaction() as transaction:
        recorded = _recorded(transaction, components)
    applied: list[Migration] = []
    if _pending(recorded, components) or any(checksum is None for _, checksum in recorded.values()):
        while (migration := _apply_next(database, components)) is not None:
            log.info("migration.applied", extra={"component": migration.component, "number": migration.number})
            applied.append(migration)
    return applied


def pending(database: Database, components: Sequence[Component], *, accept_newer: bool = False) -> list[Migration]:
    """The migrations that the database lacks; only reads.

    Raises SchemaMismatch when the database has other migrations, or is newer and ``accept_newer`` is not set.
    """
    with database.transaction() as transaction:
        return _pending(_recorded(transaction, components), components, accept_newer=accept_newer)


def require_current(database: Database, components: Sequence[Component], *, accept_newer: bool = False) -> None:
    """Raise SchemaMismatch unless the database has every migration of the code; only reads."""
    first: dict[str, int] = {}
    for migration in pending(database, components, accept_newer=accept_newer):
        first.setdefault(migration.component, migration.number)
    if first:
        newest = {component.name: len(component.migrations) for component in components}
        raise SchemaMismatch(
            [
                f"the database has {name} up to {number - 1:04}, this version needs {newest[name]:04}:"
                " run `orderflow migrate`"
                for name, number in first.items()
            ]
        )


def _apply_next(database: Database, components: Sequence[Component]) -> Migration | None:
    """Record what version 0.1.0 applied, and apply the first pending migration; None when there is none."""
    migration: Migration | None = None
    try:
        with database.transaction() as transaction:
            transaction.execute(f"select pg_advisory_xact_lock({_ADVISORY_LOCK})")
            transaction.execute(_TABLE)
            recorded = _recorded(transaction, components)
            for found in _known(components):
                if recorded.get((found.component, found.number), ("", ""))[1] is None:
                    _record(transaction, found)
            migration = next(iter(_pending(recorded, components)), None)
            if migration is not None:
                transaction.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                transaction.execute("set local statement_timeout = 0")
                transaction.run_script(migration.sql)
                _record(transaction, migration)
    except (InfrastructureError, BadData) as error:
        raise error if migration is None else type(error)(f"migration {migration}: {error}") from error
    return migration


def _recorded(transaction: SqlTransaction, components: Sequence[Component]) -> dict[tuple[str, int], Record]:
    """What the database records of these components."""
    ((ours, of_0_1_0),) = transaction.execute(_EXISTING)
    recorded: dict[tuple[str, int], Record] = {}
    if of_0_1_0:
        recorded = {(component, 1): ("", None) for (component,) in transaction.execute(_OF_0_1_0)}
    if ours:
        rows = transaction.execute("select component, number, name, checksum from orderflow_migrations")
        recorded |= {(component, number): (name, checksum) for component, number, name, checksum in rows}
    names = {component.name for component in components}
    return {key: record for key, record in recorded.items() if key[0] in names}


def _record(transaction: SqlTransaction, migration: Migration) -> None:
    transaction.execute(
        "insert into orderflow_migrations (component, number, name, checksum)"
        " values (%(component)s, %(number)s, %(name)s, %(checksum)s)",
        {
            "component": migration.component,
            "number": migration.number,
            "name": migration.name,
            "checksum": migration.checksum,
        },
    )


def _known(components: Sequence[Component]) -> Iterator[Migration]:
    return (migration for component in components for migration in component.migrations)


def _pending(
    recorded: Mapping[tuple[str, int], Record], components: Sequence[Component], *, accept_newer: bool = False
) -> list[Migration]:
    """The migrations that are not recorded; raises SchemaMismatch when what is recorded is not the code's."""
    problems = [problem for component in components for problem in _newer(recorded, component) if not accept_newer]
    for migration in _known(components):
        checksum = recorded.get((migration.component, migration.number), ("", None))[1]
        if checksum is not None and checksum != migration.checksum:
            problems.append(
                f"migration {migration} was applied with checksum {checksum[:12]},"
                f" this version's file has {migration.checksum[:12]}"
            )
    if problems:
        raise SchemaMismatch(problems)
    return [migration for migration in _known(components) if (migration.component, migration.number) not in recorded]


def _newer(recorded: Mapping[tuple[str, int], Record], component: Component) -> Iterator[str]:
    """That the database has migrations of a component which the code does not know, if so."""
    found, newest = (
        max((number for name, number in recorded if name == component.name), default=0),
        len(component.migrations),
    )
    if found > newest:
        title, _ = recorded[component.name, found]
        yield f"the database has {component.name} up to {found:04} ({title}), this version knows up to {newest:04}"
