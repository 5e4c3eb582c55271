"""Every shape of limit, through the ledger: rolling windows and rates, levels, pools with caps, limits that come
in mid-period, and what keeps a tenant from growing without end."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_limit,
    a_limit_set,
    a_plan,
    a_publication,
    a_record,
    a_reserve,
    a_settle,
    a_subject,
    buy,
    code_of,
    decision_of,
    view_of,
)
from tests.contract.test_engine import SqliteStore, one_plan, used

from subscription_mcp.domain.catalog import Scope
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import MINUTE, SECOND, format_instant
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.ledger.commands import Arrive, CheckUsage, Command
from subscription_mcp.ledger.writer import Ledger

GROUP = {"group": "crew"}


def of_crew(user: str):
    return a_subject(user, **GROUP)


async def states(ledger: Ledger, subject="bob") -> dict[tuple[str, str], LimitState]:
    who = a_subject(subject) if isinstance(subject, str) else subject
    view = view_of(await ledger.rehearse(Arrive(who)))
    return {(state.window, state.scope): state for state in view.limits}


# Rolling windows and rates


async def test_a_minute_slides_and_lets_exactly_its_number_through(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T14:00:00.500000Z")
    async with store.open(catalog=one_plan(a_limit(3, window="minute")), clock=clock) as ledger:
        for _ in range(3):
            assert code_of(await ledger.submit_one(a_record())) == "ok"
            clock.advance(seconds=10)
        decision = decision_of(await ledger.submit_one(a_record()))
        assert (decision.code, decision.retryable) == ("rate_limited", True)
        assert decision.message == (
            "Basic plan: 3 of 3 messages used in the last minute. Comes back in 30 s."
        )
        (state,) = decision.limits
        assert format_instant(state.resets_at or 0) == "2026-11-20T14:01:00.500000Z"
        assert [unlock.action for unlock in decision.unlocks] == ["wait"]
        clock.advance(seconds=30, microseconds=-1)
        assert code_of(await ledger.submit_one(a_record())) == "rate_limited"
        clock.advance(microseconds=1)
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "rate_limited"


async def test_more_at_once_than_a_minute_ever_holds_is_no_question_of_waiting(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(3, window="minute"))) as ledger:
        decision = decision_of(await ledger.submit_one(a_record(quantity=4)))
        assert (decision.code, decision.retryable, decision.unlocks) == ("quota_exceeded", False, [])


async def test_who_is_too_fast_and_over_a_quota_is_told_of_the_quota(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(2, window="minute"), a_limit(2))) as ledger:
        await ledger.submit_one(a_record(quantity=2))
        decision = decision_of(await ledger.submit_one(a_record()))
        assert decision.code == "quota_exceeded"
        assert {state.window for state in decision.limits if state.refused} == {"minute", "day"}


async def test_five_rolling_hours_say_when_enough_is_back(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(catalog=one_plan(a_limit(10, window="rolling:PT5H")), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=4))
        clock.advance(hours=1)
        await ledger.submit_one(a_record(quantity=6))
        clock.advance(hours=1)
        decision = decision_of(await ledger.rehearse(CheckUsage(a_subject(), "message", 1)))
        assert decision.code == "quota_exceeded"
        assert decision.message == (
            "Basic plan: 10 of 10 messages used in the last 5 hours. Comes back from 2026-11-20 15:00 UTC."
        )
        for quantity, back in ((4, "2026-11-20T15:00:00Z"), (5, "2026-11-20T16:00:00Z")):
            decision = decision_of(await ledger.rehearse(CheckUsage(a_subject(), "message", quantity)))
            assert format_instant(decision.limits[0].resets_at or 0) == back
        clock.set("2026-11-20T15:00:00Z")
        decision = decision_of(await ledger.submit_one(a_record(quantity=4)))
        assert (decision.allowed, decision.limits[0].used) == (True, 10)


async def test_what_is_held_counts_in_a_rolling_window_and_is_settled_at_its_instant(
    store: SqliteStore,
) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(catalog=one_plan(a_limit(10, window="rolling:PT1H")), clock=clock) as ledger:
        reserved = await ledger.submit_one(a_reserve(quantity=8, ttl_seconds=3_600))
        assert code_of(await ledger.submit_one(a_record(quantity=3))) == "quota_exceeded"
        clock.advance(minutes=30)
        assert decision_of(await ledger.submit_one(a_settle(reserved, 5))).allowed
        state = (await states(ledger))[("rolling:PT1H", "user")]
        assert (state.used, state.held, format_instant(state.resets_at or 0)) == (
            5,
            0,
            "2026-11-20T11:00:00Z",
        )
        clock.advance(minutes=30)
        assert (await states(ledger))[("rolling:PT1H", "user")].used == 0


async def test_what_is_only_held_is_waited_for_until_it_is_given_back(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(catalog=one_plan(a_limit(3, window="minute")), clock=clock) as ledger:
        await ledger.submit_one(a_reserve(quantity=3, ttl_seconds=600))
        decision = decision_of(await ledger.submit_one(a_record()))
        assert format_instant(decision.limits[0].resets_at or 0) == "2026-11-20T10:10:00Z"
        clock.advance(minutes=10)
        assert code_of(await ledger.submit_one(a_record())) == "ok"


async def test_a_yearly_period_that_comes_late_sees_what_is_held(store: SqliteStore) -> None:
    clock = Clock("2026-01-31T10:00:00Z")
    pro = a_plan(a_limit(1_000), key="pro", monthly="29.00", yearly="290.00")
    big = a_plan(a_limit(50, window="billing_period"), key="big", monthly="99.00", yearly="990.00")
    async with store.open(catalog=a_catalog(a_plan(a_limit(5)), pro), clock=clock) as ledger:
        assert code_of(await buy(ledger, "pro", interval="yearly")) == "ok"
        await ledger.submit_one(a_record())
        clock.advance(days=100)
        await ledger.submit_one(a_reserve(quantity=40, ttl_seconds=600))
        clock.advance(seconds=1)
        await ledger.submit_one(a_publication(a_plan(a_limit(5)), pro, big))
        assert code_of(await buy(ledger, "big", interval="yearly")) == "ok"
        state = (await states(ledger))[("billing_period", "user")]
        assert (state.used, state.held) == (1, 40)
        assert code_of(await ledger.submit_one(a_record(quantity=10))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(quantity=9))) == "ok"


async def test_an_event_reported_too_late_for_a_rolling_window_is_none_of_its_business(
    store: SqliteStore,
) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(catalog=one_plan(a_limit(1, window="rolling:PT1H")), clock=clock) as ledger:
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        late = await ledger.submit_one(a_record(occurred_at=clock.now - 60 * MINUTE))
        assert (code_of(late), decision_of(late).limits) == ("ok", [])
        assert (
            code_of(await ledger.submit_one(a_record(occurred_at=clock.now - 59 * MINUTE)))
            == "quota_exceeded"
        )


@pytest.mark.parametrize(
    ("seconds", "back_after"),
    [(0, 60), (-30, 30), (-59, 1), (1, 60), (300, 60)],
    ids=["now", "late", "just in time", "a clock ahead", "as far ahead as may be"],
)
async def test_a_window_is_held_for_its_length_and_the_answer_says_until_when(
    store: SqliteStore, seconds: int, back_after: int
) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(1, window="minute")), clock=clock) as ledger:
        accepted = await ledger.submit_one(a_record(occurred_at=clock.now + seconds * SECOND))
        refused = await ledger.submit_one(a_record())
        back = clock.now + back_after * SECOND
        assert [decision_of(one).limits[0].resets_at for one in (accepted, refused)] == [back, back]
        clock.now = back - 1
        assert code_of(await ledger.submit_one(a_record())) == "rate_limited"
        assert (await ledger.engine.verify()).differences == ()
        clock.now = back
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        assert (await ledger.engine.verify()).differences == ()


async def test_a_window_that_comes_late_is_held_by_what_came_before_for_its_length_at_most(
    store: SqliteStore,
) -> None:
    clock = Clock("2026-11-20T14:01:00Z")
    async with store.open(catalog=one_plan(a_limit(100)), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        await ledger.submit_one(a_record(quantity=2, occurred_at=clock.now + 5 * MINUTE))
        clock.advance(seconds=30)
        faster = a_plan(a_limit(6, window="minute"), key="faster", monthly="9")
        await ledger.submit_one(a_publication(a_plan(a_limit(100)), faster))
        await buy(ledger, "faster")
        assert (await states(ledger))[("minute", "user")].used == 5
        clock.advance(minutes=1)
        assert (await states(ledger))[("minute", "user")].used == 0


# What adds nothing


@pytest.mark.parametrize(
    ("used", "tokens", "code"),
    [
        (0, 0, "ok"),
        (9, 1, "ok"),
        (10, 0, "ok"),
        (10, 1, "quota_exceeded"),
        (11, 0, "ok"),
        (11, 1, "quota_exceeded"),
    ],
)
@pytest.mark.parametrize("command", [a_record, a_reserve])
async def test_what_adds_nothing_is_never_refused(
    store: SqliteStore, command: Any, used: int, tokens: int, code: str
) -> None:
    plan = a_plan(a_limit(10, meter="llm_tokens"))
    async with store.open(catalog=one_plan(*plan.limits)) as ledger:
        if used:
            over = a_record(event="llm_call", attributes={"tokens": used}, enforce=False)
            await ledger.submit_one(over)
        outcome = await ledger.submit_one(command(event="llm_call", attributes={"tokens": tokens}))
        check = CheckUsage(a_subject(), "llm_call", attributes={"tokens": 0})
        assert (code_of(outcome), code_of(await ledger.rehearse(check))) == (code, "ok")


async def test_a_larger_plan_helps_also_where_it_is_passed_by_what_the_event_adds_nothing_to(
    store: SqliteStore,
) -> None:
    limits = [a_limit(10, meter="llm_tokens"), a_limit(1, meter="llm_calls")]
    larger = a_plan(a_limit(5, meter="llm_tokens"), a_limit(9, meter="llm_calls"), key="larger", monthly="9")
    async with store.open(catalog=a_catalog(a_plan(*limits), larger)) as ledger:
        await ledger.submit_one(a_record(event="llm_call", attributes={"tokens": 8}))
        await ledger.submit_one(a_limit_set(7, meter="llm_tokens"))
        outcome = await ledger.submit_one(a_record(event="llm_call", attributes={"tokens": 0}))
        decision = decision_of(outcome)
        assert [state.meter for state in decision.limits if state.refused] == ["llm_calls"]
        assert [unlock.plan for unlock in decision.unlocks] == ["larger", None]


async def test_a_rolling_window_is_there_after_reopening_and_in_another_process(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    catalog = one_plan(a_limit(5, window="rolling:PT1H"))
    async with store.open(catalog=catalog, clock=clock) as first:
        await first.submit_one(a_record(quantity=2))
        async with store.open(catalog=catalog, clock=clock) as second:
            await second.submit_one(a_record(quantity=2))
        assert code_of(await first.submit_one(a_record(quantity=2))) == "quota_exceeded"
        assert code_of(await first.submit_one(a_record())) == "ok"
    async with store.open(catalog=catalog, clock=clock) as again:
        assert await used(again, window="rolling:PT1H") == 5


async def test_the_multiplier_of_a_plan_scales_its_rates_and_nothing_else(store: SqliteStore) -> None:
    limits = (a_limit(60, window="minute"), a_limit(100))
    plan = a_plan(*limits, multiplier="2.5")
    assert [limit.maximum for limit in plan.limits] == [150, 100]
    async with store.open(catalog=a_catalog(plan)) as ledger:
        assert (await states(ledger))[("minute", "user")].maximum == 150


# Levels


async def level(ledger: Ledger, subject="bob") -> int:
    return (await states(ledger, subject))[("level", "user")].used


async def test_a_level_goes_up_and_down_and_is_not_reset(store: SqliteStore) -> None:
    clock = Clock()
    plan = a_plan(a_limit(100, meter="storage_mb", window="level"))
    async with store.open(catalog=a_catalog(plan), clock=clock) as ledger:
        await ledger.submit_one(a_record(event="storage", quantity=80))
        clock.advance(days=400)
        decision = decision_of(await ledger.submit_one(a_record(event="storage", quantity=30)))
        assert decision.message == ("Basic plan: 80 of 100 MB used now, and 30 more would pass the limit.")
        assert (decision.code, decision.limits[0].resets_at) == ("quota_exceeded", None)
        assert code_of(await ledger.submit_one(a_record(event="storage", quantity=-30))) == "ok"
        assert code_of(await ledger.submit_one(a_record(event="storage", quantity=30))) == "ok"
        assert await level(ledger) == 80


async def test_a_level_never_falls_below_nothing(store: SqliteStore) -> None:
    plan = a_plan(a_limit(100, meter="storage_mb", window="level"))
    async with store.open(catalog=a_catalog(plan)) as ledger:
        await ledger.submit_one(a_record(event="storage", quantity=10))
        decision = decision_of(await ledger.submit_one(a_record(event="storage", quantity=-25)))
        assert (decision.allowed, decision.limits[0].used) == (True, 0)
        await ledger.submit_one(a_record(event="storage", quantity=5))
        assert await level(ledger) == 5


async def test_giving_back_is_never_refused_however_far_over_one_is(store: SqliteStore) -> None:
    plan = a_plan(a_limit(100, meter="storage_mb", window="level"))
    async with store.open(catalog=a_catalog(plan)) as ledger:
        await ledger.submit_one(a_record(event="storage", quantity=500, enforce=False))
        decision = decision_of(await ledger.submit_one(a_record(event="storage", quantity=-100)))
        assert (decision.allowed, decision.limits[0].used) == (True, 400)


async def test_one_member_cannot_give_back_what_another_stored(store: SqliteStore) -> None:
    plan = a_plan(
        a_limit(100, meter="storage_mb", window="level"),
        a_limit(150, meter="storage_mb", window="level", scope="account"),
    )
    async with store.open(catalog=a_catalog(plan)) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), "storage", 60))
        await ledger.submit_one(a_record(of_crew("ben"), "storage", 20))
        await ledger.submit_one(a_record(of_crew("ben"), "storage", -50))
        found = await states(ledger, of_crew("ann"))
        assert (found[("level", "user")].used, found[("level", "account")].used) == (60, 60)


@pytest.mark.parametrize(("event", "quantity"), [("message", -1), ("storage", 0), ("storage", -(10**12) - 1)])
async def test_only_a_level_can_be_lowered(store: SqliteStore, event: str, quantity: int) -> None:
    async with store.open() as ledger:
        assert code_of(await ledger.submit_one(a_record(event=event, quantity=quantity))) == "invalid_request"
        assert code_of(await ledger.submit_one(a_reserve(event="storage", quantity=-1))) == "invalid_request"


# Several meters, several scopes


async def test_an_event_that_moves_three_meters_is_checked_against_all_and_counted_in_all_or_none(
    store: SqliteStore,
) -> None:
    plan = a_plan(
        a_limit(10, meter="llm_calls"), a_limit(1_000, meter="llm_tokens"), a_limit(2, meter="gemini_calls")
    )
    call = {"event": "llm_call", "attributes": {"provider": "gemini", "tokens": 400}}
    async with store.open(catalog=a_catalog(plan)) as ledger:
        assert [code_of(await ledger.submit_one(a_record(**call))) for _ in range(3)] == [
            "ok",
            "ok",
            "quota_exceeded",
        ]
        decision = decision_of(await ledger.submit_one(a_record(**call)))
        assert {state.meter for state in decision.limits if state.refused} == {"gemini_calls", "llm_tokens"}
        view = view_of(await ledger.rehearse(Arrive(a_subject())))
        assert {state.meter: state.used for state in view.limits} == {
            "llm_calls": 2,
            "llm_tokens": 800,
            "gemini_calls": 2,
        }


async def test_the_refusal_names_whether_the_member_or_the_pool_is_at_its_end(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(6), a_limit(10, scope="account"))
    async with store.open(catalog=catalog) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=6))
        ann = decision_of(await ledger.submit_one(a_record(of_crew("ann"))))
        ben = decision_of(await ledger.submit_one(a_record(of_crew("ben"), quantity=5)))
        assert ([s.scope for s in ann.limits if s.refused], [s.scope for s in ben.limits if s.refused]) == (
            ["user"],
            ["account"],
        )
        assert "used today by the whole account" in ben.message
        assert "by the whole account" not in ann.message


# Limits that come in mid-period


@pytest.mark.parametrize("window", ["week", "month", "billing_period", "lifetime", "rolling:P20D"])
@pytest.mark.parametrize("scope", ["user", "account"])
async def test_a_window_no_plan_knew_starts_with_what_was_used_before(
    store: SqliteStore, window: str, scope: Scope
) -> None:
    clock = Clock("2026-11-17T09:07:00Z")
    first = one_plan(a_limit(100))
    async with store.open(catalog=first, clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=5))
        await ledger.submit_one(a_record(of_crew("ben"), quantity=2))
        clock.advance(days=1)
        await ledger.submit_one(a_record(of_crew("ann"), quantity=4))
    edited = one_plan(a_limit(100), a_limit(20, window=window, scope=scope))
    expected = 9 if scope == "user" else 11
    async with store.open(catalog=edited, clock=clock) as ledger:
        # The crew keeps the version it has; what it uses is counted in the new window all the same.
        assert code_of(await ledger.submit_one(a_record(of_crew("ann")))) == "ok"
        assert totals(store)[(window, scope)] == expected + 1


def totals(store: SqliteStore) -> dict[tuple[str, Scope], int]:
    """What ann, or her group as a whole, has in each window's newest counter."""
    with closing(sqlite3.connect(store.path)) as connection:
        rows = connection.execute(
            "SELECT w.text, u.text, c.used FROM counter c JOIN word w ON w.id = c.window"
            " JOIN holder h ON h.id = c.holder JOIN word u ON u.id = h.user ORDER BY c.start"
        ).fetchall()
        rows += [
            (window, user, sum(quantity for _, quantity in json.loads(cells)))
            for window, user, cells in connection.execute(
                "SELECT w.text, u.text, r.cells FROM rolling r JOIN word w ON w.id = r.window"
                " JOIN holder h ON h.id = r.holder JOIN word u ON u.id = h.user"
            )
        ]
    return {
        (window, "user" if user else "account"): count for window, user, count in rows if user in ("ann", "")
    }


