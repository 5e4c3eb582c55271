"""Analytics: which period a report covers, and sums that agree however they are grouped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.domain.analytics import (
    UsageRow,
    explicit_period,
    grouped,
    named_period,
    series,
    totals,
    whole_quarters,
)
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, HOUR, format_instant, parse_instant
from subscription_mcp.domain.windows import Period, quarter_of

ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Pacific/Apia"]
KEYS = ("meter", "event", "plan", "user", "account", "provider", "model", "tool", "client")


def text_of(period: Period) -> tuple[str, str]:
    assert period.end is not None
    return format_instant(period.start), format_instant(period.end)


@pytest.mark.parametrize(
    ("name", "zone", "start", "end"),
    [
        ("today", "UTC", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"),
        ("today", "Asia/Kolkata", "2026-11-20T18:30:00Z", "2026-11-21T18:30:00Z"),
        ("today", "Europe/Berlin", "2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z"),
        ("this_month", "UTC", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("this_month", "America/New_York", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
        ("last_7_days", "UTC", "2026-11-14T00:00:00Z", "2026-11-21T00:00:00Z"),
        ("last_30_days", "Europe/Berlin", "2026-10-21T22:00:00Z", "2026-11-20T23:00:00Z"),
        ("last_6_months", "UTC", "2026-06-01T00:00:00Z", "2026-11-21T00:00:00Z"),
        ("last_6_months", "Europe/Berlin", "2026-05-31T22:00:00Z", "2026-11-20T23:00:00Z"),
    ],
)
def test_a_word_for_a_period_means_whole_days_of_the_zone(name, zone, start, end) -> None:
    now = parse_instant("2026-11-20T20:00:00Z")
    assert text_of(named_period(name, now, zone, None)) == (start, end)


def test_a_billing_period_is_the_subscriptions_own_else_the_month() -> None:
    now = parse_instant("2026-11-20T20:00:00Z")
    own = Period(now - 3 * DAY, now + 27 * DAY)
    assert named_period("billing_period", now, "UTC", own) == own
    assert text_of(named_period("billing_period", now, "UTC", None))[0] == "2026-11-01T00:00:00Z"


def test_a_period_of_400_days_is_the_longest() -> None:
    start = parse_instant("2026-01-01T00:00:00Z")
    assert explicit_period(start, start + 400 * DAY) == Period(start, start + 400 * DAY)
    with pytest.raises(Refusal, match="at most 400 days"):
        explicit_period(start, start + 400 * DAY + 1)


@pytest.mark.parametrize("length", [0, -HOUR])
def test_a_period_ends_after_it_starts(length: int) -> None:
    start = parse_instant("2026-01-01T00:00:00Z")
    with pytest.raises(Refusal, match="must lie after the start"):
        explicit_period(start, start + length)


def test_a_period_is_widened_to_whole_quarters_of_an_hour() -> None:
    asked = Period(parse_instant("2026-11-20T10:46:01Z"), parse_instant("2026-11-20T12:14:59Z"))
    assert text_of(whole_quarters(asked)) == ("2026-11-20T10:45:00Z", "2026-11-20T12:15:00Z")
    assert whole_quarters(whole_quarters(asked)) == whole_quarters(asked)


instants = st.integers(parse_instant("2026-02-01T00:00:00Z"), parse_instant("2026-12-01T00:00:00Z"))
words = st.sampled_from(["a", "b", None])


@st.composite
def rows_in_a_zone(draw: st.DrawFn) -> tuple[list[UsageRow], str]:
    zone = draw(st.sampled_from(ZONES))
    row = st.builds(
        UsageRow,
        meter=st.sampled_from(["messages", "tokens"]),
        events=st.integers(1, 5),
        quantity=st.integers(0, 1_000),
        quarter=instants.map(quarter_of),
        account=st.sampled_from(["x", "y"]),
        user=st.sampled_from(["bob", "eve"]),
        dimensions=st.tuples(*[words] * 6),
    )
    return draw(st.lists(row, max_size=30)), zone


def sums(groups) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for group in groups:
        quantity, events = found.get(group.meter, (0, 0))
        found[group.meter] = (quantity + group.quantity, events + group.events)
    return found


@given(
    rows_in_a_zone(),
    st.sampled_from(["hour", "day", "week", "month"]),
    st.lists(st.sampled_from(KEYS), max_size=3, unique=True),
)
def test_totals_series_and_breakdown_of_the_same_rows_agree(rows_and_zone, granularity, keys) -> None:
    rows, zone = rows_and_zone
    whole = {group.meter: (group.quantity, group.events) for group in totals(rows)}
    steps = series(rows, granularity, keys, zone)
    assert sums(grouped(rows, keys)) == whole
    assert sums(steps) == whole
    assert [step.start for step in steps] == sorted(step.start for step in steps)
    assert all(step.end is not None and step.start < step.end for step in steps)


@given(rows_in_a_zone(), st.lists(st.sampled_from(KEYS), max_size=2, unique=True))
def test_shares_are_floored_and_never_pass_the_whole_of_their_meter(rows_and_zone, keys) -> None:
    groups = grouped(rows_and_zone[0], keys)
    for meter in {group.meter for group in groups}:
        of_meter = [group for group in groups if group.meter == meter]
        assert sum(group.share_millionths for group in of_meter) <= 1_000_000
        assert [g.quantity for g in of_meter] == sorted((g.quantity for g in of_meter), reverse=True)


def test_meters_are_never_added_to_each_other() -> None:
    rows = [UsageRow("messages", 1, 10), UsageRow("tokens", 1, 30)]
    assert [(group.meter, group.quantity, group.share_millionths) for group in grouped(rows, ())] == [
        ("messages", 10, 1_000_000),
        ("tokens", 30, 1_000_000),
    ]


def test_hours_fall_into_the_local_day() -> None:
    late = quarter_of(parse_instant("2026-11-20T18:15:00Z"))
    later = quarter_of(parse_instant("2026-11-20T18:45:00Z"))
    steps = series([UsageRow("m", 1, 1, late), UsageRow("m", 1, 2, later)], "day", (), "Asia/Kolkata")
    assert [(format_instant(step.start or 0), step.quantity) for step in steps] == [
        ("2026-11-19T18:30:00Z", 1),
        ("2026-11-20T18:30:00Z", 2),
    ]


def test_a_day_on_which_clocks_change_is_one_step() -> None:
    start = parse_instant("2026-03-28T23:00:00Z")
    rows = [UsageRow("m", 1, 1, start + n * HOUR) for n in range(23)]
    (step,) = series(rows, "day", (), "Europe/Berlin")
    assert (step.quantity, step.start, step.end) == (23, start, start + 23 * HOUR)
