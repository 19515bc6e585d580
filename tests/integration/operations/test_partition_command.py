# SPDX-License-Identifier: Apache-2.0
"""``orderflow topology partitions``: what it prints and returns, and when it refuses."""

import argparse
from collections.abc import Callable

import pytest

from local.eventually import eventually
from orderflow.messaging.clock import SystemClock
from orderflow.operations.management_api import Management
from orderflow.operations.topology import command
from orderflow.operations.topology.apply import diff, exported
from orderflow.operations.topology.prune import COUNTS_AGE_SECONDS
from orderflow.settings import Settings
from tests.integration.operations.conftest import Channels, Installation
from tests.integration.operations.partition_changes import (
    Killed,
    KillingManagement,
    change,
    killed_while_it_waits,
    prefix,
    states,
)

pytestmark = pytest.mark.integration

Run = Callable[..., int]


class HurriedClock(SystemClock):
    """Twice as fast: nothing happens meanwhile, so old counts are as good as new ones."""

    def monotonic(self) -> float:
        return 2 * super().monotonic()

    def wait(self, event: object, seconds: float) -> bool:
        return super().wait(event, seconds / 2)  # type: ignore[arg-type]


@pytest.fixture
def run(shop: Installation) -> Run:
    """Runs ``orderflow topology`` with these words; the exit code."""

    def run_words(*words: str, url: str = shop.management_url, partitions: str = "") -> int:
        parser = argparse.ArgumentParser()
        command.arguments(parser)
        options = parser.parse_args([*words, "--vhost", shop.vhost, "--user-prefix", prefix(shop), "--wait", "0"])
        settings = Settings(management_url=url, partitions=partitions)
        return command.run(options, settings, clock=HurriedClock())

    return run_words


def test_a_queue_gets_partitions_and_becomes_one_queue_again(
    shop: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    management = Management(shop.management_url)
    before = exported(management)
    assert run("partitions", "order_updates", "2", "--dry-run") == 1
    assert capsys.readouterr().out.count("to do: ") == 6
    assert exported(management) == before

    assert run("partitions", "order_updates", "2") == 1
    printed = capsys.readouterr().out
    assert "left: nobody reads order_updates.1of2" in printed
    assert "ORDERFLOW_PARTITIONS=order_updates=2" in printed
    assert run("apply") == 1
    assert capsys.readouterr().out == (
        "changed queue order_updates: it has 2 partitions, should have 1: `topology partitions`"
        " (an import cannot change this)\n"
    )
    assert run("apply", partitions="order_updates=2") == 0
    assert {"order_updates.1of2", "order_updates.2of2"} <= states(shop).keys()
    assert "order_updates" not in states(shop)

    eventually(lambda: all(state.idle for state in states(shop).values()), COUNTS_AGE_SECONDS + 10, what="all counted")
    assert run("partitions", "order_updates", "1") == 1
    assert diff(management, shop.document) == []


def test_it_is_refused_while_somebody_else_could_read_the_new_partitions(
    shop: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    management, lax = Management(shop.management_url), {"configure": "", "write": "", "read": ".*"}
    management.put("permissions", shop.vhost, shop.user("monitor"), body=lax)
    before = exported(management)
    assert run("partitions", "order_updates", "2") == 2
    assert f"{shop.user('monitor')} may read order_updates.1of2" in capsys.readouterr().err
    assert exported(management) == before


def test_it_is_refused_when_nobody_would_empty_the_old_partitions(
    shop: Installation, run: Run, channels: Channels, capsys: pytest.CaptureFixture[str]
) -> None:
    channels.open(shop.admin_url).basic_publish("", "order_updates", b"precious")
    eventually(lambda: bool(states(shop)["order_updates"].messages), COUNTS_AGE_SECONDS + 10, what="it is counted")
    before = exported(Management(shop.management_url))
    assert run("partitions", "order_updates", "2") == 2
    error = capsys.readouterr().err
    assert "order_updates has messages and nobody reads it" in error
    assert "ORDERFLOW_PARTITIONS=order_updates=1+2" in error
    assert exported(Management(shop.management_url)) == before


def test_nothing_else_is_changed_before_a_change_is_finished(
    shop: Installation, run: Run, channels: Channels, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_while_it_waits(shop, 4)
    for words in (("partitions", "order_updates", "3"), ("partitions", "payment_requests", "2"), ("apply",), ("diff",)):
        assert run(*words) == 2
        assert "run `orderflow topology partitions order_updates 4`" in capsys.readouterr().err
    channels.open(shop.admin_url).basic_publish("", "order_updates", b"it must not be left behind")
    eventually(lambda: bool(states(shop)["order_updates"].messages), COUNTS_AGE_SECONDS + 10, what="it is counted")
    assert run("partitions", "order_updates", "4", "--drain", "0") == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "left: the number of messages that are left in order_updates is 1, and nobody reads it:"
        " start a process of orders with ORDERFLOW_PARTITIONS=order_updates=1+4"
    )
    assert change(shop, 4).steps()[0].startswith("wait")


def test_partitions_of_an_earlier_change_are_not_used_while_they_have_a_consumer(
    shop: Installation, channels: Channels
) -> None:
    with pytest.raises(Killed):
        change(shop, 2, management=KillingManagement(shop.management_url, after=3)).run()
    channels.open(shop.admin_url).basic_consume("order_updates.1of2", lambda *_: None)
    with pytest.raises(ValueError, match=r"order_updates\.1of2 is left from an earlier change, with consumers"):
        change(shop, 2).run()
    assert change(shop, 2).steps()[0].startswith("make")


def test_wrong_words_and_an_absent_broker_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("partitions", "orders", "2") == 2
    assert "the queues are order_updates, availability_updates" in capsys.readouterr().err
    assert run("partitions", "order_updates", "2", url="http://user:x@127.0.0.1:9") == 2
    assert "the management API cannot be reached" in capsys.readouterr().err
    for count in ("0", "65", "many"):
        with pytest.raises(SystemExit):
            run("partitions", "order_updates", count)
        assert "must be a number from 1 to 64" in capsys.readouterr().err
