"""What if: a past period of the ledger, told again to the machine under the plans of a draft.

Events go through the machine as they did when they were recorded, in their order and by the clock of then, on facts that
begin empty and are only kept in memory; so the draft's meters count, its limits decide, and what is refused is not counted.
What lies before the period fills the windows that reach into it, and is counted as it happened.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise

from subscription_mcp.domain.catalog import (
    OVERAGE_CHARGE,
    Catalog,
    Limit,
    Plan,
    places_counted,
    places_of,
)
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, EARLIEST, Instant
from subscription_mcp.domain.invoices import HistoryRow
from subscription_mcp.domain.money import prorate, round_to_minor
from subscription_mcp.domain.pricing import PriceBook, UnitPrice, unit_price_of
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    Membership,
    Subscription,
    currency_of,
    periods_in,
    price_of,
)
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.domain.windows import Lifetime, Period, Rolling, rolling_length
from subscription_mcp.ledger import machine
from subscription_mcp.ledger.commands import Decided, RecordUsage, Subject, UsageEvent
from subscription_mcp.ledger.machine.facts import (
    KEY_RETENTION,
    NO_ANCHOR,
    Changes,
    CountedPlace,
    Counter,
    Facts,
    GroupSize,
    HolderKey,
    TenantSize,
    Turn,
)
from subscription_mcp.ledger.port import Ask
from subscription_mcp.ledger.queries import AccountPage, BillingOf, EventPage, OverridesOf, Whose
from subscription_mcp.ledger.recount import latest_end

PAGE = 500
LONGEST_BILLING_PERIOD = 366 * DAY
EVENTS_BETWEEN_SWEEPS = 20_000
BOUNDLESS = Bounds(users=2**53, dimensions=2**53, open=2**53)


class UnknownPlan(Exception):
    """An account held a plan the draft does not have."""

    def __init__(self, plan: str) -> None:
        super().__init__(plan)
        self.plan = plan


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What is tried: a draft on a tenant's past. `renamed` says which of its plans stands for which of the ledger's;
    the others go by their name."""

    draft: Catalog
    tenant: str
    period: Period
    renamed: Mapping[str, str] = field(default_factory=dict)

    def plan_for(self, plan: str) -> Plan:
        """The draft's plan in place of one of the ledger's; `""`, nobody's, is the default. Raises UnknownPlan."""
        found = self.draft.plans.get(self.renamed.get(plan, plan) if plan else self.draft.default_plan or "")
        if found is None:
            raise UnknownPlan(plan)
        return found


@dataclass(frozen=True, slots=True)
class RefusingLimit:
    """A limit of a plan of the draft, as it was when it refused: one set by hand stands in place of the plan's."""

    plan: str
    limit: Limit
    unit: str


@dataclass(slots=True)
class PlanTried:
    """What became of one plan of the ledger under the draft. What was earned is by time, before taxes; amounts are
    rounded to the smallest coin of their currency."""

    plan: str
    draft_plan: str
    accounts: int = 0
    events: int = 0
    refused_events: int = 0
    refused_accounts: int = 0
    first_refused_at: Instant | None = None
    currency: str = ""
    earned_micros: int = 0
    earned_overage_micros: int = 0
    draft_currency: str = ""
    draft_earned_micros: int = 0
    draft_overage_micros: int = 0


@dataclass(slots=True)
class AccountTried:
    """Somebody who would have been refused, how often, when first, by what, and which limits how often."""

    account: AccountKey
    plan: str
    draft_plan: str
    events: int
    refused_events: int
    first_refused_at: Instant
    first_event: str
    first_event_id: str
    first_limit: RefusingLimit
    limits: Mapping[RefusingLimit, int]


@dataclass(slots=True)
class Tried:
    """The answer. `misfits` are events the draft would not take at all, by event and reason."""

    period: Period
    account_count: int
    plans: list[PlanTried]
    accounts: list[AccountTried]
    """Somebody who changed plans stands here once for each of them that would have refused."""
    limits: Mapping[RefusingLimit, tuple[int, int]]
    """Of each limit that refused: how many events of how many accounts."""
    misfits: Mapping[tuple[str, str], int]

    @property
    def events(self) -> int:
        return sum(plan.events for plan in self.plans)

    @property
    def refused_events(self) -> int:
        return sum(plan.refused_events for plan in self.plans)

    @property
    def refused_accounts(self) -> int:
        return len({one.account for one in self.accounts})


