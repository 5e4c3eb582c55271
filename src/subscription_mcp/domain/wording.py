"""The sentences people and models read. Every number in them comes from the value they describe."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from subscription_mcp.domain.catalog import UNLIMITED, Limit, Maximum, Overage, Plan, is_derived
from subscription_mcp.domain.instants import MINUTE, SECOND, Instant, to_datetime
from subscription_mcp.domain.money import currency_of, format_amount
from subscription_mcp.domain.windows import MINUTE_WINDOW, Window

if TYPE_CHECKING:
    from subscription_mcp.domain.decisions import LimitState
    from subscription_mcp.domain.subscriptions import Subscription

NO_SUBSCRIPTION = "There is no subscription for this account yet. Choose a plan first."

STOOD_STILL = "Recorded while the {plan} subscription stood still: nothing was allowed then."

UNPRICED_EVENT = "What it costs is not known, so nothing is added to the cost."

_USED_IN = {
    "minute": "in the last minute",
    "hour": "this hour",
    "day": "today",
    "week": "this week",
    "month": "this month",
    "billing_period": "this billing period",
    "lifetime": "in all",
    "level": "now",
}
_PER = {
    "minute": "a minute",
    "hour": "an hour",
    "day": "a day",
    "week": "a week",
    "month": "a month",
    "billing_period": "a billing period",
    "lifetime": "in all",
    "level": "at a time",
}
_WORD = re.compile("[a-z]{3,}")
_UNITS_OF_TIME = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def status_sentence(plan: Plan, states: Sequence["LimitState"]) -> str:
    """What is used and left, for an event that is allowed: the tightest limit only."""
    if not states:
        return f"{plan.title} plan: no limit applies."
    state = states[0]
    if state.maximum is UNLIMITED:
        return f"{plan.title} plan: {counted(state.used, state.unit)} used {_used_in(state)}, no limit."
    return f"{plan.title} plan: {use_of(state, states)}{_left(state)}.{_sentence(_resets(state))}"


def refusal_sentence(plan: Plan, states: Sequence["LimitState"], gain: int, offer: str) -> str:
    """Why not, until when, and what would help. Of a member's cap and the pool it is in, both that refuse are named."""
    state, *others = states
    why = _refused(state, states, gain)
    for other in others:
        alike = (other.meter, other.limit.window) == (state.meter, state.limit.window)
        if alike and other.refused and other.scope != state.scope:
            why += f"; {_refused(other, states, gain)}"
    return f"{plan.title} plan: {why}.{_sentence(_resets(state))}{offer}"


def _refused(state: "LimitState", states: Sequence["LimitState"], gain: int) -> str:
    asked = "" if state.room == 0 else f", and {number(gain, state.unit)} more would pass the limit"
    return f"{use_of(state, states)}{_charged(state)}{asked}"


def pricing_note(cost_meter: str | None, asks_library: bool) -> str:
    """How calls are priced that the price book says nothing about, and which are not priced."""
    library = (
        "A model that is not listed costs what genai-prices says: ask with pricing://models/MODEL or GET "
        "/api/pricing?model=MODEL. "
    )
    unpriced = "No meter adds up what calls cost."
    if cost_meter is not None:
        unpriced = (
            "A call without a price, with tokens its price says nothing about, or that says none, adds nothing to the cost "
            f"and is counted as {cost_meter}:unpriced; tokens that are not said to be cached, audio and the like cost what all "
            "others do."
        )
    return f"{library if asks_library else ''}{unpriced}"


def unpriced_events(count: int) -> str:
    """Of several recorded events, that nobody knows what some cost."""
    return f"What {counted(count, 'event')} cost is not known, so nothing is added to the cost for {'it' if count == 1 else 'them'}."


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
    most = counted(limit.maximum, state.unit) if currency_of(state.unit) else f"{limit.maximum:,}"
    return f" {plan.title} has {most} {per_window(limit.window)}."


