"""Rates cleared by hand: what was used in the sliding minutes is forgotten, by everything that adds up, and nothing else
is."""

import io
from typing import Any

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_clearing,
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
)
from tests.contract.test_engine import SqliteStore, history, one_plan
from tests.contract.test_limits import of_crew, states

from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, MINUTE, SECOND
from subscription_mcp.ledger.commands import LimitsChanged, Outcome
from subscription_mcp.ledger.writer import Ledger

FAST = one_plan(a_limit(3, window="minute"), a_limit(100))
CREW = a_subject(None, account="crew")


async def in_the_minute(ledger: Ledger, subject: Any = "bob", scope: str = "user") -> int:
    return (await states(ledger, subject))[("minute", scope)].used


async def verifies(ledger: Ledger) -> bool:
    return (await ledger.engine.verify()).differences == ()


def cleared(outcome: Outcome) -> LimitsChanged:
    assert isinstance(outcome, LimitsChanged), outcome
    return outcome


async def test_who_was_too_fast_goes_on_at_once_and_nothing_else_is_forgotten(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=FAST, clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        assert code_of(await ledger.submit_one(a_record())) == "rate_limited"
        changed = cleared(await ledger.submit_one(a_clearing()))
        used = [
            {state.window: state.used for state in view.limits} for view in (changed.before, changed.after)
        ]
        assert used == [{"minute": 3, "day": 3}, {"minute": 0, "day": 3}]
        assert code_of(await ledger.submit_one(a_record(quantity=3))) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "rate_limited"
        found = await states(ledger)
        assert (found[("minute", "user")].used, found[("day", "user")].used) == (3, 6)
        assert await verifies(ledger)


async def test_a_clearing_in_the_last_microsecond_of_a_day_tells_of_the_next_one(store: SqliteStore) -> None:
    clock = Clock()
    midnight = clock.now - clock.now % DAY + DAY
    async with store.open(catalog=FAST, clock=clock) as ledger:
        clock.now = midnight - 1
        await ledger.submit_one(a_record(quantity=3))
        changed = cleared(await ledger.submit_one(a_clearing()))
        told = {state.window: (state.used, state.period.start) for state in changed.after.limits}
        assert told["day"] == (0, midnight)
        assert code_of(await ledger.submit_one(a_record(quantity=3))) == "ok"
        assert await verifies(ledger)


async def test_it_is_remembered_who_cleared_it_why_and_what_was_used(store: SqliteStore) -> None:
    async with store.open(catalog=FAST) as ledger:
        await ledger.submit_one(a_record(quantity=2))
        await ledger.submit_one(a_clearing(reason="a loop of ours"))
        (entry,) = await history(ledger, "limit.")
        assert (entry.action, entry.actor.user, entry.reason) == (
            "limit.clear_rate",
            "olivia",
            "a loop of ours",
        )
        assert [entry.before, entry.after] == [
            {"window": "minute", "scope": "user", "used": {"messages": used}} for used in (2, 0)
        ]


@pytest.mark.parametrize("how", ["at once", "from cold", "in another process", "from an export"])
@pytest.mark.parametrize("seconds", [0, 1, 59])
async def test_what_was_cleared_stays_cleared(store: SqliteStore, how: str, seconds: int) -> None:
    clock = Clock()
    async with store.open(catalog=FAST, clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        clock.advance(seconds=seconds)
        await ledger.submit_one(a_clearing())
        await ledger.submit_one(a_record(quantity=2))
        if how == "at once":
            assert await in_the_minute(ledger) == 2
        if how == "in another process":
            async with store.open(catalog=FAST, clock=clock) as other:
                assert await in_the_minute(other) == 2
                await other.submit_one(a_clearing())
            assert await in_the_minute(ledger) == 0
            await ledger.submit_one(a_record(quantity=2))
        exported = io.BytesIO()
        await ledger.engine.dump(exported.write)
    if how == "from an export":
        store = SqliteStore(store.place / "elsewhere")
        store.place.mkdir()
    async with store.open(catalog=FAST, clock=clock, publish=how != "from an export") as ledger:
        if how == "from an export":
            await ledger.engine.load(io.BytesIO(exported.getvalue()))
            again = io.BytesIO()
            await ledger.engine.dump(again.write)
            assert again.getvalue() == exported.getvalue()
        assert await in_the_minute(ledger) == 2
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "rate_limited"
        assert await verifies(ledger)


async def test_nothing_shares_the_instant_of_a_clearing_however_long_the_clock_stands(
    store: SqliteStore,
) -> None:
    async with store.open(catalog=FAST) as ledger:
        batch = [
            a_record(quantity=3),
            a_clearing(),
            a_record(quantity=2),
            a_clearing(),
            a_record(),
            a_record(),
        ]
        assert [code_of(outcome) for outcome in await ledger.submit(batch)] == ["ok"] * 6
        assert await in_the_minute(ledger) == 2
        assert await verifies(ledger)
    async with store.open(catalog=FAST) as ledger:
        assert await in_the_minute(ledger) == 2


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [(-61, False), (-30, False), (-1, False), (0, True), (10, True), (300, True)],
    ids=["long before", "before", "right before", "when it was cleared", "after", "ahead"],
)
async def test_what_is_reported_late_counts_where_it_happened_after_the_clearing(
    store: SqliteStore, seconds: int, counts: bool
) -> None:
    """As of before it is none of its business: neither refused by it nor counted in it."""
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(3, window="minute")), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        changed = cleared(await ledger.submit_one(a_clearing()))
        at = changed.after.as_of + seconds * SECOND
        clock.advance(seconds=20)
        await ledger.submit_one(a_record(quantity=3))
        outcome = await ledger.submit_one(a_record(occurred_at=at))
        assert code_of(outcome) == ("rate_limited" if counts else "ok")
        assert len(decision_of(outcome).limits) == counts
        assert await in_the_minute(ledger) == 3
        await ledger.submit_one(a_record(occurred_at=at, enforce=False))
        assert await in_the_minute(ledger) == 3 + counts
        assert await verifies(ledger)
    async with store.open(catalog=one_plan(a_limit(3, window="minute")), clock=clock) as ledger:
        assert await in_the_minute(ledger) == 3 + counts


