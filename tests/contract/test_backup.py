"""Copies of a SQLite ledger: made under load, put back whole or not at all."""

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.builders import Clock, a_change, a_ledger, a_record, buy, code_of

from subscription_mcp.domain.instants import DAY
from subscription_mcp.ledger.commands import Actor, RevokeTokens
from subscription_mcp.ledger.port import LedgerUnusable, TransferRefused, Verification
from subscription_mcp.ledger.queries import AuditTrail, EventPage, RevocationsSince, Whose
from subscription_mcp.ledger.sqlite import backup as sqlite_backup
from subscription_mcp.ledger.sqlite.backup import Restored, back_up, restore
from subscription_mcp.ledger.sqlite.schema import APPLICATION_ID, SCHEMA_WITH_REVOCATIONS, migrations
from subscription_mcp.ledger.sqlite.verify import verify_copy
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


# Made over one that was opened as a ledger


async def a_copy_that_was_opened(tmp_path: Path) -> tuple[Path, Path]:
    """A ledger, and a copy of it where somebody counted an hour later and died."""
    path = await a_ledger_of(tmp_path / "a", "bob")
    (tmp_path / "b").mkdir()
    (tmp_path / "dead").mkdir()
    back_up(path, tmp_path / "b" / "ledger.db")
    clock = Clock()
    clock.advance(hours=1)
    async with a_ledger(tmp_path / "b", clock=clock) as ledger:
        await ledger.submit_one(a_record("eve"))
        for file in (tmp_path / "b").iterdir():
            shutil.copy(file, tmp_path / "dead" / file.name)
    return path, tmp_path / "dead" / "ledger.db"


async def test_a_copy_over_one_with_a_log_is_the_new_one_alone(tmp_path: Path) -> None:
    path, target = await a_copy_that_was_opened(tmp_path)
    assert target.with_name("ledger.db-wal").stat().st_size > 0
    await a_ledger_of(tmp_path / "a", "tom")
    back_up(path, target)
    assert names_in(target.parent) == {"ledger.db", "ledger.db.lock", "ledger.db.open"}
    assert verified(target).events == 2
    assert await users_in(target.parent) == {"bob", "tom"}


async def test_a_copy_over_one_with_a_journal_is_the_new_one_alone(tmp_path: Path) -> None:
    path, target = await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "dead" / "ledger.db"
    target.parent.mkdir()
    back_up(path, tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE wide AS SELECT zeroblob(100000)")
        for name in ("ledger.db", "ledger.db-journal"):
            shutil.copy(tmp_path / name, target.parent / name)
    await a_ledger_of(tmp_path / "a", *(f"user{n}" for n in range(1_000)))
    back_up(path, target)
    assert not target.with_name("ledger.db-journal").exists()
    assert len(await users_in(target.parent)) == 1_001


async def test_a_copy_over_one_that_was_written_later_raises_no_alarm(tmp_path: Path) -> None:
    path, _ = await a_copy_that_was_opened(tmp_path)
    back_up(path, tmp_path / "b" / "ledger.db")
    assert await users_in(tmp_path / "b") == {"bob"}


async def test_no_copy_is_made_over_a_ledger_that_somebody_has_open(tmp_path: Path) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    async with a_ledger(tmp_path / "b") as ledger:
        names = names_in(tmp_path / "b")
        with pytest.raises(LedgerUnusable, match=r"open in another program.* then copy again"):
            back_up(path, tmp_path / "b" / "ledger.db")
        assert names_in(tmp_path / "b") == names
        assert code_of(await ledger.submit_one(a_record("eve"))) == "ok"
    assert await users_in(tmp_path / "b") == {"eve"}


async def test_who_opens_the_old_copy_while_a_new_one_is_made_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    (tmp_path / "b").mkdir()
    back_up(path, tmp_path / "b" / "ledger.db")
    check = sqlite_backup.check_copy

    def open_meanwhile(copy: Path) -> None:
        check(copy)
        asyncio.run(a_ledger_of(tmp_path / "b", "eve"))

    monkeypatch.setattr(sqlite_backup, "check_copy", open_meanwhile)
    with pytest.raises(LedgerUnusable, match="opened by another program meanwhile"):
        await asyncio.to_thread(back_up, path, tmp_path / "b" / "ledger.db")
    assert await users_in(tmp_path / "b") == {"bob", "eve"}


async def test_a_copy_that_another_program_gave_a_log_is_not_called_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "copy.db"
    replace = Path.replace

    def and_a_log(self: Path, to: Path) -> Path:
        target.with_name("copy.db-wal").write_bytes(b"a log")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", and_a_log)
    with pytest.raises(TransferRefused, match=r"in use by another program, which made copy\.db-wal"):
        back_up(path, target)


@pytest.mark.parametrize("harm", [None, "rubbish"])
async def test_a_process_that_dies_before_the_copy_takes_its_name_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str | None
) -> None:
    path, target = await a_copy_that_was_opened(tmp_path)
    log = target.with_name("ledger.db-wal")
    if harm:
        target.write_bytes(harm.encode())
    was, replace = log.read_bytes(), Path.replace

    def fails(self: Path, to: Path) -> Path:
        if to == target:
            assert not log.exists()
            (tmp_path / "c").mkdir()
            shutil.copy(target, tmp_path / "c" / "ledger.db")
            raise OSError(28, "No space left on device")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(TransferRefused, match="No space left on device"):
        back_up(path, target)
    if harm:
        assert (target.read_bytes(), log.read_bytes()) == (harm.encode(), was)
    else:
        assert await users_in(tmp_path / "c") == {"bob", "eve"}
        assert await users_in(target.parent) == {"bob", "eve"}


