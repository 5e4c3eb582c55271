"""What goes beyond a limit at a price: counted apart, priced per unit, whichever way it comes in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from tests.builders import (
    Clock,
    a_catalog,
    a_limit,
    a_limit_set,
    a_member_change,
    a_plan,
    a_record,
    a_reserve,
    a_settle,
    a_status,
    a_subject,
    buy,
    code_of,
    decision_of,
    manage,
    members_of,
    view_of,
)
from tests.contract.test_engine import SqliteStore, events_of
from tests.contract.test_invoices_kept import BOB, close, due, statement

from subscription_mcp.domain.catalog import Catalog, Limit
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.instants import DAY, HOUR, format_instant
from subscription_mcp.domain.invoices import InvoiceLine
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import Arrive, CheckUsage, Subject, UsageEvent
from subscription_mcp.ledger.queries import UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger

PRICE_MICROS = 2_000


@asynccontextmanager
async def sold(
    store: SqliteStore, *limits: Limit, clock: Clock | None = None, to: Subject | str = "bob", **fields: Any
) -> AsyncIterator[Ledger]:
    """A ledger in which somebody has a plan with these limits."""
    pro = a_plan(*limits, key="pro", monthly="5.00", seats=5)
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), pro), clock=clock) as ledger:
        assert code_of(await buy(ledger, "pro", to, **fields)) == "ok"
        yield ledger


def a_month(maximum: int, overage_max: int | None = None) -> Limit:
    """So many messages a month, then 0.002 USD each."""
    return a_limit(maximum, window="month", overage="0.002", overage_max=overage_max)


async def beyond(ledger: Ledger, clock: Clock, account: str = "bob", kind="personal") -> tuple[int, int]:
    """Units and micros beyond the plan, as the rollups have them."""
    whose = Whose("acme", kind, account)
    rows = await ledger.query(UsageTotals(whose, 0, clock.now + DAY, frozenset()))
    sums = {row.meter: row.quantity for row in rows}
    return sums.get("messages:overage", 0), sums.get("messages:overage_charge", 0)


async def state_of(ledger: Ledger, subject="bob", window: str = "month") -> LimitState:
    who = a_subject(subject) if isinstance(subject, str) else subject
    view = view_of(await ledger.rehearse(Arrive(who)))
    return next(state for state in view.limits if state.window == window)


async def last_event(ledger: Ledger, clock: Clock) -> UsageEvent:
    return (await events_of(ledger, clock))[0]


async def test_what_goes_beyond_is_allowed_and_counted_apart(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(1_000), clock=clock) as ledger:
        within = decision_of(await ledger.submit_one(a_record(quantity=990)))
        assert within.message == (
            "Pro plan: 990 of 1,000 messages used this month, 10 left, then 0.002 USD each. "
            "Resets 2026-12-01 00:00 UTC. Approaching the limit."
        )
        decision = decision_of(await ledger.submit_one(a_record(quantity=30)))
        assert decision.allowed
        assert decision.message == (
            "Pro plan: 1,020 of 1,000 messages used this month; 20 beyond the plan at 0.002 USD each. "
            "Resets 2026-12-01 00:00 UTC."
        )
        event = await last_event(ledger, clock)
        assert event.gains == {
            "messages": 30,
            "messages:overage": 20,
            "messages:overage_charge": 20 * PRICE_MICROS,
        }
        (state,) = decision.limits
        shown = state.as_dict()
        assert (shown["limit"], shown["used"], shown["remaining"], shown["percent"]) == (
            1_000,
            1_020,
            0,
            102.0,
        )
        assert shown["overage"] == {"used": 20, "max": None, "price": "0.002", "currency": "USD"}
        assert await beyond(ledger, clock) == (20, 40_000)
        clock.set("2026-12-01T00:00:00Z")
        again = decision_of(await ledger.submit_one(a_record()))
        assert (again.limits[0].used, again.limits[0].overage_used) == (1, 0)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_limit_without_overage_says_nothing_of_it(store: SqliteStore) -> None:
    async with store.open() as ledger:
        decision = decision_of(await ledger.submit_one(a_record()))
        assert all("overage" not in state.as_dict() for state in decision.limits)


async def test_no_more_than_the_most_beyond_is_let_through(store: SqliteStore) -> None:
    async with sold(store, a_month(10, 5)) as ledger:
        assert code_of(await ledger.submit_one(a_record(quantity=13))) == "ok"
        refused = decision_of(await ledger.submit_one(a_record(quantity=3)))
        assert refused.code == "quota_exceeded"
        assert refused.message == (
            "Pro plan: 13 of 10 messages used this month; 3 of at most 5 beyond the plan at 0.002 USD each, and 3 more "
            "would pass the limit. Resets 2026-12-01 00:00 UTC."
        )
        assert code_of(await ledger.submit_one(a_record(quantity=2))) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"


async def test_what_happened_anyway_is_charged_up_to_the_most(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10, 5), clock=clock) as ledger:
        over = decision_of(await ledger.submit_one(a_record(quantity=30, enforce=False)))
        assert (over.code, over.limits[0].used, over.limits[0].overage_used) == ("quota_exceeded", 30, 5)
        assert await beyond(ledger, clock) == (5, 5 * PRICE_MICROS)


async def test_of_two_meters_of_an_event_only_the_one_beyond_its_limit_is_charged(store: SqliteStore) -> None:
    clock = Clock()
    calls = a_limit(2, meter="llm_calls", window="month", overage="0.01")
    tokens = a_limit(100, meter="llm_tokens", window="month", overage="0.001")

    def a_call(tokens: int):
        return a_record(event="llm_call", attributes={"provider": "openai", "tokens": tokens})

    async with sold(store, calls, tokens, clock=clock) as ledger:
        assert code_of(await ledger.submit_one(a_call(150))) == "ok"
        assert (await last_event(ledger, clock)).gains == {
            "llm_calls": 1,
            "llm_tokens": 150,
            "llm_tokens:overage": 50,
            "llm_tokens:overage_charge": 50_000,
        }
        assert code_of(await ledger.submit_one(a_call(0))) == "ok"
        assert code_of(await ledger.submit_one(a_call(0))) == "ok"
        charged = (await last_event(ledger, clock)).gains
        assert (charged["llm_calls:overage"], charged["llm_calls:overage_charge"]) == (1, 10_000)
        assert "llm_tokens:overage" not in charged
        assert (await ledger.engine.verify()).differences == ()


async def test_every_other_limit_still_binds(store: SqliteStore) -> None:
    async with sold(store, a_month(10), a_limit(15)) as ledger:
        assert code_of(await ledger.submit_one(a_record(quantity=15))) == "ok"
        refused = decision_of(await ledger.submit_one(a_record()))
        assert [state.window for state in refused.limits if state.refused] == ["day"]


async def test_of_640_at_once_exactly_the_included_are_free(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(50), clock=clock) as ledger:
        outcomes = await asyncio.gather(*(ledger.submit_one(a_record()) for _ in range(640)))
        assert {code_of(outcome) for outcome in outcomes} == {"ok"}
        assert await beyond(ledger, clock) == (590, 590 * PRICE_MICROS)
        assert (await state_of(ledger)).overage_used == 590


async def test_a_settle_is_charged_for_what_it_came_to(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=30))
        assert decision_of(held).allowed
        assert await beyond(ledger, clock) == (0, 0)
        settled = decision_of(await ledger.submit_one(a_settle(held, 14)))
        assert (settled.limits[0].used, settled.limits[0].overage_used) == (14, 4)
        assert await beyond(ledger, clock) == (4, 4 * PRICE_MICROS)
        again = decision_of(await ledger.submit_one(a_settle(held, 14)))
        assert again.replayed
        assert again.message == settled.message
        assert again.limits[0].as_dict() == settled.limits[0].as_dict()


async def test_a_settle_counts_beyond_in_the_month_it_was_held_in(store: SqliteStore) -> None:
    clock = Clock("2026-11-30T23:59:00Z")
    async with sold(store, a_month(10), clock=clock) as ledger:
        assert code_of(await ledger.submit_one(a_record(quantity=8))) == "ok"
        held = await ledger.submit_one(a_reserve(quantity=6))
        clock.advance(minutes=2)
        settled = decision_of(await ledger.submit_one(a_settle(held)))
        assert settled.limits[0].overage_used == 4
        assert (await state_of(ledger)).overage_used == 0
        assert await beyond(ledger, clock) == (4, 4 * PRICE_MICROS)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_late_event_is_charged_in_its_own_month(store: SqliteStore) -> None:
    clock = Clock("2026-11-30T12:00:00Z")
    async with sold(store, a_month(10), clock=clock) as ledger:
        assert code_of(await ledger.submit_one(a_record(quantity=10))) == "ok"
        yesterday = clock.now
        clock.advance(days=1)
        late = decision_of(await ledger.submit_one(a_record(quantity=3, occurred_at=yesterday)))
        assert late.limits[0].overage_used == 3
        assert (await last_event(ledger, clock)).gains["messages:overage"] == 3
        assert (await state_of(ledger)).overage_used == 0


async def test_units_are_priced_by_the_plan_they_were_used_under(store: SqliteStore) -> None:
    small = a_plan(a_limit(10, window="month", overage="0.002"), key="small", monthly="5.00")
    large = a_plan(a_limit(100, window="month", overage="0.001"), key="large", monthly="9.00")
    clock = Clock()
    async with store.open(
        catalog=a_catalog(a_plan(a_limit(5, window="month")), small, large), clock=clock
    ) as ledger:
        await buy(ledger, "small")
        assert code_of(await ledger.submit_one(a_record(quantity=30))) == "ok"
        await buy(ledger, "large")
        assert code_of(await ledger.submit_one(a_record(quantity=70))) == "ok"
        assert await beyond(ledger, clock) == (20, 20 * 2_000)
        assert code_of(await ledger.submit_one(a_record(quantity=7))) == "ok"
        assert await beyond(ledger, clock) == (27, 20 * 2_000 + 7 * 1_000)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_limit_set_by_hand_is_not_passed_at_any_price(store: SqliteStore) -> None:
    async with sold(store, a_month(10)) as ledger:
        assert code_of(await ledger.submit_one(a_record(quantity=5))) == "ok"
        await ledger.submit_one(a_limit_set(7, window="month"))
        refused = decision_of(await ledger.submit_one(a_record(quantity=3)))
        assert refused.code == "quota_exceeded"
        assert "overage" not in refused.limits[0].as_dict()


async def test_a_group_is_charged_for_what_its_members_pass(store: SqliteStore) -> None:
    clock = Clock()
    ada, ben = (a_subject(user, group="crew", group_admin=True) for user in ("ada", "ben"))
    async with sold(store, a_month(10), clock=clock, to=ada, actor="ada") as ledger:
        for who in (ada, ben):
            assert code_of(await ledger.submit_one(a_record(who, quantity=12))) == "ok"
        assert (await state_of(ledger, ada)).overage_used == 2
        assert await beyond(ledger, clock, "crew", "group") == (4, 4 * PRICE_MICROS)
        assert (await ledger.engine.verify()).differences == ()


async def test_while_a_subscription_stands_still_nothing_beyond_is_sold(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10), clock=clock) as ledger:
        await ledger.submit_one(a_record())
        await ledger.submit_one(a_status("suspend"))
        assert (
            code_of(await ledger.submit_one(a_record(quantity=50, enforce=False))) == "subscription_inactive"
        )
        assert await beyond(ledger, clock) == (0, 0)


async def test_a_check_tells_that_it_would_be_allowed_and_changes_nothing(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=10))
        decision = decision_of(await ledger.rehearse(CheckUsage(a_subject(), "message", 7)))
        assert decision.allowed
        assert decision.message.endswith("7 of this would be beyond the plan, for 0.014 USD.")
        assert await beyond(ledger, clock) == (0, 0)


async def test_a_replay_tells_the_same(store: SqliteStore) -> None:
    async with sold(store, a_month(10)) as ledger:
        first = decision_of(await ledger.submit_one(a_record(quantity=12, key="k")))
        again = decision_of(await ledger.submit_one(a_record(quantity=12, key="k")))
        assert again.replayed
        assert [again.message, again.limits[0].as_dict()] == [first.message, first.limits[0].as_dict()]


async def test_an_upgrade_is_offered_where_the_next_plan_includes_more(store: SqliteStore) -> None:
    small = a_plan(a_limit(10, window="month", overage="0.002", overage_max=2), key="small", monthly="5.00")
    large = a_plan(a_limit(100, window="month", overage="0.001"), key="large", monthly="9.00")
    free = a_plan(a_limit(1, window="month"))
    async with store.open(catalog=a_catalog(free, small, large)) as ledger:
        await buy(ledger, "small")
        near = decision_of(await ledger.submit_one(a_record(quantity=11)))
        assert near.message.endswith(" Large has 100 a month.")
        refused = decision_of(await ledger.submit_one(a_record(quantity=5)))
        assert [unlock.plan for unlock in refused.unlocks] == ["large", None]


# What is told only when another plan is held


def three_plans() -> Catalog:
    """One for nothing, one that sells what is beyond 10, one that sells what is beyond 100 at half of that."""
    small = a_plan(a_month(10), key="small", monthly="5.00", seats=5)
    large = a_plan(a_limit(100, window="month", overage="0.001"), key="large", monthly="9.00")
    return a_catalog(a_plan(a_limit(5, window="month")), small, large)


async def charged(ledger: Ledger, account: AccountKey = BOB) -> list[InvoiceLine]:
    """What invoices say was used beyond limits."""
    invoices = (await statement(ledger, account)).invoices
    return [line for invoice in invoices for line in invoice.lines if line.kind == "overage"]


async def closed_when_due(ledger: Ledger, clock: Clock, days: int = 62) -> None:
    """Close the invoices as `serve` would, for so many days."""
    for _ in range(days):
        clock.advance(days=1)
        for account in await due(ledger):
            await close(ledger, account)


async def test_what_was_reserved_is_charged_though_its_plan_has_ended_since(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T14:03:11Z")
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await buy(ledger, "small")
        await manage(ledger, "cancel")
        clock.set("2026-12-20T14:03:00Z")
        held = await ledger.submit_one(a_reserve(quantity=40))
        clock.advance(seconds=20)
        assert (view_of(await ledger.rehearse(Arrive(a_subject())))).plan.key == "basic"
        await close(ledger)
        settled = decision_of(await ledger.submit_one(a_settle(held)))
        assert settled.message == (
            "Small plan: 40 of 10 messages used this month; 30 beyond the plan at 0.002 USD each. "
            "Resets 2027-01-01 00:00 UTC."
        )
        again = decision_of(await ledger.submit_one(a_settle(held)))
        assert [again.message, again.limits[0].as_dict()] == [settled.message, settled.limits[0].as_dict()]
        assert (await last_event(ledger, clock)).plan == "small"
        assert await beyond(ledger, clock) == (30, 30 * PRICE_MICROS)
        await closed_when_due(ledger, clock)
        (line,) = await charged(ledger)
        assert (line.quantity, line.unit_micros, line.micros) == (30, PRICE_MICROS, 60_000)
        assert all(invoice.status != "open" for invoice in (await statement(ledger)).invoices)
        assert await due(ledger, clock.now + 400 * DAY) == [BOB]  # to be paid, and for nothing else
        assert (await ledger.engine.verify()).differences == ()


async def test_what_was_reserved_before_a_group_was_founded_is_its_founders_to_pay(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await buy(ledger, "small", seats=None)
        await ledger.submit_one(a_record(quantity=10))
        held = await ledger.submit_one(a_reserve(quantity=7))
        founding = a_member_change(
            "add", "ann", "bob", actor="bob", actor_role="holder", account_kind="personal"
        )
        group = members_of(await ledger.submit_one(founding)).account
        clock.advance(hours=1)
        assert decision_of(await ledger.submit_one(a_settle(held))).limits[0].overage_used == 7
        await closed_when_due(ledger, clock)
        assert [line.micros for line in await charged(ledger)] == [10_000]  # 0.014, to the cent
        assert await charged(ledger, group) == []
        assert (await ledger.engine.verify()).differences == ()


async def test_what_was_reserved_is_charged_though_nothing_follows_the_plan(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T14:03:11Z")
    pro = a_plan(a_month(10), key="pro", monthly="5.00", yearly="50.00")
    async with store.open(catalog=a_catalog(pro, default_plan=None), clock=clock) as ledger:
        assert code_of(await buy(ledger, "pro", interval="yearly")) == "ok"
        await manage(ledger, "cancel")
        clock.set("2027-11-20T14:03:00Z")
        await ledger.submit_one(a_record(quantity=15))
        before_the_end = clock.now
        held = await ledger.submit_one(a_reserve(quantity=20))
        await closed_when_due(ledger, clock, days=1)
        settled = decision_of(await ledger.submit_one(a_settle(held)))
        assert settled.limits[0].overage_used == 25
        late = a_record(quantity=5, occurred_at=before_the_end, enforce=False)
        assert decision_of(await ledger.submit_one(late)).code == "subscription_inactive"
        assert await beyond(ledger, clock) == (30, 30 * PRICE_MICROS)
        assert await due(ledger) == [BOB]
        await closed_when_due(ledger, clock)
        invoices = [one for one in (await statement(ledger)).invoices if one.number.endswith("U1")]
        assert [(format_instant(one.issued_at), one.total_micros) for one in invoices] == [
            ("2027-11-20T14:03:11Z", 10_000),
            ("2027-12-20T14:03:11Z", 50_000),
        ]
        assert (await ledger.engine.verify()).differences == ()


async def test_a_late_event_is_charged_by_the_plan_it_happened_under(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T14:03:11Z")
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await buy(ledger, "small")
        await manage(ledger, "cancel")
        clock.advance(days=29)
        await ledger.submit_one(a_record(quantity=10))
        used_at = clock.now
        clock.advance(days=5)
        await close(ledger)
        assert code_of(await ledger.submit_one(a_record(quantity=3))) == "quota_exceeded"
        late = decision_of(await ledger.submit_one(a_record(quantity=3, occurred_at=used_at)))
        assert (late.code, late.plan, late.limits[0].overage_used) == ("ok", "small", 3)
        event = await last_event(ledger, clock)
        assert (event.plan, event.gains["messages:overage_charge"]) == ("small", 3 * PRICE_MICROS)
        await closed_when_due(ledger, clock)
        (line,) = await charged(ledger)
        assert (line.quantity, line.micros, format_instant(line.start)[:10]) == (3, 10_000, "2026-11-20")
        assert (await ledger.engine.verify()).differences == ()


async def test_nobody_is_charged_a_price_they_agreed_to_only_later(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=5))
        used_at = clock.now
        clock.advance(hours=2)
        await buy(ledger, "small")
        within = decision_of(await ledger.submit_one(a_record(quantity=5, occurred_at=used_at)))
        assert (within.code, within.limits[0].used) == ("ok", 10)
        refused = decision_of(await ledger.submit_one(a_record(quantity=1, occurred_at=used_at)))
        assert refused.code == "quota_exceeded"
        anyway = a_record(quantity=50, occurred_at=used_at, enforce=False)
        assert decision_of(await ledger.submit_one(anyway)).code == "quota_exceeded"
        assert await beyond(ledger, clock) == (0, 0)
        assert code_of(await ledger.submit_one(a_record(quantity=2, occurred_at=used_at + 2 * HOUR))) == "ok"
        assert await beyond(ledger, clock) == (2, 2 * PRICE_MICROS)


async def test_before_a_first_purchase_nothing_was_sold_also_where_no_plan_is_the_default(
    store: SqliteStore,
) -> None:
    clock = Clock()
    pro = a_plan(a_month(10), key="pro", monthly="5.00")
    async with store.open(catalog=a_catalog(pro, default_plan=None), clock=clock) as ledger:
        assert code_of(await buy(ledger, "pro")) == "ok"
        before = a_record(quantity=12, occurred_at=clock.now - HOUR, enforce=False)
        assert code_of(await ledger.submit_one(before)) == "quota_exceeded"
        assert await beyond(ledger, clock) == (0, 0)
        await ledger.submit_one(a_record(quantity=3))
        assert await beyond(ledger, clock) == (3, 3 * PRICE_MICROS)
        assert (await ledger.engine.verify()).differences == ()


async def test_what_the_plan_of_today_includes_is_included_and_the_rest_costs_what_it_did_then(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await buy(ledger, "small")
        await ledger.submit_one(a_record(quantity=10))
        used_at = clock.now
        held = await ledger.submit_one(a_reserve(quantity=20))
        clock.advance(hours=2)
        await buy(ledger, "large")
        assert decision_of(await ledger.submit_one(a_settle(held))).limits[0].overage_used == 0
        assert code_of(await ledger.submit_one(a_record(quantity=60, occurred_at=used_at))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        assert code_of(await ledger.submit_one(a_record(quantity=15, occurred_at=used_at))) == "ok"
        assert await beyond(ledger, clock) == (5, 5 * 2_000)
        assert code_of(await ledger.submit_one(a_record(quantity=3))) == "ok"
        assert await beyond(ledger, clock) == (8, 5 * 2_000 + 3 * 1_000)
        assert (await ledger.engine.verify()).differences == ()


async def test_the_limit_of_then_takes_the_place_of_todays_also_in_another_time_zone(
    store: SqliteStore,
) -> None:
    clock = Clock()
    small = a_plan(a_month(10), key="small", monthly="5.00", timezone="America/New_York")
    large = a_plan(a_limit(100, window="month"), key="large", monthly="9.00", timezone="Europe/Berlin")
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), small, large), clock=clock) as ledger:
        await buy(ledger, "small")
        used_at = clock.now
        held = await ledger.submit_one(a_reserve(quantity=10))
        clock.advance(hours=1)
        await buy(ledger, "large")
        told = [await ledger.submit_one(a_settle(held))]
        told.append(await ledger.submit_one(a_record(quantity=93, occurred_at=used_at)))
        limits = [decision_of(one).limits for one in told]
        states = [[(one.maximum, one.used, one.timezone) for one in each] for each in limits]
        assert states == [[(100, 10, "America/New_York")], [(100, 103, "America/New_York")]]
        assert await beyond(ledger, clock) == (3, 3 * PRICE_MICROS)
        assert (await ledger.engine.verify()).differences == ()


async def test_what_is_told_late_is_sold_or_not_as_it_stood_then(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=10))
        went_on = clock.now
        clock.advance(hours=1)
        await ledger.submit_one(a_status("suspend"))
        stood_still = clock.now
        clock.advance(hours=1)
        late = a_record(quantity=4, occurred_at=went_on, enforce=False)
        assert decision_of(await ledger.submit_one(late)).code == "subscription_inactive"
        assert await beyond(ledger, clock) == (4, 4 * PRICE_MICROS)
        await ledger.submit_one(a_status("activate"))
        clock.advance(hours=1)
        await ledger.submit_one(a_record(quantity=9, occurred_at=stood_still, enforce=False))
        assert await beyond(ledger, clock) == (4, 4 * PRICE_MICROS)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_limit_set_by_hand_since_is_not_passed_at_the_price_of_then(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await buy(ledger, "small")
        await ledger.submit_one(a_record(quantity=10))
        used_at = clock.now
        clock.advance(hours=1)
        await buy(ledger, "large")
        await ledger.submit_one(a_limit_set(12, window="month"))
        late = a_record(quantity=9, occurred_at=used_at)
        assert decision_of(await ledger.submit_one(late)).code == "quota_exceeded"
        late.enforce = False
        await ledger.submit_one(late)
        assert await beyond(ledger, clock) == (0, 0)


async def test_a_plan_bought_and_told_of_in_one_batch_is_known_to_what_comes_behind(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await buy(ledger, "small")
        await ledger.submit_one(a_record(quantity=10))
        used_at = clock.now
        clock.advance(hours=1)
        late = a_record(quantity=1, occurred_at=used_at, enforce=False)
        await ledger.submit([late, a_status("suspend"), replace(late, quantity=2)])
        clock.advance(hours=1)
        still = a_record(quantity=4, occurred_at=clock.now - HOUR, enforce=False)
        await ledger.submit([still, a_status("activate"), replace(still, occurred_at=clock.now)])
        assert await beyond(ledger, clock) == (1 + 2 + 4, 7 * PRICE_MICROS)
        assert (await ledger.engine.verify()).differences == ()


async def test_what_a_token_had_named_then_is_counted_and_charged_by_its_issuer(store: SqliteStore) -> None:
    clock, bob = Clock(), a_subject(tier="small")
    async with store.open(catalog=three_plans(), clock=clock) as ledger:
        await ledger.submit_one(a_record(bob, quantity=10))
        used_at = clock.now
        held = await ledger.submit_one(a_reserve(bob, quantity=7))
        clock.advance(hours=1)
        assert code_of(await buy(ledger, "large")) == "ok"
        await ledger.submit_one(a_record(quantity=90))
        assert decision_of(await ledger.submit_one(a_settle(held))).limits[0].overage_used == 7
        await ledger.submit_one(a_record(quantity=5, occurred_at=used_at))
        assert await beyond(ledger, clock) == (12, 0)
        await ledger.submit_one(a_record(quantity=1))
        assert await beyond(ledger, clock) == (13, 1_000)
        assert (await ledger.engine.verify()).differences == ()
