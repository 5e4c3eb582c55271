"""Which counters an event was counted in, told from what the ledger keeps: the versions of the plans, each with the
instant of its publication, and the history of the account's billing anchor in the audit trail.

Pure. The machine knows the answer while it counts; nobody writes it down with each event. It follows exactly but
for billing periods, where an event met a change of the anchor: then more than one period is possible.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from subscription_mcp.domain.catalog import LEVEL, Scope
from subscription_mcp.domain.instants import QUARTER, Instant
from subscription_mcp.domain.rolling import CELLS_MERGED
from subscription_mcp.domain.windows import Anchor, BillingPeriod, Interval, Window, window_of_key
from subscription_mcp.ledger.machine.facts import FUTURE_TOLERANCE, NO_ANCHOR, CountedPlace

PlanVersion = tuple[str, int]


def follows_anchor(window: Window) -> bool:
    """Whether its periods are counted from the account's billing anchor."""
    return isinstance(window, BillingPeriod)


def latest_end(key: str, start: Instant) -> Instant | None:
    """When a counter's period is over at the latest; None where it never is."""
    return window_of_key(key).period_at(start, Anchor(start, "yearly")).end


def slack_of(length: Instant, *, came_late: bool) -> Instant:
    """How much longer than its length a rolling window may count a use: cells are merged by one sixtieth, and
    what was used before the window was kept is known by the quarter of an hour it was said to lie in."""
    return max(1, length // CELLS_MERGED) + (QUARTER + FUTURE_TOLERANCE if came_late else 0)


class Place(NamedTuple):
    """Where a meter is counted: in a window, for each holder or for its group as a whole, since an instant."""

    window_key: str
    whole: bool
    since: Instant


class Places:
    """Where each meter is counted: wherever a version of a plan limits it, and levels for every user."""

    def __init__(
        self,
        limited: Mapping[PlanVersion, Set[CountedPlace]],
        since: Mapping[CountedPlace, Instant],
        levels: Iterable[str],
    ) -> None:
        self._limited = limited
        groups: dict[str, dict[tuple[str, bool], Instant]] = {}
        persons: dict[str, dict[tuple[str, bool], Instant]] = {}
        for meter in levels:
            for places in (groups, persons):
                places.setdefault(meter, {})[(LEVEL.key, False)] = 0
        for (meter, key, scope), at in since.items():
            # A personal account is its one user.
            for places, whole in ((groups, scope == "account"), (persons, False)):
                known = places.setdefault(meter, {})
                known[(key, whole)] = min(at, known.get((key, whole), at))
        self._groups, self._persons = (
            {meter: [Place(*place, at) for place, at in found.items()] for meter, found in places.items()}
            for places in (groups, persons)
        )

    def of(self, meter: str, *, is_group: bool) -> Sequence[Place]:
        return (self._groups if is_group else self._persons).get(meter, ())

    def is_kept(
        self, place: Place, meter: str, plan: PlanVersion, recorded_at: Instant, *, is_group: bool
    ) -> bool:
        """Whether an event recorded then, under a version of a plan, surely found the place kept. In the very
        microsecond of a publication only that of its own version is sure to have come before it."""
        if recorded_at != place.since:
            return recorded_at > place.since
        scopes: tuple[Scope, ...] = ("user", "account")
        if is_group:
            scopes = ("account",) if place.whole else ("user",)
        limited = self._limited.get(plan, ())
        return any((meter, place.window_key, scope) in limited for scope in scopes)


@dataclass(frozen=True, slots=True)
class SubscriptionEntry:
    """A subscription as the audit trail tells it; entries of old do not say the anchor."""

    at: Instant
    anchor: Instant | None
    interval: Interval
    next_interval: Interval | None = None
    next_at: Instant | None = None
    next_anchor: Instant | None = None
    nudge: Instant = 0

    def anchors(self, before: Set[Instant], first: Instant, last: Instant) -> set[Anchor]:
        """What was counted from between two instants; a change that is due has happened. `before` are the anchors
        there may have been where the entry does not say."""
        known = {at for at in before if at <= self.at} if self.anchor is None else {self.anchor}
        now = {Anchor(at, self.interval, self.nudge) for at in known}
        if self.next_interval is None or self.next_at is None or last < self.next_at:
            return now
        if self.next_anchor is not None:
            then = {Anchor(self.next_anchor, self.next_interval)}
        else:
            then = {Anchor(at, self.next_interval, self.nudge) for at in known}
        return then if self.next_at <= first else now | then


class AnchorHistory:
    """Where the billing periods of one account were counted from over time."""

    def __init__(self, entries: Sequence[SubscriptionEntry], now: Anchor | None) -> None:
        self._entries = entries
        self._instants = [entry.at for entry in entries]
        self._now = now

    def anchors(self, occurred_at: Instant, recorded_at: Instant) -> frozenset[Anchor]:
        """The anchors an event's billing period may have been counted from."""
        if self._now is None:
            return frozenset({NO_ANCHOR})
        first = max(bisect_left(self._instants, min(occurred_at, recorded_at)) - 1, 0)
        last = bisect_right(self._instants, recorded_at)
        found: set[Anchor] = set()
        for index in range(first, last):
            entry = self._entries[index]
            # An anchor is the instant of a change, or what it was before.
            before = {*self._instants[: index + 1], self._now.at}
            found |= entry.anchors(before, min(occurred_at, recorded_at), recorded_at)
        return frozenset(found or {self._now})
