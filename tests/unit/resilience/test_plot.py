# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from tests.resilience.outcome import FAULT, RETURN
from tests.resilience.plot import COLUMNS, Second, plot, seconds
from tests.rigs.resilience_runs import orders, outcome, responses

COUNTS = st.integers(min_value=0, max_value=3_000)
MOMENTS = st.builds(
    Second, confirmed=COUNTS, cancelled=COUNTS, others=COUNTS, refused=COUNTS, mark=st.sampled_from(" <>")
)


def test_a_second_has_a_line_of_accepted_orders_and_one_of_refusals() -> None:
    moments = [Second(confirmed=5, others=1, cancelled=2, mark=">"), Second(confirmed=1, refused=3)]
    assert list(plot(moments))[2:] == [
        "   0 s >    8 #####-xx",
        "   1 s      1 #",
        "            3 ...",
    ]


@given(st.lists(MOMENTS, max_size=20))
def test_the_plot_has_at_most_two_lines_for_a_second_and_60_columns(moments: list[Second]) -> None:
    lines = list(plot(moments))[2:]
    assert len(lines) <= 2 * len(moments)
    assert max(map(len, lines), default=0) <= COLUMNS


def test_orders_are_in_the_second_of_their_acceptance_and_refusals_in_that_of_their_request() -> None:
    run = outcome(
        orders(2, at=0.5, seconds=2),
        orders(1, at=1.5, status="cancelled"),
        orders(1, at=1.5, status="rejected"),
        responses(3, at=0.5, result="backlog-too-long"),
        responses(1, at=0.5, result="unknown"),
        seconds=3,
        marks={FAULT: 1.2, RETURN: 2.7},
    )
    assert seconds(run) == [
        Second(confirmed=2, refused=3),
        Second(cancelled=1, others=1, mark=">"),
        Second(mark="<"),
    ]