def what_if(ask: Ask, asked: WhatIf, now: Instant) -> Tried:
    """Tell the events of a snapshot to the draft. Raises UnknownPlan."""
    return _Trying(ask, asked, now).done()


class _Trying:
    """One draft on its way through the past."""

    def __init__(self, ask: Ask, asked: WhatIf, now: Instant) -> None:
        self._ask = ask
        self._asked = asked
        self._now = now
        self._memory = Memory(ask, asked.draft)
        self._histories: dict[AccountKey, Sequence[HistoryRow]] = {}
        self._plans: dict[tuple[str, int], Plan] = {}
        self._by_plan: dict[str, PlanTried] = {}
        self._of_plan: dict[str, set[AccountKey]] = {}
        self._events: Tally[tuple[AccountKey, str]] = Tally()
        self._refused: dict[tuple[AccountKey, str], AccountTried] = {}
        self._misfits: Tally[tuple[str, str]] = Tally()

    def done(self) -> Tried:
        self._tell_events()
        self._add_what_was_earned()
        for (account, plan), one in self._refused.items():
            one.events = self._events[(account, plan)]
        for plan, accounts in self._of_plan.items():
            self._by_plan[plan].accounts = len(accounts)
        limits: dict[RefusingLimit, tuple[int, int]] = {}
        for one in self._refused.values():
            for limit, events in one.limits.items():
                before = limits.get(limit, (0, 0))
                limits[limit] = before[0] + events, before[1] + 1
        order = list(self._asked.draft.plans)
        return Tried(
            self._asked.period,
            len(set().union(*self._of_plan.values())),
            sorted(self._by_plan.values(), key=lambda one: (order.index(one.draft_plan), one.plan)),
            sorted(self._refused.values(), key=lambda one: (-one.refused_events, one.first_refused_at)),
            dict(sorted(limits.items(), key=lambda item: (-item[1][0], item[0].plan, item[0].limit.key))),
            dict(self._misfits.most_common()),
        )

    def _tell_events(self) -> None:
        start, end = self._asked.period
        assert end is not None
        question = EventPage(
            Whose(self._asked.tenant), _counts_from(self._asked.draft, start), end, PAGE, oldest_first=True
        )
        for event in _events(self._ask, question):
            if event.corrects is None and event.corrected_by is None:  # what was taken back did not happen
                self._tell(event, tried=event.occurred_at >= start)

    def _tell(self, event: UsageEvent, *, tried: bool) -> None:
        account = AccountKey(event.tenant, event.account_kind, event.account)
        plan = self._asked.plan_for(event.plan)
        held = _as_of(self._history(account), event.recorded_at)
        outcome, overage_micros = self._memory.tell(event, plan, held, enforce=tried)
        if not tried:
            return
        of_plan = self._plan_tried(event.plan, plan)
        if isinstance(outcome, Refusal):
            self._misfits[(event.event, outcome.message)] += 1
            return
        of_plan.events += 1
        of_plan.draft_overage_micros += overage_micros
        of_plan.earned_overage_micros += _overage_charge(event.gains)
        self._of_plan[event.plan].add(account)
        self._events[(account, event.plan)] += 1
        if not outcome.decision.allowed:
            self._note_refusal(account, event, plan, outcome, of_plan)

    def _note_refusal(
        self, account: AccountKey, event: UsageEvent, plan: Plan, outcome: Decided, of_plan: PlanTried
    ) -> None:
        refusing = [
            RefusingLimit(plan.key, state.limit, state.unit)
            for state in outcome.decision.limits
            if state.refused
        ]
        known = self._refused.get((account, event.plan))
        if known is None:
            known = self._refused[(account, event.plan)] = AccountTried(
                *(account, event.plan, plan.key, 0, 0, event.occurred_at, event.event, event.id),
                refusing[0],
                Tally(),
            )
            of_plan.refused_accounts += 1
        known.refused_events += 1
        of_plan.refused_events += 1
        if of_plan.first_refused_at is None:
            of_plan.first_refused_at = event.occurred_at
        assert isinstance(known.limits, Tally)
        known.limits.update(refusing)

    def _plan_tried(self, key: str, plan: Plan) -> PlanTried:
        found = self._by_plan.get(key)
        if found is None:
            found = self._by_plan[key] = PlanTried(key, plan.key, draft_currency=currency_of(plan))
            self._of_plan[key] = set()
        return found

    def _history(self, account: AccountKey) -> Sequence[HistoryRow]:
        found = self._histories.get(account)
        if found is None:
            billing, plans = self._ask(BillingOf(account))
            self._plans |= plans
            found = self._histories[account] = billing.rows
        return found

    def _add_what_was_earned(self) -> None:
        """What the plans that were held cost by the time they were, and what the draft's would have."""
        earned: dict[str, Fraction] = {}
        would: dict[str, Fraction] = {}
        for account in _accounts(self._ask, self._asked.tenant, self._now):
            for held, stretch in _stretches(self._history(account), self._asked.period, self._now):
                plan, draft = self._plans[(held.plan, held.version)], self._asked.plan_for(held.plan)
                tried = self._plan_tried(held.plan, draft)
                tried.currency = currency_of(plan)
                self._of_plan[held.plan].add(account)
                earned[held.plan] = earned.get(held.plan, Fraction(0)) + _cost(plan, held, stretch)
                would[held.plan] = would.get(held.plan, Fraction(0)) + _cost(draft, held, stretch)
        for key, tried in self._by_plan.items():
            tried.currency = tried.currency or tried.draft_currency
            tried.earned_micros = _rounded(earned.get(key, Fraction(0)), tried.currency)
            tried.draft_earned_micros = _rounded(would.get(key, Fraction(0)), tried.draft_currency)
            tried.earned_overage_micros = round_to_minor(tried.earned_overage_micros, tried.currency)
            tried.draft_overage_micros = round_to_minor(tried.draft_overage_micros, tried.draft_currency)


