"""Extra allowance: used after the plan's own, soonest to expire first, and before anything is charged or refused."""

import sqlite3
from contextlib import closing
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
    a_subject,
    buy,
    code_of,
    decision_of,
    view_of,
)
from tests.contract.test_corrections import a_correction, agrees
from tests.contract.test_engine import SqliteStore, history, one_plan
from tests.contract.test_limits import states
from tests.contract.test_overage import a_month, beyond, sold, state_of

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.domain.instants import DAY, HOUR, Instant
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    CheckUsage,
    EndGrant,
    GrantAllowance,
    LimitsChanged,
    Outcome,
    Subject,
)
from subscription_mcp.ledger.writer import Ledger

OLIVIA = Actor("olivia", "tenant_admin")


def a_grant(
    quantity: int, subject: Subject | str = "bob", *, meter="messages", window="month", **fields: Any
):
    who = a_subject(subject) if isinstance(subject, str) else subject
    return GrantAllowance(who, OLIVIA, meter, window, quantity, "a good customer", **fields)


def id_of(outcome: Outcome) -> str:
    assert isinstance(outcome, LimitsChanged), outcome
    assert outcome.audit.after is not None
    return str(outcome.audit.after["grant_id"])


async def left(ledger: Ledger, subject: str = "bob") -> list[int]:
    return [one.left for one in view_of(await ledger.rehearse(Arrive(a_subject(subject)))).grants]


async def left_of(ledger: Ledger, ids: list[str]) -> list[int]:
    by_id = {one.id: one.left for one in await grants(ledger)}
    return [by_id[id_] for id_ in ids]


async def test_a_grant_raises_the_maximum_and_is_used_after_the_plans_own(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10, window="month")), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=8))
        granted = await ledger.submit_one(a_grant(5))
        assert isinstance(granted, LimitsChanged)
        assert [granted.before.limits[0].maximum, granted.after.limits[0].maximum] == [10, 15]
        checked = decision_of(await ledger.rehearse(CheckUsage(a_subject(), "message", 7)))
        assert checked.allowed
        decision = decision_of(await ledger.submit_one(a_record(quantity=6)))
        assert decision.message.startswith("Basic plan: 14 of 15 messages used this month, 1 left.")
        assert await left(ledger) == [1]
        refused = decision_of(await ledger.submit_one(a_record(quantity=2)))
        assert (refused.code, refused.limits[0].maximum) == ("quota_exceeded", 15)
        clock.set("2026-12-01T00:00:00Z")
        assert (await state_of(ledger)).maximum == 11
        assert code_of(await ledger.submit_one(a_record(quantity=12))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(quantity=11))) == "ok"
        assert await left(ledger) == [0]
        await agrees(ledger)


async def test_what_expires_first_is_used_first_and_nothing_after_its_end(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10, window="month")), clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject()))
        now = clock.now
        ends = ({}, {"expires_at": now + 2 * DAY}, {"expires_at": now + DAY}, {"starts_at": now + 3 * DAY})
        ids = [id_of(await ledger.submit_one(a_grant(5, **one))) for one in ends]
        await ledger.submit_one(a_record(quantity=17))
        assert await left_of(ledger, ids) == [5, 3, 0, 5]
        clock.advance(days=2)
        assert (await state_of(ledger)).maximum == 10 + 7 + 5
        assert code_of(await ledger.submit_one(a_record(quantity=6))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(quantity=5))) == "ok"
        clock.advance(days=1)
        assert code_of(await ledger.submit_one(a_record(quantity=5))) == "ok"
        assert await left_of(ledger, ids) == [0, 3, 0, 0]
        await agrees(ledger)


async def test_what_happened_before_a_grant_takes_no_room_of_it(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10, window="month")), clock=clock) as ledger:
        before = clock.now
        await ledger.submit_one(a_record(quantity=10))
        clock.advance(days=2)
        await ledger.submit_one(a_grant(5))
        late = decision_of(await ledger.submit_one(a_record(occurred_at=before)))
        assert (late.code, late.limits[0].maximum) == ("quota_exceeded", 10)
        late = decision_of(await ledger.submit_one(a_record(quantity=3, occurred_at=before, enforce=False)))
        assert late.message.startswith("Basic plan: 13 of 10 messages used this month.")
        assert ((await state_of(ledger)).remaining, await left(ledger)) == (5, [5])
        assert code_of(await ledger.submit_one(a_record(quantity=6))) == "quota_exceeded"
        decision = decision_of(await ledger.submit_one(a_record(quantity=4)))
        assert decision.message.startswith("Basic plan: 17 of 18 messages used this month, 1 left.")
        assert await left(ledger) == [1]
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        assert ((await state_of(ledger)).maximum, await left(ledger)) == (15, [0])
        await agrees(ledger)


