# SPDX-License-Identifier: Apache-2.0
"""One JSON object per line on standard output: an event name and its fields, with the trace it belongs to.

Bodies, secrets and personal data are never fields. Of an exception, and of a field, only the first line is kept, and of
that no more than 500 characters: a database puts the row into the lines below, and text from outside may be long.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

import msgspec
from opentelemetry.trace import get_current_span

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_LONGEST = 500
_MOST_FRAMES = 20
_QUIET = dict.fromkeys(
    ("pika", "psycopg", "aiohttp", "urllib3", "asyncio", "uvicorn", "opentelemetry"), logging.WARNING
)
"""These write prose, and much of it."""
_SILENT = {"opentelemetry.trace.span": logging.ERROR}
"""This logger warns of an invalid trace state and quotes it. Any client can write into it."""


class JsonLines(logging.Formatter):
    """Writes records as JSON: time (RFC 3339), level, event, logger, process, trace ids, then the fields."""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process = process_name

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record, without its end."""
        line: dict[str, object] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "process": self._process,
            "logger": record.name,
        }
        context = get_current_span().get_span_context()
        if context.is_valid:
            line |= {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        # A field cannot take the place of what every line has.
        line |= {name: _short(value) for name, value in vars(record).items() if name not in _STANDARD | line.keys()}
        if record.exc_info and record.exc_info[1] is not None:
            line |= _exception(record.exc_info[1])
        try:
            return msgspec.json.encode(line, enc_hook=_text).decode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON may hold and UTF-8 may not
            return json.dumps(line, default=_text)


def configure(process_name: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Let everything that is logged come out as JSON lines, from ``level`` on; replaces what was configured before."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonLines(process_name))
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in (_QUIET | _SILENT).items():
        logging.getLogger(name).setLevel(max(least, root.level))


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(value: object) -> object:
    """A text without what follows its first line, and not too long."""
    return value.partition("\n")[0][:_LONGEST] if isinstance(value, str) else value


def _text(value: object) -> str:
    return str(value)[:_LONGEST]


def _exception(error: BaseException) -> dict[str, object]:
    chain = list(_chain(error))
    return {
        "error_type": type(error).__name__,
        "error": _first_line(error),
        "causes": [f"{type(cause).__name__}: {_first_line(cause)}" for cause in chain[1:]],
        "stack": [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for cause in reversed(chain)
            for frame in traceback.extract_tb(cause.__traceback__, limit=-_MOST_FRAMES)
        ],
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what led to it, at most ten of them."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:_LONGEST] if lines else ""
