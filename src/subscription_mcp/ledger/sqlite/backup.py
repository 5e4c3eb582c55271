"""Copies of a ledger's file: made while servers write, and put in its place while nobody has it open.

A copy is one file. SQLite's own backup makes it from one snapshot, so that what is written meanwhile neither
waits nor gets in; then it is checked, synced and renamed, so that a name never stands for half a copy.
"""

import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import AuditEntry, Revocation
from subscription_mcp.ledger.filelock import FileLock, Presence
from subscription_mcp.ledger.machine.facts import Changes
from subscription_mcp.ledger.machine.revocations import REVOKED
from subscription_mcp.ledger.port import LedgerUnusable, TransferRefused
from subscription_mcp.ledger.queries import AuditTrail, RevocationsSince, Whose
from subscription_mcp.ledger.sqlite.schema import (
    MAGIC,
    SCHEMA_WITH_REVOCATIONS,
    check_identity,
    committed_at,
    damage_of,
    index_path,
    journal_path,
    lock_path,
    log_path,
    migrate,
    migrations,
    opening_advice,
    presence_path,
    schema_version,
)
from subscription_mcp.ledger.sqlite.store import Store

PAGES_AT_ONCE = 1_024
LOCK_WITHIN_SECONDS = 10
UNTOUCHED = "Nothing was changed; try another copy."
Undo = Callable[[], None]


def back_up(ledger: Path, target: Path) -> int:
    """Copy the ledger to `target`, replacing what is there, unless somebody has it open as a ledger; its size in
    bytes. Raises LedgerUnusable, TransferRefused."""
    ledger, target = ledger.resolve(), target.resolve()
    if target in (ledger, *_beside(ledger)):
        raise TransferRefused("That is a file of the ledger itself. Name another one for its copy.")
    with _present(ledger) as lock, _room_at(target) as make_room, new_file(target, make_room) as copy:
        if not lock.is_free_within(LOCK_WITHIN_SECONDS):
            raise LedgerUnusable(
                f"Another program has held the lock of {ledger} for {LOCK_WITHIN_SECONDS} s."
            )
        try:
            source = sqlite3.connect(ledger, isolation_level=None)
            try:
                source.execute("PRAGMA wal_autocheckpoint = 0")
                _copy(source, copy)
            finally:
                with lock:  # the last connection to close checkpoints
                    source.close()
        except sqlite3.Error as error:
            raise LedgerUnusable(opening_advice(error, ledger)) from error
        check_copy(copy)
    if left := [path.name for path in _logs_of(target) if path.exists()]:
        raise TransferRefused(
            f"{target} is in use by another program, which made {left[0]}. End it, delete both, and copy again."
        )
    return target.stat().st_size


@dataclass(frozen=True, slots=True)
class Restored:
    """Whether anything was replaced, how many revocations of access tokens were taken over from it, and whether
    those are all there were since the copy: not where there was nothing to read, or not to its end."""

    is_kept: bool
    revocations_taken_over: int
    are_all_revocations: bool


def restore(ledger: Path, source: Path, aside: Path) -> Restored:
    """Put the copy `source` in the ledger's place and keep what was there as `aside`. What was revoked stays revoked,
    and no confirmation that was handed out before is good any more. Raises LedgerUnusable, TransferRefused; then
    everything is as it was."""
    ledger = ledger.resolve()
    if not source.is_file():
        raise TransferRefused(f"There is no file {source}.")
    ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _present(ledger, alone_to="restore") as lock:
        with new_file(ledger, lambda: _keep(ledger, aside)) as copy:
            try:
                with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                    _copy(connection, copy)
            except sqlite3.Error as error:
                said = f"{source} cannot be read as a ledger ({error}). {UNTOUCHED}"
                raise TransferRefused(said) from error
            check_copy(copy)
            with lock:
                revoked, are_all = _revoked_in(ledger, lock.noted())
            try:
                with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
                    taken_over = _bring_up(connection, revoked)
            except sqlite3.Error as error:
                raise TransferRefused(f"The copy cannot be written ({error}). {UNTOUCHED}") from error
        with lock:  # what was noted is of the ledger that was replaced
            lock.note(0)
    return Restored(aside.exists(), taken_over, are_all)


