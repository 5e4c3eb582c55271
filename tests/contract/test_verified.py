"""What `verify` works out again beside totals: what events cost, what grants gave, how long things took, what was refused.
Each test falsifies one row and wants it named."""

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.builders import (
    EVENTS,
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_plan,
    a_record,
    a_subject,
    an_opening,
    buy,
    code_of,
    decision_of,
)
from tests.contract.test_corrections import a_correction
from tests.contract.test_grants import a_grant
from tests.contract.test_invoices_kept import close
from tests.contract.test_prices import PRO, SEARCH, a_call, priced_catalog

from subscription_mcp.domain.catalog import Catalog, EventType
from subscription_mcp.ledger.commands import Actor, EraseUser
from subscription_mcp.ledger.writer import Ledger

OLIVIA = Actor("olivia", "superadmin")


async def differences(ledger: Ledger) -> tuple[str, ...]:
    return (await ledger.engine.verify()).differences


def falsify(folder: Path, *statements: str) -> None:
    """Edit the file behind the ledger's back."""
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount, statement


def is_named(sentence: str, found: tuple[str, ...]) -> bool:
    return any(re.search(sentence, one) for one in found)


# Costs

COSTS_EVERYWHERE = tuple(
    f"UPDATE {table} SET {column} = {column} + 1000 WHERE meter = (SELECT id FROM word WHERE text = 'cost')"
    for table, column in (("counter", "used"), ("rollup", "quantity"), ("rollup_wide", "quantity"))
)
COSTS = {
    "a cost, with every total that adds it up": (
        ("UPDATE event SET gains = json_set(gains, '$.cost', 7250) WHERE seq = 1", *COSTS_EVERYWHERE),
        r"Event \S+ says 7,250 of cost; its price and its quantities say 6,250\.",
    ),
    "a unit price": (
        ("UPDATE price SET per_unit = 2000 WHERE per_unit = 1000",),
        r"Event \S+ says 3,000 of cost; its price and its quantities say 6,000\.",
    ),
    "how many tokens there were": (
        ("UPDATE event SET attributes = json_set(attributes, '$.output_tokens', 501) WHERE seq = 1",),
        r"Event \S+ says 6,250 of cost; its price and its quantities say 6,260\.",
    ),
    "an event's price": (
        ("UPDATE event SET price = NULL WHERE seq = 1",),
        r"Event \S+ is not counted as cost without a price exactly where it has none\.",
    ),
    "a price of what costs nothing": (
        ("UPDATE event SET gains = json_remove(gains, '$.cost') WHERE seq = 1",),
        r"Event \S+ has a price and says no cost\.",
    ),
    "what a correction takes back": (
        ("UPDATE event SET gains = json_set(gains, '$.calls', -2) WHERE corrects IS NOT NULL",),
        r"Event \S+ takes 2 of calls back; event \S+ had 1\.",
    ),
}


@pytest.mark.parametrize(("statements", "sentence"), COSTS.values(), ids=COSTS)
async def test_a_falsified_cost_is_named(tmp_path: Path, statements: tuple[str, ...], sentence: str) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        await ledger.submit([a_call(1_000, 500), a_call(price=SEARCH, quantity=3), a_call(1, price=None)])
        # Half a micro is rounded up
        taken_back = decision_of(
            await ledger.submit_one(a_call(2, 0, replace(PRO, input_per_million_tokens=250_000)))
        )
        assert taken_back.event_id is not None
        assert code_of(await ledger.submit_one(a_correction(taken_back.event_id))) == "ok"
        assert await differences(ledger) == ()
    falsify(tmp_path, *statements)
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        found = await differences(ledger)
        assert is_named(sentence, found), found


