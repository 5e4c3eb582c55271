"""Windows: every period on both of its edges, and what clocks and calendars do to them."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from subscription_mcp.domain.instants import HOUR, QUARTER, SECOND, format_instant, parse_instant
from subscription_mcp.domain.windows import (
    WINDOW_NAMES,
    Anchor,
    BillingPeriod,
    Day,
    Hour,
    Interval,
    Lifetime,
    Month,
    Period,
    Week,
    Window,
    local_date,
    local_hour_of,
    parse_window,
    quarter_of,
    rolling_length,
    window_of_key,
)

NO_ANCHOR = Anchor(0)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Havana",  # midnight happens twice in autumn
    "America/Santiago",  # no midnight in spring
    "Asia/Beirut",
    "Asia/Kolkata",
    "Australia/Lord_Howe",  # clocks move half an hour
    "Pacific/Apia",  # no 30 December 2011
    "America/St_Johns",  # until 2010 clocks went back from 00:01 to 23:01
    "Antarctica/Casey",
    "Asia/Pyongyang",
]


def text_of(period: Period) -> tuple[str, str | None]:
    return format_instant(period.start), None if period.end is None else format_instant(period.end)


def hours_of(period: Period) -> float:
    assert period.end is not None
    return (period.end - period.start) / HOUR


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        (Hour(), "2026-11-20T14:00:00Z", "2026-11-20T15:00:00Z"),
        (Day(), "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"),
        (Week(), "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
        (Week(), "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"),
        (Month(), "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        (Month(), "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (Month(), "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Day("Europe/Berlin"), "2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z"),
        (Week("Europe/Berlin"), "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"),
        (Month("Europe/Berlin"), "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
        (Day("Asia/Kolkata"), "2026-11-19T18:30:00Z", "2026-11-20T18:30:00Z"),
    ],
)
def test_a_period_holds_its_first_and_last_microsecond_and_not_its_end(
    window: Window, start: str, end: str
) -> None:
    period = Period(parse_instant(start), parse_instant(end))
    for at in (parse_instant(start), parse_instant(end) - 1):
        assert window.period_at(at, NO_ANCHOR) == period
        assert period.holds(at)
    for at in (parse_instant(start) - 1, parse_instant(end)):
        assert window.period_at(at, NO_ANCHOR) != period
        assert not period.holds(at)


@pytest.mark.parametrize(
    ("zone", "noon", "hours", "start"),
    [
        ("Europe/Berlin", "2026-03-29T10:00:00Z", 23, "2026-03-28T23:00:00Z"),
        ("Europe/Berlin", "2026-10-25T11:00:00Z", 25, "2026-10-24T22:00:00Z"),
        ("America/Havana", "2026-03-08T16:00:00Z", 23, "2026-03-08T05:00:00Z"),
        ("America/Havana", "2026-11-01T17:00:00Z", 25, "2026-11-01T04:00:00Z"),
        ("America/Santiago", "2026-09-06T15:00:00Z", 23, "2026-09-06T04:00:00Z"),
        ("America/Santiago", "2026-04-04T15:00:00Z", 25, "2026-04-04T03:00:00Z"),
        ("Asia/Beirut", "2026-03-29T09:00:00Z", 23, "2026-03-28T22:00:00Z"),
        ("Asia/Beirut", "2026-10-24T09:00:00Z", 25, "2026-10-23T21:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-05T01:00:00Z", 24.5, "2026-04-04T13:00:00Z"),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone: str, noon: str, hours: float, start: str) -> None:
    period = Day(zone).period_at(parse_instant(noon), NO_ANCHOR)
    assert (hours_of(period), format_instant(period.start)) == (hours, start)


def test_the_day_apia_skipped_has_no_period() -> None:
    skip = parse_instant("2011-12-30T10:00:00Z")
    assert text_of(Day("Pacific/Apia").period_at(skip - 1, NO_ANCHOR)) == (
        "2011-12-29T10:00:00Z",
        "2011-12-30T10:00:00Z",
    )
    assert text_of(Day("Pacific/Apia").period_at(skip, NO_ANCHOR)) == (
        "2011-12-30T10:00:00Z",
        "2011-12-31T10:00:00Z",
    )


def test_a_day_that_has_begun_does_not_end_when_clocks_go_back_across_midnight() -> None:
    # 7 November 2010 in St John's began at 02:30Z; a minute later it was 23:01 on the 6th again.
    begins = parse_instant("2010-11-07T02:30:00Z")
    periods = {
        Day("America/St_Johns").period_at(begins + minute * 60 * SECOND, NO_ANCHOR) for minute in range(90)
    }
    assert {text_of(period) for period in periods} == {("2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z")}


def billing_days(anchor: str, interval: Interval, count: int) -> list[str]:
    """The days on which that many periods from the anchor's own begin."""
    at, days = parse_instant(anchor), []
    for _ in range(count):
        period = BillingPeriod().period_at(at, Anchor(parse_instant(anchor), interval))
        assert period.start == at
        assert period.end is not None
        days.append(format_instant(at)[:10])
        at = period.end
    return days