async def test_a_cap_within_a_pool_sees_what_the_member_used_before_it_was_set(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(100, scope="account"))) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=7))
        await ledger.submit_one(a_record(of_crew("ben"), quantity=30))
        await ledger.submit_one(a_limit_set(10, a_subject("ann", account="crew")))
        assert code_of(await ledger.submit_one(a_record(of_crew("ann"), quantity=4))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(of_crew("ann"), quantity=3))) == "ok"
        assert code_of(await ledger.submit_one(a_record(of_crew("ann")))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(of_crew("ben")))) == "ok"
    async with store.open(catalog=one_plan(a_limit(100, scope="account"))) as ledger:
        assert code_of(await ledger.submit_one(a_record(of_crew("ann")))) == "quota_exceeded"


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_cap_sees_what_was_held_before_it_was_set(store: SqliteStore, restarts: bool) -> None:
    catalog = one_plan(a_limit(100, scope="account"))
    capped = a_limit_set(10, a_subject("ann", account="crew"))
    async with store.open(catalog=catalog) as ledger:
        reserved = await ledger.submit_one(a_reserve(of_crew("ann"), quantity=7, ttl_seconds=600))
        released = await ledger.submit_one(a_reserve(of_crew("ann"), quantity=2, ttl_seconds=600))
        if not restarts:
            await ledger.submit_one(capped)
    async with store.open(catalog=catalog) as ledger:
        if restarts:
            await ledger.submit_one(capped)
        assert code_of(await ledger.submit_one(a_record(of_crew("ann"), quantity=2))) == "quota_exceeded"
        await ledger.submit_one(a_settle(released, 0))
        assert code_of(await ledger.submit_one(a_record(of_crew("ann"), quantity=2))) == "ok"
        await ledger.submit_one(a_settle(reserved, 8))
        found = await states(ledger, of_crew("ann"))
        state = found[("day", "user")]
        assert (state.maximum, state.used, state.held) == (10, 10, 0)
        assert code_of(await ledger.submit_one(a_record(of_crew("ann")))) == "quota_exceeded"


