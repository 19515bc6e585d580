# SPDX-License-Identifier: Apache-2.0
"""Makes a broker match a definitions document, and compares the two."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from orderflow.messaging.clock import Clock, SystemClock
from orderflow.operations.management_api import Management
from orderflow.operations.topology import prune as deletions
from orderflow.operations.topology.diff import Difference, compare
from orderflow.rabbitmq_definitions import Definitions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The differences that ``apply`` removed, and those that are left."""

    done: Sequence[Difference]
    left: Sequence[Difference]

    @property
    def complete(self) -> bool:
        """True when the broker has everything that it should have; it may have more."""
        return all(difference.verdict == "extra" for difference in self.left)


def diff(management: Management, wanted: Definitions) -> list[Difference]:
    """Where the broker differs from the document; raises BrokerUnavailable or ManagementRefused."""
    return compare(wanted, exported(management))


def apply(management: Management, wanted: Definitions, *, prune: bool = False, clock: Clock | None = None) -> Applied:
    """Make the broker match the document; applying it again changes nothing.

    Creates and changes objects. Deletes objects only with ``prune``, and then loses no message (see ``prune``). Users
    without a password in the document stay unchanged. Raises BrokerUnavailable or ManagementRefused.
    """
    actual = exported(management)
    before = compare(wanted, actual)
    if any(difference.importable for difference in before):
        management.post("definitions", body=msgspec.json.encode(_importable(wanted, actual, before)))
    if prune:
        extra = [difference for difference in before if difference.verdict == "extra"]
        deletions.prune(management, wanted.vhosts[0].name, extra, clock or SystemClock())
    left = diff(management, wanted)
    done = [difference for difference in before if difference not in left]
    for difference in done:
        log.info("topology.applied", extra={"change": str(difference)})
    return Applied(done=done, left=left)


def exported(management: Management) -> Definitions:
    """The definitions of the broker, of all its vhosts; raises BrokerUnavailable or ManagementRefused."""
    return msgspec.json.decode(management.get("definitions"), type=Definitions)


def _importable(wanted: Definitions, actual: Definitions, differences: Sequence[Difference]) -> Definitions:
    """The document without unchanged users, and without permissions of absent users, which the broker would refuse."""
    touched = {found.key[0] for found in differences if found.kind == "user"}
    users = [user for user in wanted.users if user.password and user.name in touched]
    present = {user.name for user in (*actual.users, *users)}
    return msgspec.structs.replace(
        wanted,
        users=users,
        permissions=[entry for entry in wanted.permissions if entry.user in present],
        topic_permissions=[entry for entry in wanted.topic_permissions if entry.user in present],
    )
