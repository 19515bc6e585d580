# SPDX-License-Identifier: Apache-2.0
"""How long the worst order takes around a fault: ``python -m tests.bench.recovery``.

Each scenario is a system of its own with the settings of the demo. Only orders that were accepted from two seconds
before the fault on count. When the provider was away, an order's time begins at its return.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from local.demo.load_generator import Plan
from local.demo.sale import Sale, put_stock
from local.servers.stack import Stack
from local.system import System

Fault = Callable[[System], float]
"""Does its harm; the longest that a restart took, in seconds. Called in the middle of a sale."""
_KILLS = 6
_WORST = """
select count(*), count(*) filter (where status = 'confirmed'),
       coalesce(max(extract(epoch from coalesce(final_at, now()) - greatest(accepted_at, %(back)s))), 0)::float8,
       coalesce(max(extract(epoch from coalesce(final_at, now()) - accepted_at)) filter (where accepted_at >= %(back)s),
                0)::float8
from orders where accepted_at >= %(since)s and coalesce(final_at, now()) > %(back)s
"""


def kills(name: str, *others: str) -> Fault:
    """SIGKILL this process and its replicas in turn, several times, because a kill may find nothing in flight."""

    def fault(system: System) -> float:
        longest = 0.0
        for target in (name, *others) * (_KILLS // (1 + len(others))):
            begun = time.monotonic()
            system.supervisor.kill(target, hold=True)
            system.supervisor.resume(target)  # at once: the supervisor's own delays would grow
            longest = max(longest, time.monotonic() - begun)
            time.sleep(2)
        return longest

    return fault


def provider_away(system: System) -> float:
    """The provider is gone for ten seconds."""
    system.supervisor.kill("payment-simulator", hold=True)
    time.sleep(10)
    system.supervisor.resume("payment-simulator")
    return 0.0


def measure(stack: Stack, label: str, fault: Fault, *, rate: float, replicate: str | None = None) -> None:
    """One scenario, one line."""
    with (
        tempfile.TemporaryDirectory(prefix="orderflow-recovery-") as folder,
        System.started(stack, Path(folder), name=f"recovery-{os.getpid()}-{time.monotonic_ns() % 10**6}") as system,
    ):
        stock = {f"sku-{number}": 1_000_000 for number in range(1, 21)}
        put_stock(system, stock)
        if replicate:
            system.replicate(replicate)
        sale = Sale(system, Plan(rate=rate, seconds=30, skus=list(stock), seed=7))
        selling = threading.Thread(target=sale.run)
        selling.start()
        time.sleep(6)
        since = back = datetime.now(UTC) - timedelta(seconds=2)
        restart = fault(system)
        if fault is provider_away:
            back = datetime.now(UTC)
        selling.join()
        drained = sale.drain(seconds=120)
        with psycopg.connect(system.databases["orders"]) as connection:
            row = connection.execute(_WORST, {"since": since, "back": back}).fetchone()
        assert row is not None
        orders, confirmed, worst, later = row
        print(
            f"{label:34} restart {restart:4.1f} s   worst {worst:5.2f} s   of those accepted later {later:5.2f} s   "
            f"{confirmed}/{orders} confirmed{'' if drained else '   NOT ALL FINAL'}",
            flush=True,
        )


def main() -> None:
    """Every scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=60, help="orders a second (default 60)")
    parser.add_argument("--only", default="", help="only scenarios whose label contains this")
    options = parser.parse_args()
    scenarios: list[tuple[str, Fault, str | None]] = [
        ("no fault", lambda _system: 0.0, None),
        *((f"SIGKILL {name}", kills(name), None) for name in ("payments", "orders", "inventory", "orders-api")),
        *(
            (f"SIGKILL one of two {name}", kills(name, f"{name}-2"), name)
            for name in ("payments", "orders", "inventory")
        ),
        ("provider away for 10 s", provider_away, None),
    ]
    with Stack.start(suite=os.environ.get("SERVERS", "trixie")) as stack:
        for label, fault, replicate in scenarios:
            if options.only in label:
                measure(stack, label, fault, rate=options.rate, replicate=replicate)


if __name__ == "__main__":
    main()