async def test_a_cap_set_in_the_middle_of_a_batch_sees_what_the_batch_did_before(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(100, scope="account"))) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=2))
        outcomes = await ledger.submit(
            [
                a_record(of_crew("ann"), quantity=3),
                a_reserve(of_crew("ann"), quantity=4),
                a_limit_set(10, a_subject("ann", account="crew")),
                a_record(of_crew("ann"), quantity=2),
                a_record(of_crew("ann")),
            ]
        )
        assert [code_of(one) for one in outcomes] == ["ok", "ok", "ok", "quota_exceeded", "ok"]


async def test_a_cap_that_has_expired_does_not_cover_that_of_the_group(store: SqliteStore) -> None:
    ann, clock = a_subject("ann", account="crew"), Clock()
    async with store.open(catalog=one_plan(a_limit(100)), clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann")))
        await ledger.submit_one(a_limit_set(8, a_subject(None, account="crew")))
        await ledger.submit_one(a_limit_set(20, ann, expires_at=clock.now + MINUTE))
        assert (await states(ledger, of_crew("ann")))[("day", "user")].maximum == 20
        clock.advance(minutes=1)
        assert (await states(ledger, of_crew("ann")))[("day", "user")].maximum == 8
        assert code_of(await ledger.submit_one(a_record(of_crew("ann"), quantity=8))) == "quota_exceeded"


async def test_a_cap_becomes_a_total_that_is_kept_when_a_plan_comes_to_limit_it(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(100, scope="account"))) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=7))
        await ledger.submit_one(a_limit_set(50, a_subject("ann", account="crew")))
        edited = a_plan(a_limit(100, scope="account"), a_limit(40))
        # In one transaction: counted before it is kept, and after.
        outcomes = await ledger.submit(
            [a_record(of_crew("ann"), quantity=2), a_publication(edited), a_record(of_crew("ann"))]
        )
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "ok"]
        assert totals(store)[("day", "user")] == 10


