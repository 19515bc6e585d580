# SPDX-License-Identifier: Apache-2.0
"""Compares the definitions of a broker with the wanted definitions, without I/O.

An import of definitions skips queues and exchanges that exist, even when their arguments differ, and deletes nothing.
So the result of an import must be checked.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from orderflow.rabbitmq_definitions import Definitions, User

Kind = Literal["user", "permission", "topic permission", "policy", "exchange", "queue", "binding"]
Verdict = Literal["missing", "changed", "extra", "unread"]

_KINDS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "user": ("users", ("name",)),
    "permission": ("permissions", ("user",)),
    "topic permission": ("topic_permissions", ("user", "exchange")),
    "policy": ("policies", ("name",)),
    "exchange": ("exchanges", ("name",)),
    "queue": ("queues", ("name",)),
    "binding": ("bindings", ("source", "destination_type", "destination", "routing_key", "arguments")),
}
"""Each kind with its list in the document and the fields that identify an element."""

_UNCHANGEABLE: frozenset[Kind] = frozenset({"exchange", "queue"})
_HASHES = {"rabbit_password_hashing_sha256": hashlib.sha256, "rabbit_password_hashing_sha512": hashlib.sha512}

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One object that differs from the wanted definitions; ``detail`` never contains a secret."""

    verdict: Verdict
    kind: Kind
    key: Key
    detail: str = ""

    @property
    def importable(self) -> bool:
        """True when an import removes the difference; it never changes an existing queue or exchange."""
        return self.verdict == "missing" or (self.verdict == "changed" and self.kind not in _UNCHANGEABLE)

    def __str__(self) -> str:
        name = " ".join(part for part in self.key if part != "{}")
        return f"{self.verdict} {self.kind} {name}{': ' if self.detail else ''}{self.detail}"


def compare(wanted: Definitions, actual: Definitions) -> list[Difference]:
    """Every difference within the vhost of ``wanted``, missing ones first, then changed, then extra.

    Users do not belong to a vhost, so an unexpected user is recognised by its permission. Administrators are never
    extra, because they can give themselves any permission.
    """
    return sorted(_differences(wanted, actual), key=lambda found: ["missing", "changed", "extra"].index(found.verdict))


def _differences(wanted: Definitions, actual: Definitions) -> Iterator[Difference]:
    actual = _within(wanted, actual)
    for kind in _KINDS:
        should, has = _items(kind, wanted), _items(kind, actual)
        for key, value in should.items():
            if key not in has:
                yield Difference(verdict="missing", kind=kind, key=key)
            elif detail := _detail(value, has[key]):
                yield Difference(verdict="changed", kind=kind, key=key, detail=detail)
        if kind != "user":
            for key in has.keys() - should.keys():
                yield Difference(verdict="extra", kind=kind, key=key)


def _items(kind: Kind, document: Definitions) -> dict[Key, Any]:
    listed, parts = _KINDS[kind]
    items: dict[Key, Any] = {}
    for item in getattr(document, listed):
        values = (getattr(item, part) for part in parts)
        items[tuple(value if isinstance(value, str) else _json(value) for value in values)] = item
    return items


def _within(wanted: Definitions, actual: Definitions) -> Definitions:
    """The part of a broker's export in the vhost of the wanted document, and all users."""
    vhosts = {vhost.name for vhost in wanted.vhosts}
    known = {user.name for user in wanted.users}
    admins = {user.name for user in actual.users if "administrator" in user.tags} - known
    ours = {
        listed: [
            item
            for item in getattr(actual, listed)
            if item.vhost in vhosts and getattr(item, "user", None) not in admins
        ]
        for listed, _ in _KINDS.values()
        if listed != "users"
    }
    return Definitions(users=actual.users, **ours)


def _detail(wanted: Any, actual: Any) -> str:
    """What differs between two items of the same name; empty when nothing does."""
    if isinstance(wanted, User):
        return _user_detail(wanted, actual)
    before, after = _plain(actual), _plain(wanted)
    return ", ".join(
        f"{field} is {_json(before[field])}, should be {_json(after[field])}"
        for field in after
        if before[field] != after[field]
    )


def _user_detail(wanted: User, actual: User) -> str:
    found = []
    if set(wanted.tags) != set(actual.tags):
        found.append(f"tags is {_json(actual.tags)}, should be {_json(wanted.tags)}")
    if wanted.password is not None and not _password_matches(wanted.password, actual):
        found.append("the password differs")
    return ", ".join(found)


def _password_matches(password: str, user: User) -> bool:
    """Whether a password matches the broker's hash: base64 of four bytes of salt and the digest."""
    digest = _HASHES.get(user.hashing_algorithm or "")
    stored = base64.b64decode(user.password_hash or "")
    return digest is not None and stored[4:] == digest(stored[:4] + password.encode()).digest()


def _plain(item: Any) -> Mapping[str, Any]:
    plain: Mapping[str, Any] = msgspec.to_builtins(item)
    return plain


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
