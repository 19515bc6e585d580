# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, and what then happens to the message.

::

    MessagingError
    ├── InfrastructureError     the message is not the cause: it stays, the consumer pauses and tries again
    │   ├── BrokerUnavailable       no connection, or it was lost
    │   ├── DatabaseUnavailable     no connection, or it was lost, or the server is shutting down
    │   │   └── CommitInDoubt           the commit had begun: it is unknown whether it was done
    │   ├── TransactionAborted      deadlock or serialization failure: the same work can be repeated immediately
    │   └── GivenUp                 the process ends without finishing
    ├── MalformedMessage        the message cannot be read: it is dead-lettered
    ├── BadData                 the database refused a value: the message is dead-lettered
    └── SettingsError           the program cannot run with these settings: exit code 2
        └── SchemaMismatch          the database has other migrations than this version
"""


class MessagingError(Exception):
    """The base of these errors."""


class InfrastructureError(MessagingError):
    """Broker or database failed, not the message: keep it and try again later."""


class BrokerUnavailable(InfrastructureError):
    """The broker cannot be reached, or the connection was lost."""


class DatabaseUnavailable(InfrastructureError):
    """The database cannot be reached, or refuses to work at the moment."""


class CommitInDoubt(DatabaseUnavailable):
    """The commit had begun when the database failed: it is unknown whether the transaction was committed."""


class TransactionAborted(InfrastructureError):
    """The database aborted this transaction in favour of another; the same work can be repeated immediately."""


class GivenUp(InfrastructureError):
    """The process ends without finishing."""


class BadData(MessagingError):
    """The database refused a value (SQLSTATE class 22 or 23, or a program limit)."""


class MalformedMessage(MessagingError):
    """A message that cannot be read; ``reason`` is one fixed word, usable as a label."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class SettingsError(MessagingError):
    """Settings are missing or wrong; ``problems`` lists all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SchemaMismatch(SettingsError):
    """The database is older or newer than the code, or has other migrations; ``problems`` names them."""