async def test_a_level_of_a_group_that_no_plan_knew_starts_with_what_its_members_have(
    store: SqliteStore,
) -> None:
    of_each = a_limit(100, meter="storage_mb", window="level")
    of_all = a_limit(90, meter="storage_mb", window="level", scope="account")
    clock = Clock()
    async with store.open(catalog=one_plan(of_each), clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), "storage", 60))
        clock.advance(seconds=1)
        await ledger.submit_one(a_publication(a_plan(of_each, of_all)))
        assert code_of(await ledger.submit_one(a_record(of_crew("ann"), "storage", -50))) == "ok"
        assert totals(store)[("level", "account")] == 10


async def test_a_publication_in_the_middle_of_a_batch_finds_what_was_counted_before_it(
    store: SqliteStore,
) -> None:
    first, edited = a_plan(a_limit(100)), a_plan(a_limit(100), a_limit(20, window="week"))
    clock = Clock()
    async with store.open(catalog=a_catalog(first), clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=2))
        clock.advance(seconds=1)
        await ledger.submit(
            [a_record(of_crew("ann"), quantity=5), a_publication(edited), a_record(of_crew("ann"))]
        )
        assert totals(store)[("week", "user")] == 8


@pytest.mark.parametrize("window", ["hour", "rolling:PT5H"])
async def test_a_publication_right_after_the_first_event_of_all_finds_it(
    store: SqliteStore, window: str
) -> None:
    later = a_publication(a_plan(a_limit(100), a_limit(9, window=window)))
    async with store.open(catalog=one_plan(a_limit(100)), publish=False) as ledger:
        first = a_publication(a_plan(a_limit(100)))
        await ledger.submit([first, a_record("ann", quantity=5), later, a_record("ann")])
        assert totals(store)[(window, "user")] == 6
        assert (await ledger.engine.verify()).differences == ()


