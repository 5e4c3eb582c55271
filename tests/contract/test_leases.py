"""What every engine must do with what is held for a while: reservations, and sessions. Both end by time."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_closing,
    a_limit,
    a_limit_set,
    a_plan,
    a_publication,
    a_record,
    a_renewal,
    a_reserve,
    a_settle,
    a_subject,
    an_opening,
    buy,
    change_of,
    code_of,
    decision_of,
    duration_of,
    manage,
    opened_of,
    reservation_of,
    session_of,
    view_of,
)
from tests.contract.test_engine import (
    STORES,
    SqliteStore,
    arrive,
    events_of,
    one_plan,
    two_ledgers,
    used,
)

from subscription_mcp.domain.catalog import UNLIMITED, Catalog
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, MINUTE, SECOND, format_instant, parse_instant
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.domain.windows import quarter_of
from subscription_mcp.ledger.commands import Arrive, ChangePlan, CheckUsage, Decided, Outcome
from subscription_mcp.ledger.queries import UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger

GARBAGE = [
    "",
    "r1",
    "0" * 32,
    "{018f0000-0000-7000-8000-000000000000}",
    "018f0000-0000-7000-8000-000000000000",
    "018F0000-0000-7000-8000-000000000000",
    "urn:uuid:018f0000-0000-7000-8000-000000000000",
    "' OR 1=1 --",
    "\0",
    "ü" * 64,
]


async def standing_at(ledger: Ledger, subject="bob", *, meter="messages", window="day") -> tuple[int, int]:
    """What the account's view says is used and held."""
    who = a_subject(subject) if isinstance(subject, str) else subject
    view = view_of(await ledger.rehearse(Arrive(who)))
    state = next(s for s in view.limits if (s.meter, s.window) == (meter, window))
    return state.used, state.held


def day_of(outcome: Outcome) -> LimitState:
    return next(state for state in decision_of(outcome).limits if state.window == "day")


def late(outcome: Outcome) -> bool:
    assert isinstance(outcome, Decided), outcome
    return outcome.late


async def totals_of(ledger: Ledger, clock: Clock, whose: Whose | None = None) -> dict[str, int]:
    """What the rollups sum to, by meter."""
    start, end = quarter_of(clock.now - 60 * DAY), quarter_of(clock.now + 2 * DAY)
    rows = await ledger.query(UsageTotals(whose or Whose("acme"), start, end, frozenset()))
    return {row.meter: row.quantity for row in rows}


# Holding


async def test_what_is_held_is_not_used_and_is_not_left(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        await ledger.submit_one(a_record(quantity=10))
        held = decision_of(await ledger.submit_one(a_reserve(quantity=15)))
        assert (held.allowed, held.code, held.event_id, held.quantity) == (True, "ok", None, 15)
        assert held.reservation_id is not None
        (day,) = held.limits
        assert (day.used, day.held, day.remaining, day.permille) == (10, 15, 25, 500)
        assert held.message == (
            "Basic plan: 10 of 50 messages used today (15 more held), 25 left. Resets 2026-11-21 00:00 UTC."
        )
        asked = decision_of(await ledger.rehearse(CheckUsage(a_subject(), "message", 26)))
        assert (asked.code, asked.limits[0].held) == ("quota_exceeded", 15)
        assert code_of(await ledger.submit_one(a_record(quantity=26))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_reserve(quantity=26))) == "quota_exceeded"
        last = decision_of(await ledger.submit_one(a_record(quantity=25)))
        assert (last.limits[0].used, last.limits[0].held, last.limits[0].remaining) == (35, 15, 0)
        assert await standing_at(ledger) == (35, 15)


async def test_a_refused_reserve_holds_nothing_and_makes_nobody(store: SqliteStore) -> None:
    async with store.open() as ledger:
        rows = store.rows()
        refused = decision_of(await ledger.submit_one(a_reserve(quantity=51, key="k")))
        assert (refused.code, refused.reservation_id) == ("quota_exceeded", None)
        assert [unlock.action for unlock in refused.unlocks] == ["upgrade_tier"]
        assert store.rows() == rows


async def test_holding_is_first_sight_and_records_nothing(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_reserve())
        view = await ledger.look(Arrive(a_subject(None, account="bob")), may_make_known=False)
        assert view.subscription is not None and view.subscription.origin == "default"
        assert await events_of(ledger, clock) == []
        assert await totals_of(ledger, clock) == {}


async def test_a_hold_counts_in_every_window_and_against_the_tightest(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50), a_limit(60, window="month"))) as ledger:
        await ledger.submit_one(a_reserve(quantity=40))
        assert await standing_at(ledger, window="month") == (0, 40)
        refused = decision_of(await ledger.submit_one(a_reserve(quantity=21)))
        assert [(state.window, state.refused) for state in refused.limits] == [("day", True), ("month", True)]


