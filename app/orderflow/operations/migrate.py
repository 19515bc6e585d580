# SPDX-License-Identifier: Apache-2.0
"""``orderflow migrate``: apply or list the pending migrations of the databases of one service or of all."""

import argparse
import sys
from collections.abc import Mapping

from orderflow.database_schema import database_schema
from orderflow.messaging.errors import MessagingError, SettingsError
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import migrate, pending
from orderflow.services import SERVICES
from orderflow.settings import Settings
from orderflow.telemetry.logging import configure

DONE, PENDING, FAILED = 0, 1, 2
PLACEHOLDER = "{service}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.epilog = (
        "With --service, ORDERFLOW_DATABASE_URL is that service's database, as for its processes. Without it, the URL"
        " names every database by a placeholder: postgresql://{service}@db.example/{service} (passwords: ~/.pgpass)."
        " Exit code: 0 done, 1 something is pending (--check), 2 wrong settings, or a database or schema failed."
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when something is pending")
    parser.add_argument(
        "--service", choices=[service.name for service in SERVICES], help="only this service's database"
    )


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Migrate, or check; the exit code. The failure of one database does not prevent the migration of the others."""
    settings = Settings.from_env(environ, frozenset({"database"}))
    configure("migrate", level=settings.log_level, stream=sys.stderr)
    url: str = settings.database_url
    if not options.service and PLACEHOLDER not in url:
        raise SettingsError(
            [f"give --service, or put {PLACEHOLDER} into ORDERFLOW_DATABASE_URL in place of each database's name"]
        )
    names = [options.service] if options.service else [service.name for service in SERVICES]
    return max(_one(name, url.replace(PLACEHOLDER, name), check=options.check) for name in names)


def _one(service: str, url: str, *, check: bool) -> int:
    """Migrate or check the database of one service, and print the result; the exit code."""
    database, components = Database(url, application_name="orderflow migrate"), database_schema(service)
    try:
        found = pending(database, components) if check else migrate(database, components)
    except MessagingError as error:
        sys.stderr.writelines(f"{service}: {problem}\n" for problem in str(error).splitlines())
        return FAILED
    finally:
        database.close()
    if not found:
        sys.stdout.write(f"{service}: up to date\n")
    sys.stdout.writelines(f"{service}: {'pending' if check else 'applied'} {migration}\n" for migration in found)
    return PENDING if check and found else DONE
