"""The decision: the one answer to "may this happen?", for every surface.

`decide` looks at every limit the event touches; it is a function of values and reads no clock or ledger.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from subscription_mcp.domain.catalog import (
    ESTIMATED,
    OVERAGE,
    OVERAGE_CHARGE,
    UNLIMITED,
    UNPRICED,
    Catalog,
    Limit,
    Maximum,
    ModelPrice,
    Plan,
    Scope,
    monthly_micros,
)
from subscription_mcp.domain.errors import RETRYABLE, Code
from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.domain.money import format_amount, money_unit
from subscription_mcp.domain.rolling import Cells, back_at
from subscription_mcp.domain.windows import MINUTE_WINDOW, Period, Rolling
from subscription_mcp.domain.wording import (
    NO_SUBSCRIPTION,
    STOOD_STILL,
    UNPRICED_EVENT,
    beyond_sentence,
    limit_offer,
    near_sentence,
    refusal_sentence,
    standstill_sentence,
    status_sentence,
    trial_sentence,
)

if TYPE_CHECKING:
    from subscription_mcp.domain.subscriptions import Subscription

UNKNOWN_UNIT = "unit"
"""Of a meter this server's catalog does not have."""
NEAR_PERMILLE = 800
"""From where on a limit counts as nearly used up."""


@dataclass(slots=True)
class LimitState:
    """One limit as it stands: what is used and held in its current period. The limit already has overrides in
    it; `gain` is what the event adds here; `used` includes it once the event is recorded."""

    limit: Limit
    unit: str
    used: int
    held: int
    period: Period
    gain: int = 0
    refused: bool = False
    is_over: bool = False
    """The period is past: an event that was reported late."""
    overage_used: int = 0
    """Of what is used, the units that are charged beyond the plan."""
    overage_gain: int = 0
    """How many of those the event adds."""
    is_unsaid: bool = False
    """The event does not say how much it adds: it needs some room, however little."""

    @property
    def meter(self) -> str:
        return self.limit.meter

    @property
    def window(self) -> str:
        return self.limit.window.name

    @property
    def window_seconds(self) -> int | None:
        return self.limit.window.seconds

    @property
    def scope(self) -> Scope:
        return self.limit.scope

    @property
    def maximum(self) -> Maximum:
        return self.limit.maximum

    @property
    def timezone(self) -> str:
        return self.limit.window.timezone

    @property
    def remaining(self) -> int | None:
        maximum = self.limit.maximum
        return None if maximum is UNLIMITED else max(0, maximum - self.used - self.held)

    @property
    def room(self) -> int:
        """How much more is allowed, be it charged."""
        return max(0, self.limit.ceiling - self.used - self.held)

    @property
    def permille(self) -> int | None:
        """Tenths of a percent used, floored; 1000 at a limit of 0."""
        maximum = self.limit.maximum
        if maximum is UNLIMITED:
            return None
        return 1000 if maximum == 0 else (self.used + self.held) * 1000 // maximum

    @property
    def needed(self) -> int:
        """How much room there must be for the event."""
        return self.gain or int(self.is_unsaid)

    @property
    def resets_at(self) -> Instant | None:
        return self.period.end

    def as_dict(self, *, with_refused: bool = True) -> dict[str, Any]:
        permille = self.permille
        body: dict[str, Any] = {
            "meter": self.meter,
            "window": self.window,
            "scope": self.scope,
            "unit": self.unit,
            "limit": None if self.maximum is UNLIMITED else self.maximum,
            "used": self.used,
            "held": self.held,
            "remaining": self.remaining,
            "percent": None if permille is None else permille / 10,  # shown, never calculated with
            "window_start": format_instant(self.period.start),
            "resets_at": None if self.period.end is None else format_instant(self.period.end),
            "timezone": self.timezone,
        }
        overage = self.limit.overage
        if overage is not None:
            body["overage"] = {
                "used": self.overage_used,
                "max": overage.units_max,
                "price": format_amount(overage.price_micros, overage.currency),
                "currency": overage.currency,
            }
        if with_refused:
            body["refused"] = self.refused
        return body

    def count_in(self) -> None:
        """Have the event in what is used."""
        self.used += self.gain
        self.overage_used += self.overage_gain


@dataclass(slots=True)
class Unlock:
    """Something that would help: another plan, or waiting."""

    action: str
    plan: str | None = None
    until: Instant | None = None

    def as_dict(self) -> dict[str, Any]:
        body: dict[str, Any] = {"action": self.action}
        if self.plan is not None:
            body["plan"] = self.plan
        if self.until is not None:
            body["until"] = format_instant(self.until)
        return body