async def test_what_is_held_stays_held_and_is_settled_at_the_instant_it_was_reserved(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=FAST, clock=clock) as ledger:
        reserved = await ledger.submit_one(a_reserve(quantity=2))
        await ledger.submit_one(a_record())
        await ledger.submit_one(a_clearing())
        state = (await states(ledger))[("minute", "user")]
        assert (state.used, state.held) == (0, 2)
        assert code_of(await ledger.submit_one(a_record(quantity=2))) == "rate_limited"
        assert code_of(await ledger.submit_one(a_settle(reserved))) == "ok"
        state = (await states(ledger))[("minute", "user")]
        assert (state.used, state.held) == (0, 0)
        assert (await states(ledger))[("day", "user")].used == 3
        assert await verifies(ledger)


@pytest.mark.parametrize(
    ("whom", "left"),
    [(of_crew("ann"), [0, 2, 4]), (CREW, [2, 2, 0])],
    ids=["a member", "the whole group"],
)
async def test_in_a_group_exactly_whom_is_meant_is_cleared(
    store: SqliteStore, whom: Any, left: list[int]
) -> None:
    catalog = one_plan(a_limit(3, window="minute"), a_limit(5, window="minute", scope="account"))
    async with store.open(catalog=catalog) as ledger:
        for user in ("ann", "ben"):
            await ledger.submit_one(a_record(of_crew(user), quantity=2))
        await ledger.submit_one(a_clearing(whom))
        found = [await in_the_minute(ledger, of_crew(user)) for user in ("ann", "ben")]
        assert [*found, await in_the_minute(ledger, CREW, "account")] == left
        assert await verifies(ledger)


async def test_one_meter_or_all_of_them(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(3, window="minute"), a_limit(3, meter="tool_calls", window="minute"))
    async with store.open(catalog=catalog) as ledger:

        async def used() -> list[int]:
            (entry, *_) = await history(ledger, "limit.")
            return list(entry.before["used"].values())

        await ledger.submit([a_record(quantity=2), a_record(event="tool_call", attributes={"tool": "x"})])
        await ledger.submit_one(a_clearing(meter="messages"))
        assert await used() == [2]
        await ledger.submit_one(a_clearing())
        assert await used() == [0, 1]
        assert await verifies(ledger)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_cap_that_is_added_up_each_time_forgets_too(store: SqliteStore, restarts: bool) -> None:
    clock = Clock()
    catalog = one_plan(a_limit(10, window="minute", scope="account"))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(a_record(of_crew("ann"), quantity=4))
        # As of later, and reported before: it was used when it was reported.
        await ledger.submit_one(a_record(of_crew("ann"), quantity=2, occurred_at=clock.now + 5 * MINUTE))
        await ledger.submit_one(a_limit_set(7, of_crew("ann"), window="minute"))
        assert await in_the_minute(ledger, of_crew("ann")) == 6
        clock.advance(seconds=1)
        assert code_of(await ledger.submit_one(a_clearing(of_crew("ann")))) == "ok"
        assert await in_the_minute(ledger, of_crew("ann")) == 0
        await ledger.submit_one(a_record(of_crew("ann"), quantity=3))
        if not restarts:
            assert await in_the_minute(ledger, of_crew("ann")) == 3
    async with store.open(catalog=catalog, clock=clock) as ledger:
        assert await in_the_minute(ledger, of_crew("ann")) == 3
        assert await in_the_minute(ledger, CREW, "account") == 9
        assert await verifies(ledger)