@pytest.mark.parametrize(
    ("anchor", "days"),
    [
        ("2026-01-29T10:00:00Z", ["2026-01-29", "2026-02-28", "2026-03-29", "2026-04-29"]),
        ("2026-01-30T10:00:00Z", ["2026-01-30", "2026-02-28", "2026-03-30", "2026-04-30"]),
        ("2026-01-31T10:00:00Z", ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]),
        ("2027-12-31T10:00:00Z", ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31"]),
    ],
)
def test_a_monthly_period_comes_back_to_the_day_of_its_anchor(anchor: str, days: list[str]) -> None:
    assert billing_days(anchor, "monthly", 4) == days


@pytest.mark.parametrize(
    ("anchor", "days"),
    [
        ("2024-02-29T10:00:00Z", ["2024-02-29", "2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        ("2026-01-31T10:00:00Z", ["2026-01-31", "2027-01-31", "2028-01-31", "2029-01-31", "2030-01-31"]),
    ],
)
def test_a_yearly_period_comes_back_to_the_day_of_its_anchor(anchor: str, days: list[str]) -> None:
    assert billing_days(anchor, "yearly", 5) == days


def test_a_billing_period_turns_at_the_microsecond_of_its_anchor() -> None:
    anchor = Anchor(parse_instant("2026-01-31T10:20:30.000005Z"))
    turn = parse_instant("2026-02-28T10:20:30.000005Z")
    assert BillingPeriod().period_at(turn - 1, anchor).start == anchor.at
    assert BillingPeriod().period_at(turn, anchor).start == turn


def test_periods_before_the_anchor_count_backwards_from_it() -> None:
    anchor = Anchor(parse_instant("2026-03-31T10:00:00Z"))
    assert text_of(BillingPeriod().period_at(anchor.at - 1, anchor)) == (
        "2026-02-28T10:00:00Z",
        "2026-03-31T10:00:00Z",
    )


def test_a_lifetime_has_no_end() -> None:
    period = Lifetime().period_at(parse_instant("2026-11-20T14:00:00Z"), NO_ANCHOR)
    assert text_of(period) == ("1970-01-01T00:00:00Z", None)
    assert period.holds(parse_instant("2099-12-31T23:59:59Z"))


YEAR_1999 = parse_instant("2000-01-01T00:00:00Z") - 365 * 24 * HOUR
INSTANTS = st.integers(YEAR_1999, parse_instant("2099-12-31T23:59:59Z"))
ANCHORS = st.builds(Anchor, INSTANTS, st.sampled_from(["monthly", "yearly"]), nudge=st.just(0))
ENDING_WINDOWS = st.builds(
    parse_window, st.sampled_from(["hour", "day", "week", "month", "billing_period"]), st.sampled_from(ZONES)
)


@given(ENDING_WINDOWS, INSTANTS, ANCHORS)
@example(Day("America/St_Johns"), parse_instant("2010-11-07T03:00:00Z"), NO_ANCHOR)
@example(Day("Pacific/Apia"), parse_instant("2011-12-30T10:00:00Z"), NO_ANCHOR)
@example(Day("America/Santiago"), parse_instant("2026-09-06T04:00:00Z"), NO_ANCHOR)
@example(Month("Antarctica/Casey"), parse_instant("2010-03-04T15:30:00Z"), NO_ANCHOR)
def test_periods_hold_their_instant_and_touch_without_gap_or_overlap(
    window: Window, at: int, anchor: Anchor
) -> None:
    period = window.period_at(at, anchor)
    assert period.holds(at)
    assert period.end is not None
    assert window.period_at(period.start, anchor) == period
    assert window.period_at(period.end - 1, anchor) == period
    assert window.period_at(period.end, anchor).start == period.end
    assert window.period_at(period.start - 1, anchor).end == period.start


@given(st.lists(INSTANTS, min_size=2, max_size=5).map(sorted), ANCHORS)
def test_later_instants_never_fall_into_earlier_periods(instants: list[int], anchor: Anchor) -> None:
    starts = [BillingPeriod().period_at(at, anchor).start for at in instants]
    assert all(earlier <= later for earlier, later in pairwise(starts))


@pytest.mark.parametrize(
    ("zone", "at", "start"),
    [
        ("UTC", "2026-11-20T14:59:59.999999Z", "2026-11-20T14:00:00Z"),
        ("Europe/Berlin", "2026-11-20T14:10:00Z", "2026-11-20T14:00:00Z"),
        ("Asia/Kolkata", "2026-11-20T14:29:59.999999Z", "2026-11-20T13:30:00Z"),
        ("Asia/Kolkata", "2026-11-20T14:30:00Z", "2026-11-20T14:30:00Z"),
        ("Asia/Kathmandu", "2026-11-20T14:14:59Z", "2026-11-20T13:15:00Z"),
    ],
)
def test_a_local_hour_begins_when_the_clock_there_does(zone: str, at: str, start: str) -> None:
    assert format_instant(local_hour_of(parse_instant(at), zone)) == start


# Until 2011 Newfoundland changed its clocks at a minute past midnight.
@given(
    st.sampled_from(ZONES),
    st.integers(parse_instant("2012-01-01T00:00:00Z"), parse_instant("2099-01-01T00:00:00Z")),
)
def test_quarters_of_an_hour_add_up_to_local_hours_and_days(zone: str, at: int) -> None:
    quarter = quarter_of(at)
    assert 0 <= at - quarter < QUARTER
    assert local_date(quarter, zone) == local_date(at, zone)
    assert local_hour_of(quarter, zone) == local_hour_of(at, zone)


def test_a_zone_is_part_of_a_calendar_window_s_key_and_of_no_other() -> None:
    names = [*WINDOW_NAMES[:-1], "rolling:PT5H"]
    keys = {name: parse_window(name, "Europe/Berlin").key for name in names}
    assert keys == {
        "minute": "minute",
        "hour": "hour",
        "day": "day@Europe/Berlin",
        "week": "week@Europe/Berlin",
        "month": "month@Europe/Berlin",
        "billing_period": "billing_period",
        "lifetime": "lifetime",
        "level": "level",
        "rolling:PT5H": "rolling:PT5H",
    }
    assert parse_window("day", "UTC").key == "day"


def test_an_unknown_window_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"minute, hour, day, week, month, billing_period, lifetime, level, rolling:"
    ):
        parse_window("fortnight", "UTC")


@pytest.mark.parametrize(
    ("name", "seconds"), [("minute", 60), ("rolling:PT5H", 18_000), ("rolling:P30D", 2_592_000)]
)
def test_a_rolling_window_looks_back_its_length_at_every_instant(name: str, seconds: int) -> None:
    window = parse_window(name, "UTC")
    at = parse_instant("2026-11-20T14:03:11.123456Z")
    assert window.is_rolling
    assert window.seconds == seconds
    assert window.period_at(at, NO_ANCHOR).start == at - seconds * SECOND


@pytest.mark.parametrize("name", ["rolling:", "rolling:5h", "rolling:PT0S", "rolling:P401D", "rolling:P1M"])
def test_a_rolling_window_needs_a_length_of_at_most_400_days(name: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer|400 days"):
        parse_window(name, "UTC")


@pytest.mark.parametrize(
    "name", ["minute", "hour", "day", "month", "billing_period", "level", "rolling:PT5H"]
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_stored_total_names_its_window(name: str, zone: str) -> None:
    window = parse_window(name, zone)
    again = window_of_key(window.key)
    assert (again.name, again.key, type(again)) == (window.name, window.key, type(window))
    assert rolling_length(window.key) == (window.seconds * SECOND if window.is_rolling else None)
