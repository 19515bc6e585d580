# SPDX-License-Identifier: Apache-2.0
"""Effects without a database or another system: tasks are words, and a test decides what becomes of them."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Self, cast

from orderflow.messaging.clock import SystemClock
from orderflow.messaging.effects import EffectRunner
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.service import Transaction, UnitOfWork
from tests.rigs.effects import Circuits

SILENCE = "no response"


class Transactions:
    """Counts commits; each item of ``failures`` fails one."""

    def __init__(self) -> None:
        self.commits = 0
        self.failures: list[Exception] = []
        self.closed = False
        self.outbox = self

    @contextmanager
    def transaction(self) -> Generator[object]:
        yield object()
        if self.failures:
            raise self.failures.pop(0)
        self.commits += 1

    def delete_confirmed(self) -> None: ...

    def wait(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class Sped(SystemClock):
    """The machine's clock, put forward by a test."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class WordEffect:
    """Tasks are words: ``hang`` waits for ever, ``crash`` raises, ``poison`` cannot be recorded, others are echoed.

    While ``away`` is set there is no response.
    """

    def __init__(self, *words: str) -> None:
        self.due = deque(words)
        self.recorded: list[tuple[str, str]] = []
        self.groups: list[int] = []
        self.limits: list[int] = []
        self.open = 0
        self.most_open = 0
        self.connected = 0
        self.hold = threading.Event()
        self.claim_error: Exception | None = None
        self.away = False
        self.asked: list[str] = []
        self.silent: list[str] = []
        self.resumed = 0

    def resources(self) -> AbstractAsyncContextManager[object]:
        return self._connection()

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[None]:
        self.connected += 1
        yield
        self.connected -= 1

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> Sequence[str]:
        if self.claim_error:
            raise self.claim_error
        self.limits.append(limit)
        return [self.due.popleft() for _ in range(min(limit, len(self.due)))]

    async def perform(self, task: str) -> str:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.asked.append(task)
        try:
            if task == "crash":
                raise ZeroDivisionError
            while task == "hang" or self.hold.is_set():
                await asyncio.sleep(0.002)
            return SILENCE if self.away else task.upper()
        finally:
            self.open -= 1

    def responded(self, result: str) -> bool:
        return result != SILENCE

    def record_without_response(self, transaction: UnitOfWork, pairs: Sequence[tuple[str, str]]) -> None:
        self.silent += [task for task, _ in pairs]
        self.due.extend(task for task, _ in pairs)

    def resume(self, transaction: Transaction) -> None:
        self.resumed += 1

    def record(self, transaction: UnitOfWork, pairs: Sequence[tuple[str, str]]) -> None:
        if any(task == "poison" for task, _ in pairs):
            raise ZeroDivisionError
        self.groups.append(len(pairs))
        self.recorded += pairs


class Running:
    """The effects in their thread; leaving the context stops them and checks that they ended."""

    def __init__(self, effect: WordEffect, **options: Any) -> None:
        self.effect = effect
        self.work = Transactions()
        self.clock = Sped()
        self.reports = Circuits()
        values: dict[str, Any] = {"concurrency": 10, "lease_seconds": 60, "interval_seconds": 0.01, **options}
        self.runner = EffectRunner[str, str](
            "words",
            effect,
            cast("UnitOfWorkFactory", self.work),
            clock=self.clock,
            instrumentation=self.reports,
            **values,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.runner.run()
        except BaseException as error:
            self.error = error
