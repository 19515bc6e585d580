# SPDX-License-Identifier: Apache-2.0
"""``make demo``: a short sale on real servers, and the proof that nothing was lost, doubled or oversold."""

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg
from rich.console import Console
from rich.live import Live
from rich.table import Table

from local.demo import journey
from local.demo.addresses import addresses, kept_current, metrics_targets
from local.demo.load_generator import Plan
from local.demo.promises import Promise, dead_letters, gather, judged
from local.demo.sale import TOKENS, Sale, SaleProgress, put_stock
from local.eventually import eventually
from local.interrupts import stop_on_terminate
from local.servers.roots import ServersUnavailable
from local.servers.stack import Stack, given_postgresql, given_rabbitmq
from local.supervisor.supervisor import ProcessFailed
from local.system import ROOT, System
from orderflow.messaging.errors import MessagingError
from orderflow.messaging.postgres.database import Database

SKUS = {f"sku-{number}": 100_000 for number in range(1, 21)} | {"last-units": 50}
DEMO = ROOT / ".demo"
_TRACED_FROM = 500
"""One order in twenty is traced: of this many, at least one is."""

_LATENCY = """
select percentile_cont(array[0.5, 0.95, 0.99, 1.0]) within group (order by extract(epoch from final_at - accepted_at))
from orders where status = 'confirmed'
"""
_OUTCOMES = "select status, coalesce(reason, ''), count(*) from orders group by 1, 2 order by 3 desc"
_CONFIRMED = "select order_id::text from orders where status = 'confirmed' order by accepted_at desc limit 2000"


