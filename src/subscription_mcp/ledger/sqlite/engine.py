"""The ledger in one SQLite file.

One connection writes, on a thread of its own: load, decide, save and commit are one function there, one
hop per batch. Two more connections read.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import aiosqlite

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.identifiers import RandomBits, uuid7s
from subscription_mcp.domain.instants import MINUTE, Instant, format_instant
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.ledger import machine
from subscription_mcp.ledger.commands import Command, Outcome, Revocation
from subscription_mcp.ledger.filelock import FileLock, Presence
from subscription_mcp.ledger.machine.facts import Changes, Facts, Turn
from subscription_mcp.ledger.port import Ask, LedgerUnavailable, LedgerUnusable, Touched, Verification
from subscription_mcp.ledger.queries import Query, RevocationsSince
from subscription_mcp.ledger.sqlite.plans import PlanBook, load_plans, plans_revision
from subscription_mcp.ledger.sqlite.prune import Pruner
from subscription_mcp.ledger.sqlite.schema import (
    SCHEMA_WITH_REVOCATIONS,
    check_identity,
    check_nothing_is_lost,
    committed_at,
    lock_path,
    log_path,
    make_file,
    migrate,
    opening_advice,
    prepare_folder,
    presence_path,
    schema_of_file,
    schema_version,
    set_pragmas,
)
from subscription_mcp.ledger.sqlite.store import OF_ALL_ACCOUNTS, Store

log = logging.getLogger(__name__)

CHECKPOINT_ROWS = 20_000
OPEN_WITHIN_SECONDS = 10
CACHED_FACTS_MAX = 200_000
POLL_SECONDS = 0.5  # not a quantity
TRUNCATE_AGAIN = 1 * MINUTE
NEVER: Instant = 2**62
T = TypeVar("T")


class _Connection(aiosqlite.Connection):
    """A connection on its own thread where a whole function runs in one hop."""

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return cast(T, await self._execute(function, *arguments))  # type: ignore[no-untyped-call]


def connect_file(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, cached_statements=256)


class SqliteEngine:
    """The SQLite engine of `port.Engine`. `connect` opens the file, each time on the thread that will use it:
    the connection that writes first, then those that read."""

    def __init__(
        self,
        path: Path,
        catalog: Catalog,
        *,
        clock: Callable[[], Instant],
        random_bits: RandomBits,
        bounds: Bounds | None = None,
        connect: Callable[[Path], sqlite3.Connection] = connect_file,
    ) -> None:
        self.catalog = catalog
        self._bounds = bounds or Bounds()
        # What stands beside the file stands beside the real one, by whichever name it is opened: SQLite does so too.
        self._path = path.resolve()
        self._paths = (self._path, log_path(self._path))
        self._connect_file = connect
        self._clock = clock
        self._random_bits = random_bits
        self._last_now: Instant = 0
        self._facts = Facts(catalog)
        self._opened: list[tuple[int, int]] = []
        self._rows_since_checkpoint = 0
        self._truncate_from: Instant = NEVER
        """From when on the next checkpoint empties the log."""
        self._data_version: int | None = None
        self._writer_book: PlanBook | None = None
        self._checker_book: PlanBook | None = None
        self._checker_facts: Facts | None = None
        self._checker_version: int | None = None
        self._watchers: list[Callable[[Touched], None]] = []

    async def open(self) -> None:
        opened: list[_Connection] = []
        try:
            prepare_folder(self._path)
            self._lock = FileLock(lock_path(self._path))
            self._presence = Presence(presence_path(self._path))
            try:
                if not self._presence.join():
                    raise LedgerUnusable(f"{self._path} is being restored. Start again when that is done.")
                self._writer = await self._connect(opened, self._first_connection)
                await self._writer.run(self._prepare)
                self._checker = await self._reader(opened)
                self._checker_store = Store(self._checker._conn)
                self._reporter = await self._reader(opened)
            except BaseException:
                # A connection left open would keep its thread, and so the process, alive.
                for connection in opened:
                    await connection.run(self._close_under_lock, connection)
                    await connection.close()
                self._lock.close()
                self._presence.close()
                raise
        except (sqlite3.Error, OSError) as error:
            log.error("the ledger cannot be opened: %s: %s", type(error).__name__, error)
            raise LedgerUnusable(opening_advice(error, self._path)) from error

    async def close(self) -> None:
        for connection in (self._reporter, self._checker, self._writer):
            await connection.run(self._close_under_lock, connection)
            await connection.close()
        self._lock.close()
        self._presence.close()

    def _close_under_lock(self, connection: _Connection) -> None:
        # The last connection to close checkpoints.
        with self._lock:
            connection._conn.close()

    async def _connect(
        self, opened: list[_Connection], connect: Callable[[], sqlite3.Connection]
    ) -> _Connection:
        connection = _Connection(connect, iter_chunk_size=64)
        try:
            await connection
        except BaseException:
            # Its thread still tells this loop that it ends: it must not outlive it.
            await asyncio.to_thread(connection._thread.join)
            raise
        opened.append(connection)
        return connection

    async def _reader(self, opened: list[_Connection]) -> _Connection:
        connection = await self._connect(opened, partial(self._connect_file, self._path))

        def prepare() -> None:
            set_pragmas(connection._conn)
            connection._conn.execute("PRAGMA query_only = 1")

        await connection.run(prepare)
        return connection

    def _first_connection(self) -> sqlite3.Connection:
        if not self._lock.is_free_within(OPEN_WITHIN_SECONDS):
            raise LedgerUnusable(
                f"Another program has held the lock of {self._path} for {OPEN_WITHIN_SECONDS} s. "
                "Find the process that hangs (fuser, or lsof, on the .lock file beside it) and end it."
            )
        with self._lock:
            # Whoever finds a file that is new must find nothing noted of the one that was here.
            if not self._path.exists() and (noted := self._lock.noted()):
                log.warning(
                    "a ledger was here, last written at %s, and its file is gone: this is a new one",
                    format_instant(noted),
                )
                self._note(0)
            make_file(self._path)
        return self._connect_file(self._path)

    def _prepare(self) -> None:
        with self._lock:
            connection = self._writer._conn
            check_identity(connection, self._path)
            check_nothing_is_lost(connection, self._path, self._lock.noted())
            set_pragmas(connection)
            # What a statement or a savepoint could take back is kept in memory: a batch is small, and to a file it
            # was half of all that was written.
            connection.execute("PRAGMA temp_store = 2")
            _, self._schema = migrate(connection)
        self._store = Store(connection)
        self._pruner = Pruner(connection)
        self._read_anew(connection)
        self._opened = self._files()
        if self._last_now > self._clock():
            log.warning(
                "the last entry lies in the future, at %s: time stands still here until the clock has passed it",
                format_instant(self._last_now),
            )

    # Writing

    async def transact(self, commands: Sequence[Command], start: Callable[[], bool]) -> list[Outcome]:
        return await self._writer.run(self._transact, commands, start)

    def _transact(self, commands: Sequence[Command], start: Callable[[], bool]) -> list[Outcome]:
        connection = self._writer._conn
        try:
            with self._lock:
                if not start():
                    return []
                self._must_be_in_place()
                connection.execute("BEGIN IMMEDIATE")
                self._notice_others(connection)
                now = self._now()
                turn = Turn(self._facts, Changes(), now, uuid7s(now, self._random_bits))
                self._facts.now = turn.now
                saved: list[Changes] = []
                outcomes = machine.run(turn, commands, partial(self._load_facts, turn, saved))
                if turn.changes or saved:
                    self._save(turn, saved)
                    if not any(changes.events for changes in saved):
                        self._store.note_commit(turn.now)
                    self._rows_since_checkpoint += self._pruner.prune(turn.now, len(commands))
                    connection.execute("COMMIT")
                    self._last_now = turn.now
                    self._note(turn.now)
                    self.catalog = self._facts.catalog
                    _log_alerts(saved)
                    if any(changes.erased for changes in saved):
                        self._let_go(turn.now)
                    if self._watchers:
                        self._tell_watchers(_all_touched([changes.touched() for changes in saved]))
                else:
                    connection.execute("ROLLBACK")
                self._facts.forget_what_is_asked_once()
                self._store.forget_places()
                if self._rows_since_checkpoint >= CHECKPOINT_ROWS or self._truncate_from <= now:
                    self._checkpoint(connection)
                if self._facts.size + self._store.size > CACHED_FACTS_MAX:
                    self._forget()
                return outcomes
        except BaseException as error:
            self._undo(connection)
            if isinstance(error, sqlite3.Error | OSError):
                raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
            raise

    def _load_facts(self, turn: Turn, saved: list[Changes], facts: Facts) -> None:
        if turn.changes and (facts.missing.keys() & OF_ALL_ACCOUNTS or self._store.adds_up(facts)):
            # What this batch has done so far has to be among what is added up.
            self._save(turn, saved)
        self._store.load(facts)

    def _save(self, turn: Turn, saved: list[Changes]) -> None:
        erased = turn.changes.erased
        if erased is None:
            self._rows_since_checkpoint += self._store.save(turn.changes)
        else:
            from subscription_mcp.ledger.sqlite.erasure import Erasure

            erasure = Erasure(self._writer._conn, self._store, erased, turn.now)
            erasure.rename()
            self._store.save(turn.changes)
            erasure.look_again()
        saved.append(turn.changes)
        turn.changes = Changes()

    def _let_go(self, now: Instant) -> None:
        """After a user was erased: no name that is remembered holds, and the log must not keep the old pages."""
        self._forget()
        self._truncate_from = now

    def _note(self, committed_at: Instant) -> None:
        """Leave word, outside of the database, of how far it goes."""
        with suppress(OSError):  # what is noted less far is only noticed less well
            self._lock.note(committed_at)

    def _files(self) -> list[tuple[int, int]]:
        """Which files stand where the database and its log do."""
        found = [path.stat() for path in self._paths]
        return [(one.st_dev, one.st_ino) for one in found]

    def _must_be_in_place(self) -> None:
        # SQLite would go on in a file that no longer has a name: answered, and gone with this process.
        if self._files() != self._opened:
            raise OSError("the database or its -wal was replaced; put it back, or start again")

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        self._rows_since_checkpoint = 0
        mode = "PASSIVE" if self._last_now < self._truncate_from else "TRUNCATE"
        try:
            (busy, *_) = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            if mode == "TRUNCATE":
                # While somebody reads an older snapshot the log stays; the next one tries again.
                self._truncate_from = self._last_now + TRUNCATE_AGAIN if busy else NEVER
        except sqlite3.Error as error:
            # The batch is committed and in the log: its answers stand. The next checkpoint tries again.
            log.error("checkpoint failed: %s: %s", type(error).__name__, error)

    def _undo(self, connection: sqlite3.Connection) -> None:
        # Some failures have rolled back already; whatever a batch that failed had worked out is forgotten.
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.warning("rollback failed: %s: %s", type(error).__name__, error)
        self._forget()

    def _forget(self) -> None:
        """Drop what is remembered; the next batch reads it anew."""
        self._store.forget()
        self._data_version = None
        self._facts = Facts(self._facts.catalog)

    def _notice_others(self, connection: sqlite3.Connection) -> None:
        """Forget every cached fact when another connection has committed since the last batch."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            if schema_version(connection) != self._schema:
                raise LedgerUnavailable("another process has migrated the ledger; start this one again")
            self._store.notice_erasures()
            self._renew_facts()
            self._catch_up()
            self._data_version = version

    def _read_anew(self, connection: sqlite3.Connection) -> None:
        """Outside of a batch: all of it as of one instant, whatever others commit meanwhile."""
        connection.execute("BEGIN")
        try:
            self._renew_facts()
            self._catch_up()
        finally:
            connection.execute("ROLLBACK")

    def _renew_facts(self) -> None:
        self._writer_book = self._plan_book(self._store, self._writer_book)
        self._facts = self._facts_of(self._writer_book)

    def _facts_of(self, book: PlanBook) -> Facts:
        catalog = self.catalog.with_plans(book.offered) if book.is_published else self.catalog
        return Facts(
            catalog,
            catalog_name=book.catalog_name,
            plan_heads=dict(book.heads),
            plan_versions=dict(book.versions),
            plans=dict(book.plans),
            plans_archived=dict(book.archived),
            meters=dict(book.meters),
            places=book.places,
            counted_since=dict(book.counted_since),
            bounds=self._bounds,
        )

    def _plan_book(self, store: Store, book: PlanBook | None) -> PlanBook:
        if book is None or book.revision != plans_revision(store.tables.database):
            book = load_plans(store.tables.database, self.catalog.meters)
            if book.is_published:
                self._say_what_others_did(book)
                self.catalog = self.catalog.with_plans(book.offered)
        return book

    def _say_what_others_did(self, book: PlanBook) -> None:
        """Another process has published plans, by a file that may be newer than ours, or edited one."""
        known = {key: plan.version for key, plan in self.catalog.plans.items() if plan.version}
        becomes = {key: plan.version for key, plan in book.offered.items()}
        if not known or known == becomes:
            return
        log.warning(
            "the plans on offer were changed elsewhere, by another process or at run time: %s, before %s",
            _versions_text(becomes),
            _versions_text(known),
        )
        unknown = {limit.meter for plan in book.offered.values() for limit in plan.limits}
        unknown -= self.catalog.meters.keys()
        changed = [
            name
            for name, meter in self.catalog.meters.items()
            if book.meters.get(name, meter.as_dict()) != meter.as_dict()
        ]
        if unknown or changed:
            log.error(
                "this process counts by an older catalog file, without what others know of %s: "
                "start it again with the file they have",
                ", ".join(sorted({*unknown, *changed})),
            )

    def _catch_up(self) -> None:
        """Never be before what is written, by whichever process and clock: events are found by time, and what
        had expired stays so."""
        self._last_now = max(self._last_now, self._store.last_commit_at())

    def now(self) -> Instant:
        return max(self._last_now, self._clock())

    def _now(self) -> Instant:
        self._last_now = max(self._last_now, self._clock())
        return self._last_now

    # Reading

    async def rehearse(self, command: Command) -> tuple[Outcome, bool]:
        return await self._checker.run(self._snapshot, self._checker, partial(self._rehearse, command))

    async def refresh(self) -> None:
        await self._checker.run(self._snapshot, self._checker, self._facts_to_check)

    def _rehearse(self, command: Command, database: sqlite3.Connection) -> tuple[Outcome, bool]:
        facts, changes, store = self._facts_to_check(database), Changes(), self._checker_store
        facts.now = now = max(self.now(), store.last_commit_at())
        try:
            turn = Turn(facts, changes, now, uuid7s(now, self._random_bits))
            (outcome,) = machine.run(turn, [command], store.load)
        except BaseException:
            self._checker_facts = None
            raise
        facts.forget_what_is_asked_once()
        store.forget_places()
        if changes or facts.size + store.size > CACHED_FACTS_MAX:
            # What the facts say now has not happened.
            self._checker_facts = None
        return outcome, bool(changes)

    def _facts_to_check(self, database: sqlite3.Connection) -> Facts:
        """What is remembered of the ledger as it is committed, for as long as nobody commits anything else."""
        (version,) = database.execute("PRAGMA data_version").fetchone()
        if version != self._checker_version or self._checker_facts is None:
            if self._checker_store.size > CACHED_FACTS_MAX:
                self._checker_store.forget()
            self._checker_store.notice_erasures()
            self._checker_book = self._plan_book(self._checker_store, self._checker_book)
            self._checker_facts, self._checker_version = self._facts_of(self._checker_book), version
        return self._checker_facts

    async def query(self, question: Query) -> Any:
        # Every call waits for this one: it must not stand behind somebody's report.
        reader = self._checker if isinstance(question, RevocationsSince) else self._reporter
        return await reader.run(self._read, reader, lambda store: store.answer(question))

    def _read(self, connection: _Connection, function: Callable[[Store], T]) -> T:
        return self._snapshot(connection, lambda database: function(Store(database)))

    def _snapshot(self, connection: _Connection, function: Callable[[sqlite3.Connection], T]) -> T:
        database = connection._conn
        try:
            self._must_be_in_place()
            database.execute("BEGIN")
            try:
                return function(database)
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error

    # Moving and keeping; what a server never does is imported where it is done

    async def verify(self) -> Verification:
        from subscription_mcp.ledger.sqlite.verify import verify

        levels = {meter.name for meter in self.catalog.meters.values() if meter.is_level}

        def work_out(database: sqlite3.Connection) -> Verification:
            # By then: another process, with a clock ahead of ours, has let go of what was over for it.
            return verify(database, max(self.now(), committed_at(database)), levels)

        return await self._aside(work_out)

    async def dump(self, write: Callable[[bytes], object]) -> Mapping[str, int]:
        from subscription_mcp.ledger.sqlite.transfer import dump

        return await self._aside(lambda database: dump(database, write))

    async def read_aside(self, reading: Callable[[Ask], T]) -> T:
        unwanted = threading.Event()

        def read(database: sqlite3.Connection) -> T:
            store = Store(database)

            def ask(question: Query) -> Any:
                if unwanted.is_set():  # whoever reads page by page would go on after an interrupt
                    raise LedgerUnavailable("nobody waits for the answer any more")
                return store.answer(question)

            return reading(ask)

        return await self._aside(read, unwanted.set)

    async def _aside(
        self, function: Callable[[sqlite3.Connection], T], stop: Callable[[], None] = lambda: None
    ) -> T:
        """Read one snapshot for as long as it takes, on a connection that nobody else waits for. `stop` is called
        when it is done, or nobody waits for it any more."""
        opened: list[_Connection] = []
        try:
            connection = await self._reader(opened)
            return await connection.run(self._snapshot, connection, function)
        finally:
            stop()
            for connection in opened:
                connection._conn.interrupt()  # where nobody waits for the answer any more
                await connection.run(self._close_under_lock, connection)
                await connection.close()

    async def load(self, stream: BinaryIO) -> Mapping[str, int]:
        return await self._writer.run(self._load, stream)

    def _load(self, stream: BinaryIO) -> Mapping[str, int]:
        from subscription_mcp.ledger.sqlite.transfer import load

        connection = self._writer._conn
        try:
            with self._lock:
                connection.execute("BEGIN IMMEDIATE")
                rows = load(connection, self._store, stream)
                connection.execute("COMMIT")
                self._note(self._store.last_commit_at())
                self._checkpoint(connection)
                self._read_anew(connection)
                return rows
        except BaseException as error:
            self._undo(connection)
            if isinstance(error, sqlite3.Error | OSError):
                raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
            raise

    # Watching

    async def changes(self) -> AsyncGenerator[Touched]:
        loop = asyncio.get_running_loop()
        told: list[Touched] = []
        wake = asyncio.Event()

        def note(touched: Touched) -> None:
            told.append(touched)
            wake.set()

        def watcher(touched: Touched) -> None:
            with suppress(RuntimeError):  # the loop is closing, so nobody listens any more
                loop.call_soon_threadsafe(note, touched)

        self._watchers.append(watcher)
        try:
            version, polled_at = await self._version_by_others(), loop.time()
            yield frozenset()
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), max(polled_at + POLL_SECONDS - loop.time(), 0))
                if loop.time() >= polled_at + POLL_SECONDS:
                    before, version = version, await self._version_by_others()
                    polled_at = loop.time()
                    if version != before:
                        told.append(None)
                wake.clear()
                found, told[:] = list(told), []
                if found:
                    yield _all_touched(found)
        finally:
            self._watchers.remove(watcher)

    def _tell_watchers(self, touched: Touched) -> None:
        for watcher in list(self._watchers):
            watcher(touched)

    async def _version_by_others(self) -> int | None:
        """A number that changes when another connection has committed; None where it cannot be read."""

        def read() -> int | None:
            try:
                (version,) = self._writer._conn.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error:
                return None
            return int(version)

        return await self._writer.run(read)

    async def ready(self) -> None:
        await self._writer.run(self._ready)

    def _ready(self) -> None:
        connection = self._writer._conn
        try:
            with self._lock:
                self._must_be_in_place()
                connection.execute("BEGIN IMMEDIATE")
                # A write that is taken back: it fails where the disk is full or read-only.
                connection.execute("UPDATE ledger_info SET value = value WHERE name = 'plans_revision'")
                connection.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            self._undo(connection)
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error


def revocations_of_file(path: Path) -> list[Revocation]:
    """What a file says was revoked, for a command that opens no ledger; changes nothing."""
    if not path.exists() or schema_of_file(path)[0] < SCHEMA_WITH_REVOCATIONS:
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return cast(list[Revocation], Store(connection).answer(RevocationsSince(0)))
    except sqlite3.Error as error:
        raise LedgerUnusable(opening_advice(error, path)) from error


def _log_alerts(saved: Sequence[Changes]) -> None:
    levels = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
    for alert in (one for changes in saved for one in changes.alerts):
        # What a user did is no fault of ours: only troubles of the service are told as such.
        level = levels[alert.severity] if alert.threshold_percent is None else logging.INFO
        log.log(
            level,
            "alert %s of tenant %r, account %r: %s",
            alert.severity,
            alert.tenant,
            alert.account,
            alert.message,
        )


def _versions_text(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {version}" for key, version in versions.items()) or "none"


def _all_touched(saved: Sequence[Touched]) -> Touched:
    return None if None in saved else frozenset().union(*(one for one in saved if one))
