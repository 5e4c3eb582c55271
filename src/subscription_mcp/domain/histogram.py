"""Percentiles of durations from counts on a logarithmic scale: integers, a bounded number of cells, at most 5 % off."""

from bisect import bisect_right
from collections.abc import Mapping

VALUE_MAX = 10**12


def _edges() -> tuple[int, ...]:
    edges = [0]
    while edges[-1] <= VALUE_MAX:
        edges.append(max(edges[-1] + 1, edges[-1] * 11 // 10))
    return tuple(edges)


EDGES = _edges()
"""Where cells begin: each whole number up to 20 for itself, from there on each cell a tenth wider than the last."""


def cell_of(value: int) -> int:
    """The cell of a value from 0 to `VALUE_MAX`."""
    return bisect_right(EDGES, value) - 1


def value_of(cell: int) -> int:
    """What stands for all values of a cell: no more than 5 % from any of them."""
    first, last = EDGES[cell], EDGES[cell + 1] - 1
    return (4 * first * last + first + last) // (2 * (first + last)) if last > first else first


def percentile(counts: Mapping[int, int], percent: int) -> int | None:
    """The value that so many percent of all are not above, by nearest rank; None of nothing."""
    rank = -(-sum(counts.values()) * percent // 100)
    for cell in sorted(counts):
        rank -= counts[cell]
        if rank <= 0 < counts[cell]:
            return value_of(cell)
    return None
