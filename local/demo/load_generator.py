# SPDX-License-Identifier: Apache-2.0
"""Places orders over HTTP. Arrivals do not wait for responses.

A request without a definite response is sent again, unless the plan allows one attempt only.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp

AGAIN = frozenset({409, 429, 500, 502, 503, 504})
"""Statuses after which the same request is sent again with the same key. A 409 for sold-out stock is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to order. ``rate`` is the average of orders a second; ``tokens`` gives each payment token a weight."""

    rate: float
    seconds: float
    skus: Sequence[str]
    tokens: Mapping[str, float] = field(default_factory=lambda: {"ok": 1.0})
    duplicate_share: float = 0.0
    most_lines: int = 3
    most_units: int = 2
    patience_seconds: float = 60.0
    single_attempt: bool = False
    """Whether a request is sent once only; a 503 is then its definite response, a 504 says that nothing is known."""
    max_connections: int = 512
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """How one order was answered; both durations count from its intended send time, ``due``, in Unix time."""

    due: float
    late_seconds: float
    """Until the request was really sent. Far above zero the load generator was overloaded."""
    seconds: float
    """Until its definite response."""
    result: str
    """``accepted``, the problem type of a refusal, or ``unknown``."""


@dataclass(slots=True)
class LoadRecord:
    """What was sent, and the responses."""

    sent: int = 0
    accepted: dict[str, str] = field(default_factory=dict)
    """Order id to payment token."""
    refused: Counter[str] = field(default_factory=Counter)
    """Definite refusals by problem type."""
    unknown: list[str] = field(default_factory=list)
    """Idempotency keys of requests that never got a definite response."""
    failures: Counter[str] = field(default_factory=Counter)
    """Attempts that failed and were tried again, by status or error."""
    broken_promises: list[str] = field(default_factory=list)
    """Keys whose repetition got another response than the first request."""
    responses: list[Response] = field(default_factory=list)

    @property
    def latencies(self) -> list[float]:
        """Seconds from the intended send time to the definite response, of every order."""
        return [response.seconds for response in self.responses]

    @property
    def late(self) -> float:
        """Longest delay after an intended send time. Above a second the load generator was overloaded."""
        return max((response.late_seconds for response in self.responses), default=0.0)


class LoadGenerator:
    """Runs one plan against the replicas of one orders API, in turns."""

    def __init__(self, plan: Plan, *, urls: Sequence[str], key: str, record: LoadRecord) -> None:
        self.plan = plan
        self.record = record
        self._urls = [f"{url}/v1/orders" for url in urls]
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._random = random.Random(plan.seed)
        self._unix_time = 0.0
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Send the whole plan (or until ``stop`` is set) and wait for every response."""
        connector = aiohttp.TCPConnector(limit=self.plan.max_connections)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            start = due = time.monotonic()
            self._unix_time = time.time() - start
            while due < start + self.plan.seconds and not self.stop.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._order(session, self._body(), due))
                due += self._random.expovariate(self.plan.rate)

    def _body(self) -> dict[str, Any]:
        tokens = list(self.plan.tokens)
        skus = self._random.sample(
            list(self.plan.skus), k=min(len(self.plan.skus), self._random.randint(1, self.plan.most_lines))
        )
        return {
            "user_id": f"customer-{self._random.randrange(10_000)}",
            "items": [{"sku": sku, "quantity": self._random.randint(1, self.plan.most_units)} for sku in skus],
            "payment_token": self._random.choices(tokens, weights=list(self.plan.tokens.values()))[0],
        }

    async def _order(self, session: aiohttp.ClientSession, body: dict[str, Any], due: float) -> None:
        key = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        repeated = self._random.random() < self.plan.duplicate_share
        self.record.sent += 1
        late = time.monotonic() - due
        response = await self._response(session, key, body)
        seconds, result = time.monotonic() - due, self._recorded(response, key, body)
        due += self._unix_time
        self.record.responses.append(Response(due=due, late_seconds=late, seconds=seconds, result=result))
        if repeated and result == "accepted":
            again = await self._response(session, key, body)
            if again is not None and again != response:
                self.record.broken_promises.append(key)

    def _recorded(self, response: tuple[int, dict[str, Any]] | None, key: str, body: Mapping[str, Any]) -> str:
        """Record the response to an order; its result in one word."""
        if response is None:
            self.record.unknown.append(key)
            return "unknown"
        status, content = response
        if status != 202:
            problem = str(content.get("type", status))
            self.record.refused[problem] += 1
            return problem
        self.record.accepted[content["order_id"]] = body["payment_token"]
        return "accepted"

    async def _response(
        self, session: aiohttp.ClientSession, key: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]] | None:
        """The definite response to a request, which is sent again as the plan says; None when there was none."""
        headers = {**self._headers, "Idempotency-Key": key}
        deadline = time.monotonic() + self.plan.patience_seconds
        pause = 0.05
        while time.monotonic() < deadline:
            try:
                status, content = await self._attempt(session, headers, body)
                if not _again(status, content) or (self.plan.single_attempt and status != HTTPStatus.GATEWAY_TIMEOUT):
                    return status, content
                self.record.failures[str(status)] += 1
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self.record.failures[type(error).__name__] += 1
            if self.plan.single_attempt:
                break
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))
            pause = min(pause * 2, 1.0)
        return None

    async def _attempt(
        self, session: aiohttp.ClientSession, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        """Send a request once. As with a load balancer, a replica that accepts no connection is passed over."""
        self._urls.append(self._urls.pop(0))
        *others, last = self._urls
        for url in others:
            with suppress(aiohttp.ClientConnectorError):
                return await _post(session, url, headers, body)
        return await _post(session, last, headers, body)


async def _post(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    async with session.post(url, json=body, headers=headers) as reply:
        return reply.status, await reply.json(content_type=None)


def _again(status: int, content: Mapping[str, Any]) -> bool:
    return status in AGAIN and "sold-out" not in str(content.get("type", ""))
