# SPDX-License-Identifier: Apache-2.0
"""Finds settings of a server with which it may lose commits that it has confirmed.

Everything rests on the commit: a message is acknowledged, and an order is accepted, because it is in the database.
https://www.postgresql.org/docs/current/runtime-config-wal.html#RUNTIME-CONFIG-WAL-SETTINGS
"""

from orderflow.messaging.errors import SettingsError
from orderflow.messaging.postgres.database import SqlTransaction

_SETTINGS = """
select name, setting from pg_settings where name in ('fsync', 'synchronous_commit') and setting = 'off' order by name
"""


class LosesCommits(SettingsError):
    """The server may lose what it has committed; ``problems`` names the settings."""


def require_durable(transaction: SqlTransaction) -> None:
    """Raise LosesCommits when ``fsync`` or ``synchronous_commit`` is off for this session."""
    found = [f"{name}={value}" for name, value in transaction.execute(_SETTINGS)]
    if found:
        raise LosesCommits(
            [
                f"the database has {setting}: it may lose accepted orders and handled messages when it crashes; switch"
                " it on, or set ORDERFLOW_ACCEPT_DATA_LOSS=on"
                for setting in found
            ]
        )