def main() -> int:
    """Run the demo; exit code 0 when every promise was kept, 1 when one was broken, 2 when it cannot run here."""
    options = _options()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    if not _lock_checkout():
        console.print(f"a demo runs in this checkout already; its addresses are in {DEMO.name}/addresses.json")
        return 2
    stop_on_terminate()
    try:
        _clear(DEMO)
        return _run(options, console)
    except ServersUnavailable as error:
        console.print(str(error), markup=False)
        return 2
    except (ProcessFailed, RuntimeError, OSError, psycopg.Error, MessagingError) as error:
        console.print(f"{error}\nThe logs are in {DEMO.name}/", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything is stopped")
        return 130


def _clear(directory: Path) -> None:
    """Recreate the folder, without the files of an earlier demo."""
    try:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(mode=0o755)
    except PermissionError as error:
        raise ServersUnavailable(f"{error.filename} belongs to another user; remove {directory} first.") from error


def _lock_checkout() -> bool:
    """Lock this checkout until this process ends; false when another demo has locked it."""
    try:
        fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _run(options: argparse.Namespace, console: Console) -> int:
    given = given_rabbitmq(os.environ) is not None or given_postgresql(os.environ) is not None
    with Stack.start(
        suite=options.suite,
        directory=DEMO / "servers",
        prometheus=not given,
        alertmanager=not given,
        report=console.print,
    ) as stack:
        where = "are yours; Prometheus and Alertmanager are not started" if given else f"({options.suite}) run"
        console.print(f"[bold]servers[/bold] {where}; logs are in {DEMO.name}/")
        return _with_servers(stack, options, console, name=f"demo-{secrets.token_hex(4)}" if given else "")


def _with_servers(stack: Stack, options: argparse.Namespace, console: Console, *, name: str) -> int:
    environ = {"ORDERFLOW_HOLD_SECONDS": "20"}
    started = System.started(stack, DEMO, environ=environ, name=name, report=console.print)
    with started as system, kept_current(system, DEMO / "addresses.json"):
        if not name:
            stack.prometheus.set_targets(stack.broker_targets() | metrics_targets(system))
        console.print(f"[bold]services[/bold] run: {', '.join(sorted(system.supervisor.pids()))}")
        put_stock(system, SKUS)
        plan = Plan(rate=options.rate, seconds=options.seconds, skus=list(SKUS), tokens=TOKENS, duplicate_share=0.05)
        sale = Sale(system, plan, poison_share=0.01)
        _run_and_drain(sale, console)
        kept = _summary(sale, console)
        if options.keep:
            _keep(stack, system, console)
        return 0 if kept else 1


def _keep(stack: Stack, system: System, console: Console) -> None:
    system.exits_allowed = True
    console.print("\n[bold]kept running until Ctrl-C[/bold]")
    console.print(f"API pages   {system.orders_api}/docs  {system.inventory_api}/docs")
    if not system.prefix:
        console.print(f"Prometheus  {stack.prometheus.url}  Alertmanager  {stack.alertmanager.url}")
    console.print(f"traces      {system.trace_store}/traces?attribute=orderflow.order_id=…")
    console.print(f"{DEMO.name}/addresses.json:\n{json.dumps(addresses(system), indent=2)}")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    console.print("stopping")


def _run_and_drain(sale: Sale, console: Console) -> None:
    """Run and drain the sale, with a progress line: live on a terminal, every five seconds elsewhere."""
    last = 0.0

    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(moment: SaleProgress) -> None:
            nonlocal last
            line = _line(moment)
            if console.is_terminal:
                live.update(line, refresh=True)
            elif time.monotonic() - last > 5:
                last = time.monotonic()
                console.print(line)

        seconds, rate = sale.plan.seconds, sale.plan.rate
        console.print(
            f"[bold]sale[/bold]: {seconds:g} s, {rate:g} orders/s on average, 5 % repeated; "
            "one malformed message for every 100 orders"
        )
        sale.run(show)
        console.print("[bold]drain[/bold]: the load has ended; waiting until every order is final")
        sale.drain(seconds=90, show=show)


def _line(moment: SaleProgress) -> str:
    return (
        f"{moment.elapsed_seconds:5.0f} s  accepted {moment.accepted:6}  confirmed {moment.confirmed:6}  "
        f"rejected {moment.rejected:5}  cancelled {moment.cancelled:4}  backlog {moment.open:5}  "
        f"p95 accepted→final {moment.p95_seconds * 1000:6.0f} ms"
    )


def _summary(sale: Sale, console: Console) -> bool:
    """Print the results and whether each promise was kept; true when all were."""
    database = Database(sale.system.databases["orders"], application_name="demo")
    with database.transaction() as transaction:
        outcomes = transaction.execute(_OUTCOMES)
        (latencies,) = transaction.execute(_LATENCY)[0]
        confirmed = [row[0] for row in transaction.execute(_CONFIRMED)]
    database.close()
    _print_outcomes(console, sale, outcomes, latencies)
    promises = _judged(sale, seconds=30)
    _print_dead_letters(console, dead_letters(sale))
    found = journey.find(sale.system.trace_store, confirmed)
    console.print()
    console.print(journey.tree(*found) if found else "no complete trace of a confirmed order was found")
    if found or len(confirmed) >= _TRACED_FROM:
        spans = f"{len(found[1])} spans under one root" if found else f"none of {len(confirmed)}"
        promises.append(Promise("an order's journey is one trace", spans, found is not None))
    _print_promises(console, promises)
    return all(promise.kept for promise in promises)


def _print_outcomes(console: Console, sale: Sale, outcomes: list[tuple[str, str, int]], latencies: list[float]) -> None:
    table = Table("outcome", "reason", "orders", title="How the orders ended", title_justify="left")
    for status, reason, count in outcomes:
        table.add_row(status, reason, str(count))
    for problem, count in sale.record.refused.items():
        table.add_row("refused by the API", problem, str(count))
    console.print(table)
    quantiles = zip(("p50", "p95", "p99", "max"), latencies or [], strict=False)
    shown = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in quantiles)
    accept = sorted(sale.record.latencies)
    console.print(f"accepted → confirmed: {shown}")
    console.print(
        f"HTTP response, from the intended send time: p50 {_quantile(accept, 0.5)}, p95 {_quantile(accept, 0.95)}"
    )
    console.print(
        f"peak backlog: {sale.peak_open} orders; the load generator was late by at most {sale.record.late:.2f} s"
    )


def _quantile(values: list[float], share: float) -> str:
    return f"{1000 * values[min(len(values) - 1, int(len(values) * share))]:.0f} ms" if values else "none"


def _print_dead_letters(console: Console, reasons: Counter[str]) -> None:
    table = Table("reason", "messages", title="Dead letters", title_justify="left")
    for reason, count in reasons.most_common():
        table.add_row(reason, str(count))
    console.print(table)


def _judged(sale: Sale, *, seconds: float) -> list[Promise]:
    """Check the promises until all are kept or time is up: the last sale, refund or notification may be pending."""
    promises: list[Promise] = []

    def all_kept() -> bool:
        promises[:] = judged(gather(sale))
        return all(promise.kept for promise in promises)

    with contextlib.suppress(TimeoutError):
        eventually(all_kept, seconds, what="every promise is kept")
    return promises


def _print_promises(console: Console, promises: list[Promise]) -> None:
    table = Table("promise", "numbers", "kept", title="Integrity", title_justify="left")
    for promise in promises:
        kept = "[green]yes[/green]" if promise.kept else "[bold red]NO[/bold red]"
        table.add_row(promise.text, promise.numbers, kept)
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--suite", default=os.environ.get("SERVERS", "trixie"), help="Debian suite of the servers")
    parser.add_argument("--rate", type=_positive, default=100, help="orders a second on average (default 100)")
    parser.add_argument("--seconds", type=_positive, default=60, help="length of the sale (default 60)")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    return parser.parse_args()


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