Revoked = list[tuple[Revocation, AuditEntry | None]]


def _revoked_in(ledger: Path, noted: Instant) -> tuple[Revoked, bool]:
    """What the ledger that is replaced says was revoked, and by whom; and whether that goes as far as was noted."""
    if not ledger.exists() or not _is_database(ledger):
        return [], False
    try:
        with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
            check_identity(connection, ledger)
            schema = schema_version(connection)
            if schema < SCHEMA_WITH_REVOCATIONS:
                return [], schema > 0 and not noted
            store = Store(connection)
            trails: dict[Whose, dict[str, AuditEntry]] = {}
            found: Revoked = []
            for one in store.answer(RevocationsSince(0)):
                whose = Whose(one.tenant or "", "personal", one.subject or "", "")
                if whose not in trails:
                    trail: list[AuditEntry] = store.answer(AuditTrail(whose, REVOKED, -1))
                    trails[whose] = {entry.id: entry for entry in trail}
                found.append((one, trails[whose].get(one.id)))
            return found, committed_at(connection) >= noted
    except (sqlite3.Error, LedgerUnusable):
        return [], False


def _bring_up(copy: sqlite3.Connection, revoked: Revoked) -> int:
    """Make of a copy what may be put in place: with what was revoked since, without confirmations. How many
    revocations it did not have."""
    if revoked:
        migrate(copy)
    store = Store(copy)
    copy.execute("BEGIN")
    copy.execute("DELETE FROM offer")
    known = {one.id for one in store.answer(RevocationsSince(0))} if revoked else set()
    missing = [(one, entry) for one, entry in revoked if one.id not in known]
    if missing:
        changes = Changes(revocations=[one for one, _ in missing])
        changes.audits = [entry for _, entry in missing if entry is not None]
        store.save(changes)
        store.note_commit(max(store.last_commit_at(), *(one.at for one, _ in missing)))
    copy.execute("COMMIT")
    return len(missing)


