"""Subscriptions: what a change of plan costs, when it happens, and where billing periods count from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_plan

from subscription_mcp.domain.catalog import Money, Plan
from subscription_mcp.domain.instants import DAY, SECOND, format_instant, parse_instant
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.subscriptions import (
    Change,
    Scheduled,
    Subscription,
    anchored,
    change_of_plan,
    periods_in,
    price_of,
)

START = parse_instant("2026-11-01T00:00:00Z")
"""A billing period of 30 days begins here."""
MIDDLE = parse_instant("2026-11-16T00:00:00Z")

free = a_plan(key="free")
small = a_plan(key="small", monthly="29.00", yearly="290.00")
large = a_plan(key="large", monthly="99.00", yearly="990.00")
yearly_only = a_plan(key="yearly_only", monthly=None, yearly="600.00")


def holding(plan: Plan, interval="monthly", at: int = START) -> Subscription:
    return Subscription(plan.key, 1, "purchase", at, at, interval)


def changed(from_plan: Plan, to_plan: Plan, now: int = MIDDLE, interval="monthly", **current) -> Change:
    return change_of_plan(
        holding(from_plan, **current), from_plan, to_plan.with_version(3), interval, "purchase", now
    )


def text(money: Money) -> str:
    return format_amount(money.micros, money.currency)


def test_the_first_plan_costs_its_price_and_begins_now() -> None:
    change = change_of_plan(None, None, small.with_version(2), "monthly", "token", MIDDLE)
    assert (change.from_plan, change.to_plan, text(change.price_now)) == (None, "small", "29.00")
    assert change.after == Subscription("small", 2, "token", MIDDLE, MIDDLE)


def test_from_free_to_paid_a_period_begins_at_that_instant_at_the_full_price() -> None:
    change = changed(free, small)
    assert (text(change.price_now), text(change.price_next), change.effective_at) == (
        "29.00",
        "29.00",
        MIDDLE,
    )
    assert change.after == Subscription("small", 3, "purchase", MIDDLE, START)
    assert not change.is_scheduled


def test_from_free_to_free_the_period_goes_on() -> None:
    change = changed(free, a_plan(key="other"))
    assert (text(change.price_now), change.after.anchor) == ("0.00", START)


def test_up_between_paid_plans_happens_at_once_on_the_same_anchor() -> None:
    change = changed(small, large)
    assert change.effective_at == MIDDLE
    assert change.after == Subscription("large", 3, "purchase", START, START)
    assert text(change.price_now) == "35.00"  # half of 99 less half of 29
    assert text(change.price_next) == "99.00"


@pytest.mark.parametrize(
    ("now", "price_now"),
    [
        ("2026-11-01T00:00:00Z", "70.00"),
        ("2026-11-11T00:00:00Z", "46.67"),  # 66.00 less 19.33: each line rounded, then subtracted
        ("2026-11-30T23:59:59Z", "0.00"),
        ("2026-12-01T00:00:00Z", "70.00"),  # the next period has begun
    ],
)
def test_the_rest_of_the_period_is_prorated_with_each_line_rounded(now: str, price_now: str) -> None:
    assert text(changed(small, large, parse_instant(now)).price_now) == price_now


def test_rounding_is_per_line_not_of_the_difference() -> None:
    # A third of 10.00 is 3.33, a third of 10.01 is 3.34; their difference rounded would be nothing.
    ten, more = a_plan(key="ten", monthly="10.00"), a_plan(key="more", monthly="10.01")
    assert text(changed(ten, more, START + 20 * DAY).price_now) == "0.01"


def test_money_without_decimals_is_rounded_to_whole_units() -> None:
    cheap = a_plan(key="cheap", monthly="500", currency="JPY")
    dear = a_plan(key="dear", monthly="1001", currency="JPY")
    assert text(changed(cheap, dear).price_now) == "251"


@given(seconds=st.integers(0, 30 * 86_400 - 1))
def test_a_proration_is_never_negative_nor_more_than_the_whole_difference(seconds: int) -> None:
    change = changed(small, large, START + seconds * SECOND)
    assert 0 <= change.price_now.micros <= 70_000_000
    assert change.price_now.micros % 10_000 == 0


def test_down_waits_for_the_end_of_the_period_and_is_not_charged_before() -> None:
    change = changed(large, small)
    assert change.is_scheduled
    assert format_instant(change.effective_at) == "2026-12-01T00:00:00Z"
    assert (text(change.price_now), text(change.price_next)) == ("29.00", "29.00")
    assert (change.after.plan, change.after.version) == ("large", 1)
    assert change.after.scheduled == Scheduled(change.effective_at, "change", "small", 3, "monthly")


def test_down_to_free_waits_as_well() -> None:
    change = changed(small, free)
    assert (change.is_scheduled, text(change.price_next)) == (True, "0.00")


def test_a_scheduled_change_has_happened_from_its_instant_on() -> None:
    after = changed(large, small).after
    end = parse_instant("2026-12-01T00:00:00Z")
    assert after.at(end - 1) is after
    happened = after.at(end)
    assert (happened.plan, happened.version, happened.scheduled) == ("small", 3, None)
    assert happened.anchor == START
    assert happened.at(end + 400 * DAY) == happened


def test_going_up_drops_a_change_that_was_scheduled() -> None:
    waiting = changed(large, small).after
    huge = a_plan(key="huge", monthly="500.00")
    assert change_of_plan(waiting, large, huge, "monthly", "purchase", MIDDLE).after.scheduled is None


def test_another_interval_begins_a_new_period_and_gives_the_rest_of_the_old_one_back() -> None:
    change = changed(small, small, interval="yearly")
    assert text(change.price_now) == "275.50"  # 290.00 less half of 29.00
    assert (change.after.anchor, change.after.interval) == (MIDDLE, "yearly")


def test_billing_periods_count_from_the_anchor_each_time() -> None:
    held = holding(small, at=parse_instant("2027-01-31T10:30:00Z"))
    starts = [
        format_instant(held.period_at(parse_instant(now)).start)
        for now in (
            "2027-01-31T10:30:00Z",
            "2027-02-28T10:30:00Z",
            "2027-03-31T10:29:59Z",
            "2027-04-01T00:00:00Z",
        )
    ]
    assert starts == [
        "2027-01-31T10:30:00Z",
        "2027-02-28T10:30:00Z",
        "2027-02-28T10:30:00Z",
        "2027-03-31T10:30:00Z",
    ]


def test_a_yearly_period_lasts_a_year() -> None:
    period = holding(small, "yearly").period_at(MIDDLE)
    assert (format_instant(period.start), format_instant(period.end or 0)) == (
        "2026-11-01T00:00:00Z",
        "2027-11-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("plan", "interval", "price"),
    [
        (small, "monthly", "29.00"),
        (small, "yearly", "290.00"),
        (yearly_only, "monthly", None),
        (free, "yearly", "0.00"),
    ],
)
def test_a_plan_has_a_price_for_each_interval_it_is_sold_for(plan: Plan, interval, price) -> None:
    found = price_of(plan, interval)
    assert (None if found is None else text(found)) == price


def test_a_plan_only_sold_yearly_ranks_by_a_twelfth_of_its_price() -> None:
    assert not changed(small, yearly_only, interval="yearly").is_scheduled  # 50.00 a month
    assert changed(large, yearly_only, interval="yearly").is_scheduled


@given(st.lists(st.sampled_from([0, 1, 2, 3, SECOND - 1, SECOND, DAY]), max_size=30))
def test_no_two_billing_periods_are_counted_from_the_same_instant(gaps: list[int]) -> None:
    now, held, anchors = START, None, []
    for gap in gaps:
        now += gap
        held = anchored(Subscription("basic", 1, "purchase", now, now), now, held)
        assert held.anchor + held.anchor_nudge == now
        assert periods_in(now, held.period_at(now).end, held.billing_anchor) == 1
        anchors.append(held.anchor)
    assert len(set(anchors)) == len(anchors)
