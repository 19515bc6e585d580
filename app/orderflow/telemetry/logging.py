# SPDX-License-Identifier: Apache-2.0
"""Writes logs as one JSON object per line: an event name, its fields, and the ids of the current span.

Bodies, secrets and personal data are never fields. Only the first line of an error message or a field is kept, and at
most 500 characters of it: the other lines of a database error contain the row, and external text may be long.
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
_MAX_LENGTH = 500
_MAX_FRAMES = 20
_QUIET = dict.fromkeys(
    ("pika", "psycopg", "aiohttp", "urllib3", "asyncio", "uvicorn", "opentelemetry"), logging.WARNING
)
"""These libraries log much free text."""
_SILENT = {"opentelemetry.trace.span": logging.ERROR}
"""This logger quotes an invalid trace state in a warning, and any client can send one."""


class JsonLines(logging.Formatter):
    """Writes records as JSON: time (RFC 3339), level, event, logger, process, trace ids, then the fields."""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process = process_name

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record, without a newline."""
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
        # A field cannot replace a standard key.
        line |= {name: _short(value) for name, value in vars(record).items() if name not in _STANDARD | line.keys()}
        if record.exc_info and record.exc_info[1] is not None:
            line |= _exception(record.exc_info[1])
        try:
            return msgspec.json.encode(line, enc_hook=_text).decode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can escape and UTF-8 cannot encode
            return json.dumps(line, default=_text)


def configure(process_name: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Write all logs of at least ``level`` as JSON lines; replaces the previous configuration."""
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
    """The first line of a text, up to the maximum length."""
    return value.partition("\n")[0][:_MAX_LENGTH] if isinstance(value, str) else value


def _text(value: object) -> str:
    return str(value)[:_MAX_LENGTH]


def _exception(error: BaseException) -> dict[str, object]:
    chain = list(_chain(error))
    return {
        "error_type": type(error).__name__,
        "error": _first_line(error),
        "causes": [f"{type(cause).__name__}: {_first_line(cause)}" for cause in chain[1:]],
        "stack": [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for cause in reversed(chain)
            for frame in traceback.extract_tb(cause.__traceback__, limit=-_MAX_FRAMES)
        ],
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and its causes, at most ten exceptions."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:_MAX_LENGTH] if lines else ""
