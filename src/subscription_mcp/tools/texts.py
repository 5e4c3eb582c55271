"""What a tool says in words: complete on its own, for clients that show no structure."""

from collections.abc import Iterable

from subscription_mcp.domain.catalog import ModelPrice, Money, Plan, Price
from subscription_mcp.domain.decisions import Decision
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.wording import (
    clock_time,
    counted,
    line_of,
    maximum_text,
    overview_sentence,
    per_window,
)
from subscription_mcp.operations import (
    AccountView,
    AuditEntry,
    LimitsChanged,
    PlanChanged,
    SessionDecided,
    UsageEvent,
)
from subscription_mcp.operations.plans import FeatureAnswer
from subscription_mcp.operations.reports import UsageReportAnswer

LINES_MAX = 20
DECLINED = "Declined: nothing was changed."


def tier_info(view: AccountView) -> str:
    standing, subscription = view.standing, view.subscription
    who = standing.user or standing.account
    text = f"{who} in {standing.tenant}: {overview_sentence(view.plan, view.limits)}"
    if (
        subscription is not None
        and subscription.next_plan is not None
        and subscription.next_plan_at is not None
    ):
        text += f" Changes to {subscription.next_plan} on {clock_time(subscription.next_plan_at, 'UTC')}."
    return text


def session(decided: SessionDecided) -> str:
    opened = decided.session
    if opened is None:
        return decided.decision.message
    until = clock_time(opened.expires_at, "UTC")
    return f"Session {opened.id} is open until {until}. {decided.decision.message}"


def plans(offered: list[Plan]) -> str:
    lines = []
    for plan in offered:
        limits = ", ".join(
            f"{maximum_text(limit.maximum)} {limit.meter.replace('_', ' ')} {per_window(limit.window)}"
            + (" for the whole account" if limit.scope == "account" else "")
            for limit in plan.limits
        )
        features = ", ".join(name for name, value in plan.features.items() if value)
        lines.append(
            f"{plan.title} ({plan.key}): {_price(plan.price)}; {limits or 'no limits'}"
            + (f"; with {features}" if features else "")
            + "."
        )
    return "\n".join(lines) or "There are no plans."


def model_prices(prices: Iterable[ModelPrice]) -> str:
    """One line for each price: `Gemini 2.5 Pro (gemini gemini-2.5-pro): 1.25 USD per million input tokens, …`."""
    lines = []
    for price in prices:
        name = price.provider if price.model is None else f"{price.provider} {price.model}"
        parts = (
            (price.input_per_million_tokens, "million input tokens"),
            (price.output_per_million_tokens, "million output tokens"),
            (price.per_unit, price.unit),
        )
        amounts = ", ".join(f"{_money(money)} per {unit}" for money, unit in parts if money is not None)
        lines.append(f"{price.title} ({name}): {amounts}.")
    return "\n".join(lines)


def plan_change(changed: PlanChanged, status: str, title: str) -> str:
    change = changed.change
    now, next_ = _money(change.price_now), _money(change.price_next)
    when = clock_time(change.effective_at, "UTC")
    limits = "; ".join(line_of(state) for state in changed.limits_after)
    then = f" Then: {limits}." if limits else ""
    cost = (
        f"happens {when} and costs {next_} from then on at each renewal; until then nothing changes"
        if change.is_scheduled
        else f"costs {now} now and {next_} at each renewal, effective {when}"
    )
    match status:
        case "confirmation_required":
            return (
                f"Changing to {title} {cost}.{then} "
                f"Nothing has changed yet. To go ahead, call upgrade_tier again with the same arguments and "
                f"confirmation {changed.handle!r} within 10 minutes."
            )
        case "applied":
            return f"Done: the plan is {title} since {when}. Charged {now}, {next_} at each renewal.{then}"
        case "scheduled":
            return f"Scheduled: the plan changes to {title} at {when}, then {next_} at each renewal. Until then nothing changes."
        case _:
            return f"Preview: changing to {title} {cost}.{then} Nothing has changed."


def plan_change_question(changed: PlanChanged, title: str) -> str:
    """What a person is asked before a change of plan."""
    change = changed.change
    now, next_ = _money(change.price_now), _money(change.price_next)
    when = clock_time(change.effective_at, "UTC")
    limits = "; ".join(line_of(state) for state in changed.limits_after)
    effect = f"from {when}, when the paid period ends" if change.is_scheduled else "at once"
    then = f" Then: {limits}." if limits else ""
    return f"Change the plan to {title}, {effect}? It costs {now} now and {next_} at each renewal.{then}"


