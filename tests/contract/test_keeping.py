"""What keeps a ledger for years, told against its public side: verified, moved to another one, pruned."""

import asyncio
import io
import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_closing,
    a_ledger,
    a_limit,
    a_limit_set,
    a_plan,
    a_publication,
    a_record,
    a_reserve,
    a_settle,
    a_subject,
    an_opening,
    buy,
    code_of,
    decision_of,
    duration_of,
)
from tests.contract.populated import populate, windows_catalog

from subscription_mcp.domain.instants import DAY, HOUR, MINUTE, SECOND
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.ledger.commands import Arrive, Decided
from subscription_mcp.ledger.port import LedgerUnusable, TransferRefused
from subscription_mcp.ledger.sqlite import answers as sqlite_answers
from subscription_mcp.ledger.sqlite import consistency as sqlite_consistency
from subscription_mcp.ledger.sqlite import prune as sqlite_prune
from subscription_mcp.ledger.sqlite import verify as sqlite_verify
from subscription_mcp.ledger.sqlite.transfer import STAYS, TABLES
from subscription_mcp.ledger.writer import Ledger

FORMAT = Path(__file__).resolve().parents[2] / "docs" / "export-format.md"


class Rows:
    """The rows of a SQLite ledger, seen and damaged behind the engine's back."""

    def __init__(self, place: Path) -> None:
        self.path = place / "ledger.db"

    def execute(self, statement: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()

    def count(self, table: str) -> int:
        return self.execute(f"SELECT count(*) FROM {table}")[0][0]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path)


async def differences(ledger: Ledger) -> tuple[str, ...]:
    return (await ledger.engine.verify()).differences


# Verified


async def test_a_ledger_with_everything_in_it_verifies(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock) as ledger:
        await populate(ledger, clock)
        found = await ledger.engine.verify()
    assert found.differences == ()
    counted = (found.events, found.counters, found.rollups, found.holds)
    stored = {table: rows.count(table) for table in ("event", "counter", "rolling", "rollup", "hold")}
    assert counted == (
        stored["event"],
        stored["counter"] + stored["rolling"],
        stored["rollup"],
        stored["hold"],
    )
    assert not [table for table in TABLES if not rows.count(table)]


BOBS = "holder = (SELECT h.id FROM holder h JOIN word w ON w.id = h.user AND w.text = 'bob')"


def of_bob(window: str) -> str:
    return f"{BOBS} AND window = (SELECT id FROM word WHERE text = '{window}')"


