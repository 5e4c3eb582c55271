"""The sentences people and models read. Every number in them comes from the value they describe."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from subscription_mcp.domain.catalog import UNLIMITED, Limit, Maximum, Plan
from subscription_mcp.domain.instants import Instant, to_datetime

if TYPE_CHECKING:
    from subscription_mcp.domain.decisions import LimitState

NO_SUBSCRIPTION = "There is no subscription for this account yet. Choose a plan first."

_USED_IN = {
    "hour": "this hour",
    "day": "today",
    "week": "this week",
    "month": "this month",
    "billing_period": "this billing period",
    "lifetime": "in all",
}
_PER = {
    "hour": "an hour",
    "day": "a day",
    "week": "a week",
    "month": "a month",
    "billing_period": "a billing period",
    "lifetime": "in all",
}


def status_sentence(plan: Plan, states: Sequence["LimitState"]) -> str:
    """What is used and left, for an event that is allowed: the tightest limit only."""
    if not states:
        return f"{plan.title} plan: no limit applies."
    state = states[0]
    if state.maximum is UNLIMITED:
        return (
            f"{plan.title} plan: {counted(state.used, state.unit)} used {_USED_IN[state.window]}, no limit."
        )
    return f"{plan.title} plan: {use_of(state)}, {state.remaining:,} left.{_resets(state)}"


def refusal_sentence(plan: Plan, state: "LimitState", gain: int, offer: str) -> str:
    """Why not, until when, and what would help."""
    asked = "" if state.remaining == 0 else f", and {gain:,} more would pass the limit"
    return f"{plan.title} plan: {use_of(state)}{asked}.{_resets(state)}{offer}"


def limit_offer(plan: Plan | None, state: "LimitState", limits_of: Callable[[Plan], Sequence[Limit]]) -> str:
    """What the next plan has instead of the limit that refused."""
    if plan is None:
        return ""
    alike = [
        limit for limit in limits_of(plan) if (limit.meter, limit.window.name) == (state.meter, state.window)
    ]
    limit = next((limit for limit in alike if limit.scope == state.scope), alike[0] if alike else None)
    if limit is None or limit.maximum is UNLIMITED:
        return f" {plan.title} has no such limit."
    return f" {plan.title} has {limit.maximum:,} {_PER[state.window]}."


def session_sentence(plan: Plan, active: int) -> str:
    """How many sessions are open."""
    most = plan.sessions.max_concurrent
    if most is UNLIMITED:
        return f"{plan.title} plan: {counted(active, 'session')} open, no limit."
    return f"{plan.title} plan: {active:,} of {counted(most, 'session')} open."


def overview_sentence(plan: Plan | None, states: Sequence["LimitState"]) -> str:
    """One complete paragraph: the plan, and every limit with what is left and when it resets."""
    if plan is None:
        return "No subscription yet: choose a plan with upgrade_tier."
    if not states:
        return f"{plan.title} plan. No usage limits."
    return f"{plan.title} plan. " + " ".join(f"{line_of(state)}." for state in states)


def line_of(state: "LimitState") -> str:
    """One limit as a sentence without its full stop."""
    name = state.meter.replace("_", " ").capitalize()
    if state.maximum is UNLIMITED:
        return f"{name}: {state.used:,} used {_USED_IN[state.window]}{_by_whom(state)}, no limit"
    until = "" if state.period.end is None else f", resets {clock_time(state.period.end, state.timezone)}"
    return (
        f"{name}: {state.used:,} of {state.maximum:,} used {_USED_IN[state.window]}{_by_whom(state)}, "
        f"{state.remaining:,} left{until}"
    )


def use_of(state: "LimitState") -> str:
    held = f" ({state.held:,} more held)" if state.held else ""
    if state.maximum is UNLIMITED:
        return f"{counted(state.used, state.unit)} used {_USED_IN[state.window]}{_by_whom(state)}{held}"
    return f"{state.used:,} of {counted(state.maximum, state.unit)} used {_USED_IN[state.window]}{_by_whom(state)}{held}"


def counted(count: int, unit: str) -> str:
    """A number with its unit: `1 message`, `50 messages`, `100 MB`."""
    return f"{count:,} {unit if count == 1 or unit.isupper() else unit + 's'}"


def maximum_text(maximum: Maximum) -> str:
    return "unlimited" if maximum is UNLIMITED else f"{maximum:,}"


def clock_time(at: Instant, timezone: str) -> str:
    """A moment as people read it, with its zone: `2026-11-21 00:00 UTC`."""
    moment = to_datetime(at).astimezone(ZoneInfo(timezone))
    return f"{moment:%Y-%m-%d %H:%M} {timezone}"


def _by_whom(state: "LimitState") -> str:
    return " by the whole account" if state.scope == "account" else ""


def _resets(state: "LimitState") -> str:
    return "" if state.period.end is None else f" Resets {clock_time(state.period.end, state.timezone)}."