async def test_what_was_charged_before_a_grant_takes_no_room_of_it_either(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10, 3), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=13))
        await ledger.submit_one(a_grant(5))
        assert code_of(await ledger.submit_one(a_record(quantity=6))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(quantity=5))) == "ok"
        assert (await left(ledger), await beyond(ledger, clock)) == ([0], (3, 6_000))
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        await agrees(ledger)


async def test_a_level_above_its_limit_is_granted_no_more_than_was_given(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10, meter="storage_mb", window="level"))) as ledger:
        await ledger.submit_one(a_record(event="storage", quantity=12, enforce=False))
        granted = await ledger.submit_one(a_grant(5, meter="storage_mb", window="level"))
        assert isinstance(granted, LimitsChanged)
        assert granted.after.limits[0].maximum == 15


async def test_grants_come_before_overage(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10), clock=clock) as ledger:
        await ledger.submit_one(a_grant(5))
        decision = decision_of(await ledger.submit_one(a_record(quantity=18)))
        assert decision.message.startswith(
            "Pro plan: 18 of 15 messages used this month; 3 beyond the plan at 0.002 USD each."
        )
        assert await beyond(ledger, clock) == (3, 6_000)
        await agrees(ledger)


async def test_a_settle_takes_what_it_came_to_and_a_correction_gives_it_back(store: SqliteStore) -> None:
    clock = Clock()
    async with sold(store, a_month(10), clock=clock) as ledger:
        await ledger.submit_one(a_grant(5))
        held = await ledger.submit_one(a_reserve(quantity=15))
        assert await left(ledger) == [5]
        settled = await ledger.submit_one(a_settle(held, 12))
        assert await left(ledger) == [3]
        more = await ledger.submit_one(a_record(quantity=5))
        assert (await left(ledger), await beyond(ledger, clock)) == ([0], (2, 4_000))
        assert code_of(await ledger.submit_one(a_correction(settled))) == "ok"
        assert (await left(ledger), await beyond(ledger, clock)) == ([5], (0, 0))
        assert code_of(await ledger.submit_one(a_correction(more))) == "ok"
        assert (await left(ledger), (await state_of(ledger)).used) == ([5], 0)
        await agrees(ledger)


async def test_a_correction_gives_back_to_the_grant_its_event_took_of(store: SqliteStore) -> None:
    clock = Clock("2026-11-02T00:00:00Z")
    async with store.open(catalog=one_plan(a_limit(1, window="month")), clock=clock) as ledger:
        await ledger.submit_one(a_record())
        soon, later = [
            id_of(await ledger.submit_one(a_grant(2, expires_at=clock.now + days * DAY))) for days in (2, 20)
        ]
        took = decision_of(await ledger.submit_one(a_record())).event_id
        clock.advance(days=3)
        await ledger.submit_one(a_record())
        assert await left_of(ledger, [soon, later]) == [1, 1]
        assert code_of(await ledger.submit_one(a_correction(took))) == "ok"
        assert await left_of(ledger, [soon, later]) == [2, 1]
        await agrees(ledger)


async def test_a_settle_takes_in_the_billing_period_it_was_held_in_though_another_began_since(
    store: SqliteStore,
) -> None:
    clock, limit = Clock(), a_limit(10, window="billing_period", scope="account")
    catalog = a_catalog(a_plan(limit), a_plan(limit, key="pro", monthly="5.00"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=9))
        await ledger.submit_one(a_grant(5, window="billing_period"))
        held = await ledger.submit_one(a_reserve(quantity=4))
        clock.advance(days=3)
        await buy(ledger, "pro")
        settled = await ledger.submit_one(a_settle(held))
        assert await left(ledger) == [2]
        assert code_of(await ledger.submit_one(a_correction(settled))) == "ok"
        assert await left(ledger) == [5]
        await agrees(ledger)


