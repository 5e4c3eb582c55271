"""Which counters an event was counted in, told from what the ledger keeps: the history of the plans on offer and
of the account's billing anchor, both in the audit trail, and the plan the event was recorded under.

Pure. The machine knows the answer while it counts; nobody writes it down with each event. Nearly always it
follows exactly. Where an instant lies on a change (one microsecond, or an event that was held before a change and
settled after it), more than one answer is possible: then a counter is *certain* to hold what must be in it and
may hold what is *possible*.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.windows import Anchor, BillingPeriod, Interval, Window, parse_window
from subscription_mcp.ledger.machine.facts import NO_ANCHOR

PlanVersion = tuple[str, int]
WindowsOfMeter = Mapping[str, frozenset[str]]
"""The keys of the windows each meter is limited in."""


def window_of_key(key: str) -> Window:
    """The window a counter belongs to; ValueError where there is no such kind."""
    name, _, timezone = key.partition("@")
    return parse_window(name, timezone or "UTC")


def follows_anchor(window: Window) -> bool:
    """Whether its periods are counted from the account's billing anchor."""
    return isinstance(window, BillingPeriod)


def latest_end(key: str, start: Instant) -> Instant | None:
    """When a counter's period is over at the latest; None where it never is."""
    return window_of_key(key).period_at(start, Anchor(start, "yearly")).end


class Counted(NamedTuple):
    """Keys of windows: those an event was counted in, and those it may have been counted in."""

    certain: frozenset[str]
    possible: frozenset[str]


@dataclass(frozen=True, slots=True)
class Publication:
    """The plans on offer from an instant on."""

    at: Instant
    plans: Sequence[PlanVersion]


class WindowHistory:
    """The windows each meter was counted in over time: those in which any plan on offer limits it, and those of
    the subscriber's own version."""

    def __init__(
        self,
        plans: Mapping[PlanVersion, WindowsOfMeter],
        publications: Sequence[Publication],
        seen: frozenset[str],
        *,
        is_complete: bool,
    ) -> None:
        """`seen` are the windows there are counters of; without `is_complete` the plans on offer before the
        first publication are not known."""
        self._plans = plans
        self._publications = publications
        self._instants = [publication.at for publication in publications]
        self._seen = seen
        self._is_complete = is_complete
        self._found: dict[tuple[object, ...], Counted] = {}

    def counted(self, meter: str, plan: PlanVersion, occurred_at: Instant, recorded_at: Instant) -> Counted:
        """In which windows an event counted for a meter."""
        # What occurred before it was recorded may have been held then, in the windows of that time.
        first = bisect_left(self._instants, min(occurred_at, recorded_at)) - 1
        last = bisect_right(self._instants, recorded_at)
        if self._is_complete:
            first = max(first, 0)
        at_once = occurred_at >= recorded_at
        key = (meter, plan, first, last, at_once)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._counted(meter, plan, range(first, last), at_once)
        return found

    def _counted(self, meter: str, plan: PlanVersion, eras: range, at_once: bool) -> Counted:
        offered = [self._offered(meter, era) for era in eras if era >= 0]
        is_known = bool(offered) and eras.start >= 0
        certain = frozenset.intersection(*offered) if is_known else frozenset[str]()
        possible = frozenset[str]().union(*offered)
        own = self._plans.get(plan, {}).get(meter, frozenset())
        if at_once:
            return Counted(certain | own, possible | own | (frozenset() if is_known else self._seen))
        of_any = frozenset[str]().union(*(windows.get(meter, ()) for windows in self._plans.values()))
        return Counted(certain, possible | of_any | (frozenset() if is_known else self._seen))

    def _offered(self, meter: str, era: int) -> frozenset[str]:
        plans = self._publications[era].plans
        return frozenset[str]().union(*(self._plans.get(plan, {}).get(meter, ()) for plan in plans))


@dataclass(frozen=True, slots=True)
class SubscriptionEntry:
    """A subscription as the audit trail tells it; entries of old do not say the anchor."""

    at: Instant
    anchor: Instant | None
    interval: Interval
    next_interval: Interval | None = None
    next_at: Instant | None = None

    def intervals(self, first: Instant, last: Instant) -> set[Interval]:
        """The intervals in force between two instants; a change that is due has happened."""
        if self.next_interval is None or self.next_at is None or last < self.next_at:
            return {self.interval}
        return {self.next_interval} if self.next_at <= first else {self.interval, self.next_interval}


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
            known = [at for at in before if at <= entry.at] if entry.anchor is None else [entry.anchor]
            intervals = entry.intervals(min(occurred_at, recorded_at), recorded_at)
            found |= {Anchor(at, interval) for at in known for interval in intervals}
        return frozenset(found or {self._now})
