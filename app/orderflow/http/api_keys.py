# SPDX-License-Identifier: Apache-2.0
"""API keys with scopes. Only their hashes are configured; a key is shown once, when it is made.

A key is 32 random bytes, so one round of SHA-256 is enough: no dictionary contains it, and a slow hash would slow down
every request.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

SCOPES = frozenset({"orders:read", "orders:read-all", "orders:write", "stock:read", "stock:write"})
"""``orders:read-all`` extends ``orders:read`` to the orders of other clients."""


@dataclass(frozen=True, slots=True)
class Client:
    """The holder of a key, and what the key allows."""

    name: str
    scopes: frozenset[str]


ANYONE = Client("anyone", SCOPES)
"""The client of every request when keys are switched off."""


class ApiKeys:
    """The known keys, by hash. The time of a look-up reveals nothing about a key, because only hashes are compared."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = dict(clients)

    @classmethod
    def parse(cls, text: str) -> "ApiKeys":
        """Read ``name:scope+scope:sha256`` entries, separated by commas; raises ValueError naming the bad entry."""
        clients = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, rest = entry.partition(":")
            words, _, digest = rest.rpartition(":")
            scopes = frozenset(words.split("+"))
            if not name or not scopes <= SCOPES or not _is_digest(digest):
                known = ", ".join(sorted(SCOPES))
                raise ValueError(f"the entry of {name or '?'} is not name:scope+scope:sha256 with scopes of {known}")
            clients[digest.lower()] = Client(name, scopes)
        return cls(clients)

    def client(self, authorization: str) -> Client | None:
        """The holder of the key in an ``Authorization: Bearer`` header; None without a known key."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        return self._clients.get(digest_of(key.strip()))


def digest_of(key: str) -> str:
    """The hash that is stored for a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(name: str, scopes: frozenset[str]) -> tuple[str, str]:
    """A new key, and the entry for ORDERFLOW_API_KEYS; raises ValueError for a bad name or scope."""
    if not name.isidentifier() or not scopes or not scopes <= SCOPES:
        raise ValueError(f"a name of letters, digits and _, and scopes of {', '.join(sorted(SCOPES))} are needed")
    key = secrets.token_urlsafe(32)
    return key, f"{name}:{'+'.join(sorted(scopes))}:{digest_of(key)}"


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdefABCDEF" for letter in text)
