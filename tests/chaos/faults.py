"""A connection whose statements fail, stop or wait where a test wants them to."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, Literal

from subscription_mcp.ledger.sqlite.engine import SqliteEngine

Kind = Literal["error", "stop before", "stop after", "wait"]


class Stopped(BaseException):
    """The process is gone: nothing after this statement happens, not even a rollback."""


class Faults:
    """What happens to the statements of one connection. `committed` counts the commits that were done."""

    def __init__(self) -> None:
        self.statements = 0
        self.committed = 0
        self.is_dead = False
        self.reached, self.go_on = Event(), Event()
        self._kind: Kind | None = None
        self._hits: Callable[[int, str], bool] = lambda number, statement: False

    def arm(self, kind: Kind, hits: Callable[[int, str], bool]) -> None:
        """`hits` is asked for each statement from now on, by its number from 0, until it says yes."""
        self.statements, self._kind, self._hits = 0, kind, hits
        self.reached.clear()
        self.go_on.clear()

    @property
    def is_armed(self) -> bool:
        """Whether what was armed has not happened yet."""
        return self._kind is not None

    def disarm(self) -> None:
        self._kind = None

    def around(self, statement: str, run: Callable[[], Any]) -> Any:
        if self.is_dead:
            raise Stopped
        number, self.statements = self.statements, self.statements + 1
        kind = self._kind if self._kind and self._hits(number, statement) else None
        if kind is not None:
            self._kind = None
        if kind == "error":
            raise sqlite3.OperationalError("disk I/O error")
        if kind == "stop before":
            self.is_dead = True
            raise Stopped
        if kind == "wait":
            self.reached.set()
            assert self.go_on.wait(30), "nobody let it go on"
        found = run()
        self.committed += statement == "COMMIT"
        if kind == "stop after":
            found.close()
            self.is_dead = True
            raise Stopped
        return found


class FaultyConnection(sqlite3.Connection):
    faults: Faults

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        run = super().execute
        return self.faults.around(statement, lambda: run(statement, *values))

    def executemany(self, statement: str, values: Any) -> sqlite3.Cursor:
        run = super().executemany
        return self.faults.around(statement, lambda: run(statement, values))

    def close(self) -> None:
        # What a traceback still holds would keep the transaction, and with it the lock, alive.
        with suppress(sqlite3.ProgrammingError):  # closed already
            self.rollback()
        super().close()


async def abandon(engine: SqliteEngine) -> None:
    """Leave an engine that has stopped as the death of its process would."""
    for connection in (engine._writer, engine._checker, engine._reporter):
        await connection.close()
    engine._lock.close()


def connecting(faults: Faults) -> Callable[[Path], sqlite3.Connection]:
    """How an engine opens its file: the connection that writes has the faults, the readers have none."""
    waiting = [faults]

    def connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, isolation_level=None, cached_statements=256, factory=FaultyConnection
        )
        connection.faults = waiting.pop() if waiting else Faults()
        return connection

    return connect
