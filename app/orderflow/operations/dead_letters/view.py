# SPDX-License-Identifier: Apache-2.0
"""Formats dead letters for a terminal, and as JSON for other programs. Personal fields are masked in both."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from orderflow.operations.dead_letters.model import DeadLetter, masked_body
from orderflow.operations.dead_letters.queue import Settled

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def terminal(**options: Any) -> Console:
    """A console without markup: the contents of messages must not be able to style it."""
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False, **options)


def summary(letter: DeadLetter) -> dict[str, Any]:
    """The headers and the reason of a dead letter, as JSON values."""
    return {
        "message_id": letter.message_id,
        "event_type": letter.event_type,
        "order_id": letter.order_id,
        "reason": letter.reason,
        "detail": letter.detail,
        "queue": letter.queue,
        "dead_lettered_by": letter.dead_lettered_by,
        "dead_lettered_at": letter.dead_lettered_at,
        "first_failure_at": letter.first_failure_at,
        "retry_count": letter.retry_count,
        "original_routing_key": letter.origin.routing_key,
        "trace_id": letter.trace_id,
        "bytes": letter.size_bytes,
    }


def details(letter: DeadLetter) -> dict[str, Any]:
    """The summary with the broker's history and the masked body."""
    history = [{"queue": d.queue, "reason": d.reason, "count": d.count, "at": d.at} for d in letter.history]
    return {**summary(letter), "history": history, "body": masked_body(letter)}


def as_json(value: Any) -> str:
    """Indented JSON; times in RFC 3339."""
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def show_list(console: Console, letters: Sequence[DeadLetter], *, total: int, now: datetime) -> None:
    """One row each, oldest first."""
    table = Table(box=None, pad_edge=False)
    for heading in ("message id", "event", "queue", "reason", "retries", "dead-lettered", "order id"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "retries" else "left")
    for letter in letters:
        table.add_row(
            plain(letter.message_id),
            plain(letter.event_type),
            plain(letter.queue),
            plain(letter.reason),
            str(letter.retry_count),
            f"{age(letter.dead_lettered_at, now)} ago" if letter.dead_lettered_at else "-",
            plain(letter.order_id),
        )
    if letters:
        console.print(table)
    console.print(f"{len(letters)} shown of {total} in the dead letter queue", style="dim")


def show_details(console: Console, letter: DeadLetter) -> None:
    """The details of one dead letter."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary(letter).items():
        table.add_row(name.replace("_", " "), plain(value), style=None)
    for death in letter.history:
        at = death.at.isoformat() if death.at else "at an unknown time"
        table.add_row("history", plain(f"{death.reason} in {death.queue}, {death.count} times, {at}"))
    console.print(table)
    console.print_json(as_json(masked_body(letter)))


def show_settled(console: Console, settled: Settled, verb: str) -> None:
    """The messages that left the queue, those that stayed with the reason, and how many more are selected."""
    for letter in settled.gone:
        console.print(f"{verb} {_line(letter)}")
    for letter, why in settled.kept:
        console.print(f"kept {_line(letter)}: {why}")
    more = f", {settled.left} more are selected: run the command again" if settled.left else ""
    console.print(f"{verb} {len(settled.gone)}, kept {len(settled.kept)}{more}", style="dim")


def settled_json(settled: Settled, verb: str) -> dict[str, Any]:
    """The result of a replay or discard, as JSON values."""
    kept = [{**summary(letter), "kept_because": why} for letter, why in settled.kept]
    return {verb.replace(" ", "_"): [summary(letter) for letter in settled.gone], "kept": kept, "left": settled.left}


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = max(0, round((now - moment).total_seconds())) if moment else 0
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1, "s"))
    return f"{seconds // size} {unit}"


def _line(letter: DeadLetter) -> str:
    return plain(f"{letter.message_id or '-'} {letter.event_type} ({letter.reason}) {letter.queue}")


def plain(value: object) -> str:
    """Text without control characters for the terminal: a publisher can put anything into these fields."""
    if isinstance(value, datetime):
        return value.isoformat()
    text = str(value) if value not in {"", None} else "-"
    return text if text.isprintable() else text.encode("unicode_escape").decode()
