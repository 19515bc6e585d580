# SPDX-License-Identifier: Apache-2.0
"""The kinds of values that settings have. Each reads a text, or raises ValueError that says what the text must be."""

from collections.abc import Callable
from urllib.parse import urlsplit

MAX_PARTITIONS = 64


def any_text(value: str) -> str:
    """Any text."""
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value

    return parse


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], int | float]:
    """A number of this kind within these limits."""

    def parse(value: str) -> int | float:
        try:
            read = kind(value)
        except ValueError:
            raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
        if not low <= read <= high:
            raise ValueError(f"must be between {low:g} and {high:g}")
        return read

    return parse


def url(*schemes: str) -> Callable[[str], str]:
    """A URL with one of these schemes and a host."""

    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"must be a URL like {schemes[0]}://user:password@host:port/name")
        return value

    return parse


def pairs(value: str) -> dict[str, str]:
    """The values by name in ``name=value,name=value``."""
    found = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    if not all(name and value for name, _, value in found) or len({name for name, _, _ in found}) < len(found):
        raise ValueError("must be name=user, separated by commas, each name once")
    return {name: value for name, _, value in found}


def counts(value: str) -> dict[str, tuple[int, ...]]:
    """The numbers by name in ``name=2,name=2+4``."""
    found = {name: tuple(numbers.split("+")) for name, numbers in pairs(value).items()}
    if not all(part.isdecimal() and 1 <= int(part) <= MAX_PARTITIONS for numbers in found.values() for part in numbers):
        raise ValueError(f"must be name=count, or name=old+new, each count from 1 to {MAX_PARTITIONS}")
    return {name: tuple(int(part) for part in numbers) for name, numbers in found.items()}


def checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """A text that can be parsed; the setting keeps the text."""

    def check(value: str) -> str:
        parse(value)
        return value

    return check