def usage_report(answer: UsageReportAnswer, unit_of: dict[str, str]) -> str:
    assert answer.period.end is not None
    start, end = (
        clock_time(answer.period.start, answer.timezone),
        clock_time(answer.period.end, answer.timezone),
    )
    sums = ", ".join(
        counted(total.quantity, unit_of.get(total.meter, total.meter)) for total in answer.totals
    )
    text = f"From {start} to {end}: {sums or 'nothing'} used."
    grouped = [line for line in answer.breakdown if set(line.keys) != {"meter"}]
    for line in grouped[:LINES_MAX]:
        names = ", ".join(f"{key} {value or '-'}" for key, value in line.keys.items() if key != "meter")
        used = counted(line.quantity, unit_of.get(line.meter, line.meter))
        text += f"\n{names}: {used} ({line.share_permille / 10} %)"
    if len(grouped) > LINES_MAX or answer.truncated:
        text += (
            "\nMore in the structured result." if not answer.truncated else "\nThis list was cut; narrow it."
        )
    if answer.limits:
        text += "\n" + " ".join(f"{line_of(state)}." for state in answer.limits)
    return text


def usage_events(events: list[UsageEvent], next_cursor: str | None) -> str:
    if not events:
        return "No events in this period."
    lines = [
        f"{format_instant(event.occurred_at)} {event.user} {event.event} x{event.quantity:,}"
        + "".join(f" {name}={value}" for name, value in event.attributes.items())
        for event in events
    ]
    more = f"\nMore with cursor {next_cursor}" if next_cursor else ""
    return "\n".join(lines) + more


def feature(answer: FeatureAnswer) -> str:
    have = f"Plans with it: {', '.join(answer.plans)}." if answer.plans else "No plan has it."
    if answer.granted:
        value = "" if answer.value is True else f", value {answer.value}"
        return f"Yes: {answer.feature} is included{value}. {have}"
    return f"No: {answer.feature} is not included. {have}"


def decision(decided: Decision) -> str:
    """What was asked and how it was decided."""
    verdict = "would be allowed now" if decided.allowed else f"is refused ({decided.code})"
    return f"{decided.event} x{decided.quantity:,} {verdict}: {decided.message}"


def quota_prompt(view: AccountView) -> str:
    return (
        "Tell me in one or two sentences how much of my plan is left and when it resets. Name first what runs out "
        f"first. Use only these numbers, as of {clock_time(view.as_of, 'UTC')}:\n\n{tier_info(view)}"
    )


def compare_plans_prompt(offered: list[Plan], view: AccountView | None) -> str:
    mine = f"\n\nWhat I have and use now: {tier_info(view)}" if view is not None else ""
    return (
        "Compare these plans for me in a small table, then say in one sentence which fits best what I use and what "
        f"it would cost. Use only these numbers.\n\n{plans(offered)}{mine}"
    )


def explain_denial_prompt(said: list[str], view: AccountView) -> str:
    answers = "\n".join(said)
    return (
        "Explain to me in plain words why this is refused or allowed, until when, and what I can do about it. "
        f"Use only what the server says, as of {clock_time(view.as_of, 'UTC')}.\n\n{answers}\n\n"
        f"What I have: {tier_info(view)}"
    )


def limits(view: AccountView) -> str:
    return overview_sentence(view.plan, view.limits)


def limits_changed(changed: LimitsChanged) -> str:
    after = " ".join(f"{line_of(state)}." for state in changed.after.limits)
    return f"Done, effective at once: {limit_history([changed.audit])}\n{after}".rstrip()


def limit_history(entries: list[AuditEntry]) -> str:
    if not entries:
        return "No limit was ever changed by hand here."
    return "\n".join(
        f"{format_instant(entry.at)} {entry.actor.user} ({entry.actor.role}) {entry.action} "
        f"{(entry.after or {}).get('meter')} per {(entry.after or {}).get('window')}: "
        f"{(entry.before or {}).get('limit')} -> {(entry.after or {}).get('limit')}. {entry.reason or ''}".rstrip()
        for entry in entries
    )


def _money(money: Money) -> str:
    return f"{format_amount(money.micros, money.currency)} {money.currency}"


def _price(price: Price) -> str:
    if price.is_free:
        return "free"
    parts = [f"{_money(price.monthly)} a month"] if price.monthly is not None else []
    parts += [f"{_money(price.yearly)} a year"] if price.yearly is not None else []
    parts += [f"{_money(price.per_seat)} per seat"] if price.per_seat is not None else []
    return " or ".join(parts[:2]) + (f" and {parts[2]}" if len(parts) > 2 else "")
