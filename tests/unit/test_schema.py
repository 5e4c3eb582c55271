"""The SQLite schema and file: the house rules of the tables, and what opening refuses."""

import re
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.builders import Clock, a_ledger, a_record, a_reserve, an_opening, code_of, decision_of
from tests.contract.populated import populate, windows_catalog

from subscription_mcp.ledger.port import LedgerUnusable
from subscription_mcp.ledger.sqlite.schema import (
    APPLICATION_ID,
    migrate,
    migrations,
    schema_of_file,
    schema_version,
    statements_of,
)

SURROGATE_IDS = {
    *("word", "plan_version", "event", "answer", "audit", "key_index", "holder", "revocation"),
    *("subscription_history", "alert", "delivery"),
}
"""Tables with an integer of our own as their primary key; their other keys still begin with the tenant."""
WITHOUT_TENANT_FIRST = {
    *("event_by_block", "billing_due_at"),
    *("delivery_by_id", "delivery_due", "delivery_dead"),
}
"""The events of one holder, and a holder has one tenant; who is due, which is asked of all tenants; and messages of all
tenants, which go to one address."""

SCHEMA_THAT_SLIDES, SCHEMA_THAT_CORRECTS = 4, 6
SCHEMA_WITH_LIFECYCLE = 5


@pytest.fixture
def schema():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield connection


def tables_of(connection: sqlite3.Connection) -> list[tuple[str, bool, bool]]:
    """Name, without rowid, strict."""
    rows = connection.execute("PRAGMA table_list").fetchall()
    return [
        (name, bool(without_rowid), bool(strict))
        for schema, name, kind, _, without_rowid, strict in rows
        if schema == "main" and kind == "table" and not name.startswith("sqlite_")
    ]


def columns_of(connection: sqlite3.Connection, table: str) -> list[tuple[str, int]]:
    """Name and place in the primary key (0: not in it), in order of declaration."""
    return [(row[1], row[5]) for row in connection.execute(f"PRAGMA table_info({table})")]


def test_migrations_are_numbered_without_a_gap() -> None:
    assert list(migrations()) == list(range(1, len(migrations()) + 1))


def test_migrating_twice_changes_nothing(schema: sqlite3.Connection) -> None:
    newest = max(migrations())
    assert migrate(schema) == (newest, newest)
    assert schema_version(schema) == newest


def test_every_table_is_strict(schema: sqlite3.Connection) -> None:
    assert [name for name, _, strict in tables_of(schema) if not strict] == []


def test_key_columns_are_the_first_columns_in_key_order(schema: sqlite3.Connection) -> None:
    for table, without_rowid, _ in tables_of(schema):
        if without_rowid:
            places = [place for _, place in columns_of(schema, table)]
            keys = len([place for place in places if place])
            assert places[:keys] == list(range(1, keys + 1)), table


def test_every_key_of_a_table_with_a_tenant_begins_with_it(schema: sqlite3.Connection) -> None:
    for table, _, _ in tables_of(schema):
        columns = columns_of(schema, table)
        if "tenant" not in dict(columns):
            continue
        primary = [name for name, place in sorted(columns, key=lambda column: column[1]) if place]
        assert primary[0] == "tenant" or table in SURROGATE_IDS, table
        for _, index, *_ in schema.execute(f"PRAGMA index_list({table})").fetchall():
            if index in WITHOUT_TENANT_FIRST:
                continue
            first = schema.execute(f"PRAGMA index_info({index})").fetchone()[2]
            assert first == "tenant", index


def test_no_column_holds_a_float(schema: sqlite3.Connection) -> None:
    types = {
        row[2] for table, *_ in tables_of(schema) for row in schema.execute(f"PRAGMA table_info({table})")
    }
    assert types == {"INTEGER", "TEXT", "BLOB"}


NOW_CALLED = {("subscription", "status"): "'active'", ("subscription", "next_plan_at"): "scheduled_at"}
"""What the newest schema has for a column of an earlier one: another name, or what it always was."""


def column_names(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]


def written_by_schema(schema: int, path: Path, newest: Path) -> dict[str, list[Any]]:
    """Make a ledger of an earlier schema with what it has room for of a newest one's rows; those rows."""
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        for number in range(1, schema + 1):
            for statement in statements_of(migrations()[number]):
                old.execute(statement)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute(f"PRAGMA user_version = {schema}")
        old.execute("ATTACH ? AS newest", (str(newest),))
        tables = [name for name, *_ in tables_of(old)]
        for table in tables:
            names = column_names(old, table)
            called = NOW_CALLED if schema < SCHEMA_WITH_LIFECYCLE else {}
            now = ", ".join(called.get((table, name), name) for name in names)
            old.execute(f"DELETE FROM main.{table}")
            old.execute(f"INSERT INTO main.{table} ({', '.join(names)}) SELECT {now} FROM newest.{table}")
        # What the trail said of plans and subscriptions was less then.
        old.execute("DELETE FROM main.audit WHERE action = 'plans.publish'")
        old.execute(
            "UPDATE main.audit SET after = json_remove(after, '$.billing_anchor', '$.next_interval')"
            " WHERE action LIKE 'subscription.%'"
        )
        old.execute("DETACH newest")
        return {
            table: old.execute(_as_they_were(columns_in(old, table), schema)).fetchall() for table in tables
        }


