# SPDX-License-Identifier: Apache-2.0
"""A standby of a PostgreSQL server, and the failover to it."""

from collections.abc import Sequence

import psycopg

from local.eventually import eventually
from local.servers.enclosed_server import ServerContext
from local.servers.ports import Ports
from local.servers.postgresql import PostgreSQL
from tests.rigs.consumer import one, query

_COPY_THEN_RUN = """
set -e
bin=$1 port=$2 password=$3
shift 3
if ! [ -d /data/pgdata ]; then
  rm -rf /data/unfinished
  PGPASSWORD=$password "$bin/pg_basebackup" -D /data/unfinished -h 127.0.0.1 -p "$port" -U postgres -R -c fast
  chmod 700 /data/unfinished
  mv /data/unfinished /data/pgdata
fi
exec "$bin/postgres" -D /data/pgdata "$@"
"""


class Standby(PostgreSQL):
    """A physical standby in the folder and under the supervisor of its primary's stack; it has the same logins."""

    name = "standby"

    def __init__(self, primary: PostgreSQL, ports: Ports) -> None:
        supervisor, directory = primary._supervisor, primary.directory.parent
        super().__init__(ServerContext(root=primary.root, directory=directory, supervisor=supervisor, ports=ports))
        self._password = primary._password
        self._primary = primary

    def _command(self) -> Sequence[str]:
        _, _, _, _, binaries, *options = super()._command()
        return ["sh", "-c", _COPY_THEN_RUN, "standby", binaries, str(self._primary.port), self._password, *options]


def fail_over(primary: PostgreSQL, standby: Standby) -> None:
    """Make the primary read-only, for its open sessions too, and promote the standby once it has everything."""
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        connection.execute("alter system set default_transaction_read_only = on")
        connection.execute("select pg_reload_conf()")
    eventually(
        lambda: one(primary.url(), "show default_transaction_read_only") == "on", what="the primary is read-only"
    )
    ((fenced_at,),) = query(primary.url(), "select clock_timestamp()")
    older = f"select 1 from pg_stat_activity where backend_type = 'client backend' and xact_start < '{fenced_at}'"
    eventually(lambda: not query(primary.url(), older), seconds=60, what="the transactions before that have ended")
    written = one(primary.url(), "select pg_current_wal_flush_lsn()")
    behind = f"select pg_last_wal_replay_lsn() >= '{written}'"
    eventually(lambda: one(standby.url(), behind), seconds=60, what="the standby has everything")
    assert one(standby.url(), "select pg_promote()")