async def test_holds_of_one_user_count_for_the_whole_group(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(10), a_limit(15, scope="account"))
    async with store.open(catalog=catalog) as ledger:
        for user in ("bob", "eve"):
            await arrive(ledger, user=user, group="team")
        held = await ledger.submit_one(a_reserve("bob", quantity=8))
        refused = decision_of(await ledger.submit_one(a_record("eve", quantity=8)))
        assert [(s.scope, s.used, s.held) for s in refused.limits if s.refused] == [("account", 0, 8)]
        assert code_of(await ledger.submit_one(a_reserve("bob", quantity=3))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record("eve", quantity=7))) == "ok"
        whole = await ledger.look(Arrive(a_subject(None, account="team")), may_make_known=False)
        assert [(state.used, state.held) for state in whole.limits] == [(7, 8)]
        settled = decision_of(await ledger.submit_one(a_settle(held, 2)))
        assert {(s.scope, s.used, s.held) for s in settled.limits} == {("user", 2, 0), ("account", 9, 0)}
        assert code_of(await ledger.submit_one(a_record("eve", quantity=3))) == "ok"


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_exactly_as_many_of_200_reserves_fit_as_there_is_room(store: SqliteStore, size: int) -> None:
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        outcomes = await asyncio.gather(*[ledger.submit_one(a_reserve(quantity=size)) for _ in range(200)])
        assert Counter(map(code_of, outcomes)) == {"ok": 50 // size, "quota_exceeded": 200 - 50 // size}
        ids = {decision_of(outcome).reservation_id for outcome in outcomes} - {None}
        assert len(ids) == 50 // size
        assert await standing_at(ledger) == (0, 50 // size * size)


async def test_two_ledgers_hold_of_one_limit_exactly(store: SqliteStore) -> None:
    async with two_ledgers(store, one_plan(a_limit(50)), Clock()) as ledgers:
        outcomes = await asyncio.gather(*[ledgers[n % 2].submit_one(a_reserve()) for n in range(200)])
        assert Counter(map(code_of, outcomes)) == {"ok": 50, "quota_exceeded": 150}


async def test_an_estimate_of_nothing_holds_nothing_and_is_settled_in_its_window(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(100, meter="llm_tokens"), a_limit(5, meter="llm_calls"))
    async with store.open(catalog=catalog) as ledger:
        held = await ledger.submit_one(a_reserve(event="llm_call", attributes={"tokens": 0}))
        assert code_of(held) == "ok"
        assert await standing_at(ledger, meter="llm_calls") == (0, 1)
        settled = await ledger.submit_one(a_settle(held, attributes={"tokens": 30}))
        assert code_of(settled) == "ok"
        assert await standing_at(ledger, meter="llm_tokens") == (30, 0)
        assert await standing_at(ledger, meter="llm_calls") == (1, 0)


async def test_what_no_plan_limits_is_held_and_settled_all_the_same(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(event="tool_call", attributes={"tool": "search"}))
        assert decision_of(held).limits == []
        assert code_of(await ledger.submit_one(a_settle(held, 3))) == "ok"
        assert await totals_of(ledger, clock) == {"tool_calls": 3}
        (event,) = await events_of(ledger, clock)
        assert event.attributes == {"tool": "search"}


# Settling


@pytest.mark.parametrize(
    ("settled", "counted"), [(None, 10), (10, 10), (4, 4), (0, 0)], ids=["as held", "same", "less", "zero"]
)
async def test_what_is_settled_is_counted_and_the_rest_given_back(
    store: SqliteStore, settled: int | None, counted: int
) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10)), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        outcome = await ledger.submit_one(a_settle(held, settled))
        decision = decision_of(outcome)
        assert (decision.allowed, decision.code, late(outcome)) == (True, "ok", False)
        assert decision.reservation_id == reservation_of(held)
        assert (decision.event_id is not None) == bool(counted)
        assert decision.quantity == counted
        assert [(s.used, s.held, s.remaining, s.refused) for s in decision.limits] == [
            (counted, 0, 10 - counted, False)
        ]
        assert f"{counted} of 10 messages used today" in decision.message
        assert await standing_at(ledger) == (counted, 0)
        assert sum((await totals_of(ledger, clock)).values()) == counted
        events = await events_of(ledger, clock)
        assert [(event.id, event.quantity) for event in events] == (
            [(decision.event_id, counted)] if counted else []
        )
        assert code_of(await ledger.submit_one(a_record(quantity=10 - counted or 1))) == (
            "ok" if counted < 10 else "quota_exceeded"
        )


async def test_more_than_was_held_counts_too_where_there_is_room(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        decision = decision_of(await ledger.submit_one(a_settle(held, 50)))
        assert (decision.allowed, decision.limits[0].used, decision.limits[0].held) == (True, 50, 0)


async def test_more_than_was_held_past_the_limit_is_recorded_and_told(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(50)), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=30))
        other = await ledger.submit_one(a_reserve(quantity=5))
        held = await ledger.submit_one(a_reserve(quantity=10))
        over = decision_of(await ledger.submit_one(a_settle(held, 16)))
        assert (over.allowed, over.code, over.event_id is None) == (False, "quota_exceeded", False)
        assert [(s.used, s.held, s.remaining, s.refused) for s in over.limits] == [(46, 5, 0, True)]
        assert await standing_at(ledger) == (46, 5)
        # What the other holds was granted before, whatever was settled since.
        granted = decision_of(await ledger.submit_one(a_settle(other)))
        assert (granted.allowed, granted.limits[0].used) == (True, 51)
        assert await totals_of(ledger, clock) == {"messages": 51}


async def test_what_was_granted_stays_granted_when_the_limit_is_lowered(store: SqliteStore) -> None:
    async with store.open() as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        await ledger.submit_one(a_limit_set(5))
        decision = decision_of(await ledger.submit_one(a_settle(held, 8)))
        assert (decision.allowed, decision.code) == (True, "ok")
        assert (day_of(Decided(decision)).used, day_of(Decided(decision)).maximum) == (8, 5)


async def test_a_limit_that_comes_at_the_instant_of_a_hold_sees_it(store: SqliteStore) -> None:
    basic = a_plan(a_limit(50), a_limit(50, window="month"))
    async with store.open(catalog=a_catalog(basic)) as ledger:
        await ledger.submit_one(a_reserve(quantity=10))
        hourly = a_plan(a_limit(50), a_limit(12, window="hour"), key="hourly", monthly="9")
        await ledger.submit_one(a_publication(basic, hourly))
        await buy(ledger, "hourly")
        refused = decision_of(await ledger.submit_one(a_reserve(quantity=5)))
        assert [(s.window, s.held) for s in refused.limits if s.refused] == [("hour", 10)]


async def test_the_same_settle_again_is_a_replay_and_another_a_conflict(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        first = await ledger.submit_one(a_settle(held, 4))
        await ledger.submit([a_record() for _ in range(3)])
        await buy(ledger, "premium")
        for later in (0, 1, 20):
            clock.advance(days=later)
            again = await ledger.submit_one(a_settle(held, 4))
            assert decision_of(again).as_dict() == {**decision_of(first).as_dict(), "replayed": True}
            assert late(again) is False
            assert code_of(await ledger.submit_one(a_settle(held, 5))) == "conflict"
            assert code_of(await ledger.submit_one(a_settle(held, 0))) == "conflict"
        assert await totals_of(ledger, clock) == {"messages": 7}


@pytest.mark.parametrize("quantity", [0, 60])
async def test_a_release_and_a_settle_past_the_limit_are_replayed_too(
    store: SqliteStore, quantity: int
) -> None:
    async with store.open() as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        first = decision_of(await ledger.submit_one(a_settle(held, quantity)))
        assert first.allowed is (quantity == 0)
        again = decision_of(await ledger.submit_one(a_settle(held, quantity)))
        assert again.as_dict() == {**first.as_dict(), "replayed": True}
        assert await standing_at(ledger) == (quantity, 0)


async def test_settled_twice_in_one_batch_counts_once(store: SqliteStore) -> None:
    async with store.open() as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        outcomes = await ledger.submit([a_settle(held, 4), a_settle(held, 4), a_settle(held, 5)])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "conflict"]
        assert [decision_of(outcome).replayed for outcome in outcomes[:2]] == [False, True]
        assert await standing_at(ledger) == (4, 0)


async def test_reserved_and_settled_in_one_batch_leaves_nothing_held(store: SqliteStore) -> None:
    async with store.open() as ledger:
        held, *_ = await ledger.submit([a_reserve(quantity=10), a_record()])
        await ledger.submit([a_settle(held, 4), a_reserve(quantity=1)])
        assert await standing_at(ledger) == (5, 1)