async def test_a_grant_of_a_level_holds_while_it_is_in_effect(store: SqliteStore) -> None:
    clock = Clock()
    limit = a_limit(100, meter="storage_mb", window="level")
    async with store.open(catalog=one_plan(limit), clock=clock) as ledger:
        await ledger.submit_one(a_record("bob", "storage", 10))
        await ledger.submit_one(a_grant(50, meter="storage_mb", window="level", expires_at=clock.now + HOUR))
        assert code_of(await ledger.submit_one(a_record("bob", "storage", 140))) == "ok"
        assert await left(ledger) == [50]
        assert code_of(await ledger.submit_one(a_record("bob", "storage", -20))) == "ok"
        assert code_of(await ledger.submit_one(a_record("bob", "storage", 20))) == "ok"
        clock.advance(hours=1)
        assert (await states(ledger))["level", "user"].maximum == 100
        assert code_of(await ledger.submit_one(a_record("bob", "storage", 1))) == "quota_exceeded"
        await agrees(ledger)


async def test_a_grant_is_ended_from_now_on(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(10, window="month")), clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject()))
        given = id_of(await ledger.submit_one(a_grant(5)))
        await ledger.submit_one(a_record(quantity=12))
        clock.advance(minutes=1)
        ended = await ledger.submit_one(EndGrant(a_subject(), OLIVIA, given, "a mistake"))
        assert code_of(ended) == "ok"
        assert (await state_of(ledger)).maximum == 12
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        again = await ledger.submit_one(EndGrant(a_subject(), OLIVIA, given, "again"))
        other = await ledger.submit_one(EndGrant(a_subject(), OLIVIA, "nothing", "again"))
        assert [code_of(again), str(again)] == ["not_found", str(other)]
        actions = [entry.action for entry in await history(ledger, "limit.")]
        assert actions == ["limit.end_grant", "limit.grant"]
        await agrees(ledger)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"window": "minute"}, "window"),
        ({"window": "rolling:PT5H"}, "window"),
        ({"window": "week"}, "meter"),
        ({"window": "day"}, "meter"),
        ({"expires_at": Clock().now}, "expires_at"),
        ({"starts_at": Clock().now + DAY, "expires_at": Clock().now + DAY}, "expires_at"),
    ],
)
async def test_what_cannot_be_granted_is_said(store: SqliteStore, fields: dict[str, Any], field: str) -> None:
    limits = (
        a_limit(10, window="month"),
        a_limit(9, window="minute"),
        a_limit(9, window="rolling:PT5H"),
        a_limit(UNLIMITED, window="day"),
    )
    async with store.open(catalog=one_plan(*limits)) as ledger:
        await ledger.submit_one(a_record())
        refused = await ledger.submit_one(a_grant(5, **fields))
        assert code_of(refused) == "invalid_request"
        assert [problem.field for problem in refused.fields] == [field]


async def test_the_account_and_a_member_are_granted_their_own(store: SqliteStore) -> None:
    ada, ben = (a_subject(user, group="crew") for user in ("ada", "ben"))
    crew = Subject("acme", None, "crew", account_kind="group")
    catalog = one_plan(a_limit(10, window="month", scope="account"), a_limit(6), seats=5)
    clock = Clock()
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit([a_record(ada), a_record(ben)])
        assert code_of(await ledger.submit_one(a_grant(4, crew))) == "ok"
        assert code_of(await ledger.submit_one(a_grant(3, ada, window="day"))) == "ok"
        assert code_of(await ledger.submit_one(a_grant(3, ada))) == "invalid_request"
        assert code_of(await ledger.submit_one(a_grant(3, crew, window="day"))) == "invalid_request"
        for who, most in ((ada, 9), (ben, 6)):
            found = await states(ledger, who)
            assert [found["month", "account"].maximum, found["day", "user"].maximum] == [14, most]
        assert code_of(await ledger.submit_one(a_record(ada, quantity=8))) == "ok"
        assert code_of(await ledger.submit_one(a_record(ben, quantity=5))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record(ben, quantity=4))) == "ok"
        await agrees(ledger)


async def test_a_grant_stays_through_a_change_of_plan(store: SqliteStore) -> None:
    clock = Clock()
    large = a_plan(a_limit(20, window="month"), key="large", monthly="9.00")
    async with store.open(
        catalog=a_catalog(a_plan(a_limit(10, window="month")), large), clock=clock
    ) as ledger:
        await ledger.submit_one(a_record(quantity=9))
        await ledger.submit_one(a_grant(5))
        await ledger.submit_one(a_record(quantity=3))
        assert code_of(await buy(ledger, "large")) == "ok"
        assert (await state_of(ledger)).maximum == 25
        assert code_of(await ledger.submit_one(a_record(quantity=13))) == "ok"
        assert await left(ledger) == [0]
        await agrees(ledger)


