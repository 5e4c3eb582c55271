"""The lock files that let several processes share one SQLite file, and one put another file in its place.

SQLite before 3.51.3 can corrupt a write-ahead log when a checkpoint races another connection's commit. So
every write transaction, every checkpoint and every close of a connection happens under this lock. It is the
system's own blocking lock: a polling one starves whoever polls later, and the system gives this one back
when a process dies.
"""

import os
import sys
from contextlib import closing
from pathlib import Path
from threading import Event, Lock, Thread
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

    def _write_at(descriptor: int, data: bytes, place: int) -> None:
        os.lseek(descriptor, place, os.SEEK_SET)
        os.write(descriptor, data)

    USERS_MAX = 1024

    def _join(descriptor: int) -> bool:
        # There are no shared locks here: everybody takes a byte of their own.
        return any(_take_bytes(descriptor, place, 1) for place in range(USERS_MAX))

    def _join_alone(descriptor: int) -> bool:
        return _take_bytes(descriptor, 0, USERS_MAX)

    def _take_bytes(descriptor: int, place: int, count: int) -> bool:
        os.lseek(descriptor, place, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, count)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _write_at(descriptor: int, data: bytes, place: int) -> None:
        os.pwrite(descriptor, data, place)

    def _join(descriptor: int) -> bool:
        return _take(descriptor, fcntl.LOCK_SH)

    def _join_alone(descriptor: int) -> bool:
        return _take(descriptor, fcntl.LOCK_EX)

    def _take(descriptor: int, kind: int) -> bool:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


NOTE_PLACE = 16
NOTE_BYTES = 8
"""Behind the byte that Windows locks, eight of a number."""


class FileLock:
    """An exclusive lock on a file beside the database, for the threads of this process and all others. Not
    reentrant; `with` it. The file remembers a number from one holder to the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _open(path)
        # The system gives its lock to whoever has the descriptor, which every thread of ours has.
        self._threads = Lock()

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            _lock(self._descriptor)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _unlock(self._descriptor)
        finally:
            self._threads.release()

    def note(self, number: int) -> None:
        """Leave a number to the next holder; only while the lock is held. It is not synced: what was noted may be
        lost with the power, and is there when a process dies."""
        _write_at(self._descriptor, number.to_bytes(NOTE_BYTES, "big"), NOTE_PLACE)

    def noted(self) -> int:
        """What was noted last; 0 where nothing was. Only while the lock is held."""
        os.lseek(self._descriptor, NOTE_PLACE, os.SEEK_SET)
        return int.from_bytes(os.read(self._descriptor, NOTE_BYTES), "big")

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


class Presence:
    """That a process has the ledger open, from before its first connection until after its last: a lock many
    hold at once, and one who wants to replace the file holds alone. The system gives it back when a process
    dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)

    def join(self) -> bool:
        """Be one of those who have it open; False where somebody has it alone."""
        return _join(self._descriptor)

    def join_alone(self) -> bool:
        """Have it alone; False where anybody else has it open."""
        return _join_alone(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _open(path: Path) -> int:
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
