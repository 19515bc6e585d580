# SPDX-License-Identifier: Apache-2.0
"""Applies the numbered migrations of a database's components, each once, and records them.

A component is a folder of files ``0001_<name>.sql``, ``0002_<name>.sql`` and so on. The table ``orderflow_migrations``
holds what was applied, with the SHA-256 of each file: a file that was applied is never edited again, and every change
is a new file. A migration must stay compatible with the previous version, whose processes still run while it is
applied: it may add a table, or a column that has a default or may be null. It may remove only what no released version
still reads.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
# Version 0.1.0 recorded one name for each component in a table `migrations`. Its rows stay, because 0.1.0 reads them
# when it starts.
_RECORDED_BY_0_1_0 = """
select regexp_replace(name, '^orderflow[.](services[.])?', ''), applied_at from migrations where name ~ '^orderflow[.]'
"""


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
        """The migrations in a folder; raises ValueError when a file has a wrong name or number."""
        found: list[Migration] = []
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            match = _FILE.fullmatch(file.name)
            if match is None or int(match[1]) != len(found) + 1:
                raise ValueError(f"{file} is not {len(found) + 1:04}_<name>.sql, the next migration of {name}")
            sql = file.read_bytes().decode()
            found.append(Migration(name, int(match[1]), match[2], sql))
        return cls(name, found)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a database records of a migration; version 0.1.0 recorded neither name nor checksum."""

    name: str
    checksum: str | None
    at: datetime


Recorded = Mapping[tuple[str, int], Applied]
"""By component and number."""


def messaging_schema() -> Component:
    """The tables of the messaging core, which every service's database has."""
    return Component.read("messaging", files("orderflow.messaging.postgres").joinpath("schema"))


def migrate(database: Database, components: Sequence[Component]) -> list[Migration]:
    """Apply what is pending, each migration in a transaction of its own; the migrations applied now.

    Many processes may run this concurrently: an advisory lock lets one at a time apply migrations. A migration that
    fails is rolled back, and its error names it. Raises SchemaMismatch when the database is newer than the code or has
    other migrations.
    """
    with database.transaction() as transaction:
        recorded = _recorded(transaction, components)
    applied: list[Migration] = []
    if _pending(recorded, components) or any(found.checksum is None for found in recorded.values()):
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
        with database.transaction(limited=False) as transaction:
            transaction.execute(f"select pg_advisory_xact_lock({_ADVISORY_LOCK})")
            transaction.execute(_TABLE)
            recorded = _recorded(transaction, components)
            for known in _known(components):
                found = recorded.get((known.component, known.number))
                if found is not None and found.checksum is None:
                    _record(transaction, known, at=found.at)
            migration = next(iter(_pending(recorded, components)), None)
            if migration is not None:
                transaction.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                transaction.execute("set local statement_timeout = 0")
                transaction.run_script(migration.sql)
                _record(transaction, migration)
    except (InfrastructureError, BadData) as error:
        raise error if migration is None else type(error)(f"migration {migration}: {error}") from error
    return migration


def _recorded(transaction: SqlTransaction, components: Sequence[Component]) -> Recorded:
    """What the database records of these components."""
    ((ours, has_0_1_0),) = transaction.execute(_EXISTING)
    recorded: dict[tuple[str, int], Applied] = {}
    if has_0_1_0:
        recorded = {(component, 1): Applied("", None, at) for component, at in transaction.execute(_RECORDED_BY_0_1_0)}
    if ours:
        rows = transaction.execute("select component, number, name, checksum, applied_at from orderflow_migrations")
        recorded |= {(component, number): Applied(*applied) for component, number, *applied in rows}
    names = {component.name for component in components}
    return {key: applied for key, applied in recorded.items() if key[0] in names}


def _record(transaction: SqlTransaction, migration: Migration, *, at: datetime | None = None) -> None:
    transaction.execute(
        "insert into orderflow_migrations (component, number, name, checksum, applied_at)"
        " values (%(component)s, %(number)s, %(name)s, %(checksum)s, coalesce(%(at)s::timestamptz, now()))",
        {
            "component": migration.component,
            "number": migration.number,
            "name": migration.name,
            "checksum": migration.checksum,
            "at": at,
        },
    )


def _known(components: Sequence[Component]) -> Iterator[Migration]:
    return (migration for component in components for migration in component.migrations)


def _pending(recorded: Recorded, components: Sequence[Component], *, accept_newer: bool = False) -> list[Migration]:
    """The migrations that are not recorded; raises SchemaMismatch when what is recorded is not the code's."""
    problems = [] if accept_newer else [line for component in components for line in _newer(recorded, component)]
    missing = []
    for migration in _known(components):
        found = recorded.get((migration.component, migration.number))
        if found is None:
            missing.append(migration)
        elif found.checksum not in {None, migration.checksum}:
            problems.append(
                f"migration {migration} was applied with checksum {found.checksum:.12},"
                f" this version's file has {migration.checksum:.12}"
            )
    if problems:
        raise SchemaMismatch(problems)
    return missing


def _newer(recorded: Recorded, component: Component) -> Iterator[str]:
    """A sentence when the database has migrations of this component that the code does not know."""
    known = len(component.migrations)
    found = max((number for name, number in recorded if name == component.name), default=0)
    if found > known:
        title = recorded[component.name, found].name
        yield f"the database has {component.name} up to {found:04} ({title}), this version has up to {known:04}"
