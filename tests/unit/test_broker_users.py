# SPDX-License-Identifier: Apache-2.0
"""Which broker user belongs to which service, by name or by setting."""

import pytest

from orderflow.broker_topology import user_names
from orderflow.broker_users import REPLAY, BrokerUsers, broker_users
from orderflow.events import OrderCreated, StockLow
from orderflow.messaging.errors import SettingsError
from orderflow.messaging.publisher_check import PublisherCheck
from orderflow.services import SERVICES
from orderflow.settings import Settings

NAMED = "orders=o-7,inventory=i-7,payments=p-7,notifications=n-7,replay=ops"


def users(url: str, name: str = "orders", **values: str) -> BrokerUsers:
    environ = {"ORDERFLOW_AMQP_URL": url, **{f"ORDERFLOW_{key.upper()}": value for key, value in values.items()}}
    return broker_users(Settings.from_env(environ), name, SERVICES)


def problems(url: str, name: str = "orders", **values: str) -> str:
    with pytest.raises(SettingsError) as caught:
        users(url, name, **values)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "blue-", "a/b "])
def test_the_prefix_of_an_installation_is_that_of_the_processes_own_user(prefix: str) -> None:
    quoted = prefix.replace("/", "%2F").replace(" ", "%20")
    for name in (*(service.name for service in SERVICES), REPLAY):
        found = users(f"amqp://{quoted}{name}:secret@broker/%2F", name)
        assert found.own == prefix + name
        assert found.names == {each: prefix + each for each in found.names}
        check = found.check("orders")
        assert (check.own_user, check.replay_user, check.mode) == (f"{prefix}orders", f"{prefix}replay", "enforce")
        assert (check.owners[OrderCreated], check.owners[StockLow]) == (f"{prefix}orders", f"{prefix}inventory")


def test_the_users_are_those_of_the_topology() -> None:
    assert users("amqp://orders:x@broker").names.keys() <= set(user_names(SERVICES))


@pytest.mark.parametrize("url", ["amqp://admin:s3cret@broker/", "amqp://broker/", "amqp://inventory:s3cret@broker/"])
def test_a_user_of_another_name_needs_a_setting(url: str) -> None:
    text = problems(url)
    assert "'orders'" in text and "s3cret" not in text
    assert "ORDERFLOW_BROKER_USERS" in text and "ORDERFLOW_PUBLISHER_CHECK=off" in text


def test_users_can_be_named() -> None:
    found = users("amqp://whoever:x@broker", "payments", broker_users=NAMED)
    assert (found.own, found.names[REPLAY]) == ("p-7", "ops")
    assert found.check("inventory").owners[OrderCreated] == "o-7"


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        (NAMED.replace(",replay=ops", ""), "names no user of replay"),
        (f"{NAMED},shipping=s", "no service shipping"),
        (NAMED.replace("i-7", "o-7"), "o-7 stands for several services"),
        ("orders", "name=user"),
        ("orders=", "name=user"),
        ("orders=a,orders=b", "each name once"),
    ],
)
def test_names_that_prove_nothing_are_refused(named: str, complaint: str) -> None:
    assert complaint in problems("amqp://o-7:x@broker", broker_users=named)


def test_without_the_check_no_user_needs_a_name_and_no_message_names_one() -> None:
    found = users("amqp://admin:x@broker", publisher_check="off")
    assert found.own is None
    assert found.check("orders") == PublisherCheck(
        copied_through=frozenset({"", "replay", "order_updates", "availability_updates"})
    )