@dataclass(frozen=True, slots=True)
class Affordable:
    """What the limits leave room for, besides what is held: `calls` like the one that was asked for, and how many
    `output_tokens` it may have; None is no limit, or that it is not priced by them. `binds_calls` and `binds_output_tokens`
    are the limits that say so. Where the money is nearly spent, or not even one call fits, `cheaper` is a model of the price
    book that costs less, and fits."""

    calls: int | None
    output_tokens: int | None
    cost_micros: int | None
    currency: str
    binds_calls: Limit | None
    binds_output_tokens: Limit | None
    cheaper: ModelPrice | None

    def as_dict(self) -> dict[str, Any]:
        cost, cheaper = self.cost_micros, self.cheaper
        amount = None if cost is None else format_amount(cost, self.currency)
        return {
            "calls": self.calls,
            "output_tokens": self.output_tokens,
            "cost": None if amount is None else {"amount": amount, "currency": self.currency},
            "binds": _binding(self.binds_calls or self.binds_output_tokens),
            "binds_calls": _binding(self.binds_calls),
            "binds_output_tokens": _binding(self.binds_output_tokens),
            "cheaper": None if cheaper is None else {"provider": cheaper.provider, "model": cheaper.model},
        }


def _binding(limit: Limit | None) -> dict[str, str] | None:
    return None if limit is None else {"meter": limit.meter, "window": limit.window.name}


@dataclass(slots=True)
class Decision:
    """The answer. `limits` has the refused ones first, then the fullest. `said` is the sentence, where the
    numbers of a limit that allows it do not say it all."""

    code: Code
    plan_held: Plan | None
    event: str
    quantity: int
    limits: list[LimitState]
    as_of: Instant
    unlocks: list[Unlock] = field(default_factory=list)
    said: str | None = None
    event_id: str | None = None
    reservation_id: str | None = None
    replayed: bool = False
    trial_ends_at: Instant | None = None
    """While the plan is a trial: what is left of it is said too."""
    unpriced: bool = False
    """What the event costs should be added up, and nobody knows it."""
    affordable: Affordable | None = None
    """Of a check of something that has a price."""

    @property
    def allowed(self) -> bool:
        return self.code == "ok"

    @property
    def plan(self) -> str | None:
        return None if self.plan_held is None else self.plan_held.key

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE

    @property
    def message(self) -> str:
        return f"{self.sentence} {UNPRICED_EVENT}" if self.unpriced else self.sentence

    @property
    def sentence(self) -> str:
        """The message without what is not known."""
        # Worked out where it is read: most of a batch's sentences never are.
        if self.said is not None or self.plan_held is None:
            return self.said or NO_SUBSCRIPTION
        sentence = status_sentence(self.plan_held, self.limits)
        if self.trial_ends_at is None:
            return sentence
        return f"{sentence} {trial_sentence(self.trial_ends_at, self.as_of)}"

    def as_dict(self) -> dict[str, Any]:
        body = {
            "allowed": self.allowed,
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "plan": self.plan,
            "event": self.event,
            "quantity": self.quantity,
            "limits": [state.as_dict() for state in self.limits],
            "unlocks": [unlock.as_dict() for unlock in self.unlocks],
            "event_id": self.event_id,
            "reservation_id": self.reservation_id,
            "replayed": self.replayed,
            "as_of": format_instant(self.as_of),
        }
        if self.unpriced:
            body["unpriced"] = True
        return body


@dataclass(slots=True)
class Total:
    """A counter as it stands before the event. A rolling window counts only what was used within it, which
    `cells` tell apart, and ends when the event itself comes back; an event reported so late that it lies before it,
    or before the window was cleared, is none of its business (`counts`)."""

    used: int
    held: int
    period: Period
    cells: Cells = ()
    counts: bool = True
    holds: Sequence[tuple[Instant, int]] = ()
    """In a rolling window: what is held until when."""
    overage_used: int = 0
    """What of it was beyond the plan and is charged."""


Totals = Callable[[Limit], Total]
LimitsOf = Callable[[Plan], Sequence[Limit]]


def limit_states(
    catalog: Catalog,
    limits: Sequence[Limit],
    totals: Totals,
    gains: Mapping[str, int] | None = None,
    *,
    anyway: bool = False,
) -> list[LimitState]:
    """How the limits stand: all of them, or those of the meters an event moves, which is counted `anyway`."""
    states = []
    for limit in limits:
        if gains is not None and limit.meter not in gains:
            continue
        total = totals(limit)
        if total.counts:
            gain = gains[limit.meter] if gains is not None else 0
            states.append(state_of(limit, unit_of(catalog, limit.meter), total, gain, anyway=anyway))
    return states


def unit_of(catalog: Catalog, meter: str) -> str:
    known = catalog.meters.get(meter)
    if known is not None:
        return known.unit
    base, _, what = meter.partition(":")
    if what == OVERAGE_CHARGE:
        return money_unit(catalog.currency)
    if what == UNPRICED:
        return "event"
    return unit_of(catalog, base) if what in (OVERAGE, ESTIMATED) else UNKNOWN_UNIT


