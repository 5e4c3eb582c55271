"""When the disk, the file or another program will not: nothing half done, a clear answer, and back by itself
where that can be."""

import asyncio
import itertools
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest
from tests.builders import (
    ENGINES,
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_plan,
    a_publication,
    a_record,
    code_of,
    decision_of,
)
from tests.chaos.faults import Faults, Kind, Stopped, abandon
from tests.chaos.faults import connecting as connecting_to
from tests.chaos.power import Disk, connecting
from tests.chaos.recount import recount

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.ledger.commands import Outcome, PlansPublished
from subscription_mcp.ledger.filelock import FileLock
from subscription_mcp.ledger.port import LedgerUnusable
from subscription_mcp.ledger.sqlite import engine as sqlite_engine
from subscription_mcp.ledger.sqlite import schema as sqlite_schema
from subscription_mcp.ledger.sqlite.backup import back_up, restore

CATALOG = a_catalog(a_plan(a_limit(UNLIMITED)))
USERS = ("ann", "bob", "cleo")


FAILURES = {"full": apsw.FullError, "read-only": apsw.ReadOnlyError, "broken": apsw.IOError}


@pytest.mark.parametrize("lasts", [1, 1_000], ids=["once", "until mended"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_disk_that_fails_at_any_operation_leaves_all_or_nothing_and_heals(
    tmp_path: Path, failure: str, lasts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_ROWS", 1)
    failing: Iterator[int] = iter(())

    def before() -> None:
        if next(failing, 0):
            raise FAILURES[failure]

    disk = Disk(f"disk-{tmp_path.name}", before=before)
    async with a_ledger(tmp_path, catalog=CATALOG, connect=connecting(disk)) as ledger:
        recorded, first, failures = 0, 0, 1
        while failures:
            batch = [a_record(user, key=f"{user}-{first}") for user in USERS]
            failing = iter([0] * first + [1] * lasts)
            outcomes = await ledger.submit(batch)
            failures = first + lasts - len(list(failing)) > first
            failing = iter(())
            codes = {code_of(outcome) for outcome in outcomes}
            assert codes in ({"ok"}, {"unavailable"})
            # The same requests again: done now, or told that they were.
            again = [decision_of(outcome) for outcome in await ledger.submit(batch)]
            assert {one.replayed for one in again} == {codes == {"ok"}}
            recorded += len(USERS)
            assert recount_of_a_copy(tmp_path) == recorded
            first += 1
        assert first > 5, "a batch is more than five operations of the disk"
    disk.unregister()


def recount_of_a_copy(place: Path) -> int:
    """Another SQLite library in this process would, when it closes the file, give up the locks of both."""
    with TemporaryDirectory() as folder:
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(place / name, folder)
        return recount(Path(folder) / "ledger.db")


async def test_a_lock_of_another_program_is_unavailable_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sqlite_schema.PRAGMAS, "busy_timeout", 50)
    async with a_ledger(tmp_path, catalog=CATALOG) as ledger:
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            assert code_of(await ledger.submit_one(a_record(key="k"))) == "unavailable"
            assert not await ledger.ready()
            somebody.execute("ROLLBACK")
            assert not decision_of(await ledger.submit_one(a_record(key="k"))).replayed
            assert await ledger.ready()
    assert recount(tmp_path / "ledger.db") == 1


@contextmanager
def moved(path: Path) -> Iterator[None]:
    aside = path.with_name("aside")
    path.rename(aside)
    yield
    aside.rename(path)


@contextmanager
def replaced_by_a_copy(path: Path) -> Iterator[None]:
    data = path.read_bytes()
    with moved(path):
        path.write_bytes(data)
        yield


@pytest.mark.parametrize("how", [moved, replaced_by_a_copy])
@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal"])
async def test_a_file_taken_away_under_a_running_ledger_is_unavailable_until_it_is_back(
    tmp_path: Path, name: str, how: Callable[[Path], "contextmanager[None]"]
) -> None:
    async with a_ledger(tmp_path, catalog=CATALOG) as ledger:
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        with how(tmp_path / name):
            assert code_of(await ledger.submit_one(a_record())) == "unavailable"
            assert code_of(await ledger.rehearse(a_record())) == "unavailable"
            assert not await ledger.ready()
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 2
    assert recount(tmp_path / "ledger.db") == 2


async def test_a_log_deleted_under_a_running_ledger_is_saved_when_it_closes(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=CATALOG) as ledger:
        for _ in range(5):
            assert code_of(await ledger.submit_one(a_record())) == "ok"
        (tmp_path / "ledger.db-wal").unlink()
        assert code_of(await ledger.submit_one(a_record())) == "unavailable"
    async with a_ledger(tmp_path, catalog=CATALOG) as ledger:
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 6
    assert recount(tmp_path / "ledger.db") == 6


async def a_file(place: Path) -> Path:
    async with a_ledger(place, catalog=CATALOG) as ledger:
        await ledger.submit([a_record(f"user{n}") for n in range(500)])
    return place / "ledger.db"


async def test_a_file_truncated_under_a_running_ledger_is_never_answered_from(tmp_path: Path) -> None:
    path = await a_file(tmp_path)
    async with a_ledger(tmp_path, catalog=CATALOG) as ledger:
        os.truncate(path, 4_096)
        assert code_of(await ledger.submit_one(a_record("user7"))) == "unavailable"
        assert code_of(await ledger.rehearse(a_record("user8"))) == "unavailable"


# What the file says less than was answered


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def without_its_log(path: Path) -> None:
    path.with_name("ledger.db-wal").unlink()


def with_a_log_cut_short(path: Path) -> None:
    os.truncate(path.with_name("ledger.db-wal"), 0)


def an_older_file(path: Path) -> None:
    shutil.copy(path.with_name("older.db"), path)
    path.with_name("ledger.db-wal").unlink()


def gone(path: Path) -> None:
    path.unlink()


def folder_of(path: Path) -> list[Path]:
    return list(path.glob("ledger.db*"))


async def as_a_process_that_dies_leaves_it(place: Path) -> Path:
    """A ledger of three commits, of which the file itself has none."""
    (place / "dead").mkdir()
    clock = Clock()
    async with a_ledger(place, catalog=CATALOG, clock=clock) as ledger:
        back_up(place / "ledger.db", place / "dead" / "older.db")
        for _ in range(2):
            clock.advance(seconds=1)
            await ledger.submit_one(a_record())
        for path in folder_of(place):
            shutil.copy(path, place / "dead" / path.name)
    return place / "dead" / "ledger.db"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (emptied, "is empty, and held a ledger that was last written at 2026-11-20T14:03:13Z"),
        (without_its_log, "is empty, .* or its -wal was deleted"),
        (with_a_log_cut_short, "is empty, .* or its -wal was deleted"),
        (
            an_older_file,
            "ends at 2026-11-20T14:03:11Z: its -wal was deleted, or an older file was put in its place",
        ),
    ],
)
async def test_a_file_without_what_was_answered_stops_the_start_and_stays_as_it_is(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    path = await as_a_process_that_dies_leaves_it(tmp_path)
    harm(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerUnusable, match=said):
            async with a_ledger(path.parent, catalog=CATALOG):
                pass
    assert path.read_bytes() == before
    # What an operator puts in place is taken, and noted from then on.
    restore(path, path.with_name("older.db"), path.with_name("aside"))
    async with a_ledger(path.parent, catalog=CATALOG) as ledger:
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 1
    emptied(path)
    with pytest.raises(LedgerUnusable, match="is empty"):
        async with a_ledger(path.parent, catalog=CATALOG):
            pass


async def test_what_is_left_without_its_log_can_be_gone_on_with_on_purpose(tmp_path: Path) -> None:
    path = await as_a_process_that_dies_leaves_it(tmp_path)
    shutil.copy(path.with_name("older.db"), path)
    without_its_log(path)
    restore(path, path, path.with_name("aside"))
    async with a_ledger(path.parent, catalog=CATALOG) as ledger:
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 1


async def test_a_process_that_died_closed_or_was_deleted_raises_no_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = await as_a_process_that_dies_leaves_it(tmp_path)
    for used in (3, 4):  # after a death, then after a close
        async with a_ledger(path.parent, catalog=CATALOG) as ledger:
            assert decision_of(await ledger.submit_one(a_record())).limits[0].used == used
    assert not path.with_name("ledger.db-wal").exists()
    gone(path)
    async with a_ledger(path.parent, catalog=CATALOG) as ledger:
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 1
    assert "its file is gone" in caplog.text


async def test_who_find_no_file_at_the_same_time_begin_one_new_ledger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, together = await a_file(tmp_path), 8
    gone(path)

    async def record(user: str) -> int:
        async with a_ledger(tmp_path, catalog=CATALOG) as ledger:
            return decision_of(await ledger.submit_one(a_record(user))).limits[0].used

    with closing(FileLock(sqlite_schema.lock_path(path))) as lock:
        with lock:
            starting = [asyncio.ensure_future(record(f"new{n}")) for n in range(together)]
            for _ in range(100):  # as far as each gets
                await asyncio.sleep(0)
        assert await asyncio.gather(*starting) == [1] * together
    assert recount(path) == together
    assert caplog.text.count("its file is gone") == 1


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4_096 * 4_096)


