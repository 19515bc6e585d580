# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from uuid import UUID, uuid4

import pytest

from local.eventually import eventually
from orderflow.events import OrderRejected
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.errors import BadData, CommitInDoubt, DatabaseUnavailable
from orderflow.messaging.group_commit import GroupCommit
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from tests.builders import an_event
from tests.rigs.consumer import CODEC, effects, one
from tests.rigs.scripted_broker import ScriptedPublisher
from tests.rigs.tcp_proxy import COMMITTED, Proxy

pytestmark = pytest.mark.integration


@dataclass(frozen=True, slots=True)
class Request:
    order_id: UUID
    amount: int = 1999


def apply(requests: Sequence[Request], work: SqlUnitOfWork) -> Sequence[str]:
    work.execute(
        "insert into effects select * from unnest(%(ids)s::uuid[], %(amounts)s::bigint[])",
        {"ids": [request.order_id for request in requests], "amounts": [request.amount for request in requests]},
    )
    for request in requests:
        work.publish(an_event(OrderRejected, order_id=request.order_id))
    return [str(request.order_id) for request in requests]


@pytest.fixture
def publisher() -> ScriptedPublisher:
    return ScriptedPublisher()


@pytest.fixture
def writer(proxy: Proxy, publisher: ScriptedPublisher) -> Iterator[GroupCommit[Request, str]]:
    unit_of_work = UnitOfWorkFactory(Database(proxy.url), Outbox(publisher, CODEC, lease_seconds=60))
    writer = GroupCommit(unit_of_work, apply, clock=SystemClock())
    thread = Thread(target=writer.run)
    thread.start()
    yield writer
    writer.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_concurrent_requests_share_transactions_and_each_gets_its_result_after_the_commit(
    writer: GroupCommit[Request, str], publisher: ScriptedPublisher, database: str
) -> None:
    requests = [Request(uuid4()) for _ in range(800)]
    commits = "select xact_commit from pg_stat_database where datname = current_database()"

    def place(request: Request) -> bool:
        return writer.submit(request).result(20) == str(request.order_id)

    before = one(database, commits)
    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(place, requests))
    assert effects(database) == {request.order_id: 1 for request in requests}
    assert {publication.properties.correlation_id for publication in publisher.published} == {
        str(request.order_id) for request in requests
    }
    assert one(database, "select count(distinct xmin::text) from effects") < 400
    assert one(database, commits) - before < 800


def test_a_request_with_bad_data_fails_alone(
    writer: GroupCommit[Request, str], publisher: ScriptedPublisher, database: str
) -> None:
    requests = [Request(uuid4(), 13 if number == 30 else 1999) for number in range(60)]
    futures = [writer.submit(request) for request in requests]
    assert isinstance(futures[30].exception(20), BadData)
    assert all(future.result(20) for future in futures[:30] + futures[31:])
    assert len(effects(database)) == 59
    assert len(publisher.published) == 59


def test_without_a_database_requests_fail_soon_and_later_ones_succeed_again(
    writer: GroupCommit[Request, str], proxy: Proxy, database: str
) -> None:
    assert writer.submit(Request(uuid4())).result(20)
    proxy.open = False
    proxy.cut()
    futures = [writer.submit(Request(uuid4())) for _ in range(20)]
    assert {type(future.exception(20)) for future in futures} == {DatabaseUnavailable}
    proxy.open = True
    assert writer.submit(Request(uuid4())).result(20)
    assert len(effects(database)) == 2


def test_a_commit_without_a_response_is_reported_as_unknown_and_is_complete(
    writer: GroupCommit[Request, str], proxy: Proxy, publisher: ScriptedPublisher, database: str
) -> None:
    proxy.swallow = COMMITTED
    request = Request(uuid4())
    assert isinstance(writer.submit(request).exception(20), CommitInDoubt)
    assert effects(database) == {request.order_id: 1}
    assert (one(database, "select count(*) from outbox"), publisher.published) == (1, [])


def test_confirmed_rows_are_deleted_when_no_request_comes(
    writer: GroupCommit[Request, str], publisher: ScriptedPublisher, database: str
) -> None:
    assert writer.submit(Request(uuid4())).result(20)
    eventually(lambda: one(database, "select count(*) from outbox") == 0)