async def test_what_an_erased_user_cost_is_still_proved(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        await ledger.submit_one(a_call(1_000, 500))
        assert (
            code_of(await ledger.submit_one(EraseUser("acme", "bob", "erased-1", OLIVIA, "asked for it")))
            == "ok"
        )
        assert await differences(ledger) == ()
    falsify(tmp_path, "UPDATE event SET gains = json_set(gains, '$.cost', 6249)")
    async with a_ledger(tmp_path, catalog=priced_catalog()) as ledger:
        assert is_named(
            "says 6,249 of cost; its price and its quantities say 6,250", await differences(ledger)
        )


# Grants

GRANTS = {
    "more than it gave": (
        "UPDATE grant_use SET quantity = 4",
        r"Grant \S+ says it gave 4 in the period from 2026-11-01T00:00:00Z; the events say 3\.",
    ),
    "nothing of what it gave": (
        "DELETE FROM grant_use",
        r"Grant \S+ says it gave 0 in the period from 2026-11-01T00:00:00Z; the events say 3\.",
    ),
    "a grant of less than it gave": ("UPDATE allowance_grant SET quantity = 2", r"Grant \S+ of 2 gave 3\."),
    "a grant that is gone": ("DELETE FROM allowance_grant", r"takes 3 of grant \S+, which is not there or"),
    "a grant of somebody else": (
        "UPDATE allowance_grant SET holder = (SELECT h.id FROM holder h JOIN word w ON w.id = h.user WHERE w.text = 'eve')",
        r"Event \S+ takes 3 of grant \S+, which is not there or somebody else's\.",
    ),
    "a grant of another meter": (
        "UPDATE allowance_grant SET meter = (SELECT id FROM word WHERE text = 'acme')",
        r"Event \S+ takes 3 of grant \S+, which is of acme\.",
    ),
    "a grant that had ended": (
        "UPDATE allowance_grant SET ends_at = starts_at - 3600000000",
        r"Event \S+ takes 3 of grant \S+, which was not in effect at \S+Z\.",
    ),
    "an event that took nothing": (
        "UPDATE event SET grants = NULL WHERE grants IS NOT NULL",
        r"the events say 0\.",
    ),
}


@pytest.mark.parametrize(("statement", "sentence"), GRANTS.values(), ids=GRANTS)
async def test_a_falsified_grant_is_named(tmp_path: Path, statement: str, sentence: str) -> None:
    catalog = a_catalog(a_plan(a_limit(10, window="month")))
    async with a_ledger(tmp_path, catalog=catalog) as ledger:
        await ledger.submit([a_record("eve"), a_record()])
        assert code_of(await ledger.submit_one(a_grant(5))) == "ok"
        await ledger.submit_one(a_record(quantity=12))
        assert await differences(ledger) == ()
    falsify(tmp_path, statement)
    async with a_ledger(tmp_path, catalog=catalog) as ledger:
        found = await differences(ledger)
        assert is_named(sentence, found), found


# Response times and refusals


def timed(*limits) -> Catalog:
    events = {
        "call": EventType("call", {"response_ms": "integer", "status": "text"}),
        "note": EventType("note", {"response_ms": "text"}),
    }
    return replace(a_catalog(a_plan(*(limits or (a_limit(5),)))), events=EVENTS | events)


def a_timed(user: str = "bob", **attributes: str | int):
    return a_record(user, "call", attributes=attributes)


REPORTS = {
    "one count more of a user": (
        "UPDATE response SET count = count + 1 WHERE cell = 12 AND holder = (SELECT h.id FROM holder h JOIN word w"
        " ON w.id = h.user WHERE w.text = 'bob')",
        r"The response times of call in the hour from 2026-11-20T14:00:00Z of bob of tenant acme are those of 3 events in"
        r" one cell; the events say 2\.",
    ),
    "one count less of a tenant": (
        "UPDATE response SET count = count - 1 WHERE count = 3",
        r"of tenant acme are those of 2 events in one cell; the events say 3\.",
    ),
    "a failure that was none": ("UPDATE response SET failed = 0 WHERE failed = 1", r"of 0 events .* say 1\."),
    "a cell that is gone": (
        "DELETE FROM response WHERE cell = -1",
        r"of 0 events in one cell; the events say 1\.",
    ),
    "everything": ("DELETE FROM response", r"of 0 events in one cell; the events say 2\."),
    "an event": (
        "UPDATE event SET attributes = '{\"response_ms\":3}' WHERE seq = 1",
        r"of 2 events .* say 1\.",
    ),
    "less than one refusal": (
        "UPDATE denial SET count = 0",
        r"The refusals of bob of tenant acme in the hour from 2026-11-20T14:00:00Z are 0\.",
    ),
    "refusals at no full hour": (
        "UPDATE denial SET hour = hour + 1",
        r"The refusals of bob .* are of no hour that has begun",
    ),
    "refusals that are to come": (
        "UPDATE denial SET hour = hour + 3600000000",
        r"are of no hour that has begun\.",
    ),
    "refusals for no reason": (
        "UPDATE denial SET code = (SELECT id FROM word WHERE text = 'call')",
        r"say call, which refuses nothing\.",
    ),
    "refusals of no meter": (
        "UPDATE denial SET meter = (SELECT id FROM word WHERE text = 'call')",
        r"name the meter call, which there never was\.",
    ),
    "refusals of another tenant": (
        "UPDATE denial SET tenant = (SELECT id FROM word WHERE text = 'globex')",
        r"The refusals of bob of tenant acme .* are those of somebody in tenant acme\.",
    ),
}


@pytest.mark.parametrize(("statement", "sentence"), REPORTS.values(), ids=REPORTS)
async def test_a_falsified_count_of_a_report_is_named(tmp_path: Path, statement: str, sentence: str) -> None:
    async with a_ledger(tmp_path, catalog=timed()) as ledger:
        await ledger.submit(
            [a_timed(response_ms=12), a_timed(response_ms=12), a_timed("eve", response_ms=12)]
        )
        await ledger.submit([a_timed(response_ms=99_999, status="broken"), a_timed(status="ok")])
        await ledger.submit(
            [a_record(a_subject("bob", "globex")), a_record("bob", "note", attributes={"response_ms": "?"})]
        )
        taken_back = decision_of(await ledger.submit_one(a_timed(response_ms=700)))
        await ledger.submit_one(a_correction(str(taken_back.event_id)))
        assert code_of(await ledger.submit_one(a_record(quantity=6))) == "quota_exceeded"
        assert await differences(ledger) == ()
    falsify(tmp_path, statement)
    async with a_ledger(tmp_path, catalog=timed()) as ledger:
        found = await differences(ledger)
        assert is_named(sentence, found), found


async def test_a_tenants_response_times_are_held_against_its_users_where_one_was_erased(
    tmp_path: Path,
) -> None:
    async with a_ledger(tmp_path, catalog=timed()) as ledger:
        await ledger.submit([a_timed(response_ms=12), a_timed("eve", response_ms=12)])
        assert (
            code_of(await ledger.submit_one(EraseUser("acme", "bob", "erased-1", OLIVIA, "asked for it")))
            == "ok"
        )
        assert await differences(ledger) == ()
    falsify(tmp_path, "UPDATE response SET count = 3 WHERE count = 2")
    async with a_ledger(tmp_path, catalog=timed()) as ledger:
        assert is_named(
            "of tenant acme are those of 3 events in one cell; the events say 2", await differences(ledger)
        )


@pytest.mark.parametrize("user", ["ok", "completed", "200", "broken", "404"])
async def test_whoever_is_called_like_a_status_is_erased_without_a_failure_more_or_less(
    tmp_path: Path, user: str
) -> None:
    async with a_ledger(tmp_path, catalog=timed()) as ledger:
        await ledger.submit(
            [a_timed(user, status="ok"), *(a_timed("eve", status=one) for one in ("ok", user))]
        )
        erased = await ledger.submit_one(EraseUser("acme", user, "erased-1", OLIVIA, "asked for it"))
        assert code_of(erased) == "ok" and erased.remaining == 0  # type: ignore[union-attr]
        assert await differences(ledger) == ()


async def test_response_times_that_were_let_go_are_not_missed(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=timed(), clock=clock) as ledger:
        await ledger.submit_one(a_timed(response_ms=12))
        clock.advance(days=402)
        assert await differences(ledger) == ()
        await ledger.submit([a_record("eve") for _ in range(5)])
        assert await differences(ledger) == ()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*) FROM response").fetchone() == (0,)


