"""Rolling windows: what was used when, as far back as it still counts. Pure folds over cells.

A cell is an instant and a quantity. What was used at `t` counts in `[t, t + length)`. Nothing is used later than
it is reported: what a clock ahead of ours says lies in the future is used now. So that a busy holder's cells stay
few, beyond `CELLS_MAX` of them those of one sixtieth of the window become one, at its latest instant: given back
a little late, never early.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from subscription_mcp.domain.instants import Instant

CELLS_MAX = 120
CELLS_MERGED = 60

Cells = Sequence[tuple[Instant, int]]
"""Oldest first; no two of one instant."""


def used_at(at: Instant, now: Instant) -> Instant:
    """From when on something counts that is reported now as of `at`."""
    return min(at, now)


def used_within(cells: Cells, length: Instant, now: Instant) -> int:
    """What counts at an instant."""
    return sum(quantity for at, quantity in cells if now < at + length)


def with_use(cells: Cells, at: Instant, quantity: int, length: Instant, now: Instant) -> Cells:
    """The cells with one more use in them, without those that no longer count."""
    if at + length <= now or not quantity:
        return cells
    at = used_at(at, now)
    kept = [cell for cell in cells if now < cell[0] + length]
    place = len(kept)
    while place and kept[place - 1][0] > at:
        place -= 1
    if place and kept[place - 1][0] == at:
        kept[place - 1] = (at, kept[place - 1][1] + quantity)
    else:
        kept.insert(place, (at, quantity))
    return kept if len(kept) <= CELLS_MAX else _merged(kept, length)


def without_use(cells: Cells, at: Instant, quantity: int) -> Cells:
    """The cells without a use that counts since `at`: cells are merged at the latest instant of each, so that it is in
    the first one from there on."""
    kept = []
    for since, used in cells:
        taken = min(used, quantity) if since >= at else 0
        quantity -= taken
        if used > taken or not used:
            kept.append((since, used - taken))
    return kept


def back_at(
    cells: Cells, length: Instant, now: Instant, excess: int, others: Iterable[tuple[Instant, int]] = ()
) -> Instant:
    """When the first of what counts now has come back, or as much as makes up an `excess`; all of it where that
    is less. `others` come back, too, each at its own instant: what the event itself uses, and what is held. Something
    used now would come back a length from now, which is the answer where nothing counts."""
    used = [(at + length, quantity) for at, quantity in cells if now < at + length]
    given_back = 0
    back = now + length
    for at, quantity in sorted([*used, *others]):
        back = at
        given_back += quantity
        if given_back >= excess:
            break
    return back


def _merged(cells: Cells, length: Instant) -> Cells:
    step = max(1, length // CELLS_MERGED)
    merged = []
    for _, group in groupby(cells, key=lambda cell: cell[0] // step):
        members = list(group)
        merged.append((members[-1][0], sum(quantity for _, quantity in members)))
    return merged
