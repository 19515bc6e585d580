# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, and what then happens to the message.

::

    MessagingError
    ├── InfrastructureError     nothing is wrong with the message: it stays, the consumer pauses and tries again
    │   ├── BrokerUnavailable       no connection, or it went away
    │   ├── DatabaseUnavailable     no connection, or it went away, or the server is shutting down
    │   ├── TransactionAborted      deadlock or serialization failure: the same work can succeed at once
    │   └── GivenUp                 the process ends and finishes nothing more
    ├── MalformedMessage        the message cannot be read: it is dead-lettered
    ├── BadData                 the database refused a value: the message is dead-lettered
    └── SettingsError           the program cannot run like this: exit code 2
        └── SchemaMismatch          the database has other migrations than this version
"""


class MessagingError(Exception):
    """Anything that orderflow itself raises."""


class InfrastructureError(MessagingError):
    """Broker or database failed, not the message: keep it and try again later."""


class BrokerUnavailable(InfrastructureError):
    """The broker cannot be reached, or the connection was lost."""


class DatabaseUnavailable(InfrastructureError):
    """The database cannot be reached, or refuses to work at the moment."""


class TransactionAborted(InfrastructureError):
    """The database aborted this transaction for another one; the same work can succeed at once."""


class GivenUp(InfrastructureError):
    """The process is to end without finishing."""


class BadData(MessagingError):
    """The database refused a value for what it is (SQLSTATE class 22 or 23)."""


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