async def test_a_rate_that_came_late_is_added_up_without_what_was_cleared(store: SqliteStore) -> None:
    clock = Clock()
    basic, faster = a_plan(a_limit(100)), a_plan(a_limit(6, window="minute"), key="faster", monthly="9")
    both = a_catalog(basic, faster)
    async with store.open(catalog=a_catalog(basic), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        await ledger.submit_one(a_record(quantity=2, occurred_at=clock.now + 5 * MINUTE))
        clock.advance(seconds=1)
        await ledger.submit_one(a_publication(basic, faster))
        await buy(ledger, "faster")
        assert await in_the_minute(ledger) == 5
        await ledger.submit_one(a_clearing())
        assert await verifies(ledger)
    async with store.open(catalog=both, clock=clock) as ledger:
        await ledger.submit_one(a_record("ann", "tool_call"))
        assert store.rows()["rolling"] == 0  # an empty window is swept away
        assert await verifies(ledger)
    async with store.open(catalog=both, clock=clock) as ledger:
        assert await in_the_minute(ledger) == 0
        clock.advance(seconds=1)
        await ledger.submit_one(a_record(quantity=2))
        assert await in_the_minute(ledger) == 2
        assert await verifies(ledger)


@pytest.mark.parametrize(
    ("whom", "meter", "code"),
    [
        ("bob", "tool_calls", "invalid_request"),
        ("bob", "nothing_known", "invalid_request"),
        (of_crew("ann"), None, "invalid_request"),
        ("nobody", None, "not_found"),
        (a_subject(None, account="nobody"), None, "not_found"),
    ],
    ids=[
        "a meter without a rate",
        "an unknown meter",
        "a pool's member",
        "an unknown user",
        "an unknown account",
    ],
)
async def test_where_there_is_nothing_to_clear_it_says_so(
    store: SqliteStore, whom: Any, meter: str | None, code: str
) -> None:
    pooled = a_plan(a_limit(9, window="minute", scope="account"), a_limit(9, meter="tool_calls"))
    async with store.open(catalog=a_catalog(pooled)) as ledger:
        await ledger.submit([a_record(), a_record(of_crew("ann"))])
        outcome = await ledger.submit_one(a_clearing(whom, meter=meter))
        assert code_of(outcome) == code
        assert isinstance(outcome, Refusal)
        if code == "invalid_request":
            assert "limits per minute: messages for the whole account" in outcome.message
        assert await history(ledger, "limit.") == []


async def test_a_clearing_is_forgotten_when_its_minute_is_over(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=FAST, clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        await ledger.submit_one(a_clearing())
        clock.advance(minutes=10)
        await ledger.submit_one(a_record("ann"))
        assert store.rows()["rate_cleared"] == 1
        clock.advance(minutes=21)
        await ledger.submit_one(a_record("ann"))
        assert store.rows()["rate_cleared"] == 0
        assert await in_the_minute(ledger) == 0
        assert await verifies(ledger)
    async with store.open(catalog=FAST, clock=clock) as ledger:
        assert await in_the_minute(ledger) == 0
        assert await verifies(ledger)


async def test_a_process_whose_clock_is_behind_verifies_by_what_was_last_written(store: SqliteStore) -> None:
    """The other one has let go of a minute that is not over yet here."""
    behind, ahead = Clock(), Clock()
    async with store.open(catalog=FAST, clock=behind) as slow, store.open(catalog=FAST, clock=ahead) as quick:
        await slow.submit_one(a_record("cleo"))
        assert store.rows()["rolling"] == 1
        ahead.advance(minutes=31)
        await quick.submit_one(a_record("bob", "tool_call"))
        assert store.rows()["rolling"] == 0
        assert await verifies(slow)


async def test_a_clearing_that_could_not_be_saved_has_not_happened(store: SqliteStore) -> None:
    async with store.open(catalog=FAST) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        with store.without_a_table():
            assert code_of((await ledger.submit([a_clearing(), a_record()]))[0]) == "unavailable"
        assert await in_the_minute(ledger) == 3
        assert await verifies(ledger)