async def test_a_settle_counts_as_it_really_was_also_in_another_meter(store: SqliteStore) -> None:
    catalog = one_plan(
        a_limit(100, meter="llm_tokens"), a_limit(5, meter="llm_calls"), a_limit(5, meter="gemini_calls")
    )
    clock = Clock("2026-11-20T23:59:00Z")
    async with store.open(catalog=catalog, clock=clock) as ledger:
        estimate = {"provider": "mistral", "tokens": 90}
        held = await ledger.submit_one(a_reserve(event="llm_call", attributes=estimate))
        assert await standing_at(ledger, meter="gemini_calls") == (0, 0)
        clock.set("2026-11-21T00:00:30Z")
        really = {"provider": "gemini", "tokens": 40}
        decision = decision_of(await ledger.submit_one(a_settle(held, attributes=really)))
        assert {(s.meter, s.used, s.held) for s in decision.limits} == {
            ("llm_tokens", 40, 0),
            ("llm_calls", 1, 0),
            ("gemini_calls", 1, 0),
        }
        assert {format_instant(s.period.start) for s in decision.limits} == {"2026-11-20T00:00:00Z"}
        assert await used(ledger, meter="gemini_calls") == 0  # today; yesterday it was
        (event,) = await events_of(ledger, clock)
        assert event.gains == {"llm_calls": 1, "llm_tokens": 40, "gemini_calls": 1}


async def test_a_settle_in_a_meter_that_was_not_held_is_held_against_its_limit(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(5, meter="llm_calls"), a_limit(0, meter="gemini_calls"))
    async with store.open(catalog=catalog) as ledger:
        held = await ledger.submit_one(a_reserve(event="llm_call", attributes={"provider": "mistral"}))
        over = decision_of(await ledger.submit_one(a_settle(held, attributes={"provider": "google"})))
        assert (over.allowed, over.event_id is None) == (False, False)
        assert [(s.meter, s.used) for s in over.limits if s.refused] == [("gemini_calls", 1)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"attributes": {"nope": 1}}, "invalid_request"),
        ({"quantity": -1}, "invalid_request"),
        ({"quantity": 10**12 + 1}, "invalid_request"),
    ],
)
async def test_a_settle_that_is_wrong_leaves_the_reservation_as_it_was(
    store: SqliteStore, fields, code
) -> None:
    async with store.open() as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        assert code_of(await ledger.submit_one(a_settle(held, **fields))) == code
        assert await standing_at(ledger) == (0, 10)
        assert code_of(await ledger.submit_one(a_settle(held))) == "ok"


async def test_the_event_of_a_settle_says_who_reserved_what_when(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        reserved_at = clock.now
        held = await ledger.submit_one(a_reserve(quantity=10, source="worker"))
        clock.advance(seconds=60)
        await ledger.submit_one(a_settle(held, 4))
        (event,) = await events_of(ledger, clock)
        assert (event.user, event.account, event.event, event.quantity) == ("bob", "bob", "message", 4)
        assert (event.occurred_at, event.recorded_at) == (reserved_at, clock.now)
        assert (event.source, event.plan) == ("worker", "basic")


# Time


@pytest.mark.parametrize("microseconds", [-1, 0])
async def test_a_hold_gives_itself_back_when_it_expires(store: SqliteStore, microseconds: int) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10)), clock=clock) as ledger:
        await ledger.submit_one(a_reserve(quantity=10, ttl_seconds=120))
        clock.advance(seconds=120, microseconds=microseconds)
        expired = microseconds == 0
        assert await standing_at(ledger) == (0, 0 if expired else 10)
        assert code_of(await ledger.submit_one(a_record())) == ("ok" if expired else "quota_exceeded")


@pytest.mark.parametrize(
    ("quantity", "used_since", "code"),
    [(4, 0, "ok"), (10, 0, "ok"), (4, 7, "quota_exceeded"), (0, 10, "ok")],
)
async def test_a_settle_that_comes_too_late_is_recorded_all_the_same(
    store: SqliteStore, quantity: int, used_since: int, code: str
) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10)), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=10))
        clock.advance(seconds=120)
        if used_since:
            assert code_of(await ledger.submit_one(a_record(quantity=used_since))) == "ok"
        outcome = await ledger.submit_one(a_settle(held, quantity))
        decision = decision_of(outcome)
        assert (decision.code, late(outcome)) == (code, True)
        assert [(s.used, s.held) for s in decision.limits] == [(used_since + quantity, 0)]
        assert (decision.event_id is not None) == bool(quantity)
        assert await standing_at(ledger) == (used_since + quantity, 0)
        clock.advance(days=3)
        again = await ledger.submit_one(a_settle(held, quantity))
        assert decision_of(again).as_dict() == {**decision.as_dict(), "replayed": True}
        assert late(again)


@pytest.mark.parametrize(
    ("reserved", "settled", "window", "start"),
    [
        ("2026-11-20T23:59:00Z", "2026-11-21T00:01:00Z", "day", "2026-11-20T00:00:00Z"),
        ("2026-11-30T23:59:00Z", "2026-12-01T00:01:00Z", "month", "2026-11-01T00:00:00Z"),
        ("2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z", "month", "2026-12-01T00:00:00Z"),
        ("2026-11-20T13:59:59Z", "2026-11-20T14:01:58Z", "hour", "2026-11-20T13:00:00Z"),
    ],
)
async def test_a_settle_counts_in_the_window_it_was_held_in(
    store: SqliteStore, reserved: str, settled: str, window: str, start: str
) -> None:
    clock = Clock(reserved)
    async with store.open(catalog=one_plan(a_limit(10, window=window)), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=6))
        clock.set(settled)
        assert await standing_at(ledger, window=window) == (0, 0)
        decision = decision_of(await ledger.submit_one(a_settle(held, 5)))
        assert [(format_instant(s.period.start), s.used, s.held) for s in decision.limits] == [(start, 5, 0)]
        assert await standing_at(ledger, window=window) == (0, 0)
        full = decision_of(await ledger.submit_one(a_record(quantity=10)))
        assert (full.code, full.limits[0].used) == ("ok", 10)
        earlier = a_record(quantity=6, occurred_at=parse_instant(reserved))
        assert code_of(await ledger.submit_one(earlier)) == "quota_exceeded"
        (event,) = [e for e in await events_of(ledger, clock) if e.quantity == 5]
        assert format_instant(event.occurred_at) == reserved


async def test_a_settle_after_an_upgrade_counts_in_the_billing_period_it_was_held_in(
    store: SqliteStore,
) -> None:
    catalog = a_catalog(
        a_plan(a_limit(10, window="billing_period")),
        a_plan(a_limit(100, window="billing_period"), key="advanced", monthly="29.00"),
    )
    clock = Clock()
    async with store.open(catalog=catalog, clock=clock) as ledger:
        reserved_at = clock.now
        held = await ledger.submit_one(a_reserve(quantity=10))
        clock.advance(seconds=30)
        await buy(ledger, "advanced")
        assert await standing_at(ledger, window="billing_period") == (0, 0)
        decision = decision_of(await ledger.submit_one(a_settle(held, 7)))
        assert (decision.code, decision.plan) == ("ok", "advanced")
        assert [(s.used, s.held, s.period.start) for s in decision.limits] == [(7, 0, reserved_at)]
        assert await standing_at(ledger, window="billing_period") == (0, 0)


