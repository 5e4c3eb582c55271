"""Counting: the running totals an account's events move, and the limits they are checked against."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from subscription_mcp.domain.allowances import Pot, shares_of
from subscription_mcp.domain.catalog import (
    OVERAGE,
    OVERAGE_CHARGE,
    TOTAL_MAX,
    UNLIMITED,
    Limit,
    Plan,
    Scope,
    derived,
    is_derived,
    places_of,
)
from subscription_mcp.domain.decisions import LimitState, Total, limit_states, sort_states, state_of, unit_of
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.rolling import used_at
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import (
    Anchor,
    BillingPeriod,
    Level,
    Period,
    Rolling,
    Window,
    window_of_key,
)
from subscription_mcp.ledger.commands import Grant, refused
from subscription_mcp.ledger.machine.facts import Counter, CounterKey, Facts, Turn

CounterPlace = tuple[str, str, str]
"""Meter, window and user ('' is the group as a whole) of a counter, whichever period it is of."""
_FOR_EVER = Period(0, None)
_NOTHING = Total(0, 0, _FOR_EVER)


@dataclass(slots=True)
class Totals:
    """Reads the running totals of one account, as they stand now in the windows that hold `at`."""

    facts: Facts
    account: AccountKey
    user: str
    anchor: Anchor
    at: Instant
    now: Instant
    grants: Sequence[Grant] = ()

    def pots(self, limit: Limit) -> list[tuple[Grant, Pot]]:
        """What the grants of a limit gave in its period and still have to give, soonest to expire first."""
        start = self.period(limit.window).start
        found = [
            (one, Pot(one.id, one.uses.get(start, 0), one.left if one.is_in_effect(self.at) else 0))
            for one in self.grants
            if (one.meter, one.window, one.scope) == (limit.meter, limit.window.name, limit.scope)
        ]
        for_good = max((one.ends_at or 0 for one, _ in found), default=0) + 1
        return sorted(found, key=lambda each: (each[0].ends_at or for_good, each[0].starts_at, each[0].id))

    def granted(self, limits: Sequence[Limit]) -> Sequence[Limit]:
        """The limits with what was granted on top of them: what grants gave in the period and what they have left."""
        if not self.grants:
            return limits
        return [self._with_grants(limit) for limit in limits]

    def _with_grants(self, limit: Limit) -> Limit:
        if limit.maximum is UNLIMITED:
            return limit
        pots = self.pots(limit)
        given, left = sum(pot.given for _, pot in pots), sum(pot.left for _, pot in pots)
        extra = given + left
        if left and not isinstance(limit.window, Level):
            extra += self._unsold(limit, given)
        extra = min(extra, TOTAL_MAX - limit.maximum)
        return replace(limit, maximum=limit.maximum + extra, granted=extra) if extra else limit

    def _unsold(self, limit: Limit, given: int) -> int:
        """What went beyond the plan when nothing was in effect, and was not charged: it takes no room of grants. Whoever
        decides has the counters loaded; asking for others here would come too late."""

        def used(meter: str) -> int:
            counter = self.facts.counters.get(self.key(meter, limit.window, limit.scope))
            return 0 if counter is None else counter.used

        charged = used(derived(limit.meter, OVERAGE)) if limit.overage is not None else 0
        return max(0, used(limit.meter) - charged - limit.included - given)

    def key(self, meter: str, window: Window, scope: Scope) -> CounterKey:
        account = self.account
        start = 0 if window.is_rolling else self.period(window).start
        holder = holder_of(account, self.user, scope)
        return CounterKey(
            account.tenant, start, window.key, account.account_kind, account.account, holder, meter
        )

    def period(self, window: Window) -> Period:
        return self.facts.period(window, self.anchor, self.at)

    def shown(self, window: Window) -> Period:
        """The period as people are told it."""
        period, nudge = self.period(window), self.anchor.nudge
        if nudge == 0 or not isinstance(window, BillingPeriod) or period.end is None:
            return period
        return Period(period.start + nudge, period.end + nudge)

    def of(self, limit: Limit) -> Total:
        """The total a limit looks at; nothing where it is not loaded yet."""
        counter = self.facts.counter(self.key(limit.meter, limit.window, limit.scope))
        if counter is None:
            return _NOTHING
        total = total_of(counter, limit.window, self.shown(limit.window), self.at, self.now)
        if limit.overage is not None:
            charged = self.facts.counter(self.key(derived(limit.meter, OVERAGE), limit.window, limit.scope))
            total.overage_used = 0 if charged is None else charged.used
        return total

    def states(self, limits: Sequence[Limit], *, whole_account: bool) -> list[LimitState]:
        """How the limits stand. What each user of a group may use says nothing about the group as a whole."""
        shown = [limit for limit in limits if not whole_account or limit.scope == "account"]
        states = limit_states(self.facts.catalog, self.granted(shown), self.of)
        sort_states(states)
        return states


class Watched(NamedTuple):
    """A limit that may alert, from which use on, and where it is counted in which period."""

    floor: int
    limit: Limit
    unit: str
    counter: Counter
    period: Period


@dataclass(slots=True)
class Beyond:
    """A limit beyond whose plan there is something, granted or at a price: what is used under it, and what of that was
    charged; and its grants."""

    limit: Limit
    used: Counter
    charged: Counter | None
    pots: list[tuple[Grant, Pot]]


@dataclass(slots=True)
class Passed:
    """What gains add beyond the plan: what is counted of it and charged, by derived meter, and what of which grant."""

    charged: dict[str, int] = field(default_factory=dict)
    taken: list[tuple[Grant, Instant, int]] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """What one user's events of certain meters are checked against and counted in, as long as their windows
    last."""

    period: Period
    checked: list[tuple[Limit, str, Counter, Period]]
    """A limit, the unit of its meter, where it is counted, and the period that is."""
    counted: list[Counter]
    beyond: list[Beyond]
    counted_beyond: list[Counter]
    """Where what is beyond limits is counted, and what it costs."""
    is_sold_here: bool = True
    """Whether what is beyond is charged here."""
    watched: list[Watched] | None = None
    """Those of `checked` that may alert, once worked out."""

    def states(
        self,
        gains: Mapping[str, int],
        at: Instant,
        now: Instant,
        *,
        anyway: bool,
        unsaid: Collection[str] = (),
    ) -> list[LimitState]:
        """How the limits stand before something that happened at `at`, and is counted `anyway`."""
        states = []
        for limit, unit, counter, period in self.checked:
            if counter.length is None:
                held = counter.held(now) if counter.holds else 0
                states.append(LimitState(limit, unit, counter.used, held, period, gains[counter.meter]))
                if limit.overage is not None:
                    states[-1].overage_used = self._charged_under(limit)
                if unsaid:
                    states[-1].is_unsaid = limit.meter in unsaid
                continue
            total = total_of(counter, limit.window, period, at, now)
            if total.counts:
                is_unsaid = limit.meter in unsaid
                gain = gains[limit.meter]
                states.append(state_of(limit, unit, total, gain, anyway=anyway, is_unsaid=is_unsaid))
        return states

    def _charged_under(self, limit: Limit) -> int:
        return next(
            (one.charged.used for one in self.beyond if one.limit is limit and one.charged is not None), 0
        )

    def passed(
        self, gains: Mapping[str, int], instead: Mapping[CounterPlace, Counter] | None = None
    ) -> Passed:
        """What gains add beyond the plan; `instead` are the counters of other windows that they count in. Nothing where
        they stay within."""
        found = Passed()
        for one in self.beyond:
            limit, used, charged = one.limit, one.used, one.charged
            if instead is not None:
                used = instead.get(place_of_counter(used), used)
                charged = charged and instead.get(place_of_counter(charged), charged)
            shares = shares_of(
                limit.included - limit.granted,
                used.used,
                gains[used.meter],
                pots=[pot for _, pot in one.pots],
                overage=limit.overage,
                charged=charged.used if charged is not None else 0,
            )
            grants = {grant.id: grant for grant, _ in one.pots}
            found.taken += [(grants[id_], used.key.start, units) for id_, units in shares.granted.items()]
            if shares.overage and limit.overage is not None:
                found.charged[derived(used.meter, OVERAGE)] = shares.overage
                if self.is_sold_here:
                    cost = shares.overage * limit.overage.price_micros
                    found.charged[derived(used.meter, OVERAGE_CHARGE)] = cost
        return found

    def level(self, meter: str) -> int:
        """How much of a meter that is a level there is to take away: the user's own, which is in the group's."""
        return min(
            counter.used
            for counter in self.counted
            if counter.key.meter == meter and counter.key.window_key == Level.name
        )


def total_of(
    counter: Counter, window: Window, period: Period, at: Instant, now: Instant, *, besides: str | None = None
) -> Total:
    """A counter as a limit sees it for something that happened at `at`, leaving out one reservation's hold."""
    held = counter.held(now, besides=besides)
    if isinstance(window, Rolling):
        period = Period(now - window.length, used_at(at, now) + window.length)
        holds = [(one.expires_at, one.quantity) for id_, one in counter.holds.items() if id_ != besides]
        live = [(until, quantity) for until, quantity in holds if now < until]
        counts = at + window.length > now and at >= counter.cleared_at
        return Total(counter.used_at(now), held, period, counter.cells, counts, live)
    return Total(counter.used, held, period)


