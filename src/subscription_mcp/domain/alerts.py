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
from subscription_mcp.domain.wording import clock_time, counted, overage_text, per_window, use_of

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
    """That a threshold is reached, as a complete sentence: `Basic plan: 40 of 50 messages used today; 80 % is reached.`"""
    how = f"{threshold_percent} % is reached"
    if threshold_percent == CRITICAL_PERCENT:
        how = "the limit is reached"
        if state.limit.overage is not None:
            how = f"what the plan includes is used up{overage_text(state.limit)}"
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
        else_ = _what_else(state, is_reached=is_reached)
        return f"No plan that can be changed to would have been enough for {before}. {else_}"
    if suggested.key == plan.key:
        return f"{_still_enough(plan, state, need)}{_when(state)}"
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


def _still_enough(plan: Plan, state: LimitState, need: Need) -> str:
    """Why no other plan is suggested, and how much there is left to go by."""
    assert isinstance(state.limit.maximum, int)
    left = f"{counted(max(state.limit.maximum - state.used, 0), state.unit)} left"
    window = state.limit.window.name.replace("_", " ")
    if need.used_before is None:
        return f"No other plan is needed as long as the {left} will do."
    last = f"The last {window} took {counted(need.used_before, state.unit)}, for which {plan.title} is enough"
    if need.used_now <= need.used_before:
        return f"{last}: if this one is like it, nothing has to change."
    return f"{last}. This one took more already: no other plan is needed as long as the {left} will do."


def _what_else(state: LimitState, *, is_reached: bool) -> str:
    """What helps where no other plan does."""
    limit, end = state.limit, state.period.end
    ask = "ask the operator of this service for a higher limit"
    if limit.overage is not None:
        return f"What goes beyond this one is allowed{overage_text(limit)}; or {ask}."
    if not is_reached:
        return f"{ask.capitalize()} before it is reached."
    if isinstance(limit.window, Level):
        return f"Use less, or {ask}."
    if end is None or isinstance(limit.window, Lifetime):
        return f"{ask.capitalize()}: it never resets."
    return f"Wait until {clock_time(end, state.timezone)}, or {ask}."


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