def _as_they_were(select: str, schema: int) -> str:
    return select.replace("scheduled_at", "next_plan_at") if schema < SCHEMA_WITH_LIFECYCLE else select


def columns_in(connection: sqlite3.Connection, table: str) -> str:
    """Every column that is there to this day, as the newest schema calls it."""
    names = [NOW_CALLED.get((table, name), name) for name in column_names(connection, table)]
    return f"SELECT {', '.join(name for name in names if not name.startswith(chr(39)))} FROM {table}"


@pytest.mark.parametrize("schema", range(1, max(migrations())))
async def test_a_ledger_of_every_earlier_schema_is_migrated_and_keeps_its_rows(
    tmp_path: Path, schema: int
) -> None:
    clock, sliding = Clock(), schema >= SCHEMA_THAT_SLIDES
    catalog = windows_catalog(sliding=sliding)
    async with a_ledger(tmp_path / "newest", catalog=catalog, clock=clock) as ledger:
        await populate(ledger, clock, sliding=sliding, correcting=schema >= SCHEMA_THAT_CORRECTS)
    path = tmp_path / "ledger.db"
    before = written_by_schema(schema, path, tmp_path / "newest" / "ledger.db")
    with closing(sqlite3.connect(path)) as old:
        selects = {table: columns_in(old, table) for table in before}
    assert before["event"] and before["answer"]
    assert schema_of_file(path) == (schema, max(migrations()))

    async with a_ledger(tmp_path, catalog=catalog, clock=clock, publish=False) as ledger:
        assert schema_of_file(path) == (max(migrations()), max(migrations()))
        with closing(sqlite3.connect(path)) as migrated:
            assert {table: migrated.execute(select).fetchall() for table, select in selects.items()} == before
        assert (await ledger.engine.verify()).differences == ()
        again = decision_of(await ledger.submit_one(a_record(quantity=99 % 5 + 1, key="key-99")))
        assert again.replayed
        held = decision_of(await ledger.submit_one(a_reserve("eve", quantity=4)))
        assert {state.held for state in held.limits} == {4}
        assert code_of(await ledger.submit_one(an_opening("eve"))) == "ok"
        assert (await ledger.engine.verify()).differences == ()


async def test_the_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    async with a_ledger(tmp_path / "new"):
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert {"ledger.db", "ledger.db.lock"} <= set(files)
    assert set(files.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


async def refusal_to_open(place: Path) -> str:
    with pytest.raises(LedgerUnusable) as caught:
        async with a_ledger(place):
            pass
    return str(caught.value)


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    message = await refusal_to_open(tmp_path)
    assert re.search(r"The database path is a folder: .* Name a file in it, like .*ledger\.db\.", message)


@pytest.mark.parametrize("statement", ["CREATE TABLE theirs (x)", "PRAGMA application_id = 42"])
async def test_another_programs_database_is_left_alone(tmp_path: Path, statement: str) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute(statement)
        connection.commit()
    before = (tmp_path / "ledger.db").read_bytes()
    message = await refusal_to_open(tmp_path)
    assert "is the database of another program. Name another file in DATABASE_URL." in message
    assert (tmp_path / "ledger.db").read_bytes() == before


async def test_a_newer_schema_wants_the_newer_version(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 9999")
    message = await refusal_to_open(tmp_path)
    assert "The database has schema 9999" in message
    assert "Install the newer version again." in message


async def test_a_file_that_is_no_database_says_to_restore_a_backup(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database at all, just a few words " * 100)
    message = await refusal_to_open(tmp_path)
    assert "file is not a database" in message
    assert "restore a backup" in message


async def test_a_file_cut_short_says_to_restore_a_backup(tmp_path: Path) -> None:
    async with a_ledger(tmp_path):
        pass
    whole = (tmp_path / "ledger.db").read_bytes()
    (tmp_path / "ledger.db").write_bytes(whole[:8192])
    assert "restore a backup" in await refusal_to_open(tmp_path)


async def test_a_path_below_a_file_says_what_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "must be writable" in await refusal_to_open(tmp_path / "file" / "below")


async def test_a_copy_of_a_closed_ledger_opens_elsewhere(tmp_path: Path) -> None:
    async with a_ledger(tmp_path / "a"):
        pass
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with a_ledger(tmp_path / "b") as ledger:
        assert await ledger.ready()
