"""What if: a past period of the ledger, told again to the machine under the plans of a draft.

Events go through the machine as they did when they were recorded, in their order and by the clock of then, on facts that
begin empty and are only kept in memory; so the draft's meters count, its limits decide, and what is refused is not counted.
What lies before the period fills the windows that reach into it, and is counted as it happened.
"""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from subscription_mcp.domain.catalog import Catalog, Limit, Plan
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, EARLIEST, Instant
from subscription_mcp.domain.invoices import HistoryRow
from subscription_mcp.domain.money import round_to_minor
from subscription_mcp.domain.subscriptions import AccountKey, Subscription, currency_of
from subscription_mcp.domain.windows import Lifetime, Period, Rolling
from subscription_mcp.ledger.commands import Decided, UsageEvent
from subscription_mcp.ledger.machine.facts import NO_ANCHOR
from subscription_mcp.ledger.port import Ask
from subscription_mcp.ledger.queries import AccountPage, BillingOf, EventPage, Whose
from subscription_mcp.ledger.what_if_earnings import costs_of, paid_stretches, rounded
from subscription_mcp.ledger.what_if_memory import Memory, Stood, overage_charge

PAGE = 500
LONGEST_BILLING_PERIOD = 366 * DAY


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

    def as_drafted(self, held: Subscription) -> Subscription:
        """A subscription of the ledger with the draft's plans in place of its own; one that the draft lacks stays, and
        sells nothing there."""
        due = held.scheduled
        if due is not None and due.plan is not None:
            plan, version = self._drafted(due.plan, due.version or 0)
            due = replace(due, plan=plan, version=version)
        plan, version = self._drafted(held.plan, held.version)
        return replace(held, plan=plan, version=version, scheduled=due)

    def _drafted(self, plan: str, version: int) -> tuple[str, int]:
        found = self.draft.plans.get(self.renamed.get(plan, plan))
        return (plan, version) if found is None else (found.key, found.version)


@dataclass(frozen=True, slots=True)
class RefusingLimit:
    """A limit of a plan of the draft, as it was when it refused: one set by hand stands in place of the plan's."""

    plan: str
    limit: Limit
    unit: str


@dataclass(slots=True)
class PlanTried:
    """What became of one plan of the ledger under the draft. What was earned is by time, before taxes; amounts are
    rounded to the smallest coin of their currency. What an access token named is sold by its issuer, and apart."""

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
    by_issuer_micros: int = 0
    draft_currency: str = ""
    draft_earned_micros: int = 0
    draft_overage_micros: int = 0
    draft_by_issuer_micros: int = 0


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
        self._since = _counts_from(asked.draft, asked.period.start)
        self._memory = Memory(ask, asked.draft, self._since)
        self._histories: dict[AccountKey, Sequence[HistoryRow]] = {}
        self._drafted: dict[AccountKey, list[HistoryRow]] = {}
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
        question = EventPage(Whose(self._asked.tenant), self._since, end, PAGE, oldest_first=True)
        for event in _pages(self._ask, question):
            self._tell(event, tried=event.occurred_at >= start)

    def _tell(self, event: UsageEvent, *, tried: bool) -> None:
        stood = self._stood(event)
        if event.corrects is not None:
            overage_micros = self._memory.take_back(event, stood)
            if tried:
                of_plan = self._plan_tried(event.plan)
                of_plan.earned_overage_micros += overage_charge(event.gains)
                of_plan.draft_overage_micros += overage_micros
            return
        # What was recorded while the subscription stood still was counted though it was refused, and is again.
        stood_still = stood.held is not None and stood.held.standstill_at(event.recorded_at) is not None
        outcome, overage_micros = self._memory.tell(event, stood, enforce=tried and not stood_still)
        if not tried:
            return
        of_plan = self._plan_tried(event.plan)
        of_plan.earned_overage_micros += overage_charge(event.gains)
        of_plan.draft_overage_micros += overage_micros
        if event.corrected_by is not None:  # it fills windows until it is taken back, and is nobody's use
            return
        account = AccountKey(event.tenant, event.account_kind, event.account)
        if isinstance(outcome, Refusal):
            self._misfits[(event.event, outcome.message)] += 1
            return
        of_plan.events += 1
        self._of_plan[event.plan].add(account)
        self._events[(account, event.plan)] += 1
        if not outcome.decision.allowed and not stood_still:
            self._note_refusal(account, event, stood.plan, outcome, of_plan)

    def _stood(self, event: UsageEvent) -> Stood:
        account = AccountKey(event.tenant, event.account_kind, event.account)
        rows = self._rows_drafted(account)
        held = _as_of(self._history(account), event.recorded_at)
        # What was told late, settled or taken back may stand under the plan of then; the one of that moment decides.
        came_late = held is not None and event.occurred_at < event.recorded_at
        plan = self._asked.plan_for(held.plan if held is not None and came_late else event.plan)
        return Stood(plan, _as_of(rows, event.recorded_at), rows)

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

    def _plan_tried(self, key: str) -> PlanTried:
        found = self._by_plan.get(key)
        if found is None:
            plan = self._asked.plan_for(key)
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

    def _rows_drafted(self, account: AccountKey) -> list[HistoryRow]:
        found = self._drafted.get(account)
        if found is None:
            as_drafted = self._asked.as_drafted
            found = self._drafted[account] = [
                replace(row, subscription=as_drafted(row.subscription)) for row in self._history(account)
            ]
        return found

    def _add_what_was_earned(self) -> None:
        """What the plans that were held cost by the time they were, and what the draft's would have."""
        sums: dict[tuple[str, bool, bool], Fraction] = defaultdict(Fraction)
        # By plan, whether it was sold here, and whether it is the draft's.
        for account in _pages(self._ask, AccountPage(self._asked.tenant, self._now, PAGE)):
            for held, stretch in paid_stretches(self._history(account), self._asked.period, self._now):
                plan, draft = self._plans[(held.plan, held.version)], self._asked.plan_for(held.plan)
                self._plan_tried(held.plan).currency = currency_of(plan)
                self._of_plan[held.plan].add(account)
                for is_draft, cost in enumerate(costs_of(plan, draft, held, stretch)):
                    sums[(held.plan, held.is_sold_here, bool(is_draft))] += cost
        for key, tried in self._by_plan.items():
            tried.currency = tried.currency or tried.draft_currency
            currency, own = tried.currency, tried.draft_currency
            tried.earned_micros = rounded(sums[(key, True, False)], currency)
            tried.by_issuer_micros = rounded(sums[(key, False, False)], currency)
            tried.earned_overage_micros = round_to_minor(tried.earned_overage_micros, currency)
            tried.draft_earned_micros = rounded(sums[(key, True, True)], own)
            tried.draft_by_issuer_micros = rounded(sums[(key, False, True)], own)
            tried.draft_overage_micros = round_to_minor(tried.draft_overage_micros, own)


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


def _pages(ask: Ask, question: EventPage | AccountPage) -> Iterator[Any]:
    """What is on all pages of a question."""
    page, more = ask(question)
    while page:
        yield from (one for _, one in page)
        if not more:
            break
        page, more = ask(replace(question, after=page[-1][0]))


def _as_of(rows: Sequence[HistoryRow], at: Instant) -> Subscription | None:
    """The subscription as it was at an instant."""
    held = next((row.subscription for row in reversed(rows) if row.at <= at), None)
    return None if held is None else held.at(at)