def state_of(
    limit: Limit, unit: str, total: Total, gain: int, *, anyway: bool = False, is_unsaid: bool = False
) -> LimitState:
    """How one limit stands before an event. One that fits, or is counted `anyway`, is among what comes back."""
    period = total.period
    if isinstance(limit.window, Rolling):
        now = period.start + limit.window.length
        excess = total.used + total.held + (gain or int(is_unsaid)) - limit.ceiling
        others = list(total.holds) if excess > 0 else []
        if gain and period.end is not None and (anyway or excess <= 0):
            others.append((period.end, gain))
        period = Period(period.start, back_at(total.cells, limit.window.length, now, excess, others))
    return LimitState(
        limit,
        unit,
        total.used,
        total.held,
        period,
        gain,
        overage_used=total.overage_used,
        is_unsaid=is_unsaid,
    )


def decide(
    *,
    catalog: Catalog,
    plan: Plan | None,
    states: list[LimitState],
    limits_of: LimitsOf,
    totals: Totals,
    event: str,
    quantity: int,
    gains: Mapping[str, int],
    now: Instant,
    unsaid: Collection[str] = (),
    trial_ends_at: Instant | None = None,
    ends_at: Instant | None = None,
) -> Decision:
    """Whether the event may happen under the plan's limits, which stand as `states` say.

    Every limit of every meter the event moves is looked at, so that a refusal names all that stand in the way.
    Without a plan nothing may happen. For what would help, `limits_of` gives the limits of any plan with this
    account's overrides in them. Where it is allowed the states are left in their order: most callers change them
    first (`count_in`, `sort_states`). Of the meters in `unsaid` any room is enough, as nobody knows yet how much is
    needed; where there is none it is not.
    """
    if plan is None:
        return Decision("payment_required", None, event, quantity, [], now, plans_to_begin_with(catalog))
    any_refused = False
    for state in states:
        end = state.period.end
        state.is_over = end is not None and end <= now
        # What adds nothing is never in the way, also where a limit is passed already; nor is a level that falls.
        needed = state.gain or int(state.is_unsaid)
        if needed > 0 and state.used + state.held + needed > state.limit.ceiling:
            state.refused = any_refused = True
    if not any_refused:
        return Decision("ok", plan, event, quantity, states, now, trial_ends_at=trial_ends_at)
    sort_states(states)
    refused = [state for state in states if state.refused]
    unlocks = []
    next_plan = next_plan_allowing(catalog, plan, limits_of, totals, {**gains, **dict.fromkeys(unsaid, 1)})
    if next_plan is not None:
        unlocks.append(Unlock("upgrade_tier", plan=next_plan.key))
    until = waiting_helps_until(refused, now)
    if until is not None and (ends_at is None or until < ends_at):  # not where a trial or plan ends first
        unlocks.append(Unlock("wait", until=until))
    too_fast = until is not None and all(state.window == MINUTE_WINDOW for state in refused)
    offer = limit_offer(next_plan, refused[0], limits_of)
    said = refusal_sentence(plan, states, refused[0].gain, offer)
    code: Code = "rate_limited" if too_fast else "quota_exceeded"
    return Decision(code, plan, event, quantity, states, now, unlocks, said, trial_ends_at=trial_ends_at)


def plans_to_begin_with(catalog: Catalog) -> list[Unlock]:
    """What helps an account that has no subscription yet."""
    return [Unlock("upgrade_tier", plan.key) for plan in catalog.plans_to_buy[:1]]


def stand_still(
    catalog: Catalog,
    plan: Plan,
    subscription: "Subscription",
    states: list[LimitState],
    event: str,
    quantity: int,
    now: Instant,
    users: int = 1,
) -> Decision:
    """The decision on anything while the subscription stands still: no, whatever the limits say."""
    code = subscription.standstill_at(now)
    assert code is not None
    sort_states(states)
    offered = next_plan_to_buy(catalog, plan, subscription, users)
    unlocks = [Unlock("upgrade_tier", plan=offered.key)] if offered is not None else []
    return Decision(
        code,
        plan,
        event,
        quantity,
        states,
        now,
        unlocks,
        standstill_sentence(plan, subscription, now, offered),
    )


def next_plan_to_buy(catalog: Catalog, plan: Plan, subscription: "Subscription", users: int) -> Plan | None:
    """The cheapest plan that gets a subscription of so many users going again; None where no plan does."""
    if subscription.suspended_at is not None or subscription.past_due_since is not None:
        return None
    reachable = plan.changes_to if subscription.is_trial else None
    return next(
        (
            candidate
            for candidate in catalog.plans_to_buy
            if (reachable is None or candidate.key in reachable)
            and not (isinstance(candidate.seats_max, int) and candidate.seats_max < users)
        ),
        None,
    )


