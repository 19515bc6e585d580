# SPDX-License-Identifier: Apache-2.0
"""What happened in one scenario: every order, every response and the times of the fault; and how to count them."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from local.demo.load_generator import Response

FAULT, RETURN = "fault", "return"
"""The marks of a scenario: when the fault began, and when what was gone was back."""
MAX_LATE_SECONDS = 0.25
"""Above this, at the 99th percentile, the load generator did not offer what it should have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One stored order. Times are Unix times; ``final`` is None while it is open."""

    accepted: float
    final: float | None
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A period of a run, in Unix time; the end does not belong to it."""

    start: float
    end: float

    def __contains__(self, time: float) -> bool:
        return self.start <= time < self.end

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of one scenario."""

    rate: float
    """Orders per second that were offered on average."""
    capacity: float
    load: Window
    read_at: float
    """When the orders were read; one that was open then counts as that old."""
    orders: Sequence[Order]
    responses: Sequence[Response]
    marks: Mapping[str, float] = field(default_factory=dict)
    broken: Sequence[str] = ()
    """Promises that were broken."""
    exits: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Exit codes of processes that ended by themselves."""

    @property
    def valid(self) -> bool:
        """Whether the load generator kept its plan."""
        return kept_plan(self.responses)

    def offered(self, window: Window) -> int:
        """How many orders should have been sent within the window."""
        return sum(response.due in window for response in self.responses)

    def accepted(self, window: Window, *statuses: str) -> int:
        """How many orders were accepted within the window, and have one of these statuses now; none: any."""
        return sum(order.accepted in window and (not statuses or order.status in statuses) for order in self.orders)

    def confirmed(self, window: Window) -> int:
        """How many of the orders accepted within the window are confirmed, whenever that was."""
        return self.accepted(window, "confirmed")

    def finished(self, window: Window) -> int:
        """How many orders became confirmed within the window, whenever they were accepted."""
        return sum(order.final in window for order in self.orders if order.final and order.status == "confirmed")

    def goodput(self, window: Window) -> float:
        """Orders per second that became confirmed within the window."""
        return self.finished(window) / window.seconds

    def waits(self, window: Window) -> list[float]:
        """Seconds from accepted to final of the orders accepted within the window."""
        return [(order.final or self.read_at) - order.accepted for order in self.orders if order.accepted in window]

    def reasons(self, status: str) -> Counter[str]:
        """Why orders got this status."""
        return Counter(order.reason for order in self.orders if order.status == status)

    def results(self) -> Counter[str]:
        """Responses by result."""
        return Counter(response.result for response in self.responses)

    def response_seconds(self, wanted: Callable[[str], bool] = lambda _: True) -> list[float]:
        """Seconds from the intended send time to the response, of the results that are wanted."""
        return [response.seconds for response in self.responses if wanted(response.result)]


def refused(result: str) -> bool:
    """Whether a result of a response is a refusal."""
    return result not in {"accepted", "unknown"}


def kept_plan(responses: Sequence[Response]) -> bool:
    """Whether the load generator sent its requests on time."""
    return quantile([response.late_seconds for response in responses], 0.99) <= MAX_LATE_SECONDS


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; 0 for no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def parts(window: Window, seconds: float) -> list[Window]:
    """The window cut into windows of this length; what is left at the end is left out."""
    count = int(window.seconds / seconds)
    return [Window(window.start + n * seconds, window.start + (n + 1) * seconds) for n in range(count)]
