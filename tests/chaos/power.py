"""A disk whose power can be cut, under SQLite: what was written and not yet synced may be lost in part.

apsw brings SQLite a file system of our own. It writes through to the real files and beside them keeps of
each what was synced, and the writes since then. A cut leaves of those any, sector by sector.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


@dataclass
class Kept:
    """One file: the bytes that are safe, and what was done since: (offset, bytes), or (size, None) to truncate."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, data in self.pending:
            _do(self.synced, offset, data)
        self.pending.clear()

    def after_a_cut(self, dice: random.Random) -> bytes:
        """What the disk may hold: of the writes since the last sync all, none, the first ones, or any sectors."""
        image, kind = bytearray(self.synced), dice.choice(("all", "none", "first", "any", "any"))
        pending = self.pending[: dice.randrange(len(self.pending) + 1)] if kind == "first" else self.pending
        for offset, data in pending if kind != "none" else ():
            if data is None:
                if kind != "any" or dice.random() < 0.5:
                    _do(image, offset, data)
                continue
            for start in range(0, len(data), SECTOR):
                if kind != "any" or dice.random() < 0.5:
                    _do(image, offset + start, data[start : start + SECTOR])
        return bytes(image)


def _do(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        return
    image.extend(bytes(max(0, offset - len(image))))
    image[offset : offset + len(data)] = data


def nothing() -> None: ...


class Disk(apsw.VFS):
    """The file system. `on_operation` is called after each write, truncation, sync and deletion; `before` ahead
    of each write, truncation and sync, and may raise what the disk would."""

    def __init__(
        self, name: str, on_operation: Callable[[], None] = nothing, before: Callable[[], None] = nothing
    ) -> None:
        self.name, self.on_operation, self.before = name, on_operation, before
        self.files: dict[str, Kept] = {}
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> "File":
        return File(self, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        super().xDelete(name, sync)
        self.files.pop(Path(name).name, None)
        self.on_operation()

    def image(self, place: Path, dice: random.Random) -> None:
        """Write what a cut of the power leaves right now into a folder. Shared memory is gone."""
        for name, kept in self.files.items():
            (place / name).write_bytes(kept.after_a_cut(dice))


class File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self.disk, self.kept = disk, Kept()
        super().__init__("unix", name, flags)
        if name is not None:  # a temporary file has none, and nobody looks for it after a cut
            path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
            self.kept = disk.files.setdefault(path.name, Kept(bytearray(path.read_bytes())))

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.before()
        super().xWrite(data, offset)
        self.kept.pending.append((offset, bytes(data)))
        self.disk.on_operation()

    def xTruncate(self, size: int) -> None:
        self.disk.before()
        super().xTruncate(size)
        self.kept.pending.append((size, None))
        self.disk.on_operation()

    def xSync(self, flags: int) -> None:
        self.disk.before()
        super().xSync(flags)
        self.kept.sync()
        self.disk.on_operation()


class Connection:
    """apsw's connection as the engine knows one: the part of `sqlite3.Connection` that it uses."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._db = apsw.Connection(str(path), vfs=disk.name)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, statement: str, values: Any = ()) -> "Rows":
        return self._run("execute", statement, values)

    def executemany(self, statement: str, values: Any) -> "Rows":
        return self._run("executemany", statement, values)

    def _run(self, how: str, statement: str, values: Any) -> "Rows":
        try:
            rows = getattr(self._db, how)(statement, values).fetchall()
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error
        return Rows(rows, self._db.last_insert_rowid())

    def close(self) -> None:
        self._db.close()


class Rows:
    def __init__(self, rows: list[Any], lastrowid: int) -> None:
        self._rows, self.lastrowid = iter(rows), lastrowid

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)


def connecting(disk: Disk) -> Callable[[Path], Any]:
    """How an engine opens its file on the disk."""
    return lambda path: Connection(path, disk)
