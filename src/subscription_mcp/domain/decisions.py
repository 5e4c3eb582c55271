"""The decision: the one answer to "may this happen?", for every surface.

`decide` looks at every limit the event touches; it is a function of values and reads no clock or ledger.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from subscription_mcp.domain.catalog import (
    TOTAL_MAX,
    UNLIMITED,
    Catalog,
    Limit,
    Maximum,
    Plan,
    Scope,
    monthly_micros,
)
from subscription_mcp.domain.errors import RETRYABLE, Code
from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.domain.windows import Period
from subscription_mcp.domain.wording import NO_SUBSCRIPTION, limit_offer, refusal_sentence, status_sentence

UNKNOWN_UNIT = "unit"
"""Of a meter this server's catalog does not have."""


@dataclass(slots=True)
class LimitState:
    """One limit as it stands: what is used and held in its current period. `maximum` already has overrides
    in it; `used` includes the event of a decision once that is recorded."""

    meter: str
    window: str
    window_key: str
    window_seconds: int | None
    scope: Scope
    unit: str
    maximum: Maximum
    used: int
    held: int
    period: Period
    timezone: str
    refused: bool = False
    is_over: bool = False
    """The period is past: an event that was reported late."""

    @property
    def remaining(self) -> int | None:
        return None if self.maximum is UNLIMITED else max(0, self.maximum - self.used - self.held)

    @property
    def permille(self) -> int | None:
        """Tenths of a percent used, floored; 1000 at a limit of 0."""
        if self.maximum is UNLIMITED:
            return None
        return 1000 if self.maximum == 0 else (self.used + self.held) * 1000 // self.maximum

    @property
    def resets_at(self) -> Instant | None:
        return self.period.end

    def as_dict(self, *, with_refused: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {
            "meter": self.meter,
            "window": self.window,
            "scope": self.scope,
            "unit": self.unit,
            "limit": None if self.maximum is UNLIMITED else self.maximum,
            "used": self.used,
            "held": self.held,
            "remaining": self.remaining,
            "percent": None if self.permille is None else self.permille / 10,  # shown, never calculated with
            "window_start": format_instant(self.period.start),
            "resets_at": None if self.period.end is None else format_instant(self.period.end),
            "timezone": self.timezone,
        }
        if with_refused:
            body["refused"] = self.refused
        return body


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


@dataclass(slots=True)
class Decision:
    """The answer. `limits` has the refused ones first, then the fullest."""

    allowed: bool
    code: Code
    message: str
    plan: str | None
    event: str
    quantity: int
    limits: list[LimitState]
    as_of: Instant
    unlocks: list[Unlock] = field(default_factory=list)
    event_id: str | None = None
    reservation_id: str | None = None
    replayed: bool = False

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE

    def as_dict(self) -> dict[str, Any]:
        return {
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


@dataclass(slots=True)
class Total:
    """A counter as it stands before the event."""

    used: int
    held: int
    period: Period


Totals = Callable[[Limit], Total]
LimitsOf = Callable[[Plan], Sequence[Limit]]


def limit_states(
    catalog: Catalog, limits: Sequence[Limit], totals: Totals, meters: Mapping[str, int] | None = None
) -> list[LimitState]:
    """How the limits stand, for all meters or those named."""
    states = []
    for limit in limits:
        if meters is not None and limit.meter not in meters:
            continue
        total = totals(limit)
        window = limit.window
        meter = catalog.meters.get(limit.meter)
        states.append(
            LimitState(
                limit.meter,
                window.name,
                window.key,
                window.seconds,
                limit.scope,
                meter.unit if meter else UNKNOWN_UNIT,
                limit.maximum,
                total.used,
                total.held,
                total.period,
                window.timezone,
            )
        )
    return states


def decide(
    *,
    catalog: Catalog,
    plan: Plan | None,
    limits_of: LimitsOf,
    totals: Totals,
    event: str,
    quantity: int,
    gains: Mapping[str, int],
    now: Instant,
) -> Decision:
    """Whether the event may happen under the plan's limits.

    `limits_of` gives the limits of any plan with this account's overrides in them. Every limit of every meter
    the event moves is looked at, so that a refusal names all that stand in the way. Without a plan nothing may
    happen.
    """
    if plan is None:
        offers = [Unlock("upgrade_tier", catalog.plans_by_price[0].key)] if catalog.plans else []
        return Decision(False, "payment_required", NO_SUBSCRIPTION, None, event, quantity, [], now, offers)
    states = limit_states(catalog, limits_of(plan), totals, gains)
    for state in states:
        state.is_over = state.period.end is not None and state.period.end <= now
        state.refused = state.used + state.held + gains[state.meter] > _ceiling(state.maximum)
    sort_states(states)
    refused = [state for state in states if state.refused]
    if not refused:
        return Decision(True, "ok", status_sentence(plan, states), plan.key, event, quantity, states, now)
    unlocks = []
    next_plan = next_plan_allowing(catalog, plan, limits_of, totals, gains)
    if next_plan is not None:
        unlocks.append(Unlock("upgrade_tier", plan=next_plan.key))
    until = waiting_helps_until(refused, gains, now)
    if until is not None:
        unlocks.append(Unlock("wait", until=until))
    offer = limit_offer(next_plan, refused[0], limits_of)
    message = refusal_sentence(plan, refused[0], gains[refused[0].meter], offer)
    return Decision(False, "quota_exceeded", message, plan.key, event, quantity, states, now, unlocks)


def count_in(
    decision: Decision, catalog: Catalog, plan: Plan, gains: Mapping[str, int], event_id: str
) -> None:
    """Turn the decision into that of an event that was recorded: `used` includes it from now on."""
    for state in decision.limits:
        state.used += gains[state.meter]
    sort_states(decision.limits)
    decision.event_id = event_id
    decision.message = recorded_sentence(decision, catalog, plan)


def recorded_sentence(decision: Decision, catalog: Catalog, plan: Plan) -> str:
    """What a decision on a recorded event says, from its own numbers: also where it was over a limit."""
    if decision.allowed or not decision.limits:
        return status_sentence(plan, decision.limits)
    offered = next((catalog.plans.get(unlock.plan) for unlock in decision.unlocks if unlock.plan), None)
    first = decision.limits[0]
    return refusal_sentence(
        plan, first, decision.quantity, limit_offer(offered, first, lambda plan: plan.limits)
    )


def sort_states(states: list[LimitState]) -> None:
    """Refused first, then the fullest; limits without a maximum last."""
    states.sort(key=lambda state: (not state.refused, -1 if state.permille is None else -state.permille - 2))


def next_plan_allowing(
    catalog: Catalog, plan: Plan, limits_of: LimitsOf, totals: Totals, gains: Mapping[str, int]
) -> Plan | None:
    """The next plan by price in which the event would be allowed as things stand."""
    for candidate in catalog.plans_by_price:
        if monthly_micros(candidate) <= monthly_micros(plan):
            continue
        # Going from free to paid starts a billing period at that instant, with nothing used in it.
        fresh = plan.price.is_free
        if all(
            gains[limit.meter]
            + (0 if fresh and limit.window.name == "billing_period" else _taken(totals(limit)))
            <= _ceiling(limit.maximum)
            for limit in limits_of(candidate)
            if limit.meter in gains
        ):
            return candidate
    return None


def waiting_helps_until(
    refused: Sequence[LimitState], gains: Mapping[str, int], now: Instant
) -> Instant | None:
    """When every refusing limit has reset; None where waiting alone can never help, as for a late event whose
    period is over."""
    ends = []
    for state in refused:
        if state.period.end is None or state.period.end <= now:
            return None
        if state.maximum is UNLIMITED or gains[state.meter] > state.maximum:
            return None
        ends.append(state.period.end)
    return max(ends)


def _ceiling(maximum: Maximum) -> int:
    return TOTAL_MAX if maximum is UNLIMITED else maximum


def _taken(total: Total) -> int:
    return total.used + total.held
