"""Events taken back: by a new entry, once, wherever they were counted."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import (
    Clock,
    a_catalog,
    a_limit,
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
    view_of,
)
from tests.contract.test_engine import SqliteStore, events_of, history, one_plan
from tests.contract.test_invoices_kept import billing_of, close, statement
from tests.contract.test_limits import states
from tests.contract.test_overage import a_month, beyond, sold, state_of

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.instants import DAY, HOUR
from subscription_mcp.domain.money import round_to_minor
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    CorrectUsage,
    GrantAllowance,
    LimitsChanged,
    Outcome,
)
from subscription_mcp.ledger.queries import EventPage, UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger


def a_correction(event: Outcome | str, *, tenant: str = "acme", **fields: Any) -> CorrectUsage:
    id_ = event if isinstance(event, str) else decision_of(event).event_id
    assert id_ is not None
    return CorrectUsage(tenant, id_, Actor("olivia", "tenant_admin"), "recorded twice", **fields)


async def agrees(ledger: Ledger) -> None:
    assert (await ledger.engine.verify()).differences == ()


async def test_what_is_taken_back_is_free_again_in_every_window(store: SqliteStore) -> None:
    clock = Clock()
    limits = (
        a_limit(10),
        a_limit(50, window="month"),
        a_limit(20, window="rolling:PT5H"),
        a_limit(9, window="minute"),
    )
    async with store.open(catalog=one_plan(*limits), clock=clock) as ledger:
        first = await ledger.submit_one(a_record(quantity=6))
        clock.advance(seconds=5)
        await ledger.submit_one(a_record(quantity=2))
        changed = await ledger.submit_one(a_correction(first))
        assert isinstance(changed, LimitsChanged)
        assert [state.used for state in changed.before.limits] == [8, 8, 8, 8]
        assert [state.used for state in changed.after.limits] == [2, 2, 2, 2]
        await agrees(ledger)
        clock.advance(seconds=57)
        assert {window: state.used for (window, _), state in (await states(ledger)).items()} == {
            "day": 2, "month": 2, "rolling:PT5H": 2, "minute": 2,
        }  # fmt: skip
        assert code_of(await ledger.submit_one(a_record(quantity=7))) == "ok"


async def test_a_correction_is_an_entry_of_its_own_that_names_the_other(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        called = {"provider": "gemini", "tokens": 40}
        first = await ledger.submit_one(a_record("bob", "llm_call", attributes=called))
        at = clock.now
        clock.advance(hours=3)
        await ledger.submit_one(a_correction(first))
        found = await ledger.query(_page(clock))
        correction, event = [one for _, one in found[0]]
        assert correction.gains == {"llm_calls": -1, "llm_tokens": -40, "gemini_calls": -1}
        assert (correction.corrects, event.corrected_by) == (event.id, correction.id)
        assert (correction.occurred_at, correction.recorded_at) == (at, clock.now)
        assert (correction.plan, correction.attributes, correction.source) == (event.plan, called, "olivia")
        rows = await ledger.query(UsageTotals(Whose("acme"), 0, clock.now + 1, frozenset()))
        assert {(row.meter, row.events, row.quantity) for row in rows} == {
            ("llm_calls", 0, 0), ("llm_tokens", 0, 0), ("gemini_calls", 0, 0),
        }  # fmt: skip
        (entry, *_) = await history(ledger, "limit.")
        assert (entry.action, entry.reason, entry.after["corrects"]) == (
            "limit.correct",
            "recorded twice",
            event.id,
        )
        await agrees(ledger)


def _page(clock: Clock) -> EventPage:
    return EventPage(Whose("acme"), 0, clock.now + 1, size=10)


async def test_once_for_each_event_and_never_a_correction(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        first = await ledger.submit_one(a_record(quantity=3))
        twice = await ledger.submit([a_correction(first), a_correction(first)])
        assert [code_of(one) for one in twice] == ["ok", "conflict"]
        assert code_of(await ledger.submit_one(a_correction(first))) == "conflict"
        correction = next(one for one in await events_of(ledger, clock) if one.corrects)
        assert code_of(await ledger.submit_one(a_correction(correction.id))) == "conflict"
        assert (await states(ledger))["day", "user"].used == 0


@pytest.mark.parametrize(
    "other", [{"user": "ben"}, {"account": "crew"}, {"tenant": "globex"}], ids=["user", "account", "tenant"]
)
async def test_other_peoples_events_are_as_unknown_as_those_there_never_were(
    store: SqliteStore, other: dict[str, str]
) -> None:
    async with store.open() as ledger:
        first = await ledger.submit_one(a_record())
        there = await ledger.submit_one(a_correction(first, **other))
        never = await ledger.submit_one(a_correction("01935f3e-0000-7000-8000-000000000000", **other))
        no_id = await ledger.submit_one(a_correction("nothing", **other))
        assert [code_of(one) for one in (there, never, no_id)] == ["not_found"] * 3
        assert str(there) == str(never) == str(no_id)
        assert code_of(await ledger.submit_one(a_correction(first, user="bob", account="bob"))) == "ok"


async def test_an_event_is_found_among_many_of_its_instant(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10_000)), clock=clock) as ledger:
        outcomes = []
        for _ in range(3):
            outcomes += await ledger.submit([a_record() for _ in range(500)])
            clock.advance(microseconds=700)
        for outcome in (outcomes[0], outcomes[499], outcomes[777], outcomes[-1]):
            assert code_of(await ledger.submit_one(a_correction(outcome))) == "ok"
        assert (await states(ledger))["day", "user"].used == 1_496
        await agrees(ledger)


async def test_a_level_that_has_fallen_since_falls_to_nothing_and_no_further(store: SqliteStore) -> None:
    clock = Clock()
    limit = a_limit(500, meter="storage_mb", window="level")
    async with store.open(catalog=one_plan(limit), clock=clock) as ledger:
        first = await ledger.submit_one(a_record("bob", "storage", 100))
        fall = await ledger.submit_one(a_record("bob", "storage", -80))
        assert code_of(await ledger.submit_one(a_correction(first))) == "ok"
        assert (await states(ledger))["level", "user"].used == 0
        assert code_of(await ledger.submit_one(a_correction(fall))) == "ok"
        assert (await states(ledger))["level", "user"].used == 80
        await agrees(ledger)


async def test_what_was_charged_is_given_back_first(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(100), clock=clock) as ledger:
        early = await ledger.submit_one(a_record(quantity=100))
        late = await ledger.submit_one(a_record(quantity=40))
        assert await beyond(ledger, clock) == (40, 80_000)
        assert code_of(await ledger.submit_one(a_correction(early))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        assert ((state := await state_of(ledger)).used, state.overage_used) == (40, 0)
        assert code_of(await ledger.submit_one(a_correction(late))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        await agrees(ledger)


async def test_after_an_upgrade_what_the_larger_plan_includes_is_given_back(store: SqliteStore) -> None:
    small = a_plan(a_limit(10, window="month", overage="0.002"), key="small", monthly="5.00")
    large = a_plan(a_limit(100, window="month", overage="0.001"), key="large", monthly="9.00")
    clock = Clock()
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), small, large), clock=clock) as ledger:
        await buy(ledger, "small")
        first = await ledger.submit_one(a_record(quantity=30))
        await buy(ledger, "large")
        await ledger.submit_one(a_record(quantity=60))
        assert code_of(await ledger.submit_one(a_correction(first))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        await agrees(ledger)


async def test_a_larger_plan_in_another_time_zone_includes_as_much(store: SqliteStore) -> None:
    small = a_plan(a_month(10), key="small", monthly="5.00", timezone="America/New_York")
    large = a_plan(a_limit(100, window="month"), key="large", monthly="9.00", timezone="Europe/Berlin")
    clock = Clock()
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), small, large), clock=clock) as ledger:
        await buy(ledger, "small")
        first = await ledger.submit_one(a_record(quantity=10))
        await ledger.submit_one(a_record(quantity=20))
        assert await beyond(ledger, clock) == (20, 40_000)
        await buy(ledger, "large")
        await ledger.submit_one(a_record(quantity=50))
        assert code_of(await ledger.submit_one(a_correction(first))) == "ok"
        assert await beyond(ledger, clock) == (10, 20_000)
        await agrees(ledger)


async def test_a_larger_plan_forgives_no_more_than_the_event_that_is_taken_back(store: SqliteStore) -> None:
    small = a_plan(a_limit(10, window="month", overage="0.002"), key="small", monthly="5.00")
    large = a_plan(a_limit(1_000, window="month", overage="0.001"), key="large", monthly="9.00")
    clock = Clock()
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), small, large), clock=clock) as ledger:
        await buy(ledger, "small")
        await ledger.submit_one(a_record(quantity=510))
        last = await ledger.submit_one(a_record(quantity=1))
        assert await beyond(ledger, clock) == (501, 1_002_000)
        await buy(ledger, "large")
        assert code_of(await ledger.submit_one(a_correction(last))) == "ok"
        assert await beyond(ledger, clock) == (500, 1_000_000)
        await agrees(ledger)


def three_prices() -> Catalog:
    """Each costs more than the one before and includes less or more, at its own price beyond: a change is at once."""
    plans = ((25, "wide", "0.001", "5.00"), (10, "mid", "0.002", "9.00"), (60, "vast", "0.003", "15.00"))
    return a_catalog(
        a_plan(a_limit(5, window="month")),
        *(
            a_plan(a_limit(most, window="month", overage=price), key=key, monthly=monthly)
            for most, key, price, monthly in plans
        ),
    )


async def test_after_a_change_to_less_an_event_gives_back_what_it_cost_itself(store: SqliteStore) -> None:
    """25 were the wide plan's own: more is beyond the other one than was ever charged."""
    clock = Clock()
    async with store.open(catalog=three_prices(), clock=clock) as ledger:
        await buy(ledger, "wide")
        early = await ledger.submit_one(a_record(quantity=20))
        passing = await ledger.submit_one(a_record(quantity=12))
        assert await beyond(ledger, clock) == (7, 7_000)
        clock.advance(hours=1)
        await buy(ledger, "mid")
        last = await ledger.submit_one(a_record(quantity=5))
        assert await beyond(ledger, clock) == (12, 7_000 + 10_000)
        assert code_of(await ledger.submit_one(a_correction(last))) == "ok"
        assert await beyond(ledger, clock) == (7, 7_000)
        assert code_of(await ledger.submit_one(a_correction(passing))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        assert code_of(await ledger.submit_one(a_correction(early))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        await agrees(ledger)


async def test_units_of_two_prices_are_given_back_at_what_each_cost(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=three_prices(), clock=clock) as ledger:
        await buy(ledger, "mid")
        first = await ledger.submit_one(a_record(quantity=30))
        assert await beyond(ledger, clock) == (20, 40_000)
        clock.advance(hours=1)
        await buy(ledger, "vast")
        second = await ledger.submit_one(a_record(quantity=40))
        assert await beyond(ledger, clock) == (30, 40_000 + 30_000)
        # Of the 40 ten were charged at 0.003; with them twenty of the others are within the plan of today.
        assert code_of(await ledger.submit_one(a_correction(second))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        assert code_of(await ledger.submit_one(a_correction(first))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        await agrees(ledger)


async def test_a_part_of_two_prices_is_given_back_by_its_own_first(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=three_prices(), clock=clock) as ledger:
        await buy(ledger, "mid")
        await ledger.submit_one(a_record(quantity=60))
        clock.advance(hours=1)
        await buy(ledger, "vast")
        second = await ledger.submit_one(a_record(quantity=4))
        assert await beyond(ledger, clock) == (54, 100_000 + 12_000)
        assert code_of(await ledger.submit_one(a_correction(second))) == "ok"
        assert await beyond(ledger, clock) == (50, 100_000)
        third = await ledger.submit_one(a_record(quantity=2))
        late = a_record(quantity=3, occurred_at=clock.now - HOUR)
        assert code_of(fourth := await ledger.submit_one(late)) == "ok"
        assert await beyond(ledger, clock) == (55, 100_000 + 6_000 + 6_000)
        assert code_of(await ledger.submit_one(a_correction(fourth))) == "ok"
        assert await beyond(ledger, clock) == (52, 100_000 + 6_000)
        assert code_of(await ledger.submit_one(a_correction(third))) == "ok"
        assert await beyond(ledger, clock) == (50, 100_000)
        await agrees(ledger)


async def test_a_settled_event_is_taken_back_from_where_it_was_held(store: SqliteStore) -> None:
    clock = Clock("2026-11-30T23:59:00Z")
    async with sold(store, a_month(10), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=16))
        clock.advance(minutes=2)
        settled = await ledger.submit_one(a_settle(held))
        assert await beyond(ledger, clock) == (6, 12_000)
        assert code_of(await ledger.submit_one(a_correction(settled))) == "ok"
        assert await beyond(ledger, clock) == (0, 0)
        await agrees(ledger)


async def test_a_billing_period_cut_short_since_is_where_it_is_taken_back(store: SqliteStore) -> None:
    clock = Clock()
    limit = a_limit(100, window="billing_period", scope="account")
    free = a_plan(limit)
    paid = a_plan(a_limit(500, window="billing_period", scope="account"), key="paid", monthly="5.00")
    async with store.open(catalog=a_catalog(free, paid), clock=clock) as ledger:
        first = await ledger.submit_one(a_record(quantity=30))
        clock.advance(days=3)
        assert code_of(await buy(ledger, "paid")) == "ok"
        await ledger.submit_one(a_record(quantity=7))
        assert code_of(await ledger.submit_one(a_correction(first))) == "ok"
        assert (await states(ledger))["billing_period", "account"].used == 7
        await agrees(ledger)


async def test_an_event_whose_counters_are_gone_can_still_be_taken_back(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        first = await ledger.submit_one(a_record(quantity=4))
        clock.advance(days=500)
        for _ in range(5):
            await ledger.submit_one(a_record())
            clock.advance(minutes=11)
        assert code_of(await ledger.submit_one(a_correction(first))) == "ok"
        await agrees(ledger)


async def test_a_group_gets_it_back_too(store: SqliteStore) -> None:
    clock = Clock()
    ada = a_subject("ada", group="crew")
    catalog = one_plan(a_limit(30, window="month", scope="account"), a_limit(20), seats=5)
    async with store.open(catalog=catalog, clock=clock) as ledger:
        first = await ledger.submit_one(a_record(ada, quantity=12))
        assert code_of(await ledger.submit_one(a_correction(first, account="crew"))) == "ok"
        found = await states(ledger, ada)
        assert [found["month", "account"].used, found["day", "user"].used] == [0, 0]
        await agrees(ledger)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["record", "late", "settle", "correct"]), st.integers(1, 9)),
        min_size=4,
        max_size=14,
    )
)
async def test_included_and_charged_add_up_whatever_is_taken_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    clock, kept = Clock("2026-11-10T00:00:00Z"), []
    place = SqliteStore(tmp_path_factory.mktemp("ledger"))
    async with sold(place, a_month(12), a_limit(30, window="rolling:PT5H"), clock=clock) as ledger:
        for kind, number in steps:
            clock.advance(minutes=number * 13)
            if kind == "correct" and kept:
                outcome, _ = kept.pop(number % len(kept))
                assert code_of(await ledger.submit_one(a_correction(outcome))) == "ok"
                continue
            if kind == "settle":
                held = await ledger.submit_one(a_reserve(quantity=number))
                outcome = await ledger.submit_one(a_settle(held, number)) if code_of(held) == "ok" else held
            else:
                at = clock.now - number * 60_000_000 if kind == "late" else None
                outcome = await ledger.submit_one(a_record(quantity=number, occurred_at=at))
            if code_of(outcome) == "ok":
                kept.append((outcome, number))
        total = sum(number for _, number in kept)
        state = await state_of(ledger)
        assert (state.used, state.overage_used) == (total, max(0, total - 12))
        assert await beyond(ledger, clock) == (max(0, total - 12), max(0, total - 12) * 2_000)
        await agrees(ledger)