async def test_a_publication_right_after_the_first_reservation_of_all_finds_what_is_held(
    store: SqliteStore,
) -> None:
    basic, faster = a_plan(a_limit(100)), a_plan(a_limit(9, window="hour"), key="faster", monthly="9")
    async with store.open(catalog=a_catalog(basic), publish=False) as ledger:
        reserved = a_reserve(quantity=2)
        await ledger.submit([a_publication(basic), reserved, a_publication(basic, faster), a_record()])
        await buy(ledger, "faster")
        state = (await states(ledger))[("hour", "user")]
        assert (state.used, state.held) == (1, 2)


async def test_a_limit_published_in_one_transaction_with_the_first_event_of_all_finds_it(
    store: SqliteStore,
) -> None:
    edited = a_plan(a_limit(100), a_limit(20, window="week"))
    async with store.open(catalog=one_plan(a_limit(100))) as ledger:
        await ledger.submit([a_record(quantity=5), a_publication(edited)])
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        with closing(sqlite3.connect(store.path)) as connection:
            statement = "SELECT c.used FROM counter c JOIN word w ON w.id = c.window WHERE w.text = 'week'"
            assert connection.execute(statement).fetchall() == [(6,)]


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_limit_of_what_nothing_limited_finds_what_was_held_before_it(
    store: SqliteStore, restarts: bool
) -> None:
    """Nothing was recorded yet, and the reservations hold nothing of any other limit."""
    first = (a_plan(a_limit(5)), a_plan(a_limit(50), key="pro", monthly="9.00"))
    limited = a_plan(a_limit(50), a_limit(8, meter="tool_calls"), key="pro", monthly="9.00")
    two_more = a_record(event="tool_call", quantity=2)
    clock = Clock()
    async with store.open(catalog=a_catalog(*first), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(event="tool_call", quantity=6, ttl_seconds=600))
        released = await ledger.submit_one(a_reserve(event="tool_call", ttl_seconds=600))
        clock.advance(seconds=1)
        await ledger.submit_one(a_publication(first[0], limited))
        await buy(ledger, "pro")
        if not restarts:
            assert code_of(await ledger.submit_one(two_more)) == "quota_exceeded"
    async with store.open(catalog=a_catalog(first[0], limited), clock=clock) as ledger:
        assert code_of(await ledger.submit_one(two_more)) == "quota_exceeded"
        (state,) = decision_of(await ledger.submit_one(a_settle(released, 0))).limits
        assert (state.used, state.held) == (0, 6)
        assert code_of(await ledger.submit_one(two_more)) == "ok"
        # What happened anyway takes nothing away from what was granted.
        await ledger.submit_one(a_record(event="tool_call", quantity=7, enforce=False))
        settled = decision_of(await ledger.submit_one(a_settle(held, 6)))
        (state,) = settled.limits
        assert (settled.code, state.used, state.held) == ("ok", 15, 0)


