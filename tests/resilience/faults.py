# SPDX-License-Identifier: Apache-2.0
"""What is done to a running system while orders arrive. The load lasts until the function returns."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from local.servers.postgresql import PostgreSQL
from local.servers.rabbitmq import RabbitMQ
from local.supervisor.supervisor import ProcessFailed
from local.system import PROCESSES, System
from tests.resilience.outcome import FAULT, RETURN
from tests.resilience.times import Times

SEED = 10


class Interrupted(Exception):
    """The run was given up."""


@dataclass(slots=True)
class Scene:
    """A system under load, and when something was done to it."""

    system: System
    report: Callable[[str], None]
    marks: dict[str, float] = field(default_factory=dict)
    interrupted: threading.Event = field(default_factory=threading.Event)

    def let_pass(self, seconds: float) -> None:
        """Let orders arrive for so long; raises Interrupted when the run is given up."""
        if self.interrupted.wait(max(0.0, seconds)):
            raise Interrupted

    def mark(self, name: str) -> None:
        """It happens now."""
        self.marks[name] = time.time()
        self.report(name)


def none(scene: Scene, seconds: float) -> None:
    """Only load."""
    scene.report(f"load for {seconds:g} s")
    scene.let_pass(seconds)


def pause(scene: Scene, times: Times, *, process: str) -> None:
    """SIGSTOP, and SIGCONT later."""
    scene.let_pass(times.warm_up)
    # Not by the supervisor: an exit after its signals counts as asked for, and none is.
    group = scene.system.supervisor.pid(process)
    os.killpg(group, signal.SIGSTOP)
    scene.mark(FAULT)
    scene.let_pass(times.pause)
    os.killpg(group, signal.SIGCONT)
    scene.mark(RETURN)
    scene.let_pass(times.after_pause)


def kill_once(scene: Scene, times: Times, *, process: str) -> None:
    """SIGKILL; the process is restarted as after any crash."""
    scene.let_pass(times.warm_up)
    scene.mark(FAULT)
    scene.system.supervisor.kill(process)
    scene.system.supervisor.wait_ready(process)
    scene.mark(RETURN)
    scene.let_pass(times.after_kill)


def take_provider_away(scene: Scene, times: Times) -> None:
    """Kill the payment provider and start it again later."""
    scene.let_pass(times.warm_up)
    scene.mark(FAULT)
    scene.system.supervisor.kill("payment-simulator", hold=True)
    scene.let_pass(times.provider_away)
    scene.system.supervisor.resume("payment-simulator")
    scene.mark(RETURN)
    scene.let_pass(times.after_kill)


def kill_schedule(scene: Scene, times: Times) -> None:
    """A random process every few seconds; the broker after each third, and the database after half of the time."""
    chance = random.Random(SEED)
    began = time.monotonic()
    rounds = range(1, int(times.kills / times.kill_interval) + 1)
    due: list[tuple[float, Callable[[], None]]] = [
        *((number * times.kill_interval, lambda: _kill_any(scene, chance)) for number in rounds),
        *((share * times.kills, lambda: _kill_broker(scene)) for share in (1 / 3, 2 / 3)),
        (times.kills / 2, lambda: _kill_database(scene)),
    ]
    # A server needs seconds to come back; the kills go on meanwhile.
    with ThreadPoolExecutor(len(due)) as pool:
        begun = []
        for after, action in sorted(due, key=lambda entry: entry[0]):
            scene.let_pass(after - (time.monotonic() - began))
            begun.append(pool.submit(action))
        scene.let_pass(times.kills - (time.monotonic() - began))
    for action_done in begun:
        action_done.result()


def _kill_any(scene: Scene, chance: random.Random) -> None:
    running = scene.system.supervisor.pids()
    targets = sorted(name for name in running if name.removesuffix("-2") in PROCESSES)
    if not targets:
        return
    target = chance.choice(targets)
    try:
        scene.system.supervisor.kill(target)
    except ProcessFailed:  # it ended in this instant
        return
    scene.report(f"killed {target}")


def _kill_broker(scene: Scene) -> None:
    broker = scene.system.stack.rabbitmq
    assert isinstance(broker, RabbitMQ)
    broker.kill()
    scene.report("killed the broker")
    broker.start()


def _kill_database(scene: Scene) -> None:
    database = scene.system.stack.postgresql
    assert isinstance(database, PostgreSQL)
    database.stop_immediate()
    scene.report("stopped the database without a checkpoint")
    database.start()
