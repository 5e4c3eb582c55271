"""Alerts: that a share of a limit is used, or that the service itself needs somebody. When one is due, how grave it
is, and what it says.

A limit alerts once for each of its thresholds in each period of its window, whatever usage does afterwards. A rolling
window has no periods: there a threshold alerts again when usage has been below it for a whole window; and a level,
when it has been below for a day. The sliding minute never alerts: it comes back by itself before anybody has read it.
Only what was used counts, not what reservations hold: they may give it back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from subscription_mcp.domain.catalog import UNLIMITED, Catalog, Limit, Plan
from subscription_mcp.domain.decisions import LimitsOf, LimitState, reachable_plans
from subscription_mcp.domain.instants import DAY, Instant
from subscription_mcp.domain.money import currency_of, format_amount
from subscription_mcp.domain.rolling import Cells
from subscription_mcp.domain.windows import MINUTE_WINDOW, Level, Lifetime, Rolling, Window
from subscription_mcp.domain.wording import clock_time, counted, per_window, use_of

Severity = Literal["info", "warning", "critical"]

WARNING_PERCENT = 90
CRITICAL_PERCENT = 100
LEVEL_REARMS_AFTER: Instant = DAY
"""How long a level has to be below a threshold before that alerts again."""
ROUNDS_OF_A_WINDOW = 16
"""Until when a rolling window stays above a threshold is remembered to a sixteenth of its length, rounded up: else each
event would write it anew."""

Marks = Mapping[int, Instant]
"""Until when usage is, or was, at or above each threshold that has alerted."""
FOR_GOOD: Instant = 2**62
"""Until when a threshold that was reached stays so, where nothing comes back by itself."""


@dataclass(frozen=True, slots=True)
class ServiceTrouble:
    """A fault of the service that somebody has to mend: raised once in each period of a window and for each
    `subject`, like the model it is about."""

    meter: str
    window: Window
    severity: Severity
    message: str
    recommendation: str
    subject: str = ""


def severity_of(threshold_percent: int) -> Severity:
    if threshold_percent >= CRITICAL_PERCENT:
        return "critical"
    return "warning" if threshold_percent >= WARNING_PERCENT else "info"


def alerts_at_all(limit: Limit) -> bool:
    return limit.maximum is not UNLIMITED and limit.window.name != MINUTE_WINDOW


def floor_of(limit: Limit, threshold_percent: int) -> int:
    """The least use that reaches a threshold: at least something, also of a limit of 0."""
    assert isinstance(limit.maximum, int)
    return max(1, -(-limit.maximum * threshold_percent // 100))


def above_until(cells: Cells, length: Instant, floor: int) -> Instant:
    """Until when a rolling window that is at or above a floor stays there if nothing more is used, rounded up."""
    left = sum(quantity for _, quantity in cells)
    until = 0
    for at, quantity in cells:
        left -= quantity
        if left < floor:
            until = at + length
            break
    step = max(1, length // ROUNDS_OF_A_WINDOW)
    return -(-until // step) * step


def is_due_again(window: Window, above_until: Instant, now: Instant) -> bool:
    """Whether a threshold that was reached before alerts again, in the same period; `above_until` is until when usage was
    at or above it."""
    if isinstance(window, Rolling):
        return now >= above_until + window.length
    return isinstance(window, Level) and now - above_until >= LEVEL_REARMS_AFTER


# What it says


def message_of(plan: Plan, state: LimitState, threshold_percent: int) -> str:
    """That a threshold is reached, as a complete sentence: `Basic plan: 40 of 50 messages used today, 80 % or more.`"""
    how = (
        "the limit is reached"
        if threshold_percent == CRITICAL_PERCENT
        else f"{threshold_percent} % is reached"
    )
    return f"{plan.title} plan: {use_of(state)}; {how}."


@dataclass(frozen=True, slots=True)
class Need:
    """What an account needs of each limit, to find a plan for it: `used_before` in the last whole period of its window,
    None where there was none, and `used_now` in this one."""

    used_before: int | None
    used_now: int


def suggestion(
    catalog: Catalog,
    plan: Plan,
    limits_of: LimitsOf,
    need_of: Callable[[Limit], Need],
    seats_used: int,
    *,
    is_reached: bool,
) -> Plan | None:
    """The cheapest plan that would have sufficed for the last whole period, this one so far where there is none; the
    held plan where that would. Once a limit `is_reached` this period counts as well. What was used up did not suffice:
    nobody knows how much more it would have been."""

    def suffices(candidate: Plan) -> bool:
        return all(
            used == 0 or used < limit.included
            for limit in limits_of(candidate)
            if limit.window.name != MINUTE_WINDOW
            for used in [_needed(need_of(limit), is_reached=is_reached)]
        )

    if suffices(plan):
        return plan
    return next(
        (
            candidate
            for candidate in reachable_plans(catalog, plan)
            if not (isinstance(candidate.seats_max, int) and candidate.seats_max < seats_used)
            and suffices(candidate)
        ),
        None,
    )


def _needed(need: Need, *, is_reached: bool) -> int:
    if need.used_before is None:
        return need.used_now
    return max(need.used_before, need.used_now) if is_reached else need.used_before


def recommendation_of(
    plan: Plan,
    suggested: Plan | None,
    state: LimitState,
    need: Need,
    limits_of: LimitsOf,
    *,
    is_reached: bool,
) -> str:
    """What to do, and why."""
    before = _basis(state, need, is_reached=is_reached)
    if suggested is None:
        return (
            f"No plan that can be changed to would have been enough for {before}. {_comes_back(state)}ask the operator of "
            "this service for a higher limit."
        )
    if suggested.key == plan.key:
        return f"{plan.title} was enough for {before}: if this one is like it, nothing has to change.{_when(state)}"
    price = suggested.price.monthly
    cost = (
        ""
        if price is None
        else f" for {format_amount(price.micros, price.currency)} {price.currency} a month"
    )
    return (
        f"{suggested.title} is the cheapest plan that would have been enough for {before}: it has "
        f"{_what_it_has(suggested, state, limits_of)}{cost}. Call upgrade_tier with plan {suggested.key}.{_when(state)}"
    )


def _basis(state: LimitState, need: Need, *, is_reached: bool) -> str:
    window = state.limit.window
    if need.used_before is None or (is_reached and need.used_now >= need.used_before):
        return f"the {counted(need.used_now, state.unit)} used so far"
    return f"the last {window.name.replace('_', ' ')} ({counted(need.used_before, state.unit)})"


def _comes_back(state: LimitState) -> str:
    end = state.period.end
    if end is None or isinstance(state.limit.window, Lifetime):
        return "Use less, or "
    return f"Wait until {clock_time(end, state.timezone)}, or "


def _when(state: LimitState) -> str:
    end = state.period.end
    if end is None or state.limit.window.is_rolling:
        return ""
    return f" It resets {clock_time(end, state.timezone)}."


def _what_it_has(plan: Plan, state: LimitState, limits_of: LimitsOf) -> str:
    limit = next((one for one in limits_of(plan) if one.key == state.limit.key), None)
    if limit is None or limit.maximum is UNLIMITED:
        return "no such limit"
    most = counted(limit.maximum, state.unit) if currency_of(state.unit) else f"{limit.maximum:,}"
    return f"{most} {per_window(limit.window)}"
