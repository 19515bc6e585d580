# SPDX-License-Identifier: Apache-2.0
"""A broker's export compared with the document: only its vhost counts, and passwords are compared by hash."""

import base64
import hashlib

import pytest
from msgspec.structs import replace

from orderflow.broker_topology import definitions, user_names
from orderflow.operations.topology.diff import compare
from orderflow.rabbitmq_definitions import Definitions, Permission, User
from orderflow.services import SERVICES

PASSWORDS = {name: f"secret of {name}" for name in user_names(SERVICES)}
WANTED = definitions(SERVICES, vhost="shop", passwords=PASSWORDS)


def exported(document: Definitions, algorithm: str = "sha256") -> Definitions:
    """The export of a broker that has the document: hashes instead of passwords."""

    def hashed(user: User) -> User:
        digest = hashlib.new(algorithm, b"salt" + (user.password or "").encode()).digest()
        stored = base64.b64encode(b"salt" + digest).decode()
        kind = f"rabbit_password_hashing_{algorithm}"
        return replace(user, password=None, password_hash=stored, hashing_algorithm=kind)

    return replace(document, users=[hashed(user) for user in document.users])


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_broker_with_all_of_it_does_not_differ(algorithm: str) -> None:
    assert compare(WANTED, exported(WANTED, algorithm)) == []


IN_A_VHOST = ("permissions", "topic_permissions", "policies", "exchanges", "queues", "bindings")
SIZE = sum(len(getattr(WANTED, listed)) for listed in IN_A_VHOST)


def test_an_empty_broker_lacks_everything() -> None:
    found = compare(WANTED, Definitions())
    assert len(found) == SIZE + len(WANTED.users)
    assert all(difference.verdict == "missing" and difference.importable for difference in found)


def test_other_vhosts_do_not_matter_even_with_the_same_names() -> None:
    other = exported(definitions(SERVICES, vhost="other", passwords=PASSWORDS))
    ours = exported(WANTED)
    both = {listed: [*getattr(ours, listed), *getattr(other, listed)] for listed in IN_A_VHOST}
    assert compare(WANTED, Definitions(users=ours.users, **both)) == []
    assert len(compare(WANTED, other)) == SIZE


def test_another_password_is_reported_without_its_value() -> None:
    users = [replace(user, password="other") if user.name == "orders" else user for user in WANTED.users]
    (found,) = compare(replace(WANTED, users=users), exported(WANTED))
    assert str(found) == "changed user orders: the password differs"


def test_without_passwords_users_are_compared_by_their_tags() -> None:
    silent = definitions(SERVICES, vhost="shop")
    assert compare(silent, exported(WANTED)) == []
    users = [replace(user, tags=["administrator"]) if user.name == "orders" else user for user in WANTED.users]
    (found,) = compare(silent, exported(replace(WANTED, users=users)))
    assert str(found) == 'changed user orders: tags is ["administrator"], should be []'


def test_an_unknown_user_with_a_permission_is_extra_and_an_administrator_is_not() -> None:
    unknown_users = [Permission(user=name, vhost="shop", read=".*") for name in ("eve", "root")]
    export = exported(WANTED)
    export = replace(
        export,
        users=[*export.users, User(name="eve", tags=[]), User(name="root", tags=["administrator"])],
        permissions=[*export.permissions, *unknown_users],
    )
    (found,) = compare(WANTED, export)
    assert str(found) == "extra permission eve"
    assert not found.importable


def test_a_queue_of_another_type_cannot_be_put_right_by_an_import() -> None:
    queues = [replace(queue, arguments={"x-queue-type": "classic"}) for queue in WANTED.queues]
    found = compare(WANTED, replace(exported(WANTED), queues=queues))
    assert len(found) == len(queues)
    assert not any(difference.importable for difference in found)