@pytest.mark.parametrize(("microseconds", "code"), [(0, "ok"), (1, "not_found")])
async def test_a_reservation_is_remembered_for_35_days(store: SqliteStore, microseconds, code) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve())
        clock.advance(days=35, microseconds=microseconds)
        assert code_of(await ledger.submit_one(a_settle(held))) == code


async def test_holds_that_expired_are_cleared_away_by_the_next(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(1)), clock=clock) as ledger:
        for _ in range(20):
            assert code_of(await ledger.submit_one(a_reserve(ttl_seconds=1))) == "ok"
            clock.advance(seconds=1)
        assert store.rows()["hold"] == 1


async def test_holds_that_expired_are_cleared_away_after_reopening_too(store: SqliteStore) -> None:
    clock = Clock()
    for _ in range(3):
        async with store.open(catalog=one_plan(a_limit(1)), clock=clock) as ledger:
            assert code_of(await ledger.submit_one(a_reserve(ttl_seconds=1))) == "ok"
            clock.advance(seconds=1)
    assert store.rows()["hold"] == 1


# Again, elsewhere, somebody else


async def test_a_key_holds_once(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        first = decision_of(await ledger.submit_one(a_reserve(quantity=10, key="k")))
        await ledger.submit_one(a_record(quantity=3))
        for _ in range(2):
            again = decision_of(await ledger.submit_one(a_reserve(quantity=10, key="k")))
            assert again.as_dict() == {**first.as_dict(), "replayed": True}
            clock.advance(minutes=5)  # also when it has expired
        assert code_of(await ledger.submit_one(a_reserve(quantity=11, key="k"))) == "conflict"
        assert code_of(await ledger.submit_one(a_record(quantity=10, key="k"))) == "conflict"
        assert code_of(await ledger.submit_one(an_opening(key="k"))) == "conflict"
        assert store.rows()["reservation"] == 1


async def test_a_refused_reserve_is_not_remembered(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert code_of(await ledger.submit_one(a_reserve(quantity=60, key="k"))) == "quota_exceeded"
        await buy(ledger, "advanced")
        held = decision_of(await ledger.submit_one(a_reserve(quantity=60, key="k")))
        assert (held.code, held.replayed) == ("ok", False)


async def test_what_is_held_is_there_after_reopening_and_ends_by_time(store: SqliteStore) -> None:
    clock = Clock()
    catalog = one_plan(a_limit(10), sessions=1, session_seconds=1800)
    async with store.open(catalog=catalog, clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=6))
        lost = await ledger.submit_one(a_reserve(quantity=4))
        opened = await ledger.submit_one(an_opening())
    async with store.open(catalog=catalog, clock=clock) as ledger:
        assert await standing_at(ledger) == (0, 10)
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        settled = decision_of(await ledger.submit_one(a_settle(held, 5)))
        assert (settled.allowed, settled.limits[0].used, settled.limits[0].held) == (True, 5, 4)
        assert code_of(await ledger.submit_one(an_opening())) == "session_limit"
        # Nobody comes back for the rest: no job, no sweeper.
        clock.advance(seconds=120)
        assert await standing_at(ledger) == (5, 0)
        clock.advance(minutes=28)
        assert (await arrive(ledger)).sessions_active == 0
        assert code_of(await ledger.submit_one(an_opening())) == "ok"
        assert late(await ledger.submit_one(a_settle(lost)))
        assert duration_of(await ledger.submit_one(a_closing(opened))) == 1800


async def test_a_second_ledger_sees_what_is_held_and_settles_it(store: SqliteStore) -> None:
    async with two_ledgers(store, one_plan(a_limit(10)), Clock()) as (one, other):
        await other.submit_one(a_record())
        held = await one.submit_one(a_reserve(quantity=9))
        assert await standing_at(other) == (1, 9)
        assert code_of(await other.submit_one(a_record())) == "quota_exceeded"
        settled = decision_of(await other.submit_one(a_settle(held, 4)))
        assert (settled.allowed, settled.limits[0].used, settled.limits[0].held) == (True, 5, 0)
        assert decision_of(await one.submit_one(a_settle(held, 4))).replayed
        assert code_of(await one.submit_one(a_record(quantity=5))) == "ok"


async def test_what_a_batch_gives_back_is_free_for_the_rest_of_it(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(5, meter="llm_calls"), a_limit(1, meter="gemini_calls"))
    async with two_ledgers(store, catalog, Clock()) as (one, other):
        gemini, mistral = {"provider": "gemini"}, {"provider": "mistral"}
        held = await one.submit_one(a_reserve(event="llm_call", attributes=gemini))
        after = a_record(event="llm_call", attributes=gemini)
        outcomes = await other.submit([a_settle(held, attributes=mistral), after, after])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "quota_exceeded"]
        assert await standing_at(other, meter="gemini_calls") == (1, 0)


async def test_a_batch_that_cannot_be_saved_holds_nothing(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10), sessions=1)) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=5))
        rows = store.rows()
        with store.without_a_table():
            commands = [a_settle(held, 2), a_reserve(quantity=5), an_opening(), a_record("eve")]
            outcomes = await ledger.submit(commands)
        assert [code_of(outcome) for outcome in outcomes] == ["unavailable"] * 4
        assert store.rows() == rows
        assert await standing_at(ledger) == (0, 5)
        again = [a_settle(held, 2), a_reserve(quantity=8), an_opening()]
        assert [code_of(outcome) for outcome in await ledger.submit(again)] == ["ok"] * 3


async def test_nobody_settles_what_another_reserved(store: SqliteStore) -> None:
    async with store.open() as ledger:
        held = await ledger.submit_one(a_reserve("bob", quantity=5))
        await ledger.submit_one(a_record("eve"))
        await ledger.submit_one(a_record(a_subject("bob", "globex")))
        for settle in (
            a_settle(held, user="eve"),
            a_settle(held, tenant="globex"),
            a_settle(held, tenant="globex", user="bob"),
            a_settle(held, tenant="never seen"),
        ):
            assert code_of(await ledger.submit_one(settle)) == "not_found"
        assert await standing_at(ledger) == (0, 5)
        assert code_of(await ledger.submit_one(a_settle(held, user="bob"))) == "ok"
        # Not even that it was settled is told.
        assert code_of(await ledger.submit_one(a_settle(held, 9, user="eve"))) == "not_found"


@pytest.mark.parametrize("id_", GARBAGE)
async def test_an_id_that_is_none_of_ours_is_not_found(store: SqliteStore, id_: str) -> None:
    async with store.open() as ledger:
        for command in (a_settle(id_), a_renewal(id_), a_closing(id_)):
            assert code_of(await ledger.submit_one(command)) == "not_found"


