# SPDX-License-Identifier: Apache-2.0
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from local.demo.load_generator import LoadGenerator, LoadRecord, Plan

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def placed(answer: Answer, *, dead_replicas: int = 0, **plan: object) -> LoadRecord:
    """The record of a load of a tenth of a second on a server that answers like this."""

    async def place() -> LoadRecord:
        application = web.Application()
        application.router.add_post("/v1/orders", answer)
        async with TestServer(application) as server:
            urls = [*(f"http://127.0.0.1:{unused_port()}" for _ in range(dead_replicas)), str(server.make_url(""))]
            options = {"rate": 200.0, "seconds": 0.1, "skus": ["sku"], **plan}
            record = LoadRecord()
            urls = [url.rstrip("/") for url in urls]
            await LoadGenerator(Plan(**options), urls=urls, key="key", record=record).run()  # type: ignore[arg-type]
            return record

    return asyncio.run(place())


async def accept(request: web.Request) -> web.Response:
    return web.json_response({"order_id": request.headers["Idempotency-Key"]}, status=202)


async def refuse(_: web.Request) -> web.Response:
    return web.json_response({"type": "backlog-too-long"}, status=503)


async def hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def test_a_single_attempt_takes_503_as_the_response() -> None:
    record = placed(refuse, single_attempt=True)
    assert record.refused == {"backlog-too-long": record.sent}
    assert {response.result for response in record.responses} == {"backlog-too-long"}
    assert not record.failures


def test_a_refused_request_is_sent_again_otherwise() -> None:
    record = placed(refuse, patience_seconds=0.2)
    assert record.failures["503"] > record.sent
    assert len(record.unknown) == record.sent


def test_a_single_attempt_without_a_response_is_unknown() -> None:
    record = placed(hang_up, single_attempt=True)
    assert len(record.unknown) == len(record.responses) == record.sent
    assert {response.result for response in record.responses} == {"unknown"}


def test_a_single_attempt_whose_outcome_the_api_does_not_know_is_unknown() -> None:
    async def unknown(_: web.Request) -> web.Response:
        return web.json_response({"type": "outcome-unknown"}, status=504)

    record = placed(unknown, single_attempt=True)
    assert len(record.unknown) == record.sent
    assert not record.refused


def test_a_replica_that_accepts_no_connection_is_passed_over() -> None:
    record = placed(accept, dead_replicas=1, single_attempt=True)
    assert len(record.accepted) == record.sent
    assert not record.unknown


def test_arrivals_do_not_wait_for_responses_and_latency_counts_from_the_intended_time() -> None:
    waiting: list[asyncio.Event] = []

    async def answer_together(request: web.Request) -> web.Response:
        waiting.append(asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(waiting[-1].wait(), 0.5)
        return await accept(request)

    began = time.time()
    record = placed(answer_together, single_attempt=True)
    assert len(waiting) == record.sent > 5
    assert min(record.latencies) >= 0.4
    due = [response.due for response in record.responses]
    assert due == sorted(due) and began <= due[0] and due[-1] - due[0] <= 0.11