def tally_of(totals: Totals, limits: Iterable[Limit], meters: Collection[str]) -> Tally | None:
    """The tally of some meters under some limits; None where facts are missing."""
    facts, is_group = totals.facts, totals.account.account_kind == "group"
    counters: dict[tuple[str, str, Scope], Counter | None] = {}
    windows: set[Window] = set()

    def place_of(meter: str, window: Window, scope: Scope) -> tuple[str, str, Scope]:
        # A personal account is its one user.
        place = (meter, window.key, scope if is_group else "user")
        if place not in counters:
            counters[place] = facts.counter(totals.key(meter, window, scope))
            windows.add(window)
        return place

    limited = [limit for limit in limits if limit.meter in meters]
    passable = [limit for limit in limited if limit.overage is not None]
    beyond = [derived(limit.meter, what) for limit in passable for what in (OVERAGE, OVERAGE_CHARGE)]
    for meter in (*meters, *beyond):
        for window, scope in facts.places.get(meter, ()):
            place_of(meter, window, scope)
        for key in facts.caps.get((totals.account.tenant, totals.account.account, totals.user, meter), ()):
            window = window_of_key(key)
            if totals.key(meter, window, "user") in facts.counters:
                place_of(meter, window, "user")
    places = [(limit, place_of(limit.meter, limit.window, limit.scope)) for limit in limited]
    if facts.missing:
        return None
    found = {place: counter for place, counter in counters.items() if counter is not None}
    checked = [
        (limit, unit_of(facts.catalog, limit.meter), found[place], totals.shown(limit.window))
        for limit, place in places
    ]
    start, end = _FOR_EVER
    for window in windows:
        if not window.is_rolling:
            period = totals.shown(window)
            start = max(start, period.start)
            if period.end is not None:
                end = period.end if end is None else min(end, period.end)
    passed = [
        Beyond(
            limit,
            found[place],
            found.get((derived(limit.meter, OVERAGE), *place[1:])),
            [] if limit.window.name == Level.name else totals.pots(limit),
        )
        for limit, place in places
        if limit.overage is not None or limit.granted
    ]
    if not beyond:
        return Tally(Period(start, end), checked, list(found.values()), passed, [])
    apart = [counter for counter in found.values() if is_derived(counter.meter)]
    counted = [counter for counter in found.values() if not is_derived(counter.meter)]
    return Tally(Period(start, end), checked, counted, passed, apart)


