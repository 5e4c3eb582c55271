"""The lock file that lets several processes share one SQLite file.

SQLite before 3.51.3 can corrupt a write-ahead log when a checkpoint races another connection's commit. So
every write transaction, every checkpoint and every close of a connection happens under this lock. It is the
system's own blocking lock: a polling one starves whoever polls later, and the system gives this one back
when a process dies.
"""

import os
import sys
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        while True:
            try:
                os.lseek(descriptor, 0, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
                return
            except OSError:
                continue  # LK_LOCK gives up after ten seconds; the wait is bounded by the caller

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """An exclusive lock on a file beside the database. Not reentrant; `with` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)

    def __enter__(self) -> None:
        _lock(self._descriptor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _unlock(self._descriptor)

    def is_free_within(self, seconds: float) -> bool:
        """Whether the lock can be had in time. The wait is a thread's: the system's lock has no time-out, and
        a thread that waits for ever must not keep the process alive."""
        free = Event()

        def wait() -> None:
            with closing(FileLock(self._path)) as another, another:
                free.set()

        Thread(target=wait, daemon=True, name="ledger lock").start()
        return free.wait(seconds)

    def close(self) -> None:
        os.close(self._descriptor)