async def test_a_session_that_was_refused_is_a_refusal_like_others(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=a_catalog(a_plan(a_limit(5), sessions=1))) as ledger:
        outcomes = await ledger.submit([an_opening(), an_opening()])
        assert [outcome.decision.code for outcome in outcomes] == ["ok", "session_limit"]
        assert await differences(ledger) == ()


# What was used beyond limits

BEYOND = ("messages:overage", "messages:overage_charge")


def metered() -> Catalog:
    sold = a_plan(a_limit(5, window="month", overage="0.50"), key="pro", monthly="29.00")
    return a_catalog(a_plan(a_limit(5)), sold)


def of_first_event(micros: int, units: int) -> tuple[str, ...]:
    """The first event and every total that adds it up, falsified alike: from 7 units for 3.50."""
    gains = f"""json_set(gains, '$."{BEYOND[0]}"', {units}, '$."{BEYOND[1]}"', {micros})"""
    return (
        f"UPDATE event SET gains = {gains} WHERE seq = 1",
        *(
            f"UPDATE {table} SET {column} = {column} + {more} WHERE meter = (SELECT id FROM word WHERE text = '{meter}')"
            f" AND {column} = {held}"
            for meter, more, held in ((BEYOND[0], units - 7, 7), (BEYOND[1], micros - 3_500_000, 3_500_000))
            if more
            for table, column in (("counter", "used"), ("rollup", "quantity"), ("rollup_wide", "quantity"))
        ),
    )