def near_sentence(sentence: str, state: "LimitState", offer: str) -> str:
    """That little or nothing is left, after what was allowed."""
    if state.overage_used:
        return f"{sentence}{offer}"
    near = "The limit is reached" if state.remaining == 0 else "Approaching the limit"
    return f"{sentence} {near}.{offer}"


def beyond_sentence(state: "LimitState") -> str:
    """What an event would cost that goes beyond a limit."""
    overage = state.limit.overage
    assert overage is not None
    cost = format_amount(state.overage_gain * overage.price_micros, overage.currency)
    return f"{state.overage_gain:,} of this would be beyond the plan, for {cost} {overage.currency}."


def trial_sentence(ends_at: Instant, now: Instant) -> str:
    return f"Trial: {duration_text(ends_at - now)} left, until {clock_time(ends_at, 'UTC')}."


def standstill_sentence(
    plan: Plan, subscription: "Subscription", now: Instant, offered: Plan | None = None
) -> str:
    """Why nothing goes on, since when, and what gets it going again."""
    price = offered.price.monthly if offered is not None else None
    help_ = "To go on, call upgrade_tier with a plan of list_plans."
    if offered is not None and price is not None:
        amount = f"{format_amount(price.micros, price.currency)} {price.currency} a month"
        help_ = f"To go on, call upgrade_tier: {offered.title} costs {amount}."
    match subscription.status_at(now):
        case "suspended":
            assert subscription.suspended_at is not None
            return (
                f"This account was suspended {clock_time(subscription.suspended_at, 'UTC')}. What was used can still be "
                "read; only the operator of this service can activate it again."
            )
        case "past_due":
            assert subscription.past_due_since is not None
            return (
                f"The payment for {plan.title} is overdue since {clock_time(subscription.past_due_since, 'UTC')}, more "
                "than 7 days. It goes on as soon as it is paid."
            )
        case "expired" if subscription.is_trial:
            assert subscription.trial_ends_at is not None
            return (
                f"The trial ended {duration_text(now - subscription.trial_ends_at)} ago, "
                f"{clock_time(subscription.trial_ends_at, 'UTC')}. Until an upgrade everything but reading is blocked. {help_}"
            )
        case _:
            ended = clock_time(subscription.ended_at or now, "UTC")
            how = "was canceled and" if subscription.ended_as == "canceled" else "was for a fixed time and"
            return f"The {plan.title} subscription {how} ended {ended}. {help_}"