STEPS = [
    "record",
    "record",
    "late",
    "reserve",
    "settle",
    "correct",
    "buy",
    "grant",
    "stand still",
    "go on",
    "close",
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 40)), min_size=6, max_size=24),
    order=st.randoms(use_true_random=False),
)
async def test_events_counters_and_invoices_agree_on_every_unit_and_its_price(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], order: Random
) -> None:
    clock, kept, held = Clock("2026-11-10T00:00:00Z"), [], []
    place = SqliteStore(tmp_path_factory.mktemp("ledger"))
    async with place.open(catalog=three_prices(), clock=clock) as ledger:
        for step, number in steps:
            clock.advance(hours=number)
            outcome: Outcome | None = None
            match step:
                case "record":
                    outcome = await ledger.submit_one(a_record(quantity=number, enforce=number % 4 > 0))
                case "late":
                    at = clock.now - number * 20 * HOUR
                    outcome = await ledger.submit_one(
                        a_record(quantity=number, occurred_at=at, enforce=False)
                    )
                case "reserve":
                    held.append(await ledger.submit_one(a_reserve(quantity=number, ttl_seconds=86_400)))
                case "settle" if held and code_of(held[0]) == "ok":
                    outcome = await ledger.submit_one(a_settle(held.pop(0), number))
                case "correct" if kept:
                    assert (
                        code_of(await ledger.submit_one(a_correction(kept.pop(number % len(kept))))) == "ok"
                    )
                case "buy":
                    await buy(ledger, ("wide", "mid", "vast")[number % 3])
                case "grant":
                    await ledger.submit_one(
                        GrantAllowance(
                            a_subject(), Actor("olivia", "tenant_admin"), "messages", "month", number, "gift"
                        )
                    )
                case "stand still" | "go on":
                    await ledger.submit_one(a_status("suspend" if step == "stand still" else "activate"))
                case "close":
                    await close(ledger)
                    await agrees(ledger)
            if outcome is not None and not isinstance(outcome, Exception) and decision_of(outcome).event_id:
                kept.append(outcome)
            await _adds_up(ledger, clock)
        await ledger.submit_one(a_status("activate"))
        clock.advance(days=70)
        await _is_on_invoices(ledger)
        order.shuffle(kept)
        for outcome in kept:
            assert code_of(await ledger.submit_one(a_correction(outcome))) == "ok"
            await _adds_up(ledger, clock)
        view = view_of(await ledger.rehearse(Arrive(a_subject())))
        assert await beyond(ledger, clock) == (0, 0)
        assert all(grant.left == grant.quantity for grant in view.grants)
        clock.advance(days=35)
        await _is_on_invoices(ledger)
        await agrees(ledger)