def without_its_beginning(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


@pytest.mark.parametrize("harm", [half, without_its_beginning])
async def test_a_damaged_file_stops_the_start(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = await a_file(tmp_path)
    harm(path)
    with pytest.raises(LedgerUnusable, match="damaged"):
        async with a_ledger(tmp_path, catalog=CATALOG):
            pass


async def test_totals_on_a_page_of_zeros_are_never_answered_from(tmp_path: Path) -> None:
    path = await a_file(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'counter'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(bytes(4_096))
    async with a_ledger(tmp_path, catalog=CATALOG, publish=False) as ledger:
        assert code_of(await ledger.submit_one(a_record("user7"))) == "unavailable"
        assert code_of(await ledger.rehearse(a_record("user8"))) == "unavailable"


async def test_a_first_start_that_stops_at_any_statement_is_taken_up_by_the_next(
    tmp_path: Path, effort: Callable[[int, int, int], int], dice: random.Random
) -> None:
    def stopping(kind: Kind, at: int) -> Faults:
        faults = Faults()
        faults.arm(kind, lambda number, statement: number == at)
        return faults

    async with a_ledger(tmp_path, catalog=CATALOG, connect=connecting_to(every := Faults())):
        statements = every.statements
    kinds: tuple[Kind, ...] = ("stop before", "stop after")
    moments = [(kind, at) for kind in kinds for at in range(statements)]
    for kind, at in dice.sample(moments, effort(20, len(moments), len(moments))):
        with TemporaryDirectory() as folder:
            how = connecting_to(stopping(kind, at))
            engine = ENGINES["sqlite"](Path(folder), CATALOG, Clock(), connect=how)
            with pytest.raises(Stopped):
                await engine.open()
                try:
                    await engine.transact([a_publication(*CATALOG.plans.values())], lambda: True)
                finally:
                    await abandon(engine)
            async with a_ledger(Path(folder), catalog=CATALOG) as ledger:
                assert code_of(await ledger.submit_one(a_record())) == "ok"
            assert recount(Path(folder) / "ledger.db") == 1


async def test_a_ledger_opens_whole_while_another_process_publishes(tmp_path: Path) -> None:
    """However far the opening has come when the other's plans are committed: it can publish its own after."""
    for at in itertools.count():
        place = tmp_path / f"place{at}"
        place.mkdir()
        if not await opened_beside_a_publisher(place, at):
            break
    assert at > 10


async def opened_beside_a_publisher(place: Path, at: int) -> bool:
    """Whether opening has a statement of that number."""
    faults = Faults()
    async with a_ledger(place, publish=False) as publisher:
        opening = asyncio.create_task(open_and_publish(place, faults))
        faults.arm("wait", lambda number, statement: number == at)
        paused = asyncio.create_task(asyncio.to_thread(faults.reached.wait, 30))
        await asyncio.wait([opening, paused], return_when=asyncio.FIRST_COMPLETED)
        is_paused = not opening.done()
        publishing = asyncio.create_task(publisher.submit_one(a_publication(*CATALOG.plans.values())))
        await asyncio.wait([publishing], timeout=0.05)  # where the pause holds the lock it has to wait
        faults.reached.set()
        faults.go_on.set()
        async with asyncio.timeout(20):
            assert isinstance(await publishing, PlansPublished)
            assert isinstance(await opening, PlansPublished)
            await paused
    return is_paused


async def open_and_publish(place: Path, faults: Faults) -> Outcome:
    async with a_ledger(place, catalog=CATALOG, publish=False, connect=connecting_to(faults)) as ledger:
        return await ledger.submit_one(a_publication(*CATALOG.plans.values()))
