"""Sums by key in bounded memory, and two sorted streams of them walked through side by side."""

import sqlite3
from collections.abc import Iterator
from typing import cast

CELLS_IN_MEMORY_MAX = 50_000

Key = tuple[int, int, int, int, int]
Sums = tuple[int, int, int]


class Cells:
    """Three sums for each key of five integers. They come out in the order of the keys."""

    def __init__(self) -> None:
        self._memory: dict[Key, list[int]] = {}
        self._file = sqlite3.connect("", isolation_level=None)  # a private file, gone when it is closed
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute(
            "CREATE TABLE cell (a INTEGER, b INTEGER, c INTEGER, d INTEGER, e INTEGER, x INTEGER, y INTEGER, z INTEGER,"
            " PRIMARY KEY (a, b, c, d, e)) STRICT, WITHOUT ROWID"
        )

    def add(self, key: Key, x: int, y: int, z: int = 0) -> None:
        sums = self._memory.get(key)
        if sums is None:
            self._memory[key] = [x, y, z]
            if len(self._memory) > CELLS_IN_MEMORY_MAX:
                self._spill()
        else:
            sums[0] += x
            sums[1] += y
            sums[2] += z

    def _spill(self) -> None:
        if not self._memory:
            return
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET x = x + excluded.x, y = y + excluded.y, z = z + excluded.z",
            [(*key, *sums) for key, sums in sorted(self._memory.items())],
        )
        self._file.execute("COMMIT")
        self._memory.clear()

    def in_order(self) -> Iterator[tuple[Key, Sums]]:
        self._spill()
        return keyed(self._file.execute("SELECT * FROM cell ORDER BY a, b, c, d, e"))

    def of(self, first: int) -> list[tuple[Key, Sums]]:
        """Those whose key begins with an integer."""
        self._spill()
        return list(keyed(self._file.execute("SELECT * FROM cell WHERE a = ? ORDER BY b, c, d, e", (first,))))

    def firsts(self) -> Iterator[int]:
        """The integers that keys begin with."""
        self._spill()
        return (first for (first,) in self._file.execute("SELECT DISTINCT a FROM cell ORDER BY a"))

    def close(self) -> None:
        self._file.close()


def keyed(rows: Iterator[tuple[int, ...]]) -> Iterator[tuple[Key, Sums]]:
    return ((cast(Key, row[:5]), cast(Sums, row[5:])) for row in rows)


def side_by_side(
    left: Iterator[tuple[Key, Sums]], right: Iterator[tuple[Key, Sums]]
) -> Iterator[tuple[Key, Sums | None, Sums | None]]:
    """Every key of either, with what each has for it; both must come in order."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = next(right, None)
        else:
            yield one[0], one[1], other[1]
            one, other = next(left, None), next(right, None)