class Memory:
    """The facts of a ledger that begins with nothing used, and the machine on them."""

    def __init__(self, ask: Ask, draft: Catalog) -> None:
        self._ask = ask
        plans = list(draft.plans.values())
        since: dict[CountedPlace, Instant] = {
            (meter, window.key, scope): 0
            for plan in plans
            for limit in plan.limits
            for meter, window, scope in places_of(limit)
        }
        self._facts = Facts(
            draft,
            plans={(plan.key, plan.version): plan for plan in plans},
            places=places_counted(draft.meters, plans),
            counted_since=since,
            bounds=BOUNDLESS,
        )
        self._book = PriceBook(draft.prices)
        self._told = 0

    def tell(
        self, event: UsageEvent, plan: Plan, held: Subscription | None, *, enforce: bool
    ) -> tuple[Decided | Refusal, int]:
        """How the event is decided under a plan, and what it costs beyond the limits. With `enforce` one that is
        refused is not counted."""
        self._told += 1
        if self._told % EVENTS_BETWEEN_SWEEPS == 0:
            self._forget_what_is_over(event.recorded_at)
        self._stand(event, plan, held)
        facts, changes = self._facts, Changes()
        facts.now = event.recorded_at
        group = event.account if event.account_kind == "group" else None
        command = RecordUsage(
            Subject(event.tenant, event.user, group, event.account_kind),
            event.event,
            event.source,
            event.quantity,
            event.attributes,
            occurred_at=event.occurred_at,
            enforce=enforce,
            price=self._price_of(event),
        )
        turn = Turn(facts, changes, event.recorded_at, lambda: event.id)
        (outcome,) = machine.run(turn, [command], self._supply)
        assert isinstance(outcome, Decided | Refusal)
        return outcome, sum(_overage_charge(one.gains) for _, one in turn.changes.events)

    def _price_of(self, event: UsageEvent) -> UnitPrice | None:
        """What it costs by the draft's price book, else what it was counted with."""
        provider, model = event.attributes.get("provider"), event.attributes.get("model")
        line = self._book.find(
            provider if isinstance(provider, str) else None, model if isinstance(model, str) else None
        )
        return event.price if line is None else unit_price_of(line)

    def _stand(self, event: UsageEvent, plan: Plan, held: Subscription | None) -> None:
        """Let the user be in the account, and the account hold the plan."""
        facts = self._facts
        account = AccountKey(event.tenant, event.account_kind, event.account)
        anchor = held.billing_anchor if held is not None else NO_ANCHOR
        known = facts.subscriptions.get(account)
        if known is None or (known.plan, known.billing_anchor) != (plan.key, anchor):
            facts.subscriptions[account] = Subscription(
                *(plan.key, plan.version, "operator", anchor.at, anchor.at, anchor.interval, anchor.nudge)
            )
            facts.forget_located(event.tenant, event.account)
        place = (event.tenant, event.user)
        joined = facts.members.get(place)
        group = event.account if event.account_kind == "group" else None
        if place not in facts.members or (joined.account if joined is not None else None) != group:
            facts.members[place] = None if group is None else Membership(group, "member", 0)
            facts.forget_located(event.tenant, event.account, event.user)

    def _supply(self, facts: Facts) -> None:
        """What is not known begins with nothing; only what was set by hand is as it is in the ledger."""
        missing, facts.missing = facts.missing, {}
        for key in missing.pop("counters", ()):
            facts.counters[key] = Counter(key, length=rolling_length(key.window_key))
        for key in missing.pop("overrides", ()):
            facts.overrides[key] = self._ask(OverridesOf(*_holder(key)))
        for table, keys in missing.items():
            nothing = _NOTHING.get(table)
            known = getattr(facts, table)
            for key in keys:
                known[key] = nothing

    def _forget_what_is_over(self, now: Instant) -> None:
        """Drop counters that nothing can count in any more, late as it may come."""
        counters = self._facts.counters
        for key in [key for key in counters if _is_over(key.window_key, key.start, now)]:
            del counters[key]
        self._facts.periods.clear()
        self._facts.dimensions.clear()