async def test_a_cap_set_in_the_middle_of_a_batch_sees_what_was_counted_before_it(store: SqliteStore) -> None:
    ann = a_subject("ann", account="crew")
    async with store.open(catalog=one_plan(a_limit(100, scope="account"))) as ledger:
        await ledger.submit_one(a_record(of_crew("ann")))
        outcomes = await ledger.submit(
            [a_record(of_crew("ann"), quantity=8), a_limit_set(10, ann), a_record(of_crew("ann"), quantity=2)]
        )
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "quota_exceeded"]


async def test_a_cap_set_again_in_a_batch_that_loads_for_others_sees_what_that_batch_counted(
    store: SqliteStore,
) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    bob = a_subject("bob", account="crew")
    async with store.open(
        catalog=one_plan(a_limit(100, window="hour", scope="account")), clock=clock
    ) as ledger:
        await ledger.submit_one(a_record(of_crew("bob")))
        await ledger.submit_one(a_limit_set(7, bob, window="hour"))
        await ledger.submit_one(a_limit_set(None, bob, window="hour"))
        clock.advance(hours=1)
        await ledger.submit_one(a_record(of_crew("bob"), quantity=2))
        await ledger.submit(
            [
                a_record(of_crew("carol")),
                a_record(of_crew("bob"), quantity=5),
                a_limit_set(7, bob, window="hour"),
            ]
        )
        assert code_of(await ledger.submit_one(a_record(of_crew("bob")))) == "quota_exceeded"


async def test_a_cap_that_is_set_again_sees_what_was_used_without_it(store: SqliteStore) -> None:
    ann = a_subject("ann", account="crew")
    async with store.open(catalog=one_plan(a_limit(100, scope="account"))) as ledger:
        await ledger.submit_one(a_record(of_crew("ann")))
        await ledger.submit_one(a_limit_set(10, ann))
        await ledger.submit_one(a_record(of_crew("ann"), quantity=4))
        await ledger.submit_one(a_limit_set(None, ann))
        await ledger.submit_one(a_record(of_crew("ann"), quantity=5))
        await ledger.submit_one(a_limit_set(10, ann))
        assert code_of(await ledger.submit_one(a_record(of_crew("ann")))) == "quota_exceeded"


async def test_what_was_held_before_a_window_came_counts_in_it_when_it_is_settled(store: SqliteStore) -> None:
    clock = Clock()
    edited = a_plan(a_limit(100), a_limit(100, window="week"), a_limit(100, window="rolling:PT5H"))
    async with store.open(catalog=one_plan(a_limit(100)), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(of_crew("ann"), quantity=8))
        clock.advance(minutes=1)
        await ledger.submit_one(a_publication(edited))
        clock.advance(minutes=1)
        await ledger.submit_one(a_record(of_crew("ann")))
        await ledger.submit_one(a_settle(held, 5))
        found = totals(store)
        assert (found[("week", "user")], found[("rolling:PT5H", "user")]) == (6, 6)


async def test_a_window_starts_with_what_was_reported_ahead_of_its_publication(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T13:58:00Z")
    async with store.open(catalog=one_plan(a_limit(100)), clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=5, occurred_at=clock.now + 4 * MINUTE))
        clock.advance(minutes=1)
        await ledger.submit_one(a_publication(a_plan(a_limit(100), a_limit(20, window="hour"))))
        clock.advance(minutes=4)
        await ledger.submit_one(a_record(of_crew("ann")))
        assert totals(store)[("hour", "user")] == 6