def keep_what_is_limited(turn: Turn, plan: Plan, since: Instant) -> None:
    """Keep the totals a new version of a plan limits, for everybody."""
    facts = turn.facts
    for limit in plan.limits:
        for meter, window, scope in places_of(limit):
            facts.counted_since.setdefault((meter, window.key, scope), since)
    for counter in facts.counters.values():
        if not counter.kept and facts.kept_since(counter.key) is not None:
            counter.kept = True
            turn.changes.counters.add(counter)


def count(turn: Turn, counters: Iterable[Counter], gains: Mapping[str, int], at: Instant) -> None:
    """Add what an event gains to its counters."""
    touched = turn.changes.counters
    for counter in counters:
        gain = gains[counter.meter]
        if counter.length is None:  # most are like this, and the call would cost as much again
            counter.used += gain
        else:
            counter.add(gain, at, turn.now)
        touched.add(counter)


def must_fit(
    turn: Turn, counters: Iterable[Counter], gains: Mapping[str, int], *, besides: str | None = None
) -> None:
    """Refuse what would make a total larger than a counter can hold; `besides` is a hold that ends with it."""
    now = turn.now
    for counter in counters:
        total = counter.used + gains[counter.meter]
        if counter.holds or counter.length is not None:
            total += counter.used_at(now) - counter.used + counter.held(now, besides=besides)
        if total > TOTAL_MAX:
            raise refused(
                "invalid_request",
                f"The total would pass {TOTAL_MAX}, the most one counter can hold.",
                FieldProblem("quantity", "is more than the counter can still hold"),
            )


def place_of_counter(counter: Counter) -> CounterPlace:
    key = counter.key
    return key.meter, key.window_key, key.user


def holder_of(account: AccountKey, user: str, scope: Scope) -> str:
    return "" if account.account_kind == "group" and scope == "account" else user