_NOTHING: Mapping[str, object] = {
    "groups": GroupSize(1, 0),
    "tenants": TenantSize(),
    "dimensions": True,
}
"""What is said of a fact that is not known, where that is not None."""


def _holder(key: HolderKey) -> tuple[AccountKey, str]:
    return key


def _is_over(window_key: str, start: Instant, now: Instant) -> bool:
    if rolling_length(window_key) is not None:
        return False
    end = latest_end(window_key, start)
    return end is not None and end + KEY_RETENTION < now


def _counts_from(draft: Catalog, start: Instant) -> Instant:
    """From when on what was used may still count in the draft's windows at an instant."""
    return min(
        (_began(limit, start) for plan in draft.plans.values() for limit in plan.limits), default=start
    )


def _began(limit: Limit, at: Instant) -> Instant:
    window = limit.window
    if isinstance(window, Lifetime):
        return EARLIEST
    if isinstance(window, Rolling):
        return at - window.length
    if window.name == "billing_period":
        return at - LONGEST_BILLING_PERIOD
    return window.period_at(at, NO_ANCHOR).start


def _events(ask: Ask, question: EventPage) -> Iterator[UsageEvent]:
    after, more = None, True
    while more:
        page, more = ask(_after(question, after))
        if page:
            after = page[-1][0]
        yield from (event for _, event in page)


def _after(question: EventPage, after: int | None) -> EventPage:
    return replace(question, after=after)


def _accounts(ask: Ask, tenant: str, now: Instant) -> Iterator[AccountKey]:
    after, more = None, True
    while more:
        page, more = ask(AccountPage(tenant, now, PAGE, after))
        if page:
            after = page[-1][0]
        yield from (account for _, account in page)


def _as_of(rows: Sequence[HistoryRow], at: Instant) -> Subscription | None:
    """The subscription as it was at an instant."""
    held = next((row.subscription for row in reversed(rows) if row.at <= at), None)
    return None if held is None else held.at(at)


def _stretches(
    rows: Sequence[HistoryRow], period: Period, now: Instant
) -> Iterator[tuple[Subscription, Period]]:
    """What was held from when to when in a period, as long as it was neither a trial nor over nor stood still."""
    assert period.end is not None
    end = min(period.end, now)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        until = end if following is None else min(following.at, end)
        due = row.subscription.scheduled
        cuts = [row.at, *([due.at] if due is not None and row.at < due.at < until else []), until]
        for since, to in pairwise(cuts):
            stretch = Period(max(since, period.start), to)
            held = row.subscription.at(since)
            if stretch.start < to and held.status_at(stretch.start) in ("active", "past_due"):
                yield held, stretch


def _cost(plan: Plan, held: Subscription, stretch: Period) -> Fraction:
    """What a plan costs for a time, by the interval it is paid in, or the one it is sold for."""
    assert stretch.end is not None
    anchor = held.billing_anchor
    interval = anchor.interval
    price = price_of(plan, interval, held.seats)
    if price is None:
        interval = "monthly" if interval == "yearly" else "yearly"
        price = price_of(plan, interval, held.seats)
        anchor = anchor._replace(interval=interval)
    return price.micros * periods_in(stretch.start, stretch.end, anchor) if price is not None else Fraction(0)


def _rounded(micros: Fraction, currency: str) -> int:
    return prorate(micros.numerator, 1, micros.denominator, currency)


def _overage_charge(gains: Mapping[str, int]) -> int:
    return sum(gain for meter, gain in gains.items() if meter.endswith(f":{OVERAGE_CHARGE}"))
