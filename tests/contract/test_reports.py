"""What reports are made of, told against the ledger's public side: sums that agree however they are asked for, refusals
by reason, response times, sessions."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    EVENTS,
    Clock,
    a_catalog,
    a_closing,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_reserve,
    a_subject,
    an_opening,
    code_of,
    decision_of,
)
from tests.contract.test_engine import SqliteStore

from subscription_mcp.domain.analytics import (
    GroupKey,
    UsageRow,
    grouped,
    series,
    step_at,
    step_starts,
    totals,
    whole_quarters,
)
from subscription_mcp.domain.catalog import EventType
from subscription_mcp.domain.histogram import cell_of
from subscription_mcp.domain.instants import DAY, HOUR, MINUTE
from subscription_mcp.domain.windows import Period
from subscription_mcp.ledger.commands import Actor, CorrectUsage, EraseUser
from subscription_mcp.ledger.queries import Denials, Responses, SessionSpans, UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger

ACME = Whose("acme")
BOB = Whose("acme", "personal", "bob", "bob")


def catalog_of(*limits):
    return a_catalog(a_plan(*limits))


async def denials(ledger: Ledger, whose: Whose) -> dict[tuple[str, str], int]:
    now = ledger.now()
    found = await ledger.query(Denials(whose, now - DAY, now + 1))
    return {(code, meter): count for code, meter, count in found}


async def test_refusals_are_counted_by_code_and_meter_and_replays_and_checks_are_not(
    store: SqliteStore,
) -> None:
    async with store.open(catalog=catalog_of(a_limit(1))) as ledger:
        await ledger.submit_one(a_record("bob", key="first"))
        await ledger.submit([a_record("bob"), a_record("bob", key="again"), a_reserve("bob")])
        await ledger.submit_one(a_record("bob", key="first"))
        assert code_of(await ledger.submit_one(a_record("bob", enforce=False))) == "quota_exceeded"
        assert await denials(ledger, BOB) == {("quota_exceeded", "messages"): 3}
        assert await denials(ledger, ACME) == {("quota_exceeded", "messages"): 3}
        assert await denials(ledger, Whose("acme", "personal", "eve", "eve")) == {}
        assert decision_of(await ledger.submit_one(a_record("bob", key="again"))).replayed is False
        assert (await ledger.engine.verify()).differences == ()


async def test_refused_sessions_are_counted(store: SqliteStore) -> None:
    async with store.open(catalog=a_catalog(a_plan(sessions=1))) as ledger:
        await ledger.submit([an_opening("bob"), an_opening("bob"), an_opening("bob")])
        assert await denials(ledger, BOB) == {("session_limit", "sessions"): 2}


async def test_refusals_of_strangers_make_nobody_known_and_few_rows(store: SqliteStore) -> None:
    async with store.open(catalog=catalog_of(a_limit(0))) as ledger:
        await ledger.submit([a_record(f"stranger-{n}") for n in range(20)])
        assert await denials(ledger, ACME) == {}  # not even the tenant is known
        await ledger.submit_one(a_record("bob", enforce=False))
        await ledger.submit([a_record(f"stranger-{n}") for n in range(20)])
        assert await denials(ledger, ACME) == {("quota_exceeded", "messages"): 20}
        assert await denials(ledger, Whose("acme", "personal", "stranger-1", "stranger-1")) == {}
        for n in range(20):
            assert not await ledger.query(
                UsageTotals(Whose("acme", "personal", f"stranger-{n}"), 0, DAY, frozenset())
            )


async def test_a_refused_stranger_in_a_known_group_counts_for_the_group(store: SqliteStore) -> None:
    async with store.open(catalog=catalog_of(a_limit(0))) as ledger:
        await ledger.submit_one(a_record(a_subject("ann", group="team"), enforce=False))
        await ledger.submit_one(a_record(a_subject("new", group="team")))
        await ledger.submit_one(a_record(a_subject("ann", group="team")))
        assert await denials(ledger, Whose("acme", "group", "team")) == {("quota_exceeded", "messages"): 2}
        assert await denials(ledger, Whose("acme", "group", "team", "new")) == {}
        assert await denials(ledger, Whose("acme", "group", "team", "ann")) == {
            ("quota_exceeded", "messages"): 1
        }


async def test_refusals_end_after_400_days(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=catalog_of(a_limit(0)), clock=clock) as ledger:
        await ledger.submit_one(a_record("bob", enforce=False))
        await ledger.submit_one(a_record("bob"))
        began = ledger.now()
        for days in (401, 2):
            clock.advance(days=days)
            for _ in range(3):
                await ledger.submit_one(a_record("eve", enforce=False))
        assert await ledger.query(Denials(ACME, began - DAY, began + DAY)) == []


TIMED = {**EVENTS, "message": EventType("message", {"response_ms": "integer", "status": "integer"})}


async def test_response_times_and_failures_are_counted_where_an_event_declares_them(
    store: SqliteStore,
) -> None:
    catalog = replace(catalog_of(a_limit(50)), events=TIMED)
    async with store.open(catalog=catalog) as ledger:
        for took, status in ((100, 200), (100, 200), (4_000, 503)):
            await ledger.submit_one(a_record("bob", attributes={"response_ms": took, "status": status}))
        await ledger.submit([a_record("eve", attributes={"status": 404}), a_record("eve")])
        now = ledger.now()
        bobs = await ledger.query(Responses(BOB, now - HOUR, now + 1))
        assert sorted(bobs) == [("message", False, cell_of(100), 2), ("message", True, cell_of(4_000), 1)]
        assert sum(count for *_, count in await ledger.query(Responses(ACME, now - HOUR, now + 1))) == 4


async def test_sessions_of_a_period_are_those_that_were_open_in_it(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=a_catalog(a_plan(session_seconds=1800)), clock=clock) as ledger:
        began = ledger.now()
        first = await ledger.submit_one(an_opening("bob"))
        clock.advance(minutes=10)
        await ledger.submit_one(an_opening("bob"))
        await ledger.submit_one(a_closing(first))
        clock.advance(minutes=5)
        now = ledger.now()

        async def spans(start: int, end: int):
            return sorted(await ledger.query(SessionSpans(BOB, start, end, now, 10)))

        assert await spans(began, now) == [(began, began + 10 * MINUTE), (began + 10 * MINUTE, None)]
        assert await spans(began + 10 * MINUTE, now) == [(began + 10 * MINUTE, None)]
        assert await spans(began - HOUR, began) == []


# Agreement

people = st.sampled_from(["bob", "eve", "team:ann", "team:joe"])
recorded = st.tuples(
    people,
    st.integers(1, 9),
    st.sampled_from([None, "opus", "haiku"]),
    st.integers(0, 34 * 24 * 60),  # how late it is reported, in minutes
    st.integers(0, 3 * 24 * 60),  # how much later by the clock
    st.integers(0, 4).map(lambda dice: dice == 0),  # whether it is taken back
)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(recorded, min_size=1, max_size=25),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"]),
)
def test_totals_series_and_breakdowns_agree_with_the_events_for_everybody_in_every_zone(
    events, zone: str
) -> None:
    asyncio.run(agreement(events, zone))


async def agreement(events, zone: str) -> None:
    clock = Clock()
    with TemporaryDirectory() as folder:
        async with a_ledger(Path(folder), catalog=catalog_of(a_limit(10**6)), clock=clock) as ledger:
            seen: list[tuple[str, int, int, str | None]] = []
            for who, quantity, model, late, later, taken_back in events:
                clock.advance(minutes=later)
                group, _, user = who.rpartition(":")
                subject = a_subject(user, group=group) if group else a_subject(user)
                at = clock.now - late * MINUTE
                given = {"model": model} if model else {}
                outcome = await ledger.submit_one(
                    a_record(subject, quantity=quantity, attributes=given, occurred_at=at)
                )
                event_id = decision_of(outcome).event_id
                assert event_id
                if taken_back:
                    reason = CorrectUsage("acme", event_id, Actor("root", "superadmin"), "a mistake")
                    assert code_of(await ledger.submit_one(reason)) == "ok"
                else:
                    seen.append((who, quantity, at, model))
            for whose, theirs in (
                (ACME, {"bob", "eve", "team:ann", "team:joe"}),
                (BOB, {"bob"}),
                (Whose("acme", "group", "team"), {"team:ann", "team:joe"}),
                (Whose("acme", "group", "team", "ann"), {"team:ann"}),
            ):
                of_them = [one for one in seen if one[0] in theirs]
                for period in (
                    Period(clock.now - 60 * DAY, clock.now + HOUR),
                    Period(clock.now - 20 * DAY - 7 * MINUTE, clock.now - 3 * HOUR),
                ):
                    if whose == ACME:
                        period = whole_quarters(period)
                    await agrees(
                        ledger, whose, [one for one in of_them if period.holds(one[2])], period, zone
                    )
            assert (await ledger.engine.verify()).differences == ()


def used_by(rows: list[UsageRow], key: GroupKey) -> dict[str | None, int]:
    """What is left of each group; of one of which all was taken back nothing."""
    return {line.keys[key]: line.quantity for line in grouped(rows, (key,)) if line.quantity}


async def agrees(ledger: Ledger, whose: Whose, seen, period: Period, zone: str) -> None:
    total = sum(quantity for _, quantity, _, _ in seen)
    assert period.end is not None
    for granularity in ("hour", "day", "week", "month"):
        starts = step_starts(period, granularity, zone)
        for columns in ({"quarter"}, {"quarter", "dimensions"}, {"quarter", "user", "account"}):
            rows = await ledger.query(
                UsageTotals(whose, period.start, period.end, frozenset(columns), starts)
            )
            assert sum(line.quantity for line in totals(rows)) == total
            by_step = Counter()
            for _, quantity, at, _ in seen:
                by_step[step_at(at, granularity, zone).start] += quantity
            steps = series(rows, granularity, (), zone)
            assert {step.start: step.quantity for step in steps if step.quantity} == dict(by_step)
            assert sum(step.events for step in steps) == len(seen)
            if "dimensions" in columns:
                by_model = Counter()
                for _, quantity, _, model in seen:
                    by_model[model] += quantity
                assert used_by(rows, "model") == dict(by_model)
            if "user" in columns:
                by_user = Counter()
                for who, quantity, _, _ in seen:
                    by_user[who.rpartition(":")[2]] += quantity
                assert used_by(rows, "user") == dict(by_user)


async def test_sums_of_days_follow_an_erasure_and_a_wrong_one_is_found(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=catalog_of(a_limit(50))) as ledger:
        await ledger.submit(
            [a_record("bob", attributes={"model": "of-bob"}), a_record("eve", attributes={"model": "x"})]
        )
        await ledger.submit_one(
            EraseUser("acme", "bob", "erased-1", Actor("root", "superadmin"), "asked for it")
        )
        await ledger.submit_one(a_record("eve", attributes={"model": "x"}))
        assert (await ledger.engine.verify()).differences == ()
        now = ledger.now()
        rows = await ledger.query(UsageTotals(ACME, now - 30 * DAY, now + DAY, frozenset({"dimensions"})))
        assert sum(row.quantity for row in rows) == 3
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file, file:
        file.execute("UPDATE rollup_wide SET quantity = quantity + 1 WHERE holder = 0 AND span = 86400000000")
    async with a_ledger(tmp_path, catalog=catalog_of(a_limit(50)), publish=False) as ledger:
        found = (await ledger.engine.verify()).differences
        assert any("The sum of messages for the day from" in one and "of tenant acme" in one for one in found)
