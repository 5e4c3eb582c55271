"""Who pays for which unit of a limited meter: the plan's own allowance, grants, or nobody: then it is overage.

The allowance comes first, then what was granted, soonest to expire first, and only then overage. What is taken back
leaves in the other order, so that nobody pays for a unit while the plan has room for it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from subscription_mcp.domain.catalog import Overage
from subscription_mcp.domain.instants import DAY, Instant
from subscription_mcp.domain.windows import LONGEST_PERIOD

USE_RETENTION = 400 * DAY
"""How long after a period what a grant gave in it is told apart: as long as the counter of that is kept."""
FOLDED: Instant = 0
"""The period under which stands what a grant gave in those that are over: none but that without end begins there."""


def use_is_over(window: str, start: Instant, now: Instant) -> bool:
    """Whether what grants gave in the period of a window is one sum by now, and nothing of it given back any more."""
    longest = LONGEST_PERIOD.get(window)
    return longest is not None and start != FOLDED and now - start >= longest + USE_RETENTION


class Pot(NamedTuple):
    """A grant as one period sees it: what it gave there, and what it still has to give (nothing, not in effect)."""

    grant: str
    given: int
    left: int


class Shares(NamedTuple):
    """What grants and overage take of a gain; the rest is the plan's own, or beyond what may be charged. Below 0 it is
    given back."""

    granted: Mapping[str, int]
    overage: int


class Sum(NamedTuple):
    """Units beyond a limit, and what they cost."""

    units: int
    micros: int


NOTHING_BEYOND = Shares({}, 0)


def shares_of(
    included: int,
    used: int,
    gain: int,
    *,
    pots: Sequence[Pot] = (),
    overage: Overage | None = None,
    charged: int = 0,
    own: Shares = NOTHING_BEYOND,
) -> Shares:
    """The shares of a gain on `used`, of which `charged` units were overage. `pots` come soonest to expire first. Of what
    is taken back, below 0, `own` is what it was charged and took itself."""
    given = sum(pot.given for pot in pots)
    if gain < 0:
        return _given_back(-gain, max(0, used + gain - included), pots, given, charged, own)
    wanted = min(gain, max(0, used + gain - included - given))
    if not wanted:
        return NOTHING_BEYOND
    granted: dict[str, int] = {}
    for pot in pots:
        units = min(wanted, pot.left)
        if units:
            granted[pot.grant] = units
            wanted -= units
    if overage is None:
        return Shares(granted, 0)
    if overage.units_max is not None:
        wanted = min(wanted, max(0, overage.units_max - charged))
    return Shares(granted, wanted)


def refund_of(units: int, own: Sum, charged: Sum) -> int:
    """What so many units that are charged no longer had cost, of all that are `charged` together: the event's `own` first,
    others at the average of the rest. The last unit takes all that is left."""
    if units >= charged.units:
        return charged.micros
    of_own = min(units, own.units)
    micros = min(charged.micros, own.micros * of_own // own.units if of_own else 0)
    return micros + (charged.micros - micros) * (units - of_own) // (charged.units - of_own)


def _given_back(most: int, beyond: int, pots: Sequence[Pot], given: int, charged: int, own: Shares) -> Shares:
    """What goes back where only so much is `beyond` the plan's allowance any more, and at the least the event's `own`:
    first what was charged for as grants have room, then what was granted, to its own grants and then to the one that
    lasts longest. At `most` what is taken back: a larger plan since then does not forgive what was sold."""
    room = given + sum(pot.left for pot in pots)
    refunded = min(most, charged, max(own.overage, charged - max(0, beyond - room)))
    excess = min(most - refunded, given, max(sum(own.granted.values()), given - beyond))
    granted: dict[str, int] = {}
    for pot, wanted in (
        *((pot, own.granted.get(pot.grant, 0)) for pot in pots),
        *((pot, excess) for pot in reversed(pots)),
    ):
        units = min(excess, wanted, pot.given + granted.get(pot.grant, 0))
        if units:
            granted[pot.grant] = granted.get(pot.grant, 0) - units
            excess -= units
    return Shares(granted, -refunded)