# Put back


async def test_a_copy_takes_the_ledgers_place_which_is_kept(tmp_path: Path) -> None:
    ledger = await a_ledger_of(tmp_path / "a", "bob")
    back_up(ledger, tmp_path / "copy.db")
    await a_ledger_of(tmp_path / "a", "eve")
    assert restore(ledger, tmp_path / "copy.db", tmp_path / "a" / "aside.db").is_kept
    assert await users_in(tmp_path / "a") == {"bob"}
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "aside.db").rename(tmp_path / "b" / "ledger.db")
    assert await users_in(tmp_path / "b") == {"bob", "eve"}


async def test_a_copy_makes_a_ledger_where_there_is_none(tmp_path: Path) -> None:
    back_up(await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "copy.db")
    made = restore(tmp_path / "new" / "ledger.db", tmp_path / "copy.db", tmp_path / "new" / "aside.db")
    assert made == Restored(False, 0, are_all_revocations=False)
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
    done = restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert done == Restored(True, 0, are_all_revocations=False)
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


async def test_a_ledger_behind_a_link_is_copied_and_replaced_where_it_lies(tmp_path: Path) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    (tmp_path / "linked").mkdir()
    link, copy = tmp_path / "linked" / "ledger.db", tmp_path / "copy.db"
    link.symlink_to(path)
    back_up(link, copy)
    assert await users_in(tmp_path / "linked") == {"bob"}
    await a_ledger_of(tmp_path / "linked", "eve")
    async with a_ledger(tmp_path / "linked"):
        for name in (link, path):
            with pytest.raises(LedgerUnusable, match="open in another program"):
                restore(name, copy, tmp_path / "a" / "aside.db")
            with pytest.raises(LedgerUnusable, match="open in another program"):
                back_up(await a_ledger_of(tmp_path / "other", "tom"), name)
    restore(link, copy, tmp_path / "a" / "aside.db")
    assert link.is_symlink()
    assert names_in(link.parent) == {"ledger.db"}
    assert await users_in(tmp_path / "a") == {"bob"}


# What was revoked stays revoked, and what was confirmed is not confirmed again

OPERATOR = Actor("olivia", "superadmin")


async def revoke(place: Path, *tokens: str) -> None:
    clock = Clock()
    clock.advance(hours=1)
    async with a_ledger(place, clock=clock) as ledger:
        for token in tokens:
            revoked = RevokeTokens(OPERATOR, clock.now, reason="lost", token_id=token, tenant="acme")
            assert code_of(await ledger.submit_one(revoked)) == "ok"


async def revoked_in(place: Path) -> list[str]:
    """The tokens, each with an entry in the trail."""
    async with a_ledger(place) as ledger:
        assert (await ledger.engine.verify()).differences == ()
        revoked = await ledger.query(RevocationsSince(0))
        trail = await ledger.query(AuditTrail(Whose("acme"), "token.revoke", -1))
        assert {one.id for one in trail} == {one.id for one in revoked}
        return [one.token_id for one in revoked]


async def test_what_was_revoked_since_the_copy_stays_revoked(tmp_path: Path) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    await revoke(tmp_path / "a", "before")
    back_up(path, tmp_path / "copy.db")
    await revoke(tmp_path / "a", "since", "also since")
    done = restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert done == Restored(True, 2, are_all_revocations=True)
    assert await revoked_in(tmp_path / "a") == ["before", "since", "also since"]
    again = restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside2.db")
    assert again.revocations_taken_over == 2
    assert await revoked_in(tmp_path / "a") == ["before", "since", "also since"]


