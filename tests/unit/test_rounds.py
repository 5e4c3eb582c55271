"""How benchmarks compare: sides take turns, and ratios are taken within a round."""

from collections.abc import Callable

import pytest
from benchmarks.load import CannotMeasure, find_wrk
from benchmarks.rounds import Report, Spread, at_least, at_most, difference, in_turns, markdown, ratio


def counting(order: list[str], name: str, first: float) -> Callable[[], dict[str, float]]:
    def turn() -> dict[str, float]:
        order.append(name)
        return {"calls/s": first * order.count(name)}

    return turn


def test_each_round_begins_with_another_side() -> None:
    order: list[str] = []
    turns = in_turns({name: counting(order, name, 1) for name in "abc"}, rounds=4)
    assert "".join(order) == "abcbcacababc"
    assert turns["b"] == [{"calls/s": 1}, {"calls/s": 2}, {"calls/s": 3}, {"calls/s": 4}]


def test_sides_are_compared_within_a_round() -> None:
    turns = {"ours": [{"ms": 20}, {"ms": 90}, {"ms": 5}], "bare": [{"ms": 10}, {"ms": 30}, {"ms": 10}]}
    assert ratio(turns, "ours", "bare", "ms") == Spread(2, 0.5, 3)
    assert difference(turns, "ours", "bare", "ms") == Spread(10, -5, 60)


def test_a_goal_is_judged_by_the_median() -> None:
    spread = Spread.of([0.5, 0.75, 2])
    assert at_least("rate", spread, 0.75).holds
    assert not at_least("rate", spread, 0.76).holds
    assert at_most("wait", spread, 0.75, "ms").holds
    assert not at_most("wait", spread, 0.74, "ms").holds


def test_a_report_is_a_section_with_two_tables() -> None:
    goal = at_most("later", Spread(12.34, 1, 1234.5), 10, "ms")
    text = markdown(Report("start", "About it.", {"ours": [{"ms": 7}]}, [goal]))
    assert "| ours | 7.00 (7.00–7.00) |" in text
    assert "| later | ≤ 10.0 ms | 12.3 (1.00–1,234) ms | **missed** |" in text


def test_who_lacks_wrk_is_told_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotMeasure, match="apt install wrk"):
        find_wrk()
