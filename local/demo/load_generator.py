# SPDX-License-Identifier: Apache-2.0
"""Places orders over HTTP. Arrivals do not wait for responses; a request without a response is sent again."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    seed: int = 1


@dataclass(slots=True)
class LoadRecord:
    """What was sent, and the responses. Latencies are seconds from the intended send time."""

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
    latencies: list[float] = field(default_factory=list)
    late: float = 0.0
    """Longest delay after an intended send time. Above a second the load generator was overloaded."""


class LoadGenerator:
    """Runs one plan against one orders API."""

    def __init__(self, plan: Plan, *, url: str, key: str, record: LoadRecord) -> None:
        self.plan = plan
        self.record = record
        self._url = f"{url}/v1/orders"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._random = random.Random(plan.seed)
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Send the whole plan (or until ``stop`` is set) and wait for every response."""
        connector = aiohttp.TCPConnector(limit=512)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            start = due = time.monotonic()
            while due < start + self.plan.seconds and not self.stop.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.record.late = max(self.record.late, time.monotonic() - due)
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
        response = await self._response(session, key, body)
        self.record.latencies.append(time.monotonic() - due)
        if response is None:
            self.record.unknown.append(key)
            return
        status, content = response
        if status != 202:
            self.record.refused[str(content.get("type", status))] += 1
            return
        self.record.accepted[content["order_id"]] = body["payment_token"]
        if repeated:
            again = await self._response(session, key, body)
            if again is not None and again != response:
                self.record.broken_promises.append(key)

    async def _response(
        self, session: aiohttp.ClientSession, key: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]] | None:
        """The definite response to a request, which is sent again as needed; None after ``patience_seconds``."""
        headers = {**self._headers, "Idempotency-Key": key}
        deadline = time.monotonic() + self.plan.patience_seconds
        pause = 0.05
        while time.monotonic() < deadline:
            try:
                async with session.post(self._url, json=body, headers=headers) as reply:
                    content = await reply.json(content_type=None)
                    if not _again(reply.status, content):
                        return reply.status, content
                    self.record.failures[str(reply.status)] += 1
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self.record.failures[type(error).__name__] += 1
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))
            pause = min(pause * 2, 1.0)
        return None


def _again(status: int, content: Mapping[str, Any]) -> bool:
    return status in AGAIN and "sold-out" not in str(content.get("type", ""))
