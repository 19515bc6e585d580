# SPDX-License-Identifier: Apache-2.0
"""API keys: only a hash is configured, and only the key itself authenticates."""

from hashlib import sha256

import pytest

from orderflow.http.api_keys import SCOPES, ApiKeys, Client, make_key


def test_a_key_authenticates_with_its_scopes_and_its_entry_does_not_contain_it() -> None:
    key, entry = make_key("shop", frozenset({"orders:read", "orders:write"}))
    assert key not in entry
    assert sha256(key.encode()).hexdigest() in entry
    client = ApiKeys.parse(entry).client(f"Bearer {key}")
    assert client == Client("shop", frozenset({"orders:read", "orders:write"}))


def test_two_keys_differ() -> None:
    assert make_key("shop", SCOPES)[0] != make_key("shop", SCOPES)[0]


@pytest.mark.parametrize(("name", "scopes"), [("a shop", SCOPES), ("", SCOPES), ("shop", set()), ("shop", {"root"})])
def test_a_key_needs_a_plain_name_and_known_scopes(name: str, scopes: set[str]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        make_key(name, frozenset(scopes))


def test_each_key_authenticates_its_own_client() -> None:
    (one, shop), (other, warehouse) = make_key("shop", frozenset({"orders:read"})), make_key("warehouse", SCOPES)
    keys = ApiKeys.parse(f"{shop}, {warehouse},")
    for key, name in ((one, "shop"), (other, "warehouse")):
        client = keys.client(f"bearer {key}")
        assert client is not None and client.name == name


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer x{}", "Bearer {}x"])
def test_nothing_but_the_key_authenticates(authorization: str) -> None:
    key, entry = make_key("shop", SCOPES)
    assert ApiKeys.parse(entry).client(authorization.format(key)) is None


def test_the_hash_does_not_authenticate() -> None:
    _, entry = make_key("shop", SCOPES)
    assert ApiKeys.parse(entry).client(f"Bearer {entry.rpartition(':')[2]}") is None


DIGITS = "0" * 64


@pytest.mark.parametrize(
    "entry",
    ["shop", "shop:orders:read", f"shop:root:{DIGITS}", f"shop:orders:read:{DIGITS[1:]}g", f":orders:read:{DIGITS}"],
)
def test_a_malformed_entry_is_refused_without_repeating_its_hash(entry: str) -> None:
    with pytest.raises(ValueError, match="is not name:scope") as caught:
        ApiKeys.parse(entry)
    assert "0000" not in str(caught.value)