def check_copy(path: Path) -> None:
    """Whether a file is a whole ledger that this version can open. Raises TransferRefused."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            check_identity(connection, path)
            schema, newest = schema_version(connection), max(migrations())
            damage = damage_of(connection)
    except LedgerUnusable:
        raise TransferRefused(f"The copy is the database of another program. {UNTOUCHED}") from None
    except sqlite3.Error as error:
        raise TransferRefused(f"The copy is damaged ({error}). {UNTOUCHED}") from error
    if schema == 0:
        raise TransferRefused(f"The copy holds no ledger. {UNTOUCHED}")
    if schema > newest:
        raise TransferRefused(
            f"The copy has schema {schema}, this version knows up to {newest}. Install the version that made it."
        )
    if damage:
        raise TransferRefused(f"The copy is damaged ({damage[0]}). {UNTOUCHED}")


@contextmanager
def new_file(target: Path, before_it_counts: Callable[[], Undo] = lambda: _nothing) -> Iterator[Path]:
    """A file beside `target`, readable by its owner only, that takes its place once the block is done: synced
    and in one step. Where anything fails `target` is as it was. Raises TransferRefused."""
    # Its name is known before it is there: an interruption at any moment leaves nothing behind.
    made = target.with_name(f".{target.name}.{secrets.token_hex(8)}.new")
    try:
        os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield made
        _sync(made)
        undo = before_it_counts()
        try:
            made.replace(target)
        except BaseException:
            undo()
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise TransferRefused(
            f"{target} cannot be written ({error.strerror}). Nothing was changed."
        ) from error
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _present(ledger: Path, *, alone_to: str | None = None) -> Iterator[FileLock]:
    """Have the ledger open, with others or alone to do what is named, with its lock to be taken. Raises
    LedgerUnusable."""
    try:
        presence = Presence(presence_path(ledger))
        lock = FileLock(lock_path(ledger))
    except OSError as error:
        raise LedgerUnusable(opening_advice(error, ledger)) from error
    with closing(presence), closing(lock):
        if alone_to and not presence.join_alone():
            raise LedgerUnusable(
                f"{ledger} is open in another program. Stop every server and client that uses it (fuser, or "
                f"lsof, on the .open file beside it names them), then {alone_to} again."
            )
        if not alone_to and not presence.join():
            raise LedgerUnusable(f"{ledger} is being restored. Try again when that is done.")
        yield lock


def _logs_of(path: Path) -> tuple[Path, ...]:
    """What SQLite takes for the log of the file at `path`, whichever file it was written for."""
    return log_path(path), journal_path(path)


def _beside(path: Path) -> tuple[Path, ...]:
    """What stands beside a file that is or was opened as a ledger."""
    return (*_logs_of(path), index_path(path), lock_path(path), presence_path(path))


@contextmanager
def _room_at(target: Path) -> Iterator[Callable[[], Undo]]:
    """What a copy must find done when it takes the place of `target`, which may have been opened as a ledger: nobody
    has it open, no log of it is left, and nothing is noted of it. Raises LedgerUnusable."""
    if not any(path.exists() for path in _beside(target)):
        yield partial(_must_be_alone, target)
        return
    with _present(target, alone_to="copy") as lock:
        aside = target.with_name(f"{target.name}.replaced")
        yield partial(_make_room, target, lock, aside)
        with suppress(OSError):  # the copy is in place
            for path in _logs_of(aside):
                path.unlink(missing_ok=True)


def _must_be_alone(target: Path) -> Undo:
    if any(path.exists() for path in _beside(target)):
        raise LedgerUnusable(
            f"{target} was opened by another program meanwhile. Copy again when that has ended."
        )
    return _nothing


def _make_room(target: Path, lock: FileLock, aside: Path) -> Undo:
    # All of it before the copy takes its name: a process that dies in between leaves the old file, whole.
    _fold(target)
    put_back = _take_logs_away(target, aside)
    try:
        with lock:
            noted = lock.noted()
            lock.note(0)
    except OSError:
        put_back()
        raise

    def undo() -> None:
        with lock:
            lock.note(noted)
        put_back()

    return undo


def _take_logs_away(path: Path, aside: Path) -> Undo:
    """Leave no log that SQLite would play into the file that is put in place at `path`: what could not be folded in
    becomes the log of `aside`."""
    moved: list[tuple[Path, Path]] = []

    def undo() -> None:
        for here, there in moved:
            there.replace(here)

    try:
        for here, there in zip(_logs_of(path), _logs_of(aside), strict=True):
            if here.exists():
                here.replace(there)
                moved.append((here, there))
        index_path(path).unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError:
        undo()
        raise
    return undo


def _copy(source: sqlite3.Connection, target: Path) -> None:
    # A snapshot that stands: without it every commit of another process would begin the copy anew.
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # it is synced as a whole before it counts
        source.backup(copy, pages=PAGES_AT_ONCE)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
    source.execute("ROLLBACK")


def _nothing() -> None:
    """There is nothing to undo."""


def _keep(ledger: Path, aside: Path) -> Undo:
    """Give the ledger a second name, with its log where it has one that could not be folded in."""
    if not ledger.exists():
        return _nothing
    _fold(ledger)
    _second_name(ledger, aside)
    try:
        put_back = _take_logs_away(ledger, aside)
    except OSError:
        aside.unlink()
        raise

    def undo() -> None:
        put_back()
        aside.unlink()

    return undo


def _is_database(path: Path) -> bool:
    """Whether SQLite may open it: the log beside anything else it would throw away."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _fold(ledger: Path) -> None:
    """Bring what a process that died left in the log into the file, where it is one."""
    if not ledger.exists() or not _is_database(ledger):
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # takes back what a journal says
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(path, name)
        name.chmod(0o600)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
