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


NOTHING_BEYOND = Shares({}, 0)


def shares_of(
    included: int,
    used: int,
    gain: int,
    *,
    pots: Sequence[Pot] = (),
    overage: Overage | None = None,
    charged: int = 0,
) -> Shares:
    """The shares of a gain on `used`, of which `charged` units were overage. `pots` come soonest to expire first."""
    given = sum(pot.given for pot in pots)
    if gain < 0:
        return _given_back(-gain, max(0, used + gain - included), pots, given, charged)
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


def _given_back(most: int, beyond: int, pots: Sequence[Pot], given: int, charged: int) -> Shares:
    """What goes back where only so much is `beyond` the plan's allowance any more: first what was charged, then what
    was granted, the grant that lasts longest first. At `most` what is taken back: a larger plan since then does not
    forgive what was sold."""
    refunded = min(most, charged - min(charged, max(0, beyond - given)))
    excess = min(most - refunded, given - min(given, beyond))
    granted: dict[str, int] = {}
    for pot in reversed(pots):
        units = min(excess, pot.given)
        if units:
            granted[pot.grant] = -units
            excess -= units
    return Shares(granted, -refunded)