async def test_grants_are_there_after_reopening(store: SqliteStore) -> None:
    clock = Clock()
    catalog = one_plan(a_limit(10, window="month"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=9))
        await ledger.submit_one(a_grant(5, expires_at=clock.now + DAY))
        await ledger.submit_one(a_record(quantity=3))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        assert await left(ledger) == [3]
        assert (await state_of(ledger)).maximum == 15
        assert code_of(await ledger.submit_one(a_record(quantity=4))) == "quota_exceeded"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["record", "record", "late", "settle", "correct", "grant", "wait"]),
        st.integers(1, 9),
    ),
    min_size=4,
    max_size=16,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_included_granted_and_charged_add_up_and_nothing_is_granted_after_its_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    clock, kept = Clock("2026-11-10T00:00:00Z"), []
    ends: dict[str, Instant] = {}
    place = SqliteStore(tmp_path_factory.mktemp("ledger"))
    async with sold(place, a_month(12), clock=clock) as ledger:
        clock.advance(days=1)  # what is reported late is of the same billing period
        for kind, number in steps:
            clock.advance(minutes=number)
            if kind == "grant":
                until = clock.now + number * HOUR
                ends[id_of(await ledger.submit_one(a_grant(number, expires_at=until)))] = until
            elif kind == "wait":
                clock.advance(hours=number)
            elif kind == "correct":
                if kept:
                    outcome, _ = kept.pop(number % len(kept))
                    assert code_of(await ledger.submit_one(a_correction(outcome))) == "ok"
            else:
                at = clock.now - number * HOUR // 2 if kind == "late" else None
                used_before = {one.id: one.left for one in await grants(ledger)}
                if kind == "settle":
                    held = await ledger.submit_one(a_reserve(quantity=number))
                    outcome = await ledger.submit_one(a_settle(held, number))
                else:
                    outcome = await ledger.submit_one(a_record(quantity=number, occurred_at=at))
                for one in await grants(ledger):
                    assert one.left == used_before[one.id] or (at or clock.now) < ends[one.id]
                kept.append((outcome, number))
        total = sum(number for _, number in kept)
        charged, micros = await beyond(ledger, clock)
        given_away = sum(one.quantity - one.left for one in await grants(ledger))
        included = total - given_away - charged
        assert micros == charged * 2_000
        assert 0 <= included <= 12
        assert included == min(total, 12)
        assert all(0 <= one.left <= one.quantity for one in await grants(ledger))
        await agrees(ledger)


async def grants(ledger: Ledger):
    return view_of(await ledger.rehearse(Arrive(a_subject()))).grants


async def test_grants_that_ended_long_ago_are_not_looked_at_and_a_correction_still_finds_them(
    store: SqliteStore,
) -> None:
    clock = Clock()
    catalog = one_plan(a_limit(10, window="month"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(a_record())
        await ledger.submit_one(a_grant(5, expires_at=clock.now + DAY))
        over = decision_of(await ledger.submit_one(a_record(quantity=12)))
        await ledger.submit_one(a_grant(5))
        assert sorted(await left(ledger)) == [2, 5]
    clock.advance(days=100)
    async with store.open(catalog=catalog, clock=clock, publish=False) as ledger:
        assert await left(ledger) == [5]
        assert over.event_id is not None
        assert code_of(await ledger.submit_one(a_correction(over.event_id))) == "ok"
        await agrees(ledger)
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT quantity FROM grant_use").fetchall() == [(0,)]


async def test_what_a_grant_gave_long_ago_becomes_one_sum(store: SqliteStore) -> None:
    clock = Clock()
    catalog = one_plan(a_limit(1, window="day"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(a_record())
        await ledger.submit_one(a_grant(500, window="day"))
        early = []
        for _ in range(30):
            early.append(decision_of(await ledger.submit_one(a_record(quantity=1))))
            await ledger.submit_one(a_record(quantity=2))
            clock.advance(days=1)
        assert store.rows()["grant_use"] == 30
        given = 500 - (await left(ledger))[0]
        clock.advance(days=380)
        for _ in range(20):  # with each some rows are looked at
            await ledger.submit_one(a_record("eve"))
            await agrees(ledger)
        assert 1 < store.rows()["grant_use"] < 25
        clock.advance(days=30)
        for _ in range(20):
            await ledger.submit_one(a_record("eve"))
        assert store.rows()["grant_use"] == 1
        assert await left(ledger) == [500 - given]
        # Nothing of it is given back, whether or not this process knew it apart.
        assert early[3].event_id is not None
        assert code_of(await ledger.submit_one(a_correction(early[3].event_id))) == "ok"
        assert await left(ledger) == [500 - given]
        await agrees(ledger)