async def test_a_lifetime_that_comes_late_starts_with_what_was_reported_as_far_ahead_as_may_be(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(100)), clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=5))
        clock.advance(seconds=1)
        await ledger.submit_one(a_record(of_crew("ann"), quantity=5, occurred_at=clock.now + 5 * MINUTE))
        await ledger.submit_one(a_publication(a_plan(a_limit(100), a_limit(20, window="lifetime"))))
        await ledger.submit_one(a_record(of_crew("ann")))
        assert totals(store)[("lifetime", "user")] == 11


async def test_a_billing_period_that_comes_late_starts_with_its_own_usage_only(store: SqliteStore) -> None:
    clock = Clock("2026-09-20T14:00:00Z")
    async with store.open(catalog=one_plan(a_limit(100)), clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=5))
        clock.set("2026-10-25T14:00:00Z")
        await ledger.submit_one(a_record(of_crew("ann"), quantity=7))
        clock.advance(days=1)
        await ledger.submit_one(a_publication(a_plan(a_limit(100), a_limit(20, window="billing_period"))))
        # Late, for the period before: that one has 5 in it, and not the 7 of this one.
        clock.set("2026-10-26T14:00:00Z")
        await ledger.submit_one(a_record(of_crew("ann"), occurred_at=clock.now - 10 * 24 * 60 * MINUTE))
        assert totals(store)[("billing_period", "user")] == 6


async def test_a_limit_changed_in_mid_window_keeps_what_was_used(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        await ledger.submit_one(a_record(quantity=30))
        await ledger.submit_one(a_limit_set(20))
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        await ledger.submit_one(a_limit_set(31))
        assert [code_of(await ledger.submit_one(a_record())) for _ in range(2)] == ["ok", "quota_exceeded"]


# What keeps a tenant from growing without end


async def test_a_tenant_has_no_more_users_than_it_may(store: SqliteStore) -> None:
    async with store.open(bounds=Bounds(users=2)) as ledger:
        for user in ("ann", "ben"):
            assert code_of(await ledger.submit_one(a_record(user))) == "ok"
        refused = await ledger.submit_one(a_record("cat"))
        assert code_of(refused) == "conflict"
        assert code_of(await ledger.submit_one(a_reserve("cat"))) == "conflict"
        assert code_of(await ledger.submit_one(a_record("ann"))) == "ok"
        assert code_of(await ledger.submit_one(a_record(a_subject("cat", "globex")))) == "ok"
        assert code_of(await ledger.rehearse(CheckUsage(a_subject("cat"), "message"))) == "ok"


async def test_what_a_tenant_has_too_many_of_is_kept_as_other(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(bounds=Bounds(dimensions=2), clock=clock) as ledger:
        for model in ("m1", "m2", "m3", "m4", "m1"):
            await ledger.submit_one(a_record(attributes={"model": model}))
        await ledger.submit_one(a_record())
    with closing(sqlite3.connect(store.path)) as connection:
        rows = connection.execute(
            "SELECT w.text, sum(r.events) FROM rollup r JOIN word w ON w.id = r.dimensions GROUP BY 1 ORDER BY 1"
        ).fetchall()
        kept = connection.execute("SELECT count(*) FROM event WHERE attributes IS NOT NULL").fetchone()
    assert rows == [
        ('["message","basic",null,"m1",null,null]', 2),
        ('["message","basic",null,"m2",null,null]', 1),
        ('["message","basic",null,"other",null,null]', 2),
        ('["message","basic",null,null,null,null]', 1),
    ]
    assert kept == (5,)


async def test_other_is_counted_once_among_what_a_tenant_tells_apart(store: SqliteStore) -> None:
    for _ in range(3):
        async with store.open(bounds=Bounds(dimensions=1)) as ledger:
            for model in ("m1", "m2"):
                await ledger.submit_one(a_record(attributes={"model": model}))
    with closing(sqlite3.connect(store.path)) as connection:
        kept = connection.execute("SELECT dimensions FROM tenant_size").fetchone()
        assert kept == connection.execute("SELECT count(*) FROM dimension").fetchone() == (2,)


async def test_a_minute_of_many_events_stays_one_small_row(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10_000, window="minute")), clock=clock) as ledger:
        for _ in range(500):
            await ledger.submit_one(a_record())
            clock.advance(microseconds=SECOND // 10)
        assert (await states(ledger))[("minute", "user")].used == 500
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT count(*), max(length(cells)) < 4000 FROM rolling").fetchone() == (
            1,
            1,
        )


# What is remembered of an account


