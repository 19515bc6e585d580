# SPDX-License-Identifier: Apache-2.0
"""Waiting until one transaction waits for another, so that the order of the two is certain."""

from local.eventually import eventually
from tests.rigs.consumer import query


def wait_for_a_lock(url: str, *, application_name: str = "") -> None:
    """Return once a transaction of this database, and of that application if one is named, waits for a lock."""
    waiting = (
        "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        f" and '{application_name}' in ('', application_name)"
    )
    who = application_name or "a transaction"
    eventually(lambda: query(url, waiting), seconds=30, what=f"{who} waits for a lock")
