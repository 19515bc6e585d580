# SPDX-License-Identifier: Apache-2.0
"""A run second by second as text, at most 60 columns wide."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.resilience.outcome import FAULT, RETURN, Outcome, parts, refused

COLUMNS = 60
_LABEL = 14
LEGEND = "# confirmed  - rejected or open  x cancelled  . refused  > fault  < return"


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What arrived within one second: accepted orders by their final status, and refusals."""

    confirmed: int = 0
    cancelled: int = 0
    others: int = 0
    refused: int = 0
    mark: str = " "

    @property
    def accepted(self) -> int:
        """Confirmed and all others that were accepted."""
        return self.confirmed + self.cancelled + self.others


def seconds(outcome: Outcome) -> list[Second]:
    """Every second of the load."""
    marks = {outcome.marks.get(FAULT): ">", outcome.marks.get(RETURN): "<"}
    return [
        Second(
            confirmed=(confirmed := outcome.confirmed(window)),
            cancelled=(cancelled := outcome.accepted(window, "cancelled")),
            others=outcome.accepted(window) - confirmed - cancelled,
            refused=sum(refused(response.result) for response in outcome.responses if response.due in window),
            mark=next((sign for time, sign in marks.items() if time and time in window), " "),
        )
        for window in parts(outcome.load, 1)
    ]


def plot(moments: Sequence[Second]) -> Iterator[str]:
    """The legend, then for each second a line of accepted orders, and a line of refusals if there are any."""
    most = max((max(moment.accepted, moment.refused) for moment in moments), default=0)
    unit = max(1, math.ceil(most / (COLUMNS - _LABEL)))
    yield LEGEND
    yield f"one character is {unit} order{'s' if unit > 1 else ''}; orders by the second of their acceptance"
    for number, moment in enumerate(moments):
        counts = {"#": moment.confirmed, "-": moment.others, "x": moment.cancelled}
        yield f"{number:4} s {moment.mark} {moment.accepted:4} {_bar(counts, unit)}".rstrip()
        if moment.refused:
            yield f"{moment.refused:{_LABEL - 1}} {_bar({'.': moment.refused}, unit)}".rstrip()


def _bar(counts: dict[str, int], unit: int) -> str:
    """Each count as characters; rounding is such that the whole bar has the length of the sum."""
    bar, total = "", 0
    for sign, count in counts.items():
        total += count
        bar += sign * (round(total / unit) - len(bar))
    return bar