@pytest.mark.parametrize(
    "change",
    [
        a_change("pro", of_crew("tom"), confirmation="handle-pro"),
        a_limit_set(40, of_crew("tom")),
        a_limit_set(45, a_subject(None, account="crew")),
        a_limit_set(40, a_subject("sue")),
        Arrive(a_subject("tom", group="band")),
        Arrive(a_subject("sue", group="crew")),
        a_publication(a_plan(a_limit(90), key="basic"), a_plan(a_limit(99, scope="account"), key="pro")),
    ],
    ids=["plan", "member's limit", "group's limit", "own limit", "leaves", "joins", "plans"],
)
async def test_what_is_remembered_is_forgotten_with_what_it_came_from(
    store: SqliteStore, change: Command
) -> None:
    catalog = a_catalog(
        a_plan(a_limit(50), a_limit(80, window="month", scope="account"), key="basic"),
        a_plan(a_limit(500), a_limit(60, scope="account"), key="pro", monthly="9"),
    )
    everybody = [of_crew("tom"), of_crew("tina"), a_subject("sue"), a_subject("tom"), a_subject("ann")]
    async with store.open(catalog=catalog) as ledger:
        await ledger.submit_one(a_change("pro", of_crew("tom"), offer="handle-pro"))
        await ledger.submit([a_record(who) for who in everybody] * 2)
        await ledger.submit_one(change)
        async with store.open(catalog=catalog, publish=False) as fresh:
            for who in everybody:
                check = await fresh.rehearse(CheckUsage(who, "message"))
                known = await ledger.submit_one(a_record(who))
                if isinstance(check, Refusal):
                    assert isinstance(known, Refusal) and known.code == check.code
                    continue
                expected, found = decision_of(check), decision_of(known)
                assert found.plan_held == expected.plan_held
                assert [(s.limit, s.used) for s in found.limits] == [
                    (s.limit, s.used + 1) for s in expected.limits
                ]


# What `verify` has to agree with


async def test_a_late_event_from_before_an_upgrade_is_counted_in_one_billing_period(
    store: SqliteStore,
) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    old = (a_plan(a_limit(50)), a_plan(a_limit(200), key="advanced", monthly="29.00"))
    basic = a_plan(a_limit(50), a_limit(100, window="billing_period"))
    advanced = a_plan(a_limit(30, window="billing_period"), key="advanced", monthly="29.00")
    async with store.open(catalog=a_catalog(*old), clock=clock) as ledger:
        clock.advance(hours=1)
        await ledger.submit_one(a_record())
        clock.advance(days=1)
        await ledger.submit_one(a_publication(basic, advanced))
        clock.advance(days=1)
        await ledger.submit_one(a_record(quantity=25))
        clock.advance(hours=1)
        await buy(ledger, "advanced")
        clock.advance(hours=1)
        before = clock.now - 121 * MINUTE
        for quantity, used_then in ((2, 3), (4, 7)):
            late = decision_of(await ledger.submit_one(a_record(quantity=quantity, occurred_at=before)))
            assert [(s.window, s.used) for s in late.limits] == [("billing_period", used_then)]
        assert (await ledger.engine.verify()).differences == ()


async def test_what_came_back_of_a_rolling_window_does_not_return_with_a_sweep(store: SqliteStore) -> None:
    """Published and first used at one instant: what is known of it besides is the quarter of an hour."""
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(9, window="rolling:PT1H")), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=8))
        clock.advance(minutes=2)
        await ledger.submit_one(a_record("ann"))
        clock.advance(minutes=59)
        await ledger.submit_one(Arrive(a_subject("cid")))
        assert (await states(ledger))[("rolling:PT1H", "user")].used == 0


async def test_a_call_without_tokens_leaves_nothing_that_is_missed_later(store: SqliteStore) -> None:
    clock = Clock()
    catalog = one_plan(a_limit(50), a_limit(10, meter="llm_tokens", window="rolling:PT1H"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        nothing = {"tokens": 0, "provider": "x"}
        await ledger.submit_one(a_record(event="llm_call", attributes=nothing))
        for _ in range(4):
            clock.advance(minutes=11)
            await ledger.submit_one(a_record())
        assert (await ledger.engine.verify()).differences == ()


@pytest.mark.parametrize("minutes", [1, 60])
async def test_an_event_ahead_of_an_upgrade_belongs_to_the_period_it_was_recorded_in(
    store: SqliteStore, minutes: int
) -> None:
    clock = Clock()
    limits = (a_limit(50), a_limit(50, window="billing_period"))
    catalog = a_catalog(a_plan(*limits), a_plan(*limits, key="advanced", monthly="29.00"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        clock.advance(minutes=minutes)
        await ledger.submit_one(a_record(quantity=3, occurred_at=clock.now + 200 * SECOND))
        clock.advance(seconds=1)
        await buy(ledger, "advanced")
        clock.advance(minutes=30)
        decision = decision_of(await ledger.submit_one(a_record()))
        assert {s.window: s.used for s in decision.limits} == {"day": 4, "billing_period": 1}
        assert (await ledger.engine.verify()).differences == ()


async def test_a_person_is_not_shown_the_seats_of_a_group_of_that_id(store: SqliteStore) -> None:
    plan = a_plan(a_limit(50), seats=5)
    async with store.open(catalog=a_catalog(plan)) as ledger:
        for user in ("ann", "bob", "cid"):
            await ledger.submit_one(Arrive(a_subject(user, group="x")))
        alone = view_of(await ledger.submit_one(Arrive(a_subject("x"))))
        assert (alone.standing.account_kind, alone.seats_used) == ("personal", None)
