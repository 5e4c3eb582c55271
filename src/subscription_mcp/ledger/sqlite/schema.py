"""The SQLite file of the ledger: who may use it, how it is set, which schema it has."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar, cast

from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.ledger.port import LedgerUnusable

T = TypeVar("T")

APPLICATION_ID = 0x5355424D  # "SUBM"
SCHEMA_WITH_REVOCATIONS = 3
SCHEMA_WITH_MESSAGES = 9
MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
WRITE_VERSION, ROLLBACK_JOURNAL = 18, 1
"""Where the header of a file says how it is written, and what it says of one without a write-ahead log."""
PRAGMAS: dict[str, int | str] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: an answer leaves only after its commit is on the disk
    "wal_autocheckpoint": 0,  # checkpoints happen under the lock file only
    "busy_timeout": 5000,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "secure_delete": 1,  # what is deleted is overwritten: an erased user is gone from the file, too
}


def lock_path(path: Path) -> Path:
    """The file whose lock is held around every write."""
    return path.with_name(path.name + ".lock")


def presence_path(path: Path) -> Path:
    """The file that everybody who has the ledger open holds a lock on."""
    return path.with_name(path.name + ".open")


def log_path(path: Path) -> Path:
    """SQLite's write-ahead log."""
    return path.with_name(path.name + "-wal")


def journal_path(path: Path) -> Path:
    """SQLite's rollback journal, which a file has until it is first opened as a ledger."""
    return path.with_name(path.name + "-journal")


def index_path(path: Path) -> Path:
    """SQLite's index of the write-ahead log, in memory that processes share."""
    return path.with_name(path.name + "-shm")


def is_plain_copy(path: Path) -> bool:
    """Whether a file is a database nobody has opened as a ledger yet: it has no write-ahead log."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    return header.startswith(MAGIC) and header[WRITE_VERSION] == ROLLBACK_JOURNAL


def prepare_folder(path: Path) -> None:
    """Make sure the database can be there."""
    _must_be_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)


def make_file(path: Path) -> None:
    """Make sure the database is there, readable by its owner only, and can be written."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerUnusable(
            f"The database {path} cannot be written ({error.strerror}). Its folder and file must be writable."
        ) from error


def committed_at(connection: sqlite3.Connection) -> Instant:
    """When something was last written, of whichever schema; 0 where that was not noted yet. Events say it
    themselves."""
    (at,) = connection.execute(
        "SELECT max(coalesce(max(value), 0), coalesce((SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1), 0))"
        " FROM ledger_info WHERE name = 'last_commit_at'"
    ).fetchone()
    return cast(Instant, at)


def check_nothing_is_lost(connection: sqlite3.Connection, path: Path, noted: Instant) -> None:
    """Refuse a file that ends before what was last committed in it, as the lock file has noted it: acknowledged
    commits would be gone, and nobody told. 0 is nothing noted."""
    if not noted:
        return
    written = f"was last written at {format_instant(noted)}"
    if schema_version(connection) == 0:
        raise LedgerUnusable(
            f"{path} is empty, and held a ledger that {written}: it was emptied, or its -wal was deleted. Put back what "
            "was there, or `restore` a backup; delete the file to begin a new ledger."
        )
    last = committed_at(connection)
    if last < noted:
        raise LedgerUnusable(
            f"{path} {written} and ends at {format_instant(last)}: its -wal was deleted, or an older file was put in its "
            f"place. Put back what was there, or `restore` a backup; `restore {path.name}` goes on with what is left."
        )


def check_identity(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that is another program's."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise LedgerUnusable(f"{path} is the database of another program. Name another file in DATABASE_URL.")


def damage_of(connection: sqlite3.Connection, most: int = 10) -> list[str]:
    """The first damages SQLite finds in the file; empty where it is whole."""
    try:
        found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({most})")]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        return [str(error)]
    return [] if found == ["ok"] else found


def set_pragmas(connection: sqlite3.Connection) -> None:
    for name, wanted in PRAGMAS.items():
        connection.execute(f"PRAGMA {name} = {wanted}")
        (found,) = connection.execute(f"PRAGMA {name}").fetchone()
        if found != wanted:
            raise LedgerUnusable(
                f"SQLite answers {name} = {found} where {wanted} is needed. Is the database on a network drive? "
                "Put it on a local disk."
            )


def migrations() -> Mapping[int, str]:
    """Every migration's statements by number."""
    folder = resources.files("subscription_mcp.ledger") / "migrations" / "sqlite"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {int(name[:4]): (folder / name).read_text(encoding="utf-8") for name in names}


def schema_version(connection: sqlite3.Connection) -> int:
    return cast(int, connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bring the schema up to date under the write lock, each step whole; versions before and after."""
    before = schema_version(connection)
    known = migrations()
    newest = max(known)
    if before > newest:
        raise LedgerUnusable(
            f"The database has schema {before}, this version knows up to {newest}. Install the newer version again."
        )
    for number in range(before + 1, newest + 1):
        connection.execute("BEGIN IMMEDIATE")
        if schema_version(connection) >= number:  # another process was quicker
            connection.execute("ROLLBACK")
            continue
        try:
            for statement in statements_of(known[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return before, newest


def schema_of_file(path: Path) -> tuple[int, int]:
    """The schema a file has (0 where there is none yet) and the newest one; changes nothing."""
    newest = max(migrations())
    _must_be_no_folder(path)
    return (_asked(path, schema_version) if path.exists() else 0), newest


def catalog_of_file(path: Path) -> str | None:
    """The name of the catalog a file of the newest schema counts by; None where nobody has started on it yet."""

    def name(connection: sqlite3.Connection) -> str | None:
        row = connection.execute("SELECT name FROM ledger_catalog").fetchone()
        return row and str(row[0])

    return _asked(path, name)


def messages_of_file(path: Path) -> dict[str, int]:
    """How many messages to the webhook a file has of each state; none in one of an earlier schema."""

    def counts(connection: sqlite3.Connection) -> dict[str, int]:
        if schema_version(connection) < SCHEMA_WITH_MESSAGES:
            return {}
        return dict(connection.execute("SELECT state, count(*) FROM delivery GROUP BY state").fetchall())

    return _asked(path, counts) if path.exists() else {}


def _asked(path: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    """What a file says, which is only read. Raises LedgerUnusable."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            check_identity(connection, path)
            return question(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise LedgerUnusable(opening_advice(error, path)) from error


def statements_of(script: str) -> Iterable[str]:
    """The statements of a script, one by one: `executescript` would commit behind our back."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _must_be_no_folder(path: Path) -> None:
    if path.is_dir():
        raise LedgerUnusable(
            f"The database path is a folder: {path}. Name a file in it, like {path / 'ledger.db'}."
        )


def opening_advice(error: BaseException, path: Path) -> str:
    text = str(error).lower()
    advice: Literal[
        "It is damaged; restore a backup.",
        "Another program holds it; close that program.",
        "Its folder and file must be writable and the disk must have room.",
    ]
    if "malformed" in text or "not a database" in text:
        advice = "It is damaged; restore a backup."
    elif "locked" in text:
        advice = "Another program holds it; close that program."
    else:
        advice = "Its folder and file must be writable and the disk must have room."
    return f"The database {path} cannot be opened ({error}). {advice}"