def of_line(place: int, value: str) -> str:
    return (
        f"UPDATE invoice SET lines = json_set(lines, '$[1][{place}]', {value}) WHERE"
        " json_extract(lines, '$[1][0]') = 'overage' AND json_extract(lines, '$[1][3]') = 7"
    )


SOLD = {
    "a line's micros": (
        (of_line(1, "3000000"),),
        r"Invoice \S+ of the personal account bob of tenant acme says 32\.00 USD in 2 lines; the history says 32\.50",
    ),
    "a line's quantity": ((of_line(3, "6"),), r"Invoice \S+ .* 32\.50 USD in 2 lines; .* 32\.50 USD in 2\."),
    "a line's unit price": ((of_line(4, "400000"),), r"Invoice \S+ .* 32\.50 USD in 2 lines; .* 32\.50 USD"),
    "a line that is dropped": (
        ("UPDATE invoice SET lines = json_remove(lines, '$[1]') WHERE json_extract(lines, '$[1][3]') = 7",),
        r"Invoice \S+ .* says 29\.00 USD in 1 lines; the history says 32\.50 USD in 2\.",
    ),
    "an invoice that is gone": (
        ("DELETE FROM invoice WHERE json_extract(lines, '$[1][3]') = 7",),
        r"Invoice \S+ of the personal account bob of tenant acme is not there, though later ones are closed\.",
    ),
    "an event's charge": (
        of_first_event(3_000_000, 7),
        r"Event \S+ says 3,000,000 for 7 of messages beyond the limit; by its plan they cost 3,500,000\.",
    ),
    "an event's units and charge, with every total": (
        of_first_event(3_000_000, 6),
        r"Invoice \S+ .* says 32\.50 USD in 2 lines; the history says 32\.00 USD in 2\.",
    ),
    "a counter": (
        ("UPDATE counter SET used = 8 WHERE used = 7",),
        r"Of messages the personal account bob of tenant acme is counted \d+ beyond limits for \S+ in all; the events",
    ),
    "when it was closed": (
        (
            "UPDATE invoice SET closed_at = closed_at - 40 * 86400000000 WHERE json_extract(lines, '$[1][3]') = 7",
        ),
        r"Invoice \S+ .* says 32\.50 USD in 2 lines; the history says 29\.00 USD in 1\.",
    ),
    "nobody who looks": (
        ("DELETE FROM billing_due",),
        r"Of messages the personal account bob of tenant acme used beyond limits from \S+, 1\.00 USD is on no invoice, and",
    ),
    "no subscription": (
        ("DELETE FROM subscription_history",),
        r"What bob of tenant acme used beyond limits is on no invoice: there is no subscription\.",
    ),
}


@pytest.mark.parametrize(("statements", "sentence"), SOLD.values(), ids=SOLD)
async def test_a_falsified_charge_beyond_a_limit_is_named(
    tmp_path: Path, statements: tuple[str, ...], sentence: str
) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=metered(), clock=clock) as ledger:
        await buy(ledger, "pro")
        clock.advance(minutes=1)
        await ledger.submit_one(a_record(quantity=12))
        for units in (8, 7):  # the second comes with no period's end, and is on no invoice yet
            clock.advance(days=31)
            await close(ledger)
            clock.advance(minutes=1)
            await ledger.submit_one(a_record(quantity=units))
        assert await differences(ledger) == ()
    falsify(tmp_path, *statements)
    async with a_ledger(tmp_path, catalog=metered(), clock=clock) as ledger:
        found = await differences(ledger)
        assert is_named(sentence, found), found
