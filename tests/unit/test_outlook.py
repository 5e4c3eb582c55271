"""Whether usage is as usual and whether it will last; percentiles from few integers; sessions of a period."""

from bisect import bisect_right
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_limit

from subscription_mcp.domain.analytics import Group, page_of, step_starts, tiles_of
from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.histogram import EDGES, VALUE_MAX, cell_of, percentile, value_of
from subscription_mcp.domain.instants import DAY, HOUR, QUARTER, SECOND, format_instant, parse_instant
from subscription_mcp.domain.outlook import Projection, comparison, projections, session_summary, trend
from subscription_mcp.domain.usage import has_failed
from subscription_mcp.domain.windows import Anchor, Month, Period

NOW = parse_instant("2026-11-20T12:00:00Z")
MIDNIGHT = parse_instant("2026-11-20T00:00:00Z")
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Pacific/Apia", "Asia/Kathmandu"]


# Percentiles


def test_what_stands_for_a_duration_is_at_most_5_percent_off() -> None:
    for cell in range(len(EDGES) - 1):
        for value in (EDGES[cell], EDGES[cell + 1] - 1):
            assert cell_of(value) == cell
            assert abs(value_of(cell) - value) * 20 <= value


def test_the_longest_duration_has_a_cell() -> None:
    assert EDGES[cell_of(VALUE_MAX) + 1] > VALUE_MAX


def test_durations_have_few_cells() -> None:
    assert len(EDGES) < 300
    assert EDGES[:4] == (0, 1, 2, 3)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200), st.sampled_from([50, 95]))
def test_a_percentile_is_the_nearest_rank_within_5_percent(values: list[int], percent: int) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[cell_of(value)] = counts.get(cell_of(value), 0) + 1
    exact = sorted(values)[-(-len(values) * percent // 100) - 1]
    found = percentile(counts, percent)
    assert found is not None and abs(found - exact) * 20 <= exact


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile({}, 50) is None


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        (200, False),
        (399, False),
        (400, True),
        (503, True),
        ("200", False),
        ("500", True),
        ("ok", False),
        ("Success", False),
        ("timeout", True),
        (None, False),
    ],
)
def test_a_status_says_whether_it_failed(status: str | int | None, failed: bool) -> None:
    assert has_failed(status) is failed


# Tiles

