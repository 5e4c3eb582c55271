"""Copies of a SQLite ledger: made under load, put back whole or not at all."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.builders import Clock, a_ledger, a_record, code_of

from subscription_mcp.domain.instants import DAY
from subscription_mcp.ledger import sqlite_backup
from subscription_mcp.ledger.port import EventPage, LedgerUnusable, TransferRefused, Whose
from subscription_mcp.ledger.sqlite_backup import back_up, restore
from subscription_mcp.ledger.sqlite_schema import APPLICATION_ID
from subscription_mcp.ledger.writer import Ledger


async def users_of(ledger: Ledger) -> set[str]:
    """Who has an event in the ledger."""
    clock = Clock()
    page, _ = await ledger.query(EventPage(Whose("acme"), clock.now - DAY, clock.now + DAY, -1))
    return {event.user for _, event in page}


async def a_ledger_of(place: Path, *users: str) -> Path:
    async with a_ledger(place) as ledger:
        await ledger.submit([a_record(user) for user in users])
    return place / "ledger.db"


async def users_in(place: Path) -> set[str]:
    async with a_ledger(place) as ledger:
        assert (await ledger.engine.verify()).differences == ()
        return await users_of(ledger)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Made


async def test_a_copy_made_under_load_is_one_whole_file_with_everything_answered_before(
    tmp_path: Path,
) -> None:
    place, target = tmp_path / "ledger", tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    answered: list[str] = []
    async with a_ledger(place) as ledger:
        copying = None
        for number in range(2_000):
            assert code_of(await ledger.submit_one(a_record(f"user{number}"))) == "ok"
            answered.append(f"user{number}")
            if number == 500:
                copying = asyncio.ensure_future(asyncio.to_thread(back_up, place / "ledger.db", target))
                before = set(answered)
            if copying is not None and copying.done():
                break
        assert copying is not None
        assert await copying == target.stat().st_size
    assert names_in(target.parent) == {"copy.db"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    (tmp_path / "elsewhere").mkdir()
    target.rename(tmp_path / "elsewhere" / "ledger.db")
    found = await users_in(tmp_path / "elsewhere")
    assert before <= found <= set(answered)


async def test_a_copy_takes_what_still_stands_in_the_log(tmp_path: Path) -> None:
    async with a_ledger(tmp_path / "a") as ledger:
        await ledger.submit_one(a_record("bob"))
        assert (tmp_path / "a" / "ledger.db-wal").stat().st_size > 0
        (tmp_path / "b").mkdir()
        back_up(tmp_path / "a" / "ledger.db", tmp_path / "b" / "ledger.db")
    assert await users_in(tmp_path / "b") == {"bob"}


async def test_a_copy_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    ledger = await a_ledger_of(tmp_path / "a", "bob")
    with pytest.raises(TransferRefused, match="cannot be written"):
        back_up(ledger, tmp_path / "no" / "such" / "copy.db")
    with pytest.raises(TransferRefused, match="Name another one"):
        back_up(ledger, tmp_path / "a" / "ledger.db")
    with pytest.raises(TransferRefused, match="Name another one"):
        back_up(ledger, tmp_path / "a" / ".." / "a" / "ledger.db-wal")
    assert await users_in(tmp_path / "a") == {"bob"}


async def test_damage_is_not_copied_over_a_good_copy(tmp_path: Path) -> None:
    ledger = await a_ledger_of(tmp_path / "a", "bob")
    back_up(ledger, tmp_path / "copy.db")
    good = (tmp_path / "copy.db").read_bytes()
    whole = bytearray(ledger.read_bytes())
    whole[4096 * 3 : 4096 * 4] = bytes(4096)
    ledger.write_bytes(whole)
    with pytest.raises((TransferRefused, LedgerUnusable), match="damaged"):
        back_up(ledger, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes() == good
    assert names_in(tmp_path) == {"a", "copy.db"}


# Put back


async def test_a_copy_takes_the_ledgers_place_which_is_kept(tmp_path: Path) -> None:
    ledger = await a_ledger_of(tmp_path / "a", "bob")
    back_up(ledger, tmp_path / "copy.db")
    await a_ledger_of(tmp_path / "a", "eve")
    assert restore(ledger, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert await users_in(tmp_path / "a") == {"bob"}
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "aside.db").rename(tmp_path / "b" / "ledger.db")
    assert await users_in(tmp_path / "b") == {"bob", "eve"}


async def test_a_copy_makes_a_ledger_where_there_is_none(tmp_path: Path) -> None:
    back_up(await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "copy.db")
    assert not restore(tmp_path / "new" / "ledger.db", tmp_path / "copy.db", tmp_path / "new" / "aside.db")
    assert await users_in(tmp_path / "new") == {"bob"}
    assert "aside.db" not in names_in(tmp_path / "new")


async def test_nothing_is_put_in_place_of_a_ledger_that_somebody_has_open(tmp_path: Path) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    back_up(path, tmp_path / "copy.db")
    async with a_ledger(tmp_path / "a") as ledger:
        await ledger.submit_one(a_record("eve"))
        with pytest.raises(LedgerUnusable, match="open in another program"):
            restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
        assert await users_of(ledger) == {"bob", "eve"}
        assert code_of(await ledger.submit_one(a_record("tom"))) == "ok"
    restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert await users_in(tmp_path / "a") == {"bob"}


async def test_nobody_opens_or_copies_a_ledger_while_another_is_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    back_up(path, tmp_path / "copy.db")
    check, seen = sqlite_backup.check_copy, []

    def try_meanwhile(copy: Path) -> None:
        check(copy)
        if copy.parent != path.parent:
            return
        with pytest.raises(LedgerUnusable, match="being restored"):
            asyncio.run(a_ledger_of(tmp_path / "a"))
        with pytest.raises(LedgerUnusable, match="being restored"):
            back_up(path, tmp_path / "another.db")
        seen.append(copy)

    monkeypatch.setattr(sqlite_backup, "check_copy", try_meanwhile)
    await asyncio.to_thread(restore, path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert len(seen) == 1
    assert await users_in(tmp_path / "a") == {"bob"}


async def test_a_damaged_ledger_is_replaced_and_kept_with_its_log(tmp_path: Path) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    back_up(path, tmp_path / "copy.db")
    path.write_bytes(b"rubbish" * 1_000)
    wal = tmp_path / "a" / "ledger.db-wal"
    wal.write_bytes(b"a log")
    assert restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert await users_in(tmp_path / "a") == {"bob"}
    assert (tmp_path / "a" / "aside.db").read_bytes() == b"rubbish" * 1_000
    assert (tmp_path / "a" / "aside.db-wal").read_bytes() == b"a log"


async def test_what_a_killed_process_left_in_the_log_is_kept_too(tmp_path: Path) -> None:
    back_up(await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "copy.db")
    path = tmp_path / "b" / "ledger.db"
    async with a_ledger(tmp_path / "a") as ledger:
        await ledger.submit_one(a_record("eve"))
        path.parent.mkdir()
        for suffix in ("", "-wal"):  # as they lie on the disk when the process dies now
            path.with_name(path.name + suffix).write_bytes(
                (tmp_path / "a" / f"ledger.db{suffix}").read_bytes()
            )
    restore(path, tmp_path / "copy.db", tmp_path / "b" / "aside.db")
    assert await users_in(tmp_path / "b") == {"bob"}
    (tmp_path / "c").mkdir()
    (tmp_path / "b" / "aside.db").rename(tmp_path / "c" / "ledger.db")
    assert await users_in(tmp_path / "c") == {"bob", "eve"}


def that_is_another_programs(copy: Path) -> None:
    copy.unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def of_a_newer_schema(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA user_version = 9999")


def without_a_schema(copy: Path) -> None:
    copy.unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def that_is_empty(copy: Path) -> None:
    copy.write_bytes(b"")


def that_is_no_database(copy: Path) -> None:
    copy.write_bytes(b"just a few words " * 1_000)


def that_is_cut_short(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def with_a_damaged_page(copy: Path) -> None:
    whole = bytearray(copy.read_bytes())
    whole[4096 * 3 : 4096 * 4] = bytes(4096)
    copy.write_bytes(whole)


def that_is_not_there(copy: Path) -> None:
    copy.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        that_is_another_programs,
        of_a_newer_schema,
        without_a_schema,
        that_is_empty,
        that_is_no_database,
        that_is_cut_short,
        with_a_damaged_page,
        that_is_not_there,
    ],
)
async def test_a_copy_that_is_no_whole_ledger_changes_nothing(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    back_up(path, tmp_path / "copy.db")
    spoil(tmp_path / "copy.db")
    before, names = path.read_bytes(), names_in(tmp_path / "a")
    with pytest.raises(TransferRefused):
        restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert (path.read_bytes(), names_in(tmp_path / "a")) == (before, names)
    with pytest.raises(TransferRefused):
        restore(tmp_path / "new" / "ledger.db", tmp_path / "copy.db", tmp_path / "new" / "aside.db")
    assert not (tmp_path / "new" / "ledger.db").exists()


async def test_a_failure_at_the_last_step_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    back_up(path, tmp_path / "copy.db")
    path.write_bytes(b"rubbish" * 1_000)
    (tmp_path / "a" / "ledger.db-wal").write_bytes(b"a log")
    names = names_in(tmp_path / "a")
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(TransferRefused, match="No space left on device"):
        restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert (path.read_bytes(), names_in(tmp_path / "a")) == (b"rubbish" * 1_000, names)
    assert (tmp_path / "a" / "ledger.db-wal").read_bytes() == b"a log"