def count_in(decision: Decision, catalog: Catalog, event_id: str, limits_of: LimitsOf) -> None:
    """Turn the decision into that of an event that was recorded: `used` includes it from now on."""
    for state in decision.limits:
        state.count_in()
    sort_states(decision.limits)
    decision.event_id = event_id
    if decision.code == "ok":
        say_if_near(decision, catalog, limits_of)
    else:
        say_as_recorded(decision, catalog)


def say_if_near(decision: Decision, catalog: Catalog, limits_of: LimitsOf) -> None:
    """Where a decision that allows leaves little of the fullest limit: say so, with the next plan that has more."""
    if decision.code != "ok" or not decision.limits or decision.plan_held is None:
        return
    first = decision.limits[0]
    if (first.permille or 0) < NEAR_PERMILLE or first.limit.window.name == MINUTE_WINDOW:
        return
    larger = next_plan_with_more(catalog, decision.plan_held, first.limit, limits_of)
    if larger is not None:
        decision.unlocks.append(Unlock("upgrade_tier", plan=larger.key))
    decision.said = near_sentence(decision.sentence, first, limit_offer(larger, first, limits_of))


def say_what_is_beyond(decision: Decision) -> None:
    """What of something that has not happened yet would be charged beyond the plan."""
    beyond = " ".join(beyond_sentence(state) for state in decision.limits if state.overage_gain)
    decision.said = f"{decision.sentence} {beyond}"


def next_plan_with_more(catalog: Catalog, plan: Plan, limit: Limit, limits_of: LimitsOf) -> Plan | None:
    """The next plan by price that has more of what a limit grants."""
    for candidate in reachable_plans(catalog, plan):
        others = [one.included for one in limits_of(candidate) if one.key == limit.key]
        if all(included > limit.included for included in others):
            return candidate
    return None


def say_as_recorded(decision: Decision, catalog: Catalog) -> None:
    """Let a decision on something that was recorded speak from its own numbers: also where it was over."""
    if decision.plan_held is None or not decision.limits:
        return
    offered = next((catalog.plans.get(unlock.plan) for unlock in decision.unlocks if unlock.plan), None)
    first = decision.limits[0]
    offer = limit_offer(offered, first, lambda plan: plan.limits)
    if decision.code == "ok":
        decision.said = near_sentence(decision.sentence, first, offer) if decision.unlocks else None
    elif decision.code in ("quota_exceeded", "rate_limited"):
        decision.said = refusal_sentence(decision.plan_held, decision.limits, decision.quantity, offer)
    elif decision.said is None:
        decision.said = STOOD_STILL.format(plan=decision.plan_held.title)


def sort_states(states: list[LimitState]) -> None:
    """Refused first, then the fullest; limits without a maximum last."""
    if len(states) > 1:
        states.sort(key=_place)


def _place(state: LimitState) -> tuple[bool, int]:
    permille = state.permille
    return not state.refused, 1 if permille is None else -permille


def reachable_plans(catalog: Catalog, plan: Plan) -> Iterator[Plan]:
    """The plans that cost more and that a holder of this one may move to, cheapest first."""
    for candidate in catalog.plans_to_buy:
        if monthly_micros(candidate) > monthly_micros(plan) and (
            plan.changes_to is None or candidate.key in plan.changes_to
        ):
            yield candidate


def next_plan_allowing(
    catalog: Catalog, plan: Plan, limits_of: LimitsOf, totals: Totals, gains: Mapping[str, int]
) -> Plan | None:
    """The next plan by price in which the event would be allowed as things stand."""
    for candidate in reachable_plans(catalog, plan):
        # Going from free to paid starts a billing period at that instant, with nothing used in it.
        fresh = plan.price.is_free
        if all(
            _would_be(limit, totals, gains[limit.meter], fresh=fresh) <= limit.ceiling
            for limit in limits_of(candidate)
            if gains.get(limit.meter, 0) > 0
        ):
            return candidate
    return None


def waiting_helps_until(refused: Sequence[LimitState], now: Instant) -> Instant | None:
    """When every refusing limit has reset; None where waiting alone can never help, as for a late event whose
    period is over."""
    ends = []
    for state in refused:
        if state.period.end is None or state.period.end <= now:
            return None
        if state.maximum is UNLIMITED or state.needed > state.limit.ceiling:
            return None
        ends.append(state.period.end)
    return max(ends)


def _would_be(limit: Limit, totals: Totals, gain: int, *, fresh: bool) -> int:
    """What would be used under a limit; nothing is yet where its billing period begins with the change."""
    if fresh and limit.window.name == "billing_period":
        return gain
    total = totals(limit)
    return total.used + total.held + gain if total.counts else 0