async def test_what_was_revoked_since_is_taken_over_into_a_copy_of_an_older_schema(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        for number in range(1, SCHEMA_WITH_REVOCATIONS):
            connection.executescript(migrations()[number])
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_WITH_REVOCATIONS - 1}")
    path = await a_ledger_of(tmp_path / "a", "bob")
    await revoke(tmp_path / "a", "since")
    assert restore(path, copy, tmp_path / "a" / "aside.db").revocations_taken_over == 1
    assert await revoked_in(tmp_path / "a") == ["since"]


async def test_who_cannot_tell_what_was_revoked_says_so(tmp_path: Path) -> None:
    path = await a_ledger_of(tmp_path / "a", "bob")
    back_up(path, tmp_path / "copy.db")
    await revoke(tmp_path / "a", "since")
    for number, harm in enumerate((that_is_no_database, that_is_empty)):
        harm(path)
        done = restore(path, tmp_path / "copy.db", tmp_path / "a" / f"aside{number}.db")
        assert done == Restored(True, 0, are_all_revocations=False)
        assert await revoked_in(tmp_path / "a") == []
    await revoke(tmp_path / "a", "since")
    path.write_bytes((tmp_path / "copy.db").read_bytes())  # a whole ledger, and not the last that was here
    done = restore(path, tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    assert done == Restored(True, 0, are_all_revocations=False)


async def test_a_confirmation_handed_out_before_the_copy_is_no_good_after_it_is_put_back(
    tmp_path: Path,
) -> None:
    async with a_ledger(tmp_path / "a") as ledger:
        await ledger.submit_one(a_change("premium", offer="handle"))
        back_up(tmp_path / "a" / "ledger.db", tmp_path / "copy.db")
        assert code_of(await ledger.submit_one(a_change("premium", confirmation="handle"))) == "ok"
    restore(tmp_path / "a" / "ledger.db", tmp_path / "copy.db", tmp_path / "a" / "aside.db")
    async with a_ledger(tmp_path / "a") as ledger:
        again = await ledger.submit_one(a_change("premium", confirmation="handle"))
        assert code_of(again) == "invalid_request"
        assert code_of(await buy(ledger, "premium")) == "ok"


# Verified where it lies


def verified(path: Path) -> Verification:
    return verify_copy(path, Clock(), {"storage_mb"})


@pytest.mark.parametrize("how", ["a copy", "a ledger that was closed", "a copy nobody may write"])
async def test_a_copy_is_verified_without_touching_it_or_its_folder(tmp_path: Path, how: str) -> None:
    path, copy = await a_ledger_of(tmp_path / "a", "bob", "eve"), tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    async with a_ledger(tmp_path / "a") as ledger:
        expected = await ledger.engine.verify()
        back_up(path, copy)
    if how == "a ledger that was closed":
        copy.write_bytes(path.read_bytes())
    before, stood = copy.read_bytes(), (copy.stat().st_mtime_ns, copy.parent.stat().st_mtime_ns)
    if how == "a copy nobody may write":
        copy.chmod(0o400)
        copy.parent.chmod(0o500)
    assert verified(copy) == expected
    copy.parent.chmod(0o700)
    assert (copy.read_bytes(), names_in(copy.parent)) == (before, {"copy.db"})
    assert (copy.stat().st_mtime_ns, copy.parent.stat().st_mtime_ns) == stood


async def test_what_is_wrong_in_a_copy_is_found(tmp_path: Path) -> None:
    back_up(await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db", isolation_level=None)) as connection:
        connection.execute("UPDATE counter SET used = 7")
    assert "says 7; the events say 1." in verified(tmp_path / "copy.db").differences[0]
    with_a_damaged_page(tmp_path / "copy.db")
    assert "damaged" in verified(tmp_path / "copy.db").differences[0]


def of_an_older_schema(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA user_version = 2")


def with_a_log(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
    copy.with_name("copy.db-wal").write_bytes(b"a log")


async def test_what_cannot_be_verified_is_left_as_it_is(tmp_path: Path) -> None:
    path, copy = await a_ledger_of(tmp_path / "a", "bob"), tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    for spoil, said in (
        (of_an_older_schema, "has schema 2, .* `restore` it"),
        (of_a_newer_schema, "has schema 9999, .* the version that made it"),
        (that_is_another_programs, "is the database of another program"),
        (that_is_empty, "holds no ledger"),
        (that_is_no_database, "is damaged"),
        (with_a_log, "a ledger with a log beside it"),
        (that_is_not_there, "There is no file"),
    ):
        back_up(path, copy)
        spoil(copy)
        before = copy.read_bytes() if copy.exists() else None
        names = names_in(copy.parent)
        with pytest.raises(LedgerUnusable, match=said):
            verified(copy)
        assert names_in(copy.parent) == names
        assert before is None or copy.read_bytes() == before


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