quarters = st.integers(MIDNIGHT // QUARTER - 400 * 96, MIDNIGHT // QUARTER).map(lambda n: n * QUARTER)


@given(
    quarters,
    st.integers(0, 70 * 96),
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(ZONES),
)
def test_a_period_is_tiled_so_that_every_quarter_counts_once_and_in_its_step(
    start: int, length: int, granularity, zone: str
) -> None:
    period = Period(start, start + length * QUARTER)
    steps = step_starts(period, granularity, zone) or ()
    tiles = tiles_of(period, steps)
    counted: Counter[tuple[int, int]] = Counter()
    for tile in tiles:
        assert tile.period.start % tile.span == (tile.period.end or 0) % tile.span == 0
        for quarter in range(tile.period.start, tile.period.end or 0, QUARTER):
            for step, sign in tile.steps:
                counted[(step, quarter)] += sign
    bounds = [start, *steps]
    expected = {
        (bounds[bisect_right(bounds, quarter) - 1], quarter): 1
        for quarter in range(start, period.end or 0, QUARTER)
    }
    assert {key: times for key, times in counted.items() if times} == expected
    # No more is read than the cells themselves would be.
    assert sum(((tile.period.end or 0) - tile.period.start) // tile.span for tile in tiles) <= length


@pytest.mark.parametrize(
    ("zone", "cells"), [("UTC", 30), ("Europe/Berlin", 29 + 29 * 4 + 96), ("Asia/Kolkata", 29 + 29 * 22 + 96)]
)
def test_a_month_is_read_by_days_and_by_the_shorter_parts_of_those_that_midnight_parts(
    zone: str, cells: int
) -> None:
    period = Month(zone).period_at(NOW, Anchor(0))
    tiles = tiles_of(period, step_starts(period, "day", zone) or ())
    assert sum(((tile.period.end or 0) - tile.period.start) // tile.span for tile in tiles) == cells


# Pages


def test_a_page_has_room_for_so_many_bytes_and_one_row_at_least() -> None:
    groups = [Group({"model": "x" * 1_000}, "messages", 1, 1) for _ in range(50)]
    assert len(page_of(groups, 0, 5_000)) == 4
    assert len(page_of(groups, 48, 5_000)) == 2
    assert len(page_of(groups, 0, 1)) == 1
    assert page_of(groups, 50, 5_000) == []


# Projections


def state(used: int, maximum=100, window: str = "month", scope="user") -> LimitState:
    limit = a_limit(maximum, window=window, scope=scope)
    return LimitState(limit, "message", used, 0, limit.window.period_at(NOW, Anchor(0)))


def projected(used: int, days: list[int], maximum=100, window: str = "month") -> Projection:
    daily = {"user": [{"messages": day} for day in days]}
    (found,) = projections([state(used, maximum, window)], daily, NOW)
    return found


def test_a_projection_goes_on_as_on_the_complete_days() -> None:
    found = projected(60, [0, 0, 4, 2, 6])  # 4 a day; ten and a half days are left
    assert (found.days, found.projected, found.percent, found.runs_out_at) == (3, 102, 102, NOW + 10 * DAY)
    assert found.message == (
        "At the pace of the last 3 days 102 messages by 2026-12-01 00:00 UTC, 102 % of 100. It runs out 2026-11-30 12:00 UTC."
    )


def test_what_lasts_has_no_date_at_which_it_runs_out() -> None:
    found = projected(10, [4, 4, 4])
    assert (found.projected, found.percent, found.runs_out_at) == (52, 52, None)


def test_before_three_complete_days_it_is_too_early() -> None:
    found = projected(60, [0, 0, 9, 9])
    assert (found.days, found.projected, found.percent, found.runs_out_at) == (2, None, None, None)
    assert found.message == "Too early to say: it takes 3 complete days of use, and there are 2."


def test_what_is_used_up_runs_out_now_and_what_has_no_limit_never() -> None:
    assert projected(100, [4, 4, 4]).runs_out_at == NOW
    unlimited = projected(100, [4, 4, 4], UNLIMITED)
    assert (unlimited.projected, unlimited.percent, unlimited.runs_out_at) == (142, None, None)
    nothing = projected(0, [4, 4, 4], 0)
    assert (nothing.percent, nothing.runs_out_at) == (None, NOW)


def test_a_limit_for_life_has_no_end_to_project_but_may_run_out() -> None:
    found = projected(60, [4, 4, 4], 100, "lifetime")
    assert (found.projected, found.runs_out_at) == (None, NOW + 10 * DAY)


def test_what_was_taken_back_is_no_use_to_project() -> None:
    assert projected(10, [5, -9, -9]).projected == 10


def test_windows_that_slide_are_not_projected() -> None:
    limits = [state(1, window="minute"), state(1, window="rolling:PT5H"), state(1, window="level")]
    assert projections(limits, {"user": []}, NOW) == []


# Trends


def test_today_is_compared_with_the_same_part_of_days_like_it() -> None:
    month = Month("UTC").period_at(NOW, Anchor(0))
    compared = comparison(month, "day", "UTC", NOW)  # a Friday noon
    assert compared.current == Period(MIDNIGHT, NOW + QUARTER)
    assert [format_instant(one.start)[:10] for one in compared.usual] == [
        *("2026-11-19", "2026-11-18", "2026-11-17", "2026-11-16", "2026-11-13")
    ]
    assert all((one.end or 0) - one.start == 12 * HOUR + QUARTER for one in compared.usual)
    assert compared.before == Period(month.start - (NOW + QUARTER - month.start), month.start)


def test_months_are_compared_with_months_however_short() -> None:
    at = parse_instant("2026-03-31T00:00:00Z")
    compared = comparison(Period(at - 30 * DAY, at + DAY), "month", "UTC", at)
    february = compared.usual[0]
    assert format_instant(february.start) == "2026-02-01T00:00:00Z"
    assert format_instant(february.end or 0) == "2026-03-01T00:00:00Z"


TODAY_SO_FAR = comparison(Month("UTC").period_at(NOW, Anchor(0)), "day", "UTC", NOW)


def test_a_trend_says_how_much_more_than_usual_it_is() -> None:
    usual = [{"messages": 10}, {"messages": 30}, {"messages": 20}, {}]
    (line,) = trend(
        ["messages"],
        {"messages": "message"},
        "day",
        TODAY_SO_FAR,
        {"messages": 25},
        usual,
        {"messages": 80},
        {"messages": 100},
    )
    assert (line.usual, line.change_percent, line.total, line.previous, line.previous_change_percent) == (
        20,
        25,
        80,
        100,
        -20,
    )
    assert line.message == (
        "25 messages today so far, 25 % more than usual; usual by now is 20 messages, the median of 3 days."
    )


def test_two_days_do_not_say_what_is_usual() -> None:
    usual = [{"messages": 10}, {"messages": 30}, {}, {}]
    (line,) = trend(["messages"], {}, "day", TODAY_SO_FAR, {"messages": 1}, usual, {}, {})
    assert (line.usual, line.change_percent, line.previous_change_percent) == (None, None, None)
    assert "too little" in line.message


def test_before_the_first_of_a_day_nothing_is_said_to_be_less() -> None:
    usual = [{"messages": 10}, {"messages": 30}, {"messages": 20}]
    (line,) = trend(
        ["messages"], {"messages": "message"}, "day", TODAY_SO_FAR, {}, usual, {}, {"messages": 9}
    )
    assert (line.current, line.usual, line.change_percent, line.previous_change_percent) == (
        0,
        20,
        None,
        None,
    )
    assert line.message == (
        "Nothing yet today (messages); usual by now is 20 messages, the median of 3 days."
    )


@pytest.mark.parametrize(
    ("previous", "said"),
    [
        (
            {"messages": 100},
            "80 messages in this period, 20 % less than the 100 messages in the 31 days before.",
        ),
        ({"messages": 80}, "80 messages in this period, 80 messages in the 31 days before."),
        ({}, "80 messages in this period, 0 messages in the 31 days before."),
    ],
)
def test_a_period_that_is_over_is_compared_as_a_whole_and_not_with_today(
    previous: dict[str, int], said: str
) -> None:
    march = Period(parse_instant("2026-03-01T00:00:00Z"), parse_instant("2026-04-01T00:00:00Z"))
    compared = comparison(march, "day", "UTC", NOW)
    assert compared.is_over
    assert not comparison(march, "day", "UTC", (march.end or 0) - 1).is_over
    (line,) = trend(
        ["messages"], {"messages": "message"}, "day", compared, {}, [], {"messages": 80}, previous
    )
    assert line.message == said


@pytest.mark.parametrize(
    ("zone", "start", "end", "said"),
    [
        ("Europe/Berlin", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "the 31 days before"),
        ("UTC", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "in the day before"),
        ("UTC", "2026-03-01T00:00:00Z", "2026-03-01T02:00:00Z", "the 2 hours before"),
    ],
)
def test_the_time_before_is_told_in_days_where_it_is_days(zone: str, start: str, end: str, said: str) -> None:
    period = Period(parse_instant(start), parse_instant(end))
    compared = comparison(period, "day", zone, NOW)
    (line,) = trend(["messages"], {}, "day", compared, {}, [], {"messages": 1}, {})
    assert said in line.message


# Sessions


def test_sessions_are_counted_with_the_most_at_once() -> None:
    period = Period(NOW, NOW + HOUR)
    spans = [
        (NOW - HOUR, NOW + 60 * SECOND),
        (NOW + 30 * SECOND, NOW + 90 * SECOND),
        (NOW + 60 * SECOND, None),
        (NOW + 3599 * SECOND, NOW + 7200 * SECOND),
    ]
    found = session_summary(spans, period, 4)
    assert (found.count, found.peak_concurrent, found.truncated) == (4, 2, False)
    newest = session_summary(spans, period, 3)
    assert (newest.count, newest.longest_seconds, newest.truncated) == (3, 3660, True)
    assert (found.p50_seconds, found.p95_seconds, found.longest_seconds) == (3601, 3660, 3660)


def test_no_sessions_have_no_length() -> None:
    found = session_summary([], Period(NOW, NOW + HOUR), 4)
    assert (found.count, found.p50_seconds, found.longest_seconds, found.peak_concurrent) == (
        0,
        None,
        None,
        0,
    )
