# SPDX-License-Identifier: Apache-2.0
"""Makes concurrent calls in an event loop with a thread of its own."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Generic, TypeVar

from orderflow.messaging.clock import Clock

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")
_TICK_SECONDS = 1.0


class CallPool(Generic[Task, Result]):
    """Performs tasks concurrently; the thread that submits them takes the results.

    ``resources`` is entered in the event loop before the first call and exited after the last. Only one thread may call
    ``submit`` and ``take``. ``wake`` is set whenever there is a result to take, or when the loop has failed.
    """

    def __init__(
        self,
        perform: Callable[[Task], Awaitable[Result]],
        resources: Callable[[], AbstractAsyncContextManager[object]],
        *,
        wake: threading.Event,
        clock: Clock,
        name: str,
    ) -> None:
        self.last_tick = clock.monotonic()
        """Monotonic time of the event loop's last progress."""
        self.in_flight = 0
        """Tasks that were submitted and not taken yet."""
        self._perform = perform
        self._resources = resources
        self._wake = wake
        self._clock = clock
        self._finished: deque[tuple[Task, Result] | None] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=self._run, name=f"{name} calls", daemon=True)

    def start(self) -> None:
        """Start the loop and wait until its resources are entered; raises RuntimeError when that fails."""
        self._thread.start()
        self._ready.wait()
        self._raise()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Begin calls; returns immediately."""
        if tasks:
            self.in_flight += len(tasks)
            self._loop.call_soon_threadsafe(self._begin, tasks)

    def take(self) -> list[tuple[Task, Result]]:
        """The tasks that ended since the last call, with their results, without those that raised.

        Raises RuntimeError when the event loop has failed.
        """
        self._raise()
        ended = [self._finished.popleft() for _ in range(len(self._finished))]
        self.in_flight -= len(ended)
        return [pair for pair in ended if pair is not None]

    def stop(self) -> None:
        """Cancel the calls that still run, release the resources and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise RuntimeError("the event loop of the calls has failed") from self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()
            self._wake.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with self._resources():
            self._ready.set()
            while not self._stopping.is_set():
                self.last_tick = self._clock.monotonic()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _begin(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            running = self._loop.create_task(self._one(task))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _one(self, task: Task) -> None:
        try:
            self._finished.append((task, await self._perform(task)))
        except Exception:
            log.exception("call.crashed", extra={"task": type(task).__name__})
            self._finished.append(None)
        self._wake.set()
