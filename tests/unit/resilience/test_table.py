# SPDX-License-Identifier: Apache-2.0
from tests.resilience.outcome import Window
from tests.resilience.table import Figure, figures, table
from tests.rigs.resilience_runs import orders, outcome, responses


def test_one_build_has_one_column() -> None:
    assert list(table(["this"], [[Figure("accepted", 12), Figure("wait, s", 0.25, 2)]])) == [
        "                    this",
        "accepted              12",
        "wait, s             0.25",
    ]


def test_two_builds_are_side_by_side_with_the_ratio_of_the_first_to_the_second() -> None:
    ours = [Figure("confirmed", 30), Figure("refused", 4), Figure("  backlog-too-long", 4)]
    base = [Figure("confirmed", 20), Figure("refused", 0)]
    header, confirmed, refused, by_reason = table(["this", "base"], [ours, base])
    assert header.split() == ["this", "base", "ratio"]
    assert confirmed.split() == ["confirmed", "30", "20", "1.50"]
    assert refused.split() == ["refused", "4", "0"]
    assert by_reason.split() == ["backlog-too-long", "4"]


def test_a_row_that_only_the_second_build_has_is_where_it_belongs() -> None:
    ours = [Figure("  cancelled", 0), Figure("refused", 4)]
    base = [Figure("  cancelled", 3), Figure("    hold_expired", 3), Figure("refused", 0)]
    labels = [row.split()[0] for row in table(["this", "base"], [ours, base])]
    assert labels[1:] == ["cancelled", "hold_expired", "refused"]


def test_windows_with_the_same_labels_are_kept_apart() -> None:
    run = outcome(orders(20, at=1), responses(20, at=1))
    windows = {"before": Window(0, 10), "after": Window(10, 20)}
    rows = [row.split() for row in table(["this"], [figures(run, windows)])]
    assert [row[-1] for row in rows if row[0] == "confirmed/s"] == ["2.0", "2.0", "0.0", "0.0"]
