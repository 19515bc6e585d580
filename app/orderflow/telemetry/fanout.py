# SPDX-License-Identifier: Apache-2.0
"""Passes each report to every listener; an exception in one listener does not affect the others."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from inspect import get_annotations, getmembers, isfunction
from typing import Any, TypeVar

from orderflow.instrumentation import RequestObserver
from orderflow.messaging.instrumentation import BatchObserver, CallObserver, PublishObserver

log = logging.getLogger(__name__)

Interface = TypeVar("Interface")
_OBSERVERS = (BatchObserver, CallObserver, PublishObserver, RequestObserver)


def fan_out(interface: type[Interface], listeners: Sequence[Interface]) -> Interface:
    """An ``interface`` whose methods call the same method of each listener that overrides it, in order.

    A method with an observer as its result returns one that fans out to the listeners' observers. Any other method
    returns the first result that is not empty. An exception in a listener is logged, and counts as an empty result.
    """
    combined: Interface = _fan_out_class(interface)(listeners)  # type: ignore[arg-type]  # a class is hashable
    return combined


@cache
def _fan_out_class(interface: type[Any]) -> Callable[[Sequence[Any]], Any]:
    methods = {name: _method(interface, name) for name, _ in getmembers(interface, isfunction) if name[0] != "_"}

    def init(self: Any, listeners: Sequence[Any]) -> None:
        self.listeners = tuple(listeners)

    return type(f"FanOut{interface.__name__}", (interface,), {"__slots__": ("listeners",), "__init__": init, **methods})


def _method(interface: type[Any], name: str) -> Callable[..., Any]:
    default = getattr(interface, name)
    returned = get_annotations(default)["return"]

    def results(self: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
        found = []
        for listener in self.listeners:
            if getattr(type(listener), name) is default:
                continue
            try:
                found.append(getattr(listener, name)(*arguments, **options))
            except Exception:
                log.exception("telemetry.failed", extra={"method": name, "listener": type(listener).__name__})
        return found

    if returned is None:
        return lambda self, *arguments, **options: results(self, arguments, options) and None
    if returned in _OBSERVERS:
        return lambda self, *arguments, **options: _combined(returned, results(self, arguments, options))
    return lambda self, *arguments, **options: next(
        filter(None, results(self, arguments, options)), default(self, *arguments, **options)
    )


def _combined(interface: type[Any], observers: Sequence[Any]) -> Any:
    """One observer for all these, without those of the base class, which do nothing."""
    return fan_out(interface, [observer for observer in observers if type(observer) is not interface])