async def _adds_up(ledger: Ledger, clock: Clock) -> None:
    """What the events say is what is counted, by units and by price."""
    page, _ = await ledger.query(EventPage(Whose("acme"), 0, clock.now + DAY, size=-1))
    of_events = tuple(
        sum(event.gains.get(meter, 0) for _, event in page)
        for meter in ("messages:overage", "messages:overage_charge")
    )
    counted = (await billing_of(ledger)).overages
    assert (sum(one.units for one in counted), sum(one.micros for one in counted)) == of_events
    assert await beyond(ledger, clock) == of_events
    assert all(one.units >= 0 and 0 <= one.micros <= 3_000 * one.units for one in counted)


async def _is_on_invoices(ledger: Ledger) -> None:
    await close(ledger)
    invoices = (await statement(ledger)).invoices
    charged = sum(line.micros for one in invoices for line in one.lines if line.kind == "overage")
    assert charged == sum(round_to_minor(one.micros, "USD") for one in (await billing_of(ledger)).overages)


async def test_what_was_sold_in_another_currency_is_charged_and_given_back_in_it(store: SqliteStore) -> None:
    clock = Clock()
    euro = [
        a_plan(a_limit(1), currency="EUR"),
        a_plan(a_limit(10, window="month", overage="0.50"), key="pro", monthly="9.00", currency="EUR"),
    ]
    async with store.open(catalog=replace(a_catalog(*euro), currency="EUR"), clock=clock) as ledger:
        await buy(ledger, "pro")
        assert code_of(await manage(ledger, "cancel")) == "ok"
        clock.advance(hours=1)
        first = await ledger.submit_one(a_record(quantity=12))
        clock.advance(days=31)
        await close(ledger)
    dollar = [a_plan(a_limit(1)), a_plan(a_month(10), key="max", monthly="29.00")]
    async with store.open(catalog=a_catalog(*dollar), clock=clock) as ledger:
        clock.advance(days=1)
        await buy(ledger, "max")
        late = await ledger.submit_one(a_record(quantity=3, occurred_at=clock.now - 31 * DAY))
        assert (await beyond(ledger, clock)) == (5, 2_500_000)
        clock.advance(days=31)
        await close(ledger)
        clock.advance(days=1)
        for outcome in (first, late):
            assert code_of(await ledger.submit_one(a_correction(outcome))) == "ok"
        clock.advance(days=31)
        await close(ledger)
        found = await statement(ledger)
        charged = [
            (one.currency, line.micros)
            for one in found.invoices
            for line in one.lines
            if line.kind == "overage"
        ]
        euros = [1_000_000, 1_500_000, -1_500_000, -1_000_000]
        assert charged == [("EUR", micros) for micros in euros]
        assert found.credit_micros == {"EUR": 2_500_000}
        await agrees(ledger)