async def test_a_counter_may_only_be_off_where_a_late_event_met_a_change(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that occurred before the anchor changed and was recorded after may count in either billing period;
    all other counters are proved exactly."""
    clock = Clock()
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock) as ledger:
        await populate(ledger, clock)
    rows.execute("UPDATE counter SET used = used + 1")
    monkeypatch.setattr(sqlite_verify, "DIFFERENCES_MAX", 10**6)
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock, publish=False) as ledger:
        proved = len(await differences(ledger))
    assert 400 < proved <= rows.count("counter")
    assert rows.count("counter") - proved < 10


DAMAGE = {
    "a counter that says more": (
        f"UPDATE counter SET used = used + 1 WHERE {of_bob('hour')}",
        r"The counter of messages per hour from \S+Z of bob of tenant acme says 6; the events say 5\.",
    ),
    "a counter that says less": (
        f"UPDATE counter SET used = used - 1 WHERE {of_bob('lifetime')}",
        r"per lifetime from 1970-01-01T00:00:00Z of bob of tenant acme says 4; the events say 5\.",
    ),
    "a counter of a billing period that says less": (
        f"UPDATE counter SET used = used - 1 WHERE {of_bob('billing_period')}",
        r"per billing period from 2026-11-20T14:03:11Z of bob of tenant acme says 4; the events say 5\.",
    ),
    "a counter that is gone": (
        f"DELETE FROM counter WHERE {of_bob('day@Europe/Berlin')}",
        r"per day@Europe/Berlin from 2026-11-19T23:00:00Z of bob of tenant acme is missing; the events say 5\.",
    ),
    "a counter of nothing": (
        "INSERT INTO counter SELECT tenant, start - 3600000000, window, holder, meter, 9 FROM counter"
        f" WHERE {of_bob('hour')}",
        r"The counter of messages per hour from 2026-11-20T13:00:00Z of bob of tenant acme says 9; the events say 0\.",
    ),
    "an event that is gone": ("DELETE FROM event WHERE seq = 1", r"says 5; the events say 0\."),
    "a rollup that says more": (
        "UPDATE rollup SET quantity = quantity + 1",
        r"The rollup of messages at 2026-11-20T14:00:00Z of bob of tenant acme by .* says 6 in 1 events;"
        r" the events say 5 in 1 events\.",
    ),
    "a rollup that is gone": ("DELETE FROM rollup", r"says nothing; the events say 5 in 1 events\."),
    "a hold of no reservation": (
        "DELETE FROM reservation",
        r"The hold of reservation .* belongs to no reservation\.",
    ),
    "a hold that is gone": (
        f"DELETE FROM hold WHERE {of_bob('hour')}",
        r"Reservation .* is open and has 6 of its 7 holds\.",
    ),
    "a hold of more than was reserved": ("UPDATE hold SET quantity = 9", r"is not what was reserved\."),
    "a holder that is not there": (
        "UPDATE event SET holder = 99",
        r"3 rows of event name a holder that is not there\.",
    ),
    "a plan that is not there": (
        "UPDATE subscription SET version = 9",
        r"Version 9 of plan basic is or was held, or is on offer, and is not there\.",
    ),
    "a rolling window that says more": (
        "UPDATE rolling SET cells = json_set(cells, '$[0][1]', 6)",
        r"The window minute of messages of bob of tenant acme says 6; the events say 5\.",
    ),
    "a rolling window that gives back too early": (
        "UPDATE rolling SET cells = json_set(cells, '$[0][0]', 7)",
        r"The window minute of messages of bob of tenant acme says 0; the events say 5\.",
    ),
    "a rolling window that is gone": (
        "DELETE FROM rolling",
        r"The window minute of messages of bob of tenant acme is missing; the events say 5\.",
    ),
    "a rolling window of no uses": (
        "UPDATE rolling SET cells = '{}'",
        r"The window minute of messages of bob of tenant acme says 0; the events say 5\.",
    ),
    "a rolling window that cannot be read": (
        "UPDATE rolling SET cells = '[[1],2]'",
        r"The window minute of messages of bob of tenant acme is no list of uses in order of time\.",
    ),
    "a level that says less": (
        f"UPDATE counter SET used = used - 1 WHERE {of_bob('level')}",
        r"The counter of storage_mb per level from \S+Z of bob of tenant acme says 2; the events say 3\.",
    ),
    "a level that is gone": (
        f"DELETE FROM counter WHERE {of_bob('level')}",
        r"The counter of storage_mb per level from \S+Z of bob of tenant acme is missing; the events say 3\.",
    ),
    "a group of usage that is gone": (
        "DELETE FROM dimension",
        r"Usage of tenant acme is grouped by what is not among its dimensions\.",
    ),
    "a size that is gone": (
        "DELETE FROM tenant_size",
        r"Tenant acme has 1 users and 2 groups of usage, and its size is missing\.",
    ),
    "a size of fewer users": (
        "UPDATE tenant_size SET users = 0",
        r"Tenant acme has 1 users and 2 groups of usage; its size says 0 and 2\.",
    ),
    "a size of more groups": (
        "UPDATE tenant_size SET dimensions = 3",
        r"Tenant acme has 1 users and 2 groups of usage; its size says 1 and 3\.",
    ),
    "an answer that is gone": ("DELETE FROM answer", r"There are 0 answers, and 1 idempotency keys"),
    "a key in a wrong place": (
        "UPDATE key_index SET hash = hash + 1",
        r"The idempotency key k of app in tenant acme is not where it is looked for\.",
    ),
}


@pytest.mark.parametrize(("statement", "sentence"), DAMAGE.values(), ids=DAMAGE)
async def test_every_difference_is_found_and_named(
    tmp_path: Path, rows: Rows, statement: str, sentence: str
) -> None:
    async with a_ledger(tmp_path, catalog=windows_catalog()) as ledger:
        await ledger.submit([a_record(quantity=5, key="k"), a_reserve(quantity=2)])
        await ledger.submit([a_record(event="storage", quantity=8), a_record(event="storage", quantity=-5)])
        assert await differences(ledger) == ()
    rows.execute(statement)
    async with a_ledger(tmp_path, catalog=windows_catalog()) as ledger:
        found = await differences(ledger)
    assert found
    assert [one for one in found if re.search(sentence, one)], found


async def test_what_was_held_before_plans_changed_and_settled_after_verifies(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock) as ledger:
        held = await ledger.submit_one(a_reserve(quantity=3, ttl_seconds=7_200))
        clock.advance(hours=1)
        await ledger.submit_one(a_publication(*windows_catalog(weekly=True).plans.values()))
        clock.advance(hours=1)
        await ledger.submit([a_settle(held, 2), a_record(occurred_at=clock.now - 2 * HOUR), a_record("eve")])
        assert await differences(ledger) == ()


async def test_the_counters_of_a_version_that_is_no_longer_on_offer_are_proved(
    tmp_path: Path, rows: Rows
) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, catalog=windows_catalog(weekly=True), clock=clock) as ledger:
        await ledger.submit_one(a_record())
    clock.advance(days=7)
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock) as ledger:
        clock.advance(hours=1)
        await ledger.submit([a_record(quantity=3), a_record("eve", quantity=3)])
        assert await differences(ledger) == ()
    assert rows.execute(
        f"UPDATE counter SET used = 2 WHERE used = 3 AND {of_bob('week@Europe/Berlin')} RETURNING 1"
    )
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock) as ledger:
        (found,) = await differences(ledger)
        assert "per week@Europe/Berlin" in found and "bob" in found and "says 2; the events say 3" in found


async def test_what_was_other_before_a_bound_was_raised_is_proved_in_sum(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    for groups in (1, 9):
        async with a_ledger(tmp_path, clock=clock, bounds=Bounds(dimensions=groups)) as ledger:
            for model in ("m1", "m2", "m3"):
                await ledger.submit_one(a_record(attributes={"model": model}))
            assert await differences(ledger) == ()
    rows.execute("UPDATE rollup SET quantity = quantity + 1 WHERE events = 2")
    async with a_ledger(tmp_path, clock=clock) as ledger:
        assert [one for one in await differences(ledger) if "other" in one]


async def test_a_window_kept_since_mid_history_is_proved_within_its_slack(tmp_path: Path, rows: Rows) -> None:
    """What was used before is known by the quarter of an hour: it may count that much longer, never less."""
    clock = Clock("2026-11-20T10:07:00Z")
    rolling = a_plan(a_limit(900), a_limit(900, window="rolling:PT5H"))
    async with a_ledger(tmp_path, catalog=a_catalog(a_plan(a_limit(900))), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=5))
        clock.advance(minutes=5)
        await ledger.submit_one(a_publication(rolling))
        await ledger.submit_one(a_record(quantity=2))
        for text, least, most in (
            ("2026-11-20T15:06:59Z", 7, 7),
            ("2026-11-20T15:07:00Z", 2, 7),
            ("2026-11-20T15:12:00Z", 0, 7),
            ("2026-11-20T15:38:00Z", 0, 0),
        ):
            clock.set(text)
            for used in range(8):
                rows.execute("UPDATE rolling SET cells = json_array(json_array(?, ?))", clock.now, used)
                is_right = await differences(ledger) == ()
                assert is_right is (least <= used <= most), (text, used)


async def test_damaged_pages_are_found(tmp_path: Path, rows: Rows) -> None:
    async with a_ledger(tmp_path) as ledger:
        await ledger.submit([a_record(f"user{number}", key=f"key-{number}") for number in range(300)])
    rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ((page,),) = rows.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'counter'")
    whole = bytearray(rows.path.read_bytes())
    whole[(page - 1) * 4096 + 8 : (page - 1) * 4096 + 64] = bytes(56)
    rows.path.write_bytes(whole)
    async with a_ledger(tmp_path, publish=False) as ledger:
        found = await differences(ledger)
    assert found and all("damaged" in one for one in found)


async def test_it_reads_one_snapshot_while_others_write(tmp_path: Path) -> None:
    async with a_ledger(tmp_path) as ledger, a_ledger(tmp_path, publish=False) as other:
        await ledger.submit([a_record(f"user{number % 7}") for number in range(200)])
        verifying = asyncio.ensure_future(ledger.engine.verify())
        while not verifying.done():
            assert {code_of(one) for one in await other.submit([a_record("eve"), a_record("bob")])} <= {
                "ok",
                "quota_exceeded",
            }
        assert verifying.result().differences == ()


WHO = st.sampled_from(["bob", "tom", "tina"])
SHAPES = [
    ("messages", window, scope)
    for window in (
        "minute",
        "rolling:PT5H",
        "rolling:P9D",
        "hour",
        "day",
        "month",
        "billing_period",
        "lifetime",
    )
    for scope in ("user", "account")
] + [("storage_mb", "level", "user"), ("storage_mb", "level", "account")]
QUANTITY = st.integers(-20, 20).filter(bool)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), WHO, st.integers(1, 9), st.just(0)),
        st.tuples(st.just("record"), WHO, st.integers(1, 9), st.integers(-4, 34 * 24 * 60)),
        st.tuples(st.just("burst"), WHO, st.integers(100, 300), st.sampled_from([SECOND // 3, HOUR // 3])),
        st.tuples(st.just("call"), WHO, st.sampled_from(["gemini", "claude", "mistral"])),
        st.tuples(st.just("store"), WHO, QUANTITY),
        st.tuples(st.just("hold"), WHO, st.integers(1, 9), st.sampled_from([60, 86_400, 3_000_000])),
        st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(
            st.just("buy"),
            WHO,
            st.sampled_from(["basic", "advanced"]),
            st.sampled_from(["monthly", "yearly"]),
        ),
        st.tuples(st.just("cap"), WHO, st.sampled_from([None, 5])),
        st.tuples(st.just("publish"), st.lists(st.sampled_from(SHAPES), unique=True, max_size=6)),
        st.tuples(st.just("wait"), st.integers(0, 40 * 24 * 60 * 60)),
        st.tuples(st.just("wait"), st.sampled_from([1, 50, 59, 60, 240, 5 * 60 * 60 - 20])),
        st.tuples(st.just("restart"), st.integers(1, 9)),
        st.tuples(st.just("at once")),
    ),
    min_size=1,
    max_size=40,
)


class History:
    """Commands that go to a ledger, several of them in one batch where nothing stands between them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clock = Clock()
        self.groups = 3
        self.waiting: list[Any] = []
        self.held: list[str] = []

    async def live_through(self, steps: list[Any]) -> None:
        """From one restart to the next; then everything verifies."""
        catalog = windows_catalog()
        async with a_ledger(
            self.place,
            catalog=catalog,
            clock=self.clock,
            bounds=Bounds(dimensions=self.groups),
            publish=False,
        ) as ledger:
            self.waiting += [a_publication(*catalog.plans.values())]
            self.waiting += [
                Arrive(a_subject(user, group="team", group_admin=True)) for user in ("tom", "tina")
            ]
            for step, *given_ in steps:
                await self.take(ledger, step, given_)
            await self.submit(ledger)
            assert await differences(ledger) == ()

    async def submit(self, ledger: Ledger) -> None:
        commands, self.waiting = self.waiting, []
        for outcome in await ledger.submit(commands) if commands else []:
            if isinstance(outcome, Decided) and outcome.decision.reservation_id:
                self.held.append(outcome.decision.reservation_id)

    async def take(self, ledger: Ledger, step: str, given_: list[Any]) -> None:
        match step, given_:
            case "record", [who, quantity, minutes]:
                at = self.clock.now - minutes * MINUTE
                self.waiting.append(a_record(who, quantity=quantity, occurred_at=at, enforce=False))
            case "burst", [who, number, apart]:
                ends = [self.clock.now - index * apart for index in range(number)]
                self.waiting += [a_record(who, occurred_at=at, enforce=False) for at in reversed(ends)]
            case "call", [who, provider]:
                self.waiting.append(
                    a_record(who, "llm_call", attributes={"provider": provider}, enforce=False)
                )
            case "store", [who, quantity]:
                self.waiting.append(a_record(who, "storage", quantity, enforce=False))
            case "hold", [who, quantity, ttl]:
                self.waiting.append(a_reserve(who, quantity=quantity, ttl_seconds=ttl))
            case "settle", [which, quantity] if which < len(self.held):
                self.waiting.append(a_settle(self.held[which], quantity))
            case "cap", [who, maximum]:
                self.waiting.append(a_limit_set(maximum, who, window="month"))
            case "publish", [shapes]:
                limits = [
                    a_limit(900, meter=meter, window=window, scope=scope) for meter, window, scope in shapes
                ]
                advanced = windows_catalog().plans["advanced"]
                self.waiting.append(a_publication(a_plan(*limits), advanced))
            case "buy", [who, plan, interval]:
                await self.submit(ledger)
                await buy(ledger, plan, who, actor=who, interval=interval)
            case "wait", [seconds]:
                await self.submit(ledger)
                self.clock.advance(seconds=seconds)
            case "at once", []:
                await self.submit(ledger)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(
    steps=[("record", "tom", 1, 0), ("publish", [("messages", "minute", "account")]), ("record", "tom", 1, 0)]
)
async def test_whatever_was_done_verifies(tmp_path_factory: Any, steps: list[Any]) -> None:
    history = History(tmp_path_factory.mktemp("ledger"))
    lives: list[list[Any]] = [[]]
    for step in steps:
        if step[0] == "restart":
            lives.append([])
        lives[-1].append(step)
    for life in lives:
        if life and life[0][0] == "restart":
            history.groups = life[0][1]
            history.clock.advance(microseconds=1)
        await history.live_through(life)


# Moved


async def export(ledger: Ledger) -> bytes:
    stream = io.BytesIO()
    await ledger.engine.dump(stream.write)
    return stream.getvalue()


async def test_an_export_imported_and_exported_again_is_the_same(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path / "old", catalog=windows_catalog(), clock=clock) as ledger:
        await populate(ledger, clock)
        exported = await export(ledger)
    async with a_ledger(tmp_path / "new", catalog=windows_catalog(), clock=clock, publish=False) as ledger:
        counts = await ledger.engine.load(io.BytesIO(exported))
        assert await export(ledger) == exported
        assert await differences(ledger) == ()
        # The first answers are still the answers, and what was held is settled.
        again = decision_of(await ledger.submit_one(a_record("bob", quantity=99 % 5 + 1, key="key-99")))
        assert again.replayed
        held = decision_of(await ledger.submit_one(a_reserve("bob", quantity=7, key="held")))
        assert held.replayed and held.reservation_id is not None
        assert code_of(await ledger.submit_one(a_settle(held.reservation_id, 5))) == "ok"
        assert code_of(await ledger.submit_one(a_change("basic", confirmation="a-handle"))) == "ok"
        await ledger.submit([a_record("bob"), a_record(a_subject("new", "newer"))])
        assert await differences(ledger) == ()
    assert all(counts.values()) and list(counts) == list(TABLES)
    for table in TABLES.values():
        old, new = (Rows(tmp_path / name).count(table.name) for name in ("old", "new"))
        assert old == counts[table.name] <= new


async def test_an_imported_ledger_that_is_emptied_is_missed(tmp_path: Path) -> None:
    clock = Clock()
    async with a_ledger(tmp_path / "old", clock=clock) as ledger:
        await ledger.submit_one(a_record())
        exported = await export(ledger)
    async with a_ledger(tmp_path / "new", clock=clock, publish=False) as ledger:
        await ledger.engine.load(io.BytesIO(exported))
    os.truncate(tmp_path / "new" / "ledger.db", 0)
    with pytest.raises(LedgerUnusable, match="is empty, and held a ledger"):
        async with a_ledger(tmp_path / "new", clock=clock, publish=False):
            pass


async def test_every_column_travels_or_is_made_anew(rows: Rows, tmp_path: Path) -> None:
    """A column that is added has to be added to the export, and the version of its format raised."""
    async with a_ledger(tmp_path):
        pass
    listed = rows.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    assert {name for (name,) in listed} == TABLES.keys() | STAYS
    for name, table in TABLES.items():
        columns = {column for (column,) in rows.execute(f"SELECT name FROM pragma_table_info('{name}')")}
        surrogates = {"plan_version": {"id"}}.get(name, {"seq"} & columns)
        assert set(table.columns) == columns - surrogates, name


async def test_an_export_names_no_surrogates(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=windows_catalog()) as ledger:
        await ledger.submit_one(a_record(quantity=5, key="k"))
        header, *lines, footer = [json.loads(line) for line in (await export(ledger)).splitlines()]
    assert (header["format"], header["version"]) == ("subscription-mcp ledger", 2)
    assert footer["end"]["rows"] == len(lines) == sum(header["rows"].values())
    (event,) = [line["event"] for line in lines if "event" in line]
    assert event.pop("id")
    assert event == {
        "tenant": "acme",
        "account_kind": "personal",
        "account": "bob",
        "user": "bob",
        "event": "message",
        "plan": "basic",
        "plan_version": 1,
        "quantity": 5,
        "attributes": None,
        "gains": {"messages": 5},
        "source": "app",
        "occurred_at": Clock().now,
        "recorded_at": Clock().now,
        "corrects": None,
        "grants": None,
        "price": None,
    }


async def exported_small(place: Path) -> bytes:
    async with a_ledger(place) as ledger:
        await ledger.submit([a_record(key="k"), a_reserve()])
        return await export(ledger)


def test_the_format_is_written_down() -> None:
    """docs/export-format.md names every field of every table."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", FORMAT.read_text("utf-8"), re.MULTILINE)
    written = {table: frozenset(re.findall(r"`(\w+)`", fields)) for table, fields in rows}
    assert written == {name: table.fields for name, table in TABLES.items()}


def without_the_last_line(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def cut_in_a_line(lines: list[bytes]) -> list[bytes]:
    return [*lines[:5], lines[5][:10]]


def without_a_row(lines: list[bytes]) -> list[bytes]:
    return [*lines[:5], *lines[6:]]


def one_figure_changed(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"used":1}', b'"used":2}') for line in lines]


def with_more_behind(lines: list[bytes]) -> list[bytes]:
    return [*lines, b"\n"]


def a_row_of_other_columns(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"used":', b'"spent":') for line in lines]


def a_text_for_a_number(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"used":1', b'"used":"one"') for line in lines]


def a_fraction_for_a_number(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"used":1', b'"used":1.5') for line in lines]


def a_number_beyond_all(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"used":1', b'"used":99999999999999999999') for line in lines]


def a_wrong_id(lines: list[bytes]) -> list[bytes]:
    return [re.sub(rb'"id":"[0-9a-f]', b'"id":"x', line) for line in lines]


def a_list_for_a_text(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"tenant":"acme"', b'"tenant":["acme"]') for line in lines]


def a_format_of_later(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b'"version":2', b'"version":3'), *lines[1:]]


def a_file_of_something_else(lines: list[bytes]) -> list[bytes]:
    return [b'{"hello": "world"}\n']


def an_empty_file(lines: list[bytes]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    "spoil",
    [
        without_the_last_line,
        cut_in_a_line,
        without_a_row,
        one_figure_changed,
        with_more_behind,
        a_row_of_other_columns,
        a_text_for_a_number,
        a_fraction_for_a_number,
        a_number_beyond_all,
        a_wrong_id,
        a_list_for_a_text,
        a_format_of_later,
        a_file_of_something_else,
        an_empty_file,
    ],
)
async def test_a_file_that_is_not_as_it_was_written_imports_nothing(
    tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    exported = await exported_small(tmp_path / "old")
    spoilt = b"".join(spoil(exported.splitlines(keepends=True)))
    assert spoilt != exported
    async with a_ledger(tmp_path / "new", publish=False) as ledger:
        with pytest.raises(TransferRefused):
            await ledger.engine.load(io.BytesIO(spoilt))
        new = Rows(tmp_path / "new")
        assert not [table for table in TABLES if new.count(table)]
        await ledger.engine.load(io.BytesIO(exported))
        assert await export(ledger) == exported


async def test_an_import_needs_a_ledger_with_nothing_in_it(tmp_path: Path) -> None:
    exported = await exported_small(tmp_path / "old")
    async with a_ledger(tmp_path / "new") as ledger:
        with pytest.raises(TransferRefused, match="needs an empty one"):
            await ledger.engine.load(io.BytesIO(exported))
        assert code_of(await ledger.submit_one(a_record())) == "ok"


# Pruned


async def test_a_key_of_36_days_ago_is_gone_and_may_be_used_again(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        first = decision_of(await ledger.submit_one(a_record(key="k")))
        clock.advance(days=35, microseconds=-1)
        again = decision_of(await ledger.submit_one(a_record(key="k")))
        assert (again.replayed, again.event_id) == (True, first.event_id)
        await ledger.submit_one(a_record())
        assert (rows.count("answer"), rows.count("key_index")) == (1, 1)
        clock.advance(minutes=10)
        await ledger.submit_one(a_record())
        assert (rows.count("answer"), rows.count("key_index")) == (0, 0)
        anew = decision_of(await ledger.submit_one(a_record(key="k")))
        assert not anew.replayed and anew.event_id != first.event_id
        assert decision_of(await ledger.submit_one(a_record(key="k"))).replayed
        assert await differences(ledger) == ()


async def test_a_settled_reservation_is_kept_as_long_as_settling_it_may_be_asked_for_again(
    tmp_path: Path, rows: Rows
) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        settled, left = await ledger.submit([a_reserve(quantity=3), a_reserve("eve", ttl_seconds=60)])
        await ledger.submit_one(a_settle(settled, 2))
        clock.advance(days=35)
        await ledger.submit_one(a_record())
        assert decision_of(await ledger.submit_one(a_settle(settled, 2))).replayed
        assert (rows.count("reservation"), rows.count("hold")) == (2, 2)
        clock.advance(minutes=10)
        await ledger.submit_one(a_record())
        assert (rows.count("reservation"), rows.count("hold")) == (0, 0)
        assert [code_of(await ledger.submit_one(a_settle(one, 2))) for one in (settled, left)] == [
            "not_found"
        ] * 2
        assert await differences(ledger) == ()


async def test_a_reservation_that_still_holds_is_kept_however_old(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await ledger.submit_one(a_reserve(quantity=3, ttl_seconds=40 * 86_400))
        clock.advance(days=39)
        await ledger.submit_one(a_record("eve"))
        assert (rows.count("reservation"), rows.count("hold")) == (1, 2)
        clock.advance(days=1)
        await ledger.submit_one(a_record("eve"))
        assert (rows.count("reservation"), rows.count("hold")) == (0, 0)


async def test_a_session_is_forgotten_400_days_after_its_end(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        closed = await ledger.submit_one(an_opening("bob"))
        clock.advance(hours=1)
        await ledger.submit([a_closing(closed), an_opening("eve")])  # hers ends after a day
        clock.advance(days=400, microseconds=-1)
        await ledger.submit_one(a_record())
        assert duration_of(await ledger.submit_one(a_closing(closed))) == 3_600
        assert rows.count("session") == 2
        clock.advance(minutes=10)
        await ledger.submit_one(a_record())
        assert rows.count("session") == 1
        clock.advance(days=1)
        await ledger.submit_one(a_record())
        assert rows.count("session") == 0


async def test_counters_end_400_days_after_their_period_and_rollups_stay(tmp_path: Path, rows: Rows) -> None:
    windows = ("hour", "day", "week", "month", "billing_period", "lifetime")
    catalog = a_catalog(a_plan(*[a_limit(100, window=window) for window in windows]))
    # It was Friday the 20th of November; a billing period may be a year long.
    left_after = {0: 6, 400: 5, 401: 4, 403: 3, 411: 2, 764: 2, 766: 1}
    clock = Clock()
    async with a_ledger(tmp_path, catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(a_record())
        begun = clock.now + HOUR
        for days, left in left_after.items():
            clock.now = begun + days * DAY
            await ledger.submit_one(a_closing("nobody"))
            await ledger.submit_one(a_change("advanced", "eve", actor="eve", offer=f"handle-{days}"))
            await ledger.submit_one(Arrive(a_subject(f"user{days}")))
            of_bob = f"SELECT count(*) FROM counter WHERE {BOBS}"
            assert (days, rows.execute(of_bob)[0][0]) == (days, left)
            assert await differences(ledger) == ()
        assert (rows.count("rollup"), rows.count("event")) == (1, 1)


async def test_a_rolling_window_ends_when_nothing_in_it_counts_any_more(tmp_path: Path, rows: Rows) -> None:
    limits = [a_limit(5, window=window) for window in ("minute", "rolling:PT5H")]
    clock = Clock()
    async with a_ledger(tmp_path, catalog=a_catalog(a_plan(*limits)), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=5))
        left = []
        for seconds in (60 * 60, 4 * 60 * 60 - 1, 30 * 60):
            clock.advance(seconds=seconds)
            await ledger.submit_one(Arrive(a_subject(f"user{seconds}")))
            left.append(rows.count("rolling"))
            assert await differences(ledger) == ()
        assert left == [1, 1, 0]
        assert code_of(await ledger.submit_one(a_record(quantity=5))) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        assert await differences(ledger) == ()


async def test_each_batch_prunes_a_few_rows_and_more_than_it_adds(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await ledger.submit([a_record("bob", key=f"key-{n}", enforce=False) for n in range(500)])
        clock.advance(days=36)
        left = [500]
        while left[-1]:
            await ledger.submit([a_record("eve", enforce=False)])
            left.append(rows.count("answer"))
            assert 0 < left[-2] - left[-1] <= 40
        await ledger.submit([a_record("bob", key=f"key-{n}", enforce=False) for n in range(500)])
        clock.advance(days=36)
        await ledger.submit([a_record("eve", key=f"her-{n}", enforce=False) for n in range(300)])
        assert rows.count("answer") == 300


async def test_keys_of_one_hash_close_up_when_one_is_forgotten(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite_answers, sqlite_prune, sqlite_consistency):
        monkeypatch.setattr(module, "hash_of_key", lambda key: 1_000 + len(key[2]) % 2)
    clock = Clock()
    keys = ["a", "bb", "c", "dd", "e", "ff"]
    async with a_ledger(tmp_path, clock=clock) as ledger:
        for key in keys:
            await ledger.submit_one(a_record(key=key))
            clock.advance(hours=1)
        for day in range(1, len(keys) + 1):
            clock.now = Clock().now + 35 * DAY + (day - 1) * HOUR
            await ledger.submit_one(a_record("eve"))
            assert rows.count("answer") == len(keys) - day
            assert await differences(ledger) == ()
            for key in keys[day:]:
                assert decision_of(await ledger.submit_one(a_record(key=key))).replayed


async def test_several_processes_prune_one_ledger(tmp_path: Path, rows: Rows) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as one, a_ledger(tmp_path, clock=clock) as other:
        await one.submit([a_record("bob", key=f"key-{n}", enforce=False) for n in range(200)])
        clock.advance(days=36)
        for number in range(20):
            await one.submit_one(a_record("eve", enforce=False))
            await other.submit_one(a_record("bob", key=f"key-{number}", enforce=False))
        assert rows.count("answer") == 20
        assert await differences(one) == ()


async def test_a_sweep_that_fails_harms_no_batch(
    tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with a_ledger(tmp_path, clock=clock) as ledger:
        await ledger.submit([a_record(key="k"), a_reserve("eve")])
        clock.advance(days=36)
        rows.execute("ALTER TABLE session RENAME TO session_elsewhere")
        rows.execute("CREATE VIEW session AS SELECT no_such_column FROM offer")
        assert code_of(await ledger.submit_one(a_record("eve"))) == "ok"
        assert "the next sweep tries again" in caplog.text
        assert (rows.count("event"), rows.count("answer")) == (2, 1)
        rows.execute("DROP VIEW session")
        rows.execute("ALTER TABLE session_elsewhere RENAME TO session")
        clock.advance(minutes=10)
        assert code_of(await ledger.submit_one(a_record("eve"))) == "ok"
        assert rows.count("answer") == 0


async def test_over_the_years_only_what_happened_grows(tmp_path: Path, rows: Rows) -> None:
    """Three years in steps of six days, with everything that leaves rows behind."""
    clock = Clock()
    bounded = ("answer", "key_index", "reservation", "hold", "session", "offer", "counter", "rolling")
    most: dict[str, list[int]] = {table: [] for table in bounded}
    async with a_ledger(tmp_path, catalog=windows_catalog(), clock=clock) as ledger:
        for step in range(184):
            clock.advance(days=6)
            await ledger.submit([a_record("bob", key=f"key-{step}"), an_opening("bob", key=f"open-{step}")])
            held, _ = await ledger.submit(
                [a_reserve("eve", key=f"held-{step}"), a_reserve("bob", ttl_seconds=9)]
            )
            await ledger.submit([a_settle(held), a_change("advanced", offer=f"handle-{step}")])
            for table in bounded:
                most[table].append(rows.count(table))
        assert await differences(ledger) == ()
    for table, counts in most.items():
        # As many in the third year as in the second.
        assert max(counts[122:]) <= max(counts[72:122]) + 3, (table, counts[::20])
    assert rows.count("event") == 2 * 184