async def test_another_spelling_of_an_id_is_not_a_second_reservation(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(UNLIMITED), sessions=5)) as ledger:
        held = reservation_of(await ledger.submit_one(a_reserve(quantity=5)))
        spellings = [held.upper(), held.replace("-", ""), f"{{{held}}}", f"urn:uuid:{held}"]
        outcomes = await ledger.submit([a_settle(held), *[a_settle(text) for text in spellings]])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", *["not_found"] * 4]
        assert await standing_at(ledger) == (5, 0)
        session = session_of(await ledger.submit_one(an_opening())).id
        assert code_of(await ledger.submit_one(a_closing(session.upper()))) == "not_found"


async def test_a_settle_belongs_to_the_account_it_was_reserved_in(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10))) as ledger:
        held = await ledger.submit_one(a_reserve("bob", quantity=4))
        await arrive(ledger, user="bob", group="team")
        assert await standing_at(ledger, "bob") == (0, 0)
        settled = decision_of(await ledger.submit_one(a_settle(held, user="bob")))
        assert [(s.used, s.held) for s in settled.limits] == [(4, 0)]
        assert await standing_at(ledger, a_subject("bob")) == (0, 0)
        personal = await ledger.look(Arrive(a_subject(None, account="bob")), may_make_known=False)
        assert [(s.used, s.held) for s in personal.limits] == [(4, 0)]


# Any order of steps

LIMIT = 20
steps = st.one_of(
    st.tuples(st.just("reserve"), st.integers(1, 12), st.sampled_from([10, 60, 120])),
    st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 15)),
    st.tuples(st.just("record"), st.integers(1, 8), st.just(0)),
    st.tuples(st.just("expire"), st.integers(1, 90), st.just(0)),
)


@dataclass
class Held:
    """A reservation as the model below knows it."""

    id: str
    quantity: int
    expires_at: int
    settled: int | None = None


class Model:
    """One limit of one user, the long way round: no counters, no windows, one list."""

    def __init__(self) -> None:
        self.used = 0
        self.granted: list[Held] = []

    def held(self, now: int) -> int:
        return sum(one.quantity for one in self.granted if one.settled is None and now < one.expires_at)

    def fits(self, quantity: int, now: int) -> bool:
        return self.used + self.held(now) + quantity <= LIMIT

    def settle(self, one: Held, quantity: int, now: int) -> tuple[str, bool]:
        """The code, and whether the answer is a replay."""
        if one.settled is not None:
            return ("conflict", False) if one.settled != quantity else ("same", True)
        granted = now < one.expires_at and quantity <= one.quantity
        one.settled = quantity
        fits = quantity == 0 or self.fits(quantity, now)
        self.used += quantity
        return ("ok" if granted or fits else "quota_exceeded", False)


@pytest.mark.parametrize("opened", STORES, ids=lambda store: store.engine)
@settings(max_examples=25)
@given(story=st.lists(steps, min_size=5, max_size=40))
def test_whatever_the_order_used_and_held_are_what_a_naive_model_says(
    opened: Callable[[Path], SqliteStore], story
) -> None:
    async def told(place: Path) -> None:
        clock, model, over = Clock("2026-11-20T10:00:00Z"), Model(), False
        async with opened(place).open(catalog=one_plan(a_limit(LIMIT)), clock=clock) as ledger:
            for kind, quantity, detail in story:
                now = clock.now
                if kind == "expire":
                    clock.advance(seconds=quantity)
                elif kind == "record":
                    fits = model.fits(quantity, now)
                    outcome = await ledger.submit_one(a_record(quantity=quantity))
                    assert code_of(outcome) == ("ok" if fits else "quota_exceeded")
                    model.used += quantity if fits else 0
                elif kind == "reserve":
                    fits = model.fits(quantity, now)
                    outcome = await ledger.submit_one(a_reserve(quantity=quantity, ttl_seconds=detail))
                    assert code_of(outcome) == ("ok" if fits else "quota_exceeded")
                    if fits:
                        expires_at = now + detail * SECOND
                        model.granted.append(Held(reservation_of(outcome), quantity, expires_at))
                elif model.granted:
                    one = model.granted[detail % len(model.granted)]
                    over |= quantity > one.quantity or now >= one.expires_at
                    code, replayed = model.settle(one, quantity, now)
                    outcome = await ledger.submit_one(a_settle(one.id, quantity))
                    if replayed:
                        assert decision_of(outcome).replayed
                    else:
                        assert code_of(outcome) == code
                used_, held_ = await standing_at(ledger) if model.used or model.granted else (0, 0)
                assert (used_, held_) == (model.used, model.held(clock.now))
                # Only a settle of more than was held, or of one that had expired, can pass the limit.
                assert over or used_ + held_ <= LIMIT
            counted = sum(event.quantity for event in await events_of(ledger, clock))
            assert counted == (await totals_of(ledger, clock)).get("messages", 0) == model.used

    with TemporaryDirectory() as place:
        asyncio.run(told(Path(place)))


# Sessions


def chat() -> Catalog:
    """The sessions of the first system: one for half an hour, three for two, ten for eight hours."""
    return a_catalog(
        a_plan(a_limit(50), sessions=1, session_seconds=1_800),
        a_plan(a_limit(200), key="advanced", monthly="29.00", sessions=3, session_seconds=7_200),
        a_plan(a_limit(1_000), key="premium", monthly="99.00", sessions=10, session_seconds=28_800),
    )


