# SPDX-License-Identifier: Apache-2.0
"""Finds settings of a server with which it may lose commits that it has confirmed.

Everything rests on the commit: a message is acknowledged, and an order is accepted, because it is in the database.
https://www.postgresql.org/docs/current/runtime-config-wal.html#RUNTIME-CONFIG-WAL-SETTINGS
"""

from collections.abc import Callable, Iterable
from typing import Any

from orderflow.messaging.errors import DatabaseUnavailable, SettingsError

_SETTINGS = """
select name, setting from pg_settings where name in ('fsync', 'synchronous_commit') and setting = 'off' order by name
"""


class LosesCommits(SettingsError, DatabaseUnavailable):
    """The server may lose what it has committed; ``problems`` names the settings.

    At the start of a process it is a wrong setting. Later, after a failover, it is a database that cannot be used: the
    process tries again, until a connection reaches another server.
    """


def require_durable(execute: Callable[[str], Iterable[tuple[Any, ...]]]) -> None:
    """Raise LosesCommits when ``fsync`` or ``synchronous_commit`` is off for the session that ``execute`` uses."""
    found = [f"{name}={value}" for name, value in execute(_SETTINGS)]
    if found:
        raise LosesCommits(
            [
                f"the database has {setting}: it may lose accepted orders and handled messages when it crashes; switch"
                " it on, or set ORDERFLOW_ACCEPT_DATA_LOSS=on"
                for setting in found
            ]
        )
