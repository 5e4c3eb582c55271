"""The decision: which limit refuses, what is left, what would help, and the sentence that says so."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.builders import TODAY, a_catalog, a_limit, a_plan, three_plans

from subscription_mcp.domain.catalog import TOTAL_MAX, UNLIMITED, Catalog, Limit, Plan
from subscription_mcp.domain.decisions import (
    Decision,
    LimitState,
    Total,
    count_in,
    decide,
    limit_states,
    sort_states,
)
from subscription_mcp.domain.instants import parse_instant
from subscription_mcp.domain.windows import Anchor

NOW = parse_instant("2026-11-20T14:03:11.123456Z")
ANCHOR = Anchor(parse_instant("2026-11-05T00:00:00Z"))
Used = Mapping[tuple[str, str], int | tuple[int, int]]
"""What is used (and held) by meter and window; what is not named is 0."""


def totals_of(used: Used, at: int = NOW):
    def total(limit: Limit) -> Total:
        taken = used.get((limit.meter, limit.window.name), 0)
        count, held = taken if isinstance(taken, tuple) else (taken, 0)
        return Total(count, held, limit.window.period_at(at, ANCHOR))

    return total


def decided(
    catalog: Catalog,
    plan: Plan | None,
    used: Used | None = None,
    *,
    event: str = "message",
    quantity: int = 1,
    gains: Mapping[str, int] | None = None,
    at: int = NOW,
    ends_at: int | None = None,
) -> Decision:
    totals = totals_of(used or {}, at)
    moved = {"messages": quantity} if gains is None else gains
    decision = decide(
        catalog=catalog,
        plan=plan,
        states=limit_states(catalog, plan.limits, totals, moved) if plan is not None else [],
        limits_of=lambda plan: plan.limits,
        totals=totals,
        event=event,
        quantity=quantity,
        gains=moved,
        now=NOW,
        ends_at=ends_at,
    )
    sort_states(decision.limits)
    return decision


def unlocks_of(decision: Decision) -> list[dict]:
    return [unlock.as_dict() for unlock in decision.unlocks]


def test_the_refusal_reads_as_promised() -> None:
    basic, advanced = a_plan(a_limit(50)), a_plan(a_limit(200), key="advanced", monthly="29.00")
    decision = decided(a_catalog(basic, advanced), basic, {("messages", "day"): 50})
    assert decision.as_dict() == {
        "allowed": False,
        "code": "quota_exceeded",
        "message": "Basic plan: 50 of 50 messages used today. Resets 2026-11-21 00:00 UTC. Advanced has 200 a day.",
        "retryable": False,
        "plan": "basic",
        "event": "message",
        "quantity": 1,
        "limits": [
            {
                "meter": "messages",
                "window": "day",
                "scope": "user",
                "unit": "message",
                "limit": 50,
                "used": 50,
                "held": 0,
                "remaining": 0,
                "percent": 100.0,
                "window_start": "2026-11-20T00:00:00Z",
                "resets_at": "2026-11-21T00:00:00Z",
                "timezone": "UTC",
                "refused": True,
            }
        ],
        "unlocks": [
            {"action": "upgrade_tier", "plan": "advanced"},
            {"action": "wait", "until": "2026-11-21T00:00:00Z"},
        ],
        "event_id": None,
        "reservation_id": None,
        "replayed": False,
        "as_of": "2026-11-20T14:03:11.123456Z",
    }


@pytest.mark.parametrize(
    ("used", "quantity", "allowed"),
    [
        (0, 1, True),
        (49, 1, True),
        (50, 1, False),
        (48, 2, True),
        (49, 2, False),
        (0, 50, True),
        (0, 51, False),
    ],
)
def test_a_limit_is_reached_and_never_passed(used: int, quantity: int, allowed: bool) -> None:
    plan = a_plan(a_limit(50))
    assert decided(a_catalog(plan), plan, {("messages", "day"): used}, quantity=quantity).allowed is allowed


def test_what_is_held_counts_like_what_is_used() -> None:
    plan = a_plan(a_limit(50))
    decision = decided(a_catalog(plan), plan, {("messages", "day"): (40, 10)})
    assert not decision.allowed
    assert decision.limits[0].remaining == 0
    assert decision.limits[0].permille == 1000
    assert decision.message.startswith("Basic plan: 40 of 50 messages used today (10 more held).")


@pytest.mark.parametrize(
    ("maximum", "used", "percent"),
    [
        (3, 0, 0.0),
        (3, 1, 33.3),
        (3, 2, 66.6),
        (3, 3, 100.0),
        (3, 4, 133.3),
        (1001, 1000, 99.9),
        (10_000, 9, 0.0),
        (0, 0, 100.0),
        (0, 5, 100.0),
        (UNLIMITED, 5, None),
        (TOTAL_MAX, TOTAL_MAX - 1, 99.9),
    ],
)
def test_percent_is_floored_to_a_tenth(maximum, used, percent) -> None:
    plan = a_plan(a_limit(maximum))
    (state,) = limit_states(a_catalog(plan), plan.limits, totals_of({("messages", "day"): used}))
    assert state.as_dict()["percent"] == percent


def test_unlimited_is_null_and_refuses_nothing() -> None:
    plan = a_plan(a_limit(UNLIMITED))
    decision = decided(a_catalog(plan), plan, {("messages", "day"): 10**9}, quantity=10**12)
    shown = decision.limits[0].as_dict()
    assert decision.allowed
    assert (shown["limit"], shown["remaining"], shown["percent"]) == (None, None, None)
    assert decision.message == "Basic plan: 1,000,000,000 messages used today, no limit."


def test_a_lifetime_never_resets() -> None:
    plan = a_plan(a_limit(10, window="lifetime"))
    decision = decided(a_catalog(plan), plan, {("messages", "lifetime"): 10})
    assert decision.limits[0].as_dict()["resets_at"] is None
    assert unlocks_of(decision) == []
    assert decision.message == "Basic plan: 10 of 10 messages used in all."


def test_refused_limits_come_first_then_the_fullest_then_those_without_a_maximum() -> None:
    plan = a_plan(
        a_limit(UNLIMITED, window="hour"),
        a_limit(1_000, window="week"),
        a_limit(50, window="day"),
        a_limit(100, window="month"),
        a_limit(10, window="lifetime"),
    )
    used = {
        ("messages", "week"): 999,
        ("messages", "day"): 48,
        ("messages", "month"): 97,
        ("messages", "lifetime"): 1,
    }
    decision = decided(a_catalog(plan), plan, used, quantity=4)
    assert [(state.window, state.refused) for state in decision.limits] == [
        ("week", True),
        ("month", True),
        ("day", True),
        ("lifetime", False),
        ("hour", False),
    ]


def test_an_untouched_limit_still_comes_before_one_without_a_maximum() -> None:
    plan = a_plan(a_limit(UNLIMITED), a_limit(10, window="month"))
    assert [s.window for s in decided(a_catalog(plan), plan).limits] == ["month", "day"]


def test_every_limit_in_the_way_is_named() -> None:
    plan = a_plan(a_limit(50), a_limit(50, window="month"), a_limit(60, window="week"))
    used = {("messages", window): 50 for window in ("day", "week", "month")}
    decision = decided(a_catalog(plan), plan, used)
    assert {state.window for state in decision.limits if state.refused} == {"day", "month"}


def test_a_limit_of_another_meter_is_not_looked_at() -> None:
    plan = a_plan(a_limit(0, meter="tool_calls"), a_limit(5))
    decision = decided(a_catalog(plan), plan)
    assert decision.allowed
    assert [state.meter for state in decision.limits] == ["messages"]


def test_each_meter_of_an_event_is_held_to_its_own_gain() -> None:
    plan = a_plan(a_limit(10, meter="llm_calls"), a_limit(1_000, meter="llm_tokens"))
    gains = {"llm_calls": 1, "llm_tokens": 900}
    used = {("llm_calls", "day"): 1, ("llm_tokens", "day"): 200}
    decision = decided(a_catalog(plan), plan, used, event="llm_call", gains=gains)
    assert [(state.meter, state.refused) for state in decision.limits] == [
        ("llm_tokens", True),
        ("llm_calls", False),
    ]
    assert "200 of 1,000 tokens used today, and 900 more would pass the limit." in decision.message


def test_an_event_no_limit_touches_is_allowed() -> None:
    plan = a_plan()
    assert decided(a_catalog(plan), plan).message == "Basic plan: no limit applies."


# What would help


def test_the_next_plan_by_price_in_which_it_would_be_allowed_is_offered() -> None:
    basic, advanced, premium = three_plans()
    catalog = a_catalog(premium, basic, advanced)
    assert decided(catalog, basic, {("messages", "day"): 50}).unlocks[0].plan == "advanced"
    assert decided(catalog, basic, {("messages", "day"): 200}).unlocks[0].plan == "premium"
    assert unlocks_of(decided(catalog, basic, {("messages", "day"): 1_000})) == [
        {"action": "wait", "until": "2026-11-21T00:00:00Z"}
    ]


def test_a_cheaper_or_equal_plan_is_never_offered() -> None:
    advanced = a_plan(a_limit(1), key="advanced", monthly="29.00")
    generous = a_plan(a_limit(100), key="generous", monthly="5.00")
    twin = a_plan(a_limit(100), key="twin", monthly="29.00")
    decision = decided(a_catalog(generous, advanced, twin), advanced, {("messages", "day"): 1})
    assert [unlock.action for unlock in decision.unlocks] == ["wait"]


def test_a_plan_that_refuses_in_another_window_is_passed_over() -> None:
    basic = a_plan(a_limit(50))
    tight = a_plan(a_limit(200), a_limit(50, window="month"), key="tight", monthly="10.00")
    wide = a_plan(a_limit(200), a_limit(900, window="month"), key="wide", monthly="20.00")
    used = {("messages", "day"): 50, ("messages", "month"): 50}
    assert decided(a_catalog(basic, tight, wide), basic, used).unlocks[0].plan == "wide"


def test_from_free_to_paid_a_billing_period_begins_with_nothing_used() -> None:
    basic = a_plan(a_limit(50, window="billing_period"))
    advanced = a_plan(a_limit(10, window="billing_period"), key="advanced", monthly="29.00")
    premium = a_plan(a_limit(60, window="billing_period"), key="premium", monthly="99.00")
    catalog = a_catalog(basic, advanced, premium)
    used = {("messages", "billing_period"): 50}
    assert decided(catalog, basic, used).unlocks[0].plan == "advanced"
    assert decided(catalog, advanced, used).unlocks[0].plan == "premium"


def test_a_plan_with_no_such_limit_is_said_to_have_none() -> None:
    basic = a_plan(a_limit(50))
    endless = a_plan(a_limit(UNLIMITED), key="endless", monthly="1.00")
    without = a_plan(key="without", monthly="1.00")
    for better in (endless, without):
        decision = decided(a_catalog(basic, better), basic, {("messages", "day"): 50})
        assert decision.message.endswith(f"{better.title} has no such limit.")


def test_waiting_is_named_only_where_it_helps() -> None:
    plan = a_plan(a_limit(50), a_limit(100, window="month"))
    catalog = a_catalog(plan)
    day_and_month = {("messages", "day"): 50, ("messages", "month"): 100}
    assert unlocks_of(decided(catalog, plan, day_and_month)) == [
        {"action": "wait", "until": "2026-12-01T00:00:00Z"}
    ]
    assert unlocks_of(decided(catalog, plan, {("messages", "day"): 50}, quantity=51)) == []


def test_waiting_does_not_help_an_event_of_a_day_that_is_over() -> None:
    plan = a_plan(a_limit(50))
    yesterday = parse_instant("2026-11-19T12:00:00Z")
    assert unlocks_of(decided(a_catalog(plan), plan, {("messages", "day"): 50}, at=yesterday)) == []


@pytest.mark.parametrize(
    ("ends", "helps"),
    [("2026-11-20T23:59:59Z", False), ("2026-11-21T00:00:00Z", False), ("2026-11-21T00:00:01Z", True)],
)
def test_waiting_does_not_help_where_the_trial_ends_first(ends: str, helps: bool) -> None:
    plan = a_plan(a_limit(50), trial_days=7)
    used_up = {("messages", "day"): 50}
    decision = decided(a_catalog(plan), plan, used_up, ends_at=parse_instant(ends))
    assert [unlock.action for unlock in decision.unlocks] == ["wait"] * helps


def test_a_trial_is_never_offered_for_nobody_can_move_to_it() -> None:
    basic = a_plan(a_limit(50))
    taster = a_plan(key="taster", monthly="1.00", trial_days=1)
    advanced = a_plan(key="advanced", monthly="29.00")
    offered = [{"action": "upgrade_tier", "plan": "advanced"}]
    catalog = a_catalog(basic, taster, advanced)
    assert unlocks_of(decided(catalog, basic, {("messages", "day"): 50}))[:1] == offered
    assert unlocks_of(decided(a_catalog(taster, advanced, default_plan=None), None)) == offered


def test_a_quantity_bigger_than_what_is_left_says_what_is_left_and_what_was_asked() -> None:
    plan = a_plan(a_limit(50))
    decision = decided(a_catalog(plan), plan, {("messages", "day"): 45}, quantity=6)
    assert decision.limits[0].remaining == 5
    assert decision.message == (
        "Basic plan: 45 of 50 messages used today, and 6 more would pass the limit. Resets 2026-11-21 00:00 UTC."
    )


def test_a_limit_of_the_account_says_whose_it_is() -> None:
    plan = a_plan(a_limit(50, scope="account"))
    decision = decided(a_catalog(plan), plan, {("messages", "day"): 50})
    assert decision.message == (
        "Basic plan: 50 of 50 messages used today by the whole account. Resets 2026-11-21 00:00 UTC."
    )


def test_the_offer_names_the_limit_of_the_same_scope() -> None:
    basic = a_plan(a_limit(50, scope="account"))
    better = a_plan(a_limit(60), a_limit(500, scope="account"), key="better", monthly="1.00")
    decision = decided(a_catalog(basic, better), basic, {("messages", "day"): 50})
    assert decision.message.endswith("Better has 500 a day.")


def test_without_a_plan_payment_is_required_and_the_cheapest_is_offered() -> None:
    _, advanced, premium = three_plans()
    decision = decided(a_catalog(premium, advanced, default_plan=None), None)
    assert (decision.allowed, decision.code, decision.plan, decision.limits) == (
        False,
        "payment_required",
        None,
        [],
    )
    assert unlocks_of(decision) == [{"action": "upgrade_tier", "plan": "advanced"}]
    assert decision.message == "There is no subscription for this account yet. Choose a plan first."


# The edge of what a counter can hold


@pytest.mark.parametrize(("quantity", "allowed"), [(1, True), (2, False)])
def test_no_total_passes_what_every_json_reader_keeps_exact(quantity: int, allowed: bool) -> None:
    plan = a_plan(a_limit(UNLIMITED))
    used = {("messages", "day"): TOTAL_MAX - 1}
    assert decided(a_catalog(plan), plan, used, quantity=quantity).allowed is allowed


def test_another_plan_does_not_help_where_the_counter_itself_is_full() -> None:
    basic, better = a_plan(a_limit(5)), a_plan(a_limit(UNLIMITED), key="better", monthly="1.00")
    decision = decided(a_catalog(basic, better), basic, {("messages", "day"): TOTAL_MAX})
    assert [unlock.action for unlock in decision.unlocks] == ["wait"]


# Once it is recorded


def test_what_was_recorded_is_in_the_numbers_and_the_sentence() -> None:
    plan = a_plan(a_limit(50), a_limit(1_000, window="month"))
    catalog = a_catalog(plan)
    decision = decided(catalog, plan, {("messages", "day"): 48, ("messages", "month"): 48}, quantity=2)
    count_in(decision, catalog, "event-1", lambda plan: plan.limits)
    assert decision.event_id == "event-1"
    assert [state.used for state in decision.limits] == [50, 50]
    assert (
        decision.message == "Basic plan: 50 of 50 messages used today, 0 left. Resets 2026-11-21 00:00 UTC. "
        "The limit is reached."
    )


def test_what_had_happened_anyway_says_how_far_over_it_is() -> None:
    basic, advanced = a_plan(a_limit(50)), a_plan(a_limit(200), key="advanced", monthly="29.00")
    catalog = a_catalog(basic, advanced)
    decision = decided(catalog, basic, {("messages", "day"): 49}, quantity=3)
    count_in(decision, catalog, "event-1", lambda plan: plan.limits)
    assert not decision.allowed
    assert decision.limits[0].used == 52
    assert decision.message == (
        "Basic plan: 52 of 50 messages used today. Resets 2026-11-21 00:00 UTC. Advanced has 200 a day."
    )


def test_counting_in_can_change_which_limit_is_the_fullest() -> None:
    plan = a_plan(a_limit(100), a_limit(10, window="hour"))
    catalog = a_catalog(plan)
    decision = decided(catalog, plan, {("messages", "day"): 20, ("messages", "hour"): 1}, quantity=5)
    assert [state.window for state in decision.limits] == ["day", "hour"]
    count_in(decision, catalog, "event-1", lambda plan: plan.limits)
    assert [state.window for state in decision.limits] == ["hour", "day"]


def test_only_what_passes_by_itself_is_retryable() -> None:
    plan = a_plan(a_limit(0))
    refused = decided(a_catalog(plan), plan)
    assert not refused.retryable
    assert replace(refused, code="rate_limited").retryable


def test_an_overview_leaves_out_which_limit_refused() -> None:
    plan = a_plan(a_limit(50))
    (state,) = limit_states(a_catalog(plan), plan.limits, totals_of({}))
    assert isinstance(state, LimitState)
    assert "refused" not in state.as_dict(with_refused=False)
    assert parse_instant(TODAY) < (state.resets_at or 0)