async def test_a_session_takes_a_place_until_it_is_closed(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        outcome = await ledger.submit_one(an_opening())
        opened, session = opened_of(outcome), session_of(outcome)
        assert (opened.active, opened.max_concurrent) == (1, 1)
        assert (opened.decision.code, opened.decision.plan) == ("ok", "basic")
        assert opened.decision.message == "Basic plan: 1 of 1 session open."
        assert session.key == f"acme-basic-bob-{session.id}"
        assert (session.opened_at, session.expires_at) == (clock.now, clock.now + 1_800 * SECOND)
        assert (await arrive(ledger)).sessions_active == 1
        assert code_of(await ledger.submit_one(an_opening())) == "session_limit"
        clock.advance(seconds=90)
        assert duration_of(await ledger.submit_one(a_closing(outcome))) == 90
        assert (await arrive(ledger)).sessions_active == 0
        assert code_of(await ledger.submit_one(an_opening())) == "ok"


async def test_one_session_too_many_says_which_plan_has_room_and_when_the_next_ends(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        await buy(ledger, "advanced")
        await ledger.submit_one(an_opening())
        clock.advance(minutes=1)
        await ledger.submit_one(an_opening(ttl_seconds=600))
        await ledger.submit_one(an_opening())
        refused = opened_of(await ledger.submit_one(an_opening()))
        assert (refused.session, refused.active, refused.max_concurrent) == (None, 3, 3)
        decision = refused.decision.as_dict()
        assert (decision["allowed"], decision["code"], decision["retryable"]) == (
            False,
            "session_limit",
            False,
        )
        assert decision["unlocks"] == [
            {"action": "upgrade_tier", "plan": "premium"},
            {"action": "wait", "until": format_instant(clock.now + 600 * SECOND)},
        ]
        assert decision["message"] == (
            "Advanced plan: 3 of 3 sessions open. The next one ends 2026-11-20 14:14 UTC. Premium has 10."
        )
        (limit,) = decision["limits"]
        assert (limit["meter"], limit["window"], limit["limit"], limit["used"]) == ("sessions", "level", 3, 3)
        assert (limit["remaining"], limit["refused"], limit["resets_at"]) == (0, True, None)


async def test_after_a_change_to_fewer_sessions_there_is_room_when_enough_have_ended(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        await buy(ledger, "advanced")
        for minutes in (20, 10, 30):
            await ledger.submit_one(an_opening(ttl_seconds=minutes * 60))
        await buy(ledger, "basic", actor="olivia", role="tenant_admin", origin="operator", duration_days=1)
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert {unlock.action: unlock.until for unlock in refused.unlocks}["wait"] == clock.now + 30 * MINUTE
        assert (
            refused.message
            == "Basic plan: 3 of 1 session open. There is room from 2026-11-20 14:33 UTC. Premium has 10."
        )


async def test_in_the_largest_plan_only_waiting_helps(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(1), sessions=1, session_seconds=60)) as ledger:
        await ledger.submit_one(an_opening())
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert [unlock.action for unlock in refused.unlocks] == ["wait"]


@pytest.mark.parametrize(("session_seconds", "helps"), [(86_399, True), (86_400, False)])
async def test_waiting_for_a_session_does_not_help_where_the_trial_ends_first(
    store: SqliteStore, session_seconds: int, helps: bool
) -> None:
    trial = a_plan(trial_days=1, sessions=1, session_seconds=session_seconds)
    taster = a_plan(key="taster", monthly="1.00", trial_days=1)  # nobody can move to it
    async with store.open(catalog=a_catalog(trial, taster), clock=Clock()) as ledger:
        await ledger.submit_one(an_opening())
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert [unlock.action for unlock in refused.unlocks] == ["wait"] * helps


@pytest.mark.parametrize("days", [1, None], ids=["given for a day", "cancelled"])
@pytest.mark.parametrize(("seconds_before", "helps"), [(1, True), (0, False)])
async def test_waiting_for_a_session_does_not_help_where_the_plan_ends_first_and_none_follows(
    store: SqliteStore, days: int | None, seconds_before: int, helps: bool
) -> None:
    lasts = (days or 30) * 86_400  # the month that is paid from 20 November on has 30 days
    only = a_plan(key="pro", monthly="10.00", sessions=1, session_seconds=lasts - seconds_before)
    async with store.open(catalog=a_catalog(only, default_plan=None), clock=Clock()) as ledger:
        await buy(ledger, "pro")
        if days is None:
            change_of(await manage(ledger, "cancel"))
        else:
            change_of(await buy(ledger, "pro", role="tenant_admin", actor="olivia", duration_days=days))
        await ledger.submit_one(an_opening())
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert (refused.code, [unlock.action for unlock in refused.unlocks]) == (
            "session_limit",
            ["wait"] * helps,
        )


@pytest.mark.parametrize(
    ("changes_to", "offered", "said"),
    [
        (None, ["advanced"], "Advanced has 3."),
        (["advanced", "premium"], ["advanced"], "Advanced has 3."),
        (["premium"], ["premium"], "Premium has 10."),
        ([], [], "The next one ends 2026-11-20 14:33 UTC."),
    ],
    ids=["to all", "to both", "to the dearer", "to none"],
)
async def test_one_session_too_many_names_no_plan_its_holder_may_not_move_to(
    store: SqliteStore, changes_to: list[str] | None, offered: list[str], said: str
) -> None:
    _, advanced, premium = chat().plans.values()
    basic = a_plan(sessions=1, session_seconds=1_800, changes_to=changes_to)
    async with store.open(catalog=a_catalog(basic, advanced, premium), clock=Clock()) as ledger:
        await ledger.submit_one(an_opening())
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert [unlock.plan for unlock in refused.unlocks if unlock.action == "upgrade_tier"] == offered
        assert refused.message.endswith(said)
        for plan in offered:
            assert change_of(await buy(ledger, plan)).after.plan == plan


async def test_a_plan_without_sessions_has_room_for_none(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(1), sessions=0)) as ledger:
        rows = store.rows()
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert (refused.code, refused.unlocks) == ("session_limit", [])
        assert store.rows() == rows


async def test_without_a_subscription_there_is_no_session(store: SqliteStore) -> None:
    advanced = a_plan(key="advanced", monthly="29.00")
    async with store.open(catalog=a_catalog(advanced, default_plan=None)) as ledger:
        refused = opened_of(await ledger.submit_one(an_opening())).decision
        assert (refused.code, refused.unlocks[0].plan) == ("payment_required", "advanced")


async def test_unlimited_sessions_have_no_limit_and_end_after_a_day(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        outcomes = await ledger.submit([an_opening() for _ in range(30)])
        last = opened_of(outcomes[-1])
        assert (last.active, last.max_concurrent) == (30, UNLIMITED)
        assert last.decision.message == "Basic plan: 30 sessions open, no limit."
        assert session_of(outcomes[-1]).expires_at == clock.now + DAY
        clock.advance(hours=23)
        renewed = session_of(await ledger.submit_one(a_renewal(outcomes[0])))
        assert renewed.expires_at == clock.now + DAY
        clock.advance(hours=1)
        assert (await arrive(ledger)).sessions_active == 1


async def test_exactly_10_of_100_openings_at_once_find_room(store: SqliteStore) -> None:
    async with store.open(catalog=chat()) as ledger:
        await buy(ledger, "premium")
        outcomes = await asyncio.gather(*[ledger.submit_one(an_opening()) for _ in range(100)])
        assert Counter(map(code_of, outcomes)) == {"ok": 10, "session_limit": 90}
        assert sorted(opened_of(o).active for o in outcomes if code_of(o) == "ok") == [*range(1, 11)]
        assert len({session_of(o).id for o in outcomes if code_of(o) == "ok"}) == 10


async def test_two_ledgers_open_exactly_as_many_and_close_each_others(store: SqliteStore) -> None:
    async with two_ledgers(store, one_plan(a_limit(1), sessions=10), Clock()) as ledgers:
        outcomes = await asyncio.gather(*[ledgers[n % 2].submit_one(an_opening()) for n in range(100)])
        assert Counter(map(code_of, outcomes)) == {"ok": 10, "session_limit": 90}
        mine = [outcome for n, outcome in enumerate(outcomes) if n % 2 == 0 and code_of(outcome) == "ok"]
        other = ledgers[1] if mine else ledgers[0]
        for outcome in mine or [o for o in outcomes if code_of(o) == "ok"]:
            duration_of(await other.submit_one(a_closing(outcome)))
        assert (await arrive(ledgers[0])).sessions_active == (await arrive(ledgers[1])).sessions_active < 10
        assert code_of(await ledgers[0].submit_one(an_opening())) == "ok"


@pytest.mark.parametrize("microseconds", [-1, 0])
async def test_a_session_past_its_duration_is_over(store: SqliteStore, microseconds: int) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        opened = await ledger.submit_one(an_opening())
        clock.advance(minutes=30, microseconds=microseconds)
        over = microseconds == 0
        assert (await arrive(ledger)).sessions_active == (0 if over else 1)
        assert code_of(await ledger.submit_one(a_renewal(opened, 60))) == ("not_found" if over else "ok")
        assert code_of(await ledger.submit_one(an_opening())) == ("ok" if over else "session_limit")


@pytest.mark.parametrize(
    ("ttl_seconds", "lasts"), [(None, 1_800), (1, 1), (1_799, 1_799), (1_800, 1_800), (1_801, 1_800)]
)
async def test_a_session_lasts_as_asked_and_at_most_the_plans_duration(
    store: SqliteStore, ttl_seconds: int | None, lasts: int
) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        session = session_of(await ledger.submit_one(an_opening(ttl_seconds=ttl_seconds)))
        assert session.expires_at == clock.now + lasts * SECOND


async def test_renewing_goes_from_now_and_never_beyond_the_duration_from_opening(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        began = clock.now
        opened = await ledger.submit_one(an_opening(ttl_seconds=300))
        clock.advance(minutes=4)
        outcome = await ledger.submit_one(a_renewal(opened, 300))
        assert session_of(outcome).expires_at == clock.now + 300 * SECOND
        assert session_of(outcome).opened_at == began
        assert (opened_of(outcome).active, opened_of(outcome).decision.code) == (1, "ok")
        clock.advance(minutes=4)
        for ttl_seconds in (None, 10_000):
            renewed = session_of(await ledger.submit_one(a_renewal(opened, ttl_seconds)))
            assert renewed.expires_at == began + 1_800 * SECOND
        clock.set("2026-11-20T14:33:10Z")
        renewed = session_of(await ledger.submit_one(a_renewal(opened, 600)))
        assert renewed.expires_at == began + 1_800 * SECOND
        clock.advance(seconds=1)
        assert code_of(await ledger.submit_one(a_renewal(opened))) == "not_found"


async def test_renewing_after_an_upgrade_lasts_as_the_new_plan_lets_it(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        began = clock.now
        opened = await ledger.submit_one(an_opening())
        clock.advance(minutes=20)
        await buy(ledger, "advanced")
        outcome = await ledger.submit_one(a_renewal(opened))
        renewed = session_of(outcome)
        assert renewed.expires_at == began + 7_200 * SECOND
        assert (opened_of(outcome).max_concurrent, opened_of(outcome).decision.plan) == (3, "advanced")
        assert renewed.key == f"acme-basic-bob-{renewed.id}"  # a key stays what it is


async def test_a_session_older_than_a_smaller_plan_allows_is_not_renewed_into_the_past(
    store: SqliteStore,
) -> None:
    clock = Clock("2026-11-20T00:00:00Z")
    async with store.open(catalog=chat(), clock=clock) as ledger:
        await buy(ledger, "premium")
        await buy(ledger, "basic")
        clock.set("2026-12-19T23:00:00Z")
        opened = await ledger.submit_one(an_opening())
        clock.set("2026-12-20T00:00:00Z")
        assert (await arrive(ledger)).plan.key == "basic"
        assert code_of(await ledger.submit_one(a_renewal(opened))) == "not_found"
        clock.advance(seconds=30)
        assert duration_of(await ledger.submit_one(a_closing(opened))) == 3_630


async def test_a_closed_session_stays_closed(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        opened = await ledger.submit_one(an_opening())
        clock.advance(seconds=90)
        first = await ledger.submit_one(a_closing(opened))
        assert code_of(await ledger.submit_one(a_renewal(opened))) == "not_found"
        clock.advance(hours=5)
        again = await ledger.submit_one(a_closing(opened))
        assert duration_of(again) == duration_of(first) == 90


async def test_closing_after_the_end_reports_up_to_the_end(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        opened = await ledger.submit_one(an_opening(ttl_seconds=600))
        clock.advance(hours=2)
        rows = store.rows()
        for _ in range(2):
            assert duration_of(await ledger.submit_one(a_closing(opened))) == 600
        assert store.rows() == rows


async def test_a_session_is_known_for_400_days_after_its_end(store: SqliteStore) -> None:
    """By time, whether or not its row is there: every process says the same."""
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        opened = await ledger.submit_one(an_opening(ttl_seconds=600))
        clock.advance(days=400, minutes=10, microseconds=-1)
        assert duration_of(await ledger.rehearse(a_closing(opened))) == 600
        clock.advance(microseconds=1)
        assert code_of(await ledger.submit_one(a_closing(opened))) == "not_found"


async def test_a_key_opens_one_session(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=chat(), clock=clock) as ledger:
        first = opened_of(await ledger.submit_one(an_opening(key="k", ttl_seconds=60)))
        clock.advance(seconds=30)
        await ledger.submit_one(a_renewal(first, 600))
        for _ in range(2):
            again = opened_of(await ledger.submit_one(an_opening(key="k", ttl_seconds=60)))
            assert again.decision.as_dict() == {**first.decision.as_dict(), "replayed": True}
            assert (again.session, again.active, again.max_concurrent) == (first.session, 1, 1)
            await ledger.submit_one(a_closing(first))
            await buy(ledger, "advanced")
        assert code_of(await ledger.submit_one(an_opening(key="k", ttl_seconds=61))) == "conflict"
        assert store.rows()["session"] == 1


async def test_a_refused_opening_is_not_remembered(store: SqliteStore) -> None:
    async with store.open(catalog=chat()) as ledger:
        first = await ledger.submit_one(an_opening())
        assert code_of(await ledger.submit_one(an_opening(key="k"))) == "session_limit"
        await ledger.submit_one(a_closing(first))
        opened = opened_of(await ledger.submit_one(an_opening(key="k")))
        assert (opened.decision.code, opened.decision.replayed) == ("ok", False)


async def test_a_session_is_renewed_and_closed_by_its_own_user_only(store: SqliteStore) -> None:
    async with store.open(catalog=chat()) as ledger:
        opened = await ledger.submit_one(an_opening("bob"))
        await ledger.submit_one(an_opening(a_subject("bob", "globex")))
        for who in ({"user": "eve"}, {"tenant": "globex"}, {"tenant": "globex", "user": "bob"}):
            for command in (a_renewal(opened, **who), a_closing(opened, **who)):
                assert code_of(await ledger.submit_one(command)) == "not_found"
        assert code_of(await ledger.submit_one(a_renewal(opened, user="bob"))) == "ok"
        assert duration_of(await ledger.submit_one(a_closing(opened, user="bob"))) == 0


async def test_each_user_of_a_group_has_sessions_of_their_own(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(1), sessions=2), clock=clock) as ledger:
        for user in ("bob", "eve", "zoe"):
            await arrive(ledger, user=user, group="team")
        whole = Arrive(a_subject(None, account="team"))
        assert (await ledger.look(whole, may_make_known=False)).sessions_active == 0
        outcomes = await ledger.submit([an_opening(user) for user in ("bob", "bob", "eve", "bob")])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "ok", "session_limit"]
        active = [(await arrive(ledger, user=user)).sessions_active for user in ("bob", "eve", "zoe")]
        assert active == [2, 1, 0]
        assert view_of(await ledger.submit_one(whole)).sessions_active == 3
        await ledger.submit_one(a_closing(outcomes[0]))
        assert view_of(await ledger.submit_one(whole)).sessions_active == 2
        assert (await ledger.look(whole, may_make_known=False)).sessions_active == 2
        clock.advance(days=1)
        assert view_of(await ledger.submit_one(whole)).sessions_active == 0


async def test_the_whole_group_is_seen_as_the_batch_has_made_it(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(1), sessions=2)) as ledger:
        for user in ("bob", "eve"):
            await arrive(ledger, user=user, group="team")
        whole = Arrive(a_subject(None, account="team"))
        opened, first, _, second = await ledger.submit([an_opening("bob"), whole, an_opening("eve"), whole])
        assert [view_of(view).sessions_active for view in (first, second)] == [1, 2]
        assert view_of(await ledger.submit_one(whole)).sessions_active == 2
        _, after = await ledger.submit([a_closing(opened), whole])
        assert view_of(after).sessions_active == 1
        assert view_of(await ledger.submit_one(whole)).sessions_active == 1


async def test_opening_a_session_is_first_sight(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(an_opening(a_subject("bob", tier="premium", group="team")))
        view = await ledger.look(Arrive(a_subject(None, account="team")), may_make_known=False)
        assert view.subscription is not None and view.subscription.plan == "premium"
        assert (view.seats_used, view.sessions_active) == (1, 1)


async def test_sessions_opened_and_closed_a_thousand_times_leave_nothing_to_look_through(
    store: SqliteStore,
) -> None:
    async with store.open(catalog=chat()) as ledger:
        for _ in range(10):
            outcome = await ledger.submit_one(an_opening())
            await ledger.submit_one(a_closing(outcome))
        known = ledger.engine._facts.open_sessions  # the engine's own memory
        assert [len(sessions) for sessions in known.values()] == [0]


async def test_a_rehearsal_holds_and_opens_nothing(store: SqliteStore) -> None:
    async with store.open(catalog=chat()) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=3))
        opened = await ledger.submit_one(an_opening())
        rows = store.rows()
        commands = (a_reserve(), a_settle(held), a_renewal(opened), a_closing(opened), an_opening("eve"))
        assert [code_of(await ledger.rehearse(command)) for command in commands] == ["ok"] * 5
        assert store.rows() == rows
        assert await standing_at(ledger) == (0, 3)
        assert (await arrive(ledger)).sessions_active == 1


# What keeps what is open from growing without end


async def test_no_more_reservations_are_open_than_there_may_be(store: SqliteStore) -> None:
    clock, catalog = Clock(), one_plan(a_limit(UNLIMITED))
    async with store.open(catalog=catalog, clock=clock, bounds=Bounds(open=2)) as ledger:
        held = await ledger.submit([a_reserve(ttl_seconds=60), a_reserve(ttl_seconds=90)])
        assert [code_of(one) for one in held] == ["ok", "ok"]
    async with store.open(catalog=catalog, clock=clock, bounds=Bounds(open=2)) as ledger:
        refused = await ledger.submit_one(a_reserve())
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.retryable, refused.retry_after_seconds) == ("rate_limited", True, 60)
        assert [code_of(one) for one in await ledger.submit([a_reserve("ann"), a_record()])] == ["ok", "ok"]
        await ledger.submit_one(a_settle(held[1], 1))
        assert code_of(await ledger.submit_one(a_reserve(ttl_seconds=60))) == "ok"
        assert code_of(await ledger.submit_one(a_reserve())) == "rate_limited"
        clock.advance(seconds=60)
        assert code_of(await ledger.submit_one(a_reserve())) == "ok"


async def test_the_members_of_a_group_share_how_many_reservations_may_be_open(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(UNLIMITED, scope="account"))
    async with store.open(catalog=catalog, bounds=Bounds(open=2)) as ledger:
        crew = [a_subject(user, group="crew") for user in ("ann", "ben", "cat")]
        outcomes = await ledger.submit([a_reserve(one) for one in crew])
        assert [code_of(one) for one in outcomes] == ["ok", "ok", "rate_limited"]


async def test_no_more_sessions_are_open_than_there_may_be_also_where_the_plan_has_no_number(
    store: SqliteStore,
) -> None:
    plans = (a_plan(a_limit()), a_plan(a_limit(), key="better", monthly="9"))
    async with store.open(catalog=a_catalog(*plans), bounds=Bounds(open=2)) as ledger:
        outcomes = await ledger.submit([an_opening(), an_opening(), an_opening(), an_opening("ann")])
        assert [code_of(one) for one in outcomes] == ["ok", "ok", "session_limit", "ok"]
        refused = opened_of(outcomes[2]).decision
        assert refused.message.startswith("Basic plan: 2 of 2 sessions open. The next one ends ")
        assert [unlock.action for unlock in refused.unlocks] == ["wait"]
        await ledger.submit_one(a_closing(outcomes[0]))
        assert code_of(await ledger.submit_one(an_opening())) == "ok"


async def test_no_more_confirmations_wait_for_one_caller_than_may(store: SqliteStore) -> None:
    clock = Clock()

    def asked(handle: str, actor: str = "bob", subject: str = "bob") -> ChangePlan:
        return a_change("premium", subject, actor=actor, offer=handle)

    async with store.open(clock=clock, bounds=Bounds(confirmations=2)) as ledger:
        await ledger.submit([a_record("bob"), a_record("ann")])
        outcomes = await ledger.submit([asked("h1"), asked("h2"), asked("h3"), asked("h4", "ann", "ann")])
        assert [code_of(one) for one in outcomes] == ["ok", "ok", "rate_limited", "ok"]
    async with store.open(clock=clock, bounds=Bounds(confirmations=2)) as ledger:
        refused = await ledger.submit_one(asked("h5"))
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.retry_after_seconds) == ("rate_limited", 600)
        assert code_of(await ledger.submit_one(a_change("premium"))) == "ok"  # a preview waits for nobody
        assert code_of(await ledger.submit_one(a_change("premium", confirmation="h3"))) == "invalid_request"
        assert code_of(await ledger.submit_one(a_change("premium", confirmation="h2"))) == "ok"
        assert code_of(await ledger.submit_one(a_change("basic", offer="h6"))) == "ok"
        assert code_of(await ledger.submit_one(a_change("basic", offer="h7"))) == "rate_limited"
        clock.advance(minutes=10)
        assert code_of(await ledger.submit_one(a_change("basic", offer="h8"))) == "ok"