def list_text(words: Sequence[str], last: str) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def duration_text(length: Instant) -> str:
    """A length of time in its two largest units, rounded down: `6 days 23 hours`, `5 minutes`."""
    seconds = max(0, length // SECOND)
    words: list[str] = []
    for size, name in _UNITS_OF_TIME:
        count, seconds = divmod(seconds, size)
        if count or (size == 1 and not words):
            words.append(counted(count, name))
        elif words:
            break
        if len(words) == 2:
            break
    return " ".join(words)


def session_sentence(plan: Plan, active: int, most: Maximum) -> str:
    """How many sessions are open, of how many."""
    if most is UNLIMITED:
        return f"{plan.title} plan: {counted(active, 'session')} open, no limit."
    return f"{plan.title} plan: {active:,} of {counted(most, 'session')} open."


def overview_sentence(plan: Plan | None, states: Sequence["LimitState"]) -> str:
    """One complete paragraph: the plan, and every limit with what is left and when it resets."""
    if plan is None:
        return "No subscription yet: choose a plan with upgrade_tier."
    if not states:
        return (
            f"{plan.title} plan. No limit on the account as a whole."
            if plan.limits
            else f"{plan.title} plan. No limits."
        )
    return f"{plan.title} plan. " + lines_of(states)


def lines_of(states: Sequence["LimitState"]) -> str:
    """One sentence for each limit."""
    return " ".join(f"{line_of(state, states)}." for state in states)


def line_of(state: "LimitState", among: Sequence["LimitState"] = ()) -> str:
    """One limit as a sentence without its full stop."""
    name = meter_words(state.meter, state.unit)
    name = name[0].upper() + name[1:]
    if state.maximum is UNLIMITED:
        used = number(state.used, state.unit)
        return (
            f"{name}: {used}{_currency(state.unit)} used {_used_in(state)}{_by_whom(state, among)}, no limit"
        )
    resets = _resets(state)
    until = f", {resets[0].lower()}{resets[1:]}" if resets else ""
    used, most = number(state.used, state.unit), number(state.maximum, state.unit)
    return (
        f"{name}: {used} of {most}{_currency(state.unit)} used {_used_in(state)}{_by_whom(state, among)}"
        f"{_left(state)}{until}"
    )


def maximum_of(state: "LimitState") -> str:
    """What a limit grants, whatever is used: `1,000 messages a day`."""
    most = f"unlimited {currency_of(state.unit) or _one_and_many(state.unit)[1]}"
    if state.maximum is not UNLIMITED:
        most = counted(state.maximum, state.unit)
    return f"{most} {per_window(state.limit.window)}{overage_text(state.limit)}"


def use_of(state: "LimitState", among: Sequence["LimitState"] = ()) -> str:
    held = f" ({number(state.held, state.unit)} more held)" if state.held else ""
    if state.maximum is UNLIMITED:
        return f"{counted(state.used, state.unit)} used {_used_in(state)}{_by_whom(state, among)}{held}"
    used = f"{number(state.used, state.unit)} of {counted(state.maximum, state.unit)} used"
    return f"{used} {_used_in(state)}{_by_whom(state, among)}{held}"


def overage_text(limit: Limit) -> str:
    """What is asked for a unit beyond a limit: `, then 0.002 USD each`, perhaps `, up to 500 more`."""
    if limit.overage is None:
        return ""
    most = limit.overage.units_max
    up_to = "" if most is None else f", up to {most:,} more"
    return f", then {_price_of(limit.overage)} each{up_to}"


def _price_of(overage: Overage) -> str:
    return f"{format_amount(overage.price_micros, overage.currency)} {overage.currency}"


def _left(state: "LimitState") -> str:
    """What is left of a limit, or how much of what is used is charged beyond the plan."""
    if state.overage_used:
        return _charged(state)
    return f", {number(state.remaining or 0, state.unit)} left{overage_text(state.limit)}"


def _charged(state: "LimitState") -> str:
    overage = state.limit.overage
    if overage is None or not state.overage_used:
        return ""
    of_most = "" if overage.units_max is None else f" of at most {overage.units_max:,}"
    return f"; {state.overage_used:,}{of_most} beyond the plan at {_price_of(overage)} each"


def _used_in(state: "LimitState") -> str:
    if state.is_over and state.period.end is not None:
        return f"in the {state.window.replace('_', ' ')} until {clock_time(state.period.end, state.timezone)}"
    return _USED_IN.get(state.window) or f"in the last {_length(state.limit.window)}"


def per_window(window: Window) -> str:
    """How often a limit grants its number: `a day`, `in any 5 hours`."""
    return _PER.get(window.name) or f"in any {_length(window)}"


def _length(window: Window) -> str:
    """The length of a rolling window in the largest unit that measures it: `5 hours`."""
    seconds = window.seconds or 0
    unit, name = next((unit, name) for unit, name in _UNITS_OF_TIME if seconds % unit == 0)
    return counted(seconds // unit, name)


def meter_words(meter: str, unit: str) -> str:
    """A meter as people read it, spelled like its unit: `api_calls` of the unit `API call` is `API calls`."""
    spelled = {word.lower(): word for form in _one_and_many(unit) for word in form.split()}
    return " ".join(spelled.get(word, word) for word in meter.split("_"))


def number(count: int, unit: str) -> str:
    """A number as people read it, without its unit: `1,000`, and of money `149.20`."""
    currency = currency_of(unit)
    if currency is None:
        return f"{count:,}"
    units, point, decimals = format_amount(count, currency).partition(".")
    return f"{int(units):,}{point}{decimals}"


def _currency(unit: str) -> str:
    """The currency of money, with a space before it; nothing of any other unit."""
    currency = currency_of(unit)
    return "" if currency is None else f" {currency}"


def counted(count: int, unit: str) -> str:
    """A number with its unit: `1 message`, `50 messages`, `2 queries`, `100 MB`, `149.20 USD`."""
    if currency_of(unit) is not None:
        return f"{number(count, unit)}{_currency(unit)}"
    one, many = _one_and_many(unit)
    return f"{count:,} {one if count == 1 else many}"


@lru_cache(256)
def _one_and_many(unit: str) -> tuple[str, str]:
    """What one of a unit is called, and several, where it ends in an English word. Symbols (`GB`, `ms`, `%`) stay."""
    word = unit.rpartition(" ")[2]
    if not _WORD.fullmatch(word):
        return unit, unit
    if word.endswith(("ss", "x", "z", "ch", "sh")):
        return unit, f"{unit}es"
    if word.endswith("s"):  # a catalog may say `minutes`
        return unit if word.endswith(("as", "is", "us")) else unit[:-1], unit
    if word.endswith("y") and word[-2] not in "aeiou":
        return unit, f"{unit[:-1]}ies"
    return unit, f"{unit}s"


def maximum_text(maximum: Maximum, unit: str = "") -> str:
    """What a limit grants, without its unit where that is no money: `unlimited`, `1,000`, `150.00 USD`."""
    return "unlimited" if maximum is UNLIMITED else f"{number(maximum, unit)}{_currency(unit)}"


def sum_text(meter: str, quantity: int, unit: str) -> str:
    """A total with its unit; of what is counted beside a meter it says what that is: `3 events (cost unpriced)`."""
    said = counted(quantity, unit)
    return f"{said} ({meter_text(meter)})" if is_derived(meter) else said


def meter_text(meter: str) -> str:
    """A meter's name as words, of what is counted beside one too: `cost unpriced`."""
    return meter.replace(":", " ").replace("_", " ")


def share_text(share_millionths: int) -> str:
    """A share as people read it: `41.2 %`, and of what is there at all never `0.0 %`."""
    if 0 < share_millionths < 1000:
        return "<0.1 %"
    return f"{share_millionths // 1000 / 10} %"


@lru_cache(1024)
def clock_time(at: Instant, timezone: str) -> str:
    """A moment as people read it, with its zone: `2026-11-21 00:00 UTC`."""
    moment = to_datetime(at).astimezone(ZoneInfo(timezone))
    return f"{moment:%Y-%m-%d %H:%M} {timezone}"


def _sentence(text: str) -> str:
    return f" {text}." if text else ""


def _by_whom(state: "LimitState", among: Sequence["LimitState"]) -> str:
    """Whose use it is, where that is not plainly the user's own: a cap is told from the pool it is in."""
    if state.scope == "account":
        return " by the whole account"
    in_pool = any((other.meter, other.scope) == (state.meter, "account") for other in among)
    return " by this member" if in_pool else ""


def _resets(state: "LimitState") -> str:
    """When something comes back, without the full stop; empty where nothing ever does."""
    end = state.period.end
    if end is None or state.is_over:
        return ""
    if not state.limit.window.is_rolling:
        return f"Resets {clock_time(end, state.timezone)}"
    if not state.used:
        return ""
    if state.window == MINUTE_WINDOW:
        now = state.period.start + MINUTE
        return f"Comes back in {-((now - end) // SECOND)} s"
    return f"Comes back from {clock_time(end, state.timezone)}"
