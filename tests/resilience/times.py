# SPDX-License-Identifier: Apache-2.0
"""How long each part of a scenario takes, and the settings that belong to it; a long and a short form. In seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The long form, which the acceptance is about."""

    short: bool = False
    """Whether only what holds by construction is judged."""
    warm_up: float = 15
    capacity_step: float = 15
    pause: float = 28
    after_pause: float = 40
    recovery: float = 10
    """After a pause; from then on the goodput is judged."""
    overload: float = 120
    goodput_window: float = 10
    kills: float = 73
    kill_interval: float = 5
    after_kill: float = 20
    provider_away: float = 10
    deadline: float = 60
    hold: float = 20
    environ: Mapping[str, str] = field(default_factory=lambda: {"ORDERFLOW_HOLD_SECONDS": "20"})

    @property
    def drain(self) -> float:
        """Longest wait until every order is final after the load has ended: its deadline, its hold and some more."""
        return self.deadline + self.hold + 40


LONG = Times()
SHORT = Times(
    short=True,
    warm_up=4,
    capacity_step=5,
    pause=8,
    after_pause=14,
    recovery=5,
    overload=20,
    goodput_window=5,
    kills=20,
    after_kill=8,
    provider_away=4,
    deadline=17,
    hold=6,
    environ={
        "ORDERFLOW_HOLD_SECONDS": "6",
        "ORDERFLOW_ORDER_DEADLINE_SECONDS": "17",
        "ORDERFLOW_ADMISSION_LIMIT_SECONDS": "3",
    },
)
"""The long form's pause, hold, deadline and admission limit, all divided by 3.5."""
