"""What a tool says in words: complete on its own, for clients that show no structure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subscription_mcp.domain.catalog import (
    UNLIMITED,
    Catalog,
    FeatureValue,
    Limit,
    ModelPrice,
    Money,
    Plan,
    Price,
)
from subscription_mcp.domain.decisions import Decision, LimitState, unit_of
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import SECOND, format_instant
from subscription_mcp.domain.money import currency_of, format_amount
from subscription_mcp.domain.outlook import TrendLine
from subscription_mcp.domain.windows import BillingPeriod
from subscription_mcp.domain.wording import (
    clock_time,
    counted,
    duration_text,
    line_of,
    lines_of,
    maximum_of,
    maximum_text,
    meter_text,
    meter_words,
    overage_text,
    overview_sentence,
    per_window,
    share_text,
    standstill_sentence,
    sum_text,
    trial_sentence,
    unpriced_events,
)
from subscription_mcp.operations import (
    AccountView,
    Alert,
    AuditEntry,
    LimitsChanged,
    MembersChanged,
    PlanChanged,
    PlanRecord,
    SessionDecided,
    UsageEvent,
)
from subscription_mcp.operations.alerts import AlertsAnswer
from subscription_mcp.operations.members import MemberChange, MembersAnswer
from subscription_mcp.operations.plan_editing import PlanManaged
from subscription_mcp.operations.plans import FeatureAnswer
from subscription_mcp.operations.reports import Outlook, UsageReportAnswer

LINES_MAX = 20
YEAR_WHEN_YEARLY = " (a year when billed yearly)"
A_YEAR = " A billing period is a year then, and so is what may be used in it."
STEPS_MAX = 13
"""Steps of a series that are told one by one: a year of months."""
OUTLOOK_MAX = 8
"""Lines of each kind of what a report's numbers mean."""
DECLINED = "Declined: nothing was changed."
MANAGE, UPGRADE = "manage_subscription", "upgrade_tier"


def tier_info(view: AccountView) -> str:
    standing, subscription = view.standing, view.subscription
    who = standing.user or standing.account
    text = f"{who} in {standing.tenant}: {overview_sentence(view.plan, view.limits)}"
    if subscription is None or view.plan is None:
        return text
    status = subscription.status_at(view.as_of)
    if subscription.standstill_at(view.as_of) is not None:
        text += f" {standstill_sentence(view.plan, subscription, view.as_of)}"
    elif status == "trialing":
        assert subscription.trial_ends_at is not None
        text += f" {trial_sentence(subscription.trial_ends_at, view.as_of)}"
    elif status == "past_due":
        assert subscription.past_due_since is not None
        since = clock_time(subscription.past_due_since, "UTC")
        text += f" A payment is overdue since {since}: after 7 days nothing more is allowed."
    scheduled = subscription.scheduled
    if scheduled is not None:
        when = clock_time(scheduled.at, "UTC")
        if scheduled.plan is None:
            text += f" Ends {when}."
        elif scheduled.plan != subscription.plan:
            text += f" Changes to {scheduled.plan} on {when}."
        else:
            more = f", {counted(scheduled.seats, 'seat')}" if scheduled.seats is not None else ""
            text += f" From {when} billed {scheduled.interval}{more}."
    return text


def alerts(answer: AlertsAnswer) -> str:
    """Each alert with what to do and its id, newest first; whose it is where that is not clear."""
    lines = [
        f"{clock_time(alert.created_at, 'UTC')}, {alert.severity}{'' if alert.read_at is None else ', read'}"
        f"{_whose(alert) if answer.is_of_many else ''}: {alert.message} {alert.recommendation} [{alert.id}]"
        for alert in answer.alerts[:LINES_MAX]
    ]
    more = len(answer.alerts) - LINES_MAX
    if more > 0:
        lines.append(f"And {'more than ' if answer.next_cursor else ''}{counted(more, 'older alert')}.")
    marked = [] if answer.marked is None else [f"{counted(answer.marked, 'alert')} marked as read."]
    at = []
    if answer.thresholds is not None:
        percents = ", ".join(f"{one} %" for one in answer.thresholds)
        at = [
            f"This account is alerted at {percents} of a limit."
            if percents
            else "This account is never alerted."
        ]
    return "\n".join([*marked, *(lines or ["There are no alerts."]), *at])


def _whose(alert: Alert) -> str:
    names = [name for name in (alert.user, alert.account) if name]
    return f", {' in '.join(dict.fromkeys(names))}" if names else ""


def session(decided: SessionDecided) -> str:
    opened = decided.session
    if opened is None:
        return decided.decision.message
    until = clock_time(opened.expires_at, "UTC")
    return f"Session {opened.id} is open until {until}. {decided.decision.message}"


def plans(offered: list[Plan], catalog: Catalog) -> str:
    lines = []
    for plan in offered:
        limits = ", ".join(
            _granted(limit, unit_of(catalog, limit.meter))
            + (YEAR_WHEN_YEARLY if _may_be_a_year(limit, plan) else "")
            + (" for the whole account" if limit.scope == "account" else "")
            + overage_text(limit)
            for limit in plan.limits
        )
        features = ", ".join(_with_value(name, value) for name, value in plan.features.items() if value)
        lines.append(
            f"{plan.title} ({plan.key}): {_price(plan.price)}; {limits or 'no limits'}"
            + (f"; with {features}" if features else "")
            + (f"; a trial of {counted(plan.trial_days, 'day')}" if plan.trial_days is not None else "")
            + (f"; up to {counted(plan.seats_max, 'user')}" if isinstance(plan.seats_max, int) else "")
            + "."
        )
    return "\n".join(lines) or "There are no plans."


def _granted(limit: Limit, unit: str) -> str:
    """What a plan grants: `1,000 messages a day`, `150.00 USD of cost a month`."""
    of = " of" if currency_of(unit) else ""
    words = f"{maximum_text(limit.maximum, unit)}{of} {meter_words(limit.meter, unit)}"
    return f"{words} {per_window(limit.window)}"


def _may_be_a_year(limit: Limit, plan: Plan) -> bool:
    """Whether a limit counts in a billing period of which nothing is said yet: it is as long as it is paid for."""
    return (
        limit.window.name == BillingPeriod.name and plan.price.yearly is not None and not plan.price.is_free
    )


def plan_records(records: list[PlanRecord]) -> str:
    """One line for each plan: `basic (Basic), version 2, edited at run time: 3 accounts on version 2, 1 on 1.`"""
    lines = []
    for record in records:
        plan = record.plan
        state = "" if record.is_offered else ", archived" if record.is_archived else ", no longer offered"
        origin = "edited at run time" if record.origin == "runtime" else "from the file"
        lines.append(
            f"{plan.key} ({plan.title}), version {plan.version}, {origin}{state}: {_holders(record.holders)}."
        )
    return "\n".join(lines) or "There are no plans."


def plan_managed(managed: PlanManaged) -> str:
    plan = managed.record.plan
    named, stay = f"{plan.title} ({plan.key})", ""
    match managed.action:
        case "archive":
            done, would = f"{named} is archived", f"{named} would be archived"
            stay = f" Who holds it keeps it: {_holders(managed.affected)}."
        case "migrate":
            done = f"{counted(managed.moved or 0, 'account')} moved to version {plan.version} of {named}"
            would = f"To version {plan.version} of {named} would move: {_holders(managed.affected)}"
            stay = " Its limits hold at once, its price from the next renewal."
        case _:
            done = f"Version {plan.version} of {named} is on offer"
            would = f"{named} would be on offer as version {plan.version}"
            if managed.affected:
                stay = f" Subscribers stay where they are until migrate moves them: {_holders(managed.affected)}."
    if managed.is_preview:
        return f"Preview: {would}.{stay} Nothing has changed."
    return f"Done, for everybody at once: {done}.{stay}"


def _holders(accounts_by_version: Mapping[int, int]) -> str:
    held = sorted(accounts_by_version.items(), reverse=True)
    return (
        ", ".join(f"{counted(n, 'account')} on version {version}" for version, n in held) or "nobody holds it"
    )


def model_prices(prices: Iterable[ModelPrice]) -> str:
    """One line for each price: `Gemini 2.5 Pro (gemini gemini-2.5-pro): 1.25 USD per million input tokens, …`."""
    lines = []
    for price in prices:
        name = price.provider if price.model is None else f"{price.provider} {price.model}"
        parts: list[tuple[Money | None, str | None]] = [
            (price.input_per_million_tokens, "million input tokens"),
            (price.output_per_million_tokens, "million output tokens"),
            *((money, f"million {name.replace('_', ' ')}") for name, money in price.per_million),
            (price.per_unit, price.unit),
        ]
        amounts = ", ".join(f"{_money(money)} per {unit}" for money, unit in parts if money is not None)
        lines.append(f"{price.title} ({name}): {amounts}.")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ChangeWords:
    """How a change of a subscription is called: while it is thought about, when it is done, in a question."""

    tool: str
    doing: str
    done: str
    question: str

    @classmethod
    def of(cls, changed: PlanChanged, catalog: Catalog) -> "ChangeWords":
        from_plan, to_plan = (
            _title(key, catalog) for key in (changed.change.from_plan, changed.change.to_plan)
        )
        seats = changed.change.after.scheduled or changed.change.after
        match changed.action:
            case "cancel":
                then = (
                    f"then {to_plan} follows"
                    if changed.change.to_plan is not None
                    else "then there is no plan and all but reading stops"
                )
                return cls(
                    MANAGE, f"Cancelling {from_plan}", f"{from_plan} ends, {then}", f"Cancel {from_plan}"
                )
            case "resume":
                return cls(MANAGE, f"Keeping {from_plan}", f"{from_plan} goes on", f"Keep {from_plan}")
            case "set_seats":
                number = counted(seats.seats or 0, "seat")
                return cls(MANAGE, f"Having {number}", f"the account has {number}", f"Have {number}")
            case _:
                return cls(
                    UPGRADE,
                    f"Changing to {to_plan}",
                    f"the plan is {to_plan}",
                    f"Change the plan to {to_plan}",
                )


def plan_change(changed: PlanChanged, status: str, words: ChangeWords) -> str:
    change = changed.change
    now, next_ = _money(change.price_now), _money(change.price_next)
    when, then = clock_time(change.effective_at, "UTC"), _then(changed)
    renewals = f"{next_} at each renewal" if change.price_next.micros else "nothing"
    cost = (
        f"happens {when} and costs {renewals} from then on; until then nothing changes"
        if change.is_scheduled
        else f"costs {now} now and {next_} at each renewal, effective {when}"
    )
    match status:
        case "confirmation_required":
            return (
                f"{words.doing} {cost}.{then} "
                f"Nothing has changed yet. To go ahead, call {words.tool} again with the same arguments and "
                f"confirmation {changed.handle!r} within 10 minutes."
            )
        case "applied":
            return f"Done: {words.done} since {when}. Charged {now}, {next_} at each renewal.{then}"
        case "scheduled":
            return f"Scheduled for {when}: {words.done}; it costs {renewals} from then on. Until then nothing changes."
        case _:
            return f"Preview: {words.doing[0].lower()}{words.doing[1:]} {cost}.{then} Nothing has changed."


def plan_change_question(changed: PlanChanged, words: ChangeWords) -> str:
    """What a person is asked before a change of a subscription."""
    change = changed.change
    now, next_ = _money(change.price_now), _money(change.price_next)
    when = clock_time(change.effective_at, "UTC")
    if change.is_scheduled:
        renewals = f"{next_} at each renewal" if change.price_next.micros else "nothing"
        return (
            f"{words.question}, from {when}, when the paid period ends? Nothing is charged now, and it costs {renewals} "
            f"from then on.{_then(changed)}"
        )
    return f"{words.question}, at once? It costs {now} now and {next_} at each renewal.{_then(changed)}"


def _then(changed: PlanChanged) -> str:
    """What the limits are afterwards, until when where it was sold for some days, and what is not given back."""
    states, lost = changed.limits_after, changed.change.credited
    if changed.change.is_scheduled:
        limits = ", ".join(maximum_of(state) for state in states)
    else:
        limits = "; ".join(line_of(state, states) for state in states)
    not_back = (
        f" {_money(lost)} paid already is more than that, and is kept as credit." if lost.micros else ""
    )
    until = changed.change.after.prepaid_until or changed.change.after.trial_ends_at
    ends = (
        f" It ends {clock_time(until, 'UTC')}."
        if until is not None and not changed.change.is_scheduled
        else ""
    )
    then = f" Then: {limits}." if limits and changed.change.to_plan is not None else ""
    after, scheduled = changed.change.after, changed.change.after.scheduled
    interval = after.interval if scheduled is None else scheduled.interval or after.interval
    is_a_year = interval == "yearly" and any(state.window == BillingPeriod.name for state in states)
    return then + (A_YEAR if then and is_a_year else "") + ends + not_back


def _title(key: str | None, catalog: Catalog) -> str:
    plan = catalog.plans.get(key or "")
    return plan.title if plan is not None else key or "nothing"


def usage_report(answer: UsageReportAnswer, unit_of: dict[str, str]) -> str:
    assert answer.period.end is not None
    start, end = (
        clock_time(answer.period.start, answer.timezone),
        clock_time(answer.period.end, answer.timezone),
    )
    sums = ", ".join(sum_text(total.meter, total.quantity, unit_of[total.meter]) for total in answer.totals)
    text = f"From {start} to {end}: {sums or 'nothing'} used."
    grouped = [line for line in answer.breakdown if set(line.keys) != {"meter"}]
    for line in grouped[:LINES_MAX]:
        names = ", ".join(
            f"{key} {value}" if value else f"no {key}" for key, value in line.keys.items() if key != "meter"
        )
        used = sum_text(line.meter, line.quantity, unit_of.get(line.meter, line.meter))
        text += f"\n{names}: {used} ({share_text(line.share_millionths)})"
    if len(grouped) > LINES_MAX:
        text += f"\nAnd {counted(len(grouped) - LINES_MAX, 'more group')} in the structured result."
    if not grouped:
        text += "".join(f"\n{line}" for line in _steps(answer, unit_of))
    if answer.next_cursor is not None:
        text += (
            f"\nRows were left out: narrow the period or group_by, or go on with cursor {answer.next_cursor}"
        )
    is_over = answer.period.end <= answer.as_of
    if answer.limits and not is_over:
        text += f"\n{lines_of(answer.limits)}"
    return text + (_outlook(answer.outlook, is_over=is_over) if answer.outlook is not None else "")


def _steps(answer: UsageReportAnswer, unit_of: dict[str, str]) -> list[str]:
    """A series of few steps, one line for each: what was used in months, or in the days of a week."""
    steps: dict[str, list[str]] = {}
    for one in answer.series:
        begins = clock_time(one.start or 0, answer.timezone).removesuffix(f" {answer.timezone}")
        used = steps.setdefault(begins.removesuffix(" 00:00"), [])
        used.append(sum_text(one.meter, one.quantity, unit_of[one.meter]))
    if not steps or len(steps) > STEPS_MAX:
        return []
    first, period = answer.series[0], answer.period
    if (first.start or 0) <= period.start and (period.end or 0) <= (first.end or 0):
        return []  # it is all of the period, and has been told
    return [f"From {begins}: {', '.join(used)}." for begins, used in steps.items()]


def _outlook(outlook: Outlook, *, is_over: bool) -> str:
    """Whether it is as usual, whether it will last, and what went wrong. Of a period that is over nothing is said of
    what limits are now."""
    lines = _cut([line.message for line in outlook.trend if _is_worth_telling(line, is_over=is_over)])
    heading: dict[str, list[str]] = {}
    for one in (outlook.projections or []) if not is_over else []:
        heading.setdefault(one.message, []).append(f"{meter_text(one.meter)} per {meter_text(one.window)}")
    lines += _cut([f"{message} ({', '.join(limits)})" for message, limits in heading.items()])
    lines += _cut(
        [
            f"{one.event}: of {one.timed:,} timed, half took about {one.p50_ms:,} ms or less, 95 % about "
            f"{one.p95_ms:,} ms or less; {one.failed:,} of {one.count:,} recorded failed."
            if one.p50_ms is not None and one.p95_ms is not None
            else f"{one.event}: {one.failed:,} of {one.count:,} recorded failed."
            for one in outlook.performance
        ]
    )
    if outlook.denials:
        refused = ", ".join(
            f"{one.count:,} {one.code}{f' ({one.meter})' if one.meter else ''}"
            for one in outlook.denials[:OUTLOOK_MAX]
        )
        if len(outlook.denials) > OUTLOOK_MAX:
            refused += f" and {len(outlook.denials) - OUTLOOK_MAX:,} more kinds"
        lines.append(f"Refused in this period: {refused}.")
    sessions = outlook.sessions
    if sessions.count:
        newest = "The newest " if sessions.truncated else ""
        lengths = [sessions.p50_seconds, sessions.p95_seconds, sessions.longest_seconds]
        half, most, longest = [duration_text((one or 0) * SECOND) for one in lengths]
        lasted = f"; half lasted {half} or less, 95 % {most} or less, the longest {longest}"
        lines.append(
            f"{newest}{counted(sessions.count, 'session')}, at most {sessions.peak_concurrent:,} at once"
            f"{lasted if sessions.longest_seconds is not None else ''}."
        )
    return "".join(f"\n{line}" for line in lines)


def _is_worth_telling(line: TrendLine, *, is_over: bool) -> bool:
    """Whether something was used, or usually is."""
    if is_over or line.usual is None:
        return bool(line.total)
    return bool(line.current or line.usual)


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - OUTLOOK_MAX
    return (
        [*lines[:OUTLOOK_MAX], f"And {more:,} more like this in the structured result."]
        if more > 0
        else lines
    )


def usage_events(lines: list[str], next_cursor: str | None) -> str:
    if not lines:
        return "No events in this period."
    more = f"\nMore with cursor {next_cursor}" if next_cursor else ""
    return "\n".join(lines) + more


def usage_event(event: UsageEvent) -> str:
    return (
        f"{format_instant(event.occurred_at)} {event.user} {event.event} x{event.quantity:,}"
        + "".join(f" {name}={value}" for name, value in event.attributes.items())
        + (f", takes back {event.corrects}" if event.corrects is not None else "")
        + (f", taken back by {event.corrected_by}" if event.corrected_by is not None else "")
    )


def export_page(format_: str, content: str, events: int, next_cursor: str | None) -> str:
    kind = {"csv": "CSV", "jsonl": "JSON lines"}[format_]
    more = f"cut here, more with cursor {next_cursor}" if next_cursor else "that is all of them"
    return f"{counted(events, 'event')} as {kind}, the oldest first; {more}.\n\n{content}"


def feature(answer: FeatureAnswer) -> str:
    plans = ", ".join(_with_value(plan, value) for plan, value in answer.plans.items())
    have = f"Plans with it: {plans}." if plans else "No plan has it."
    if answer.granted:
        value = "" if answer.value is True else f", value {answer.value}"
        return f"Yes: {answer.feature} is included{value}. {have}"
    if answer.standstill is not None:
        return f"No: nothing is included while the subscription stands still ({answer.standstill})."
    return f"No: {answer.feature} is not included. {have}"


def _with_value(name: str, value: FeatureValue) -> str:
    return name if value is True else f"{name} ({value})"


def decision(decided: Decision) -> str:
    """What was asked and how it was decided."""
    verdict = "would be allowed now" if decided.allowed else f"is refused ({decided.code})"
    return f"{decided.event} x{decided.quantity:,} {verdict}: {decided.message}"


def batch(results: Sequence[Decision | Refusal], refused: Sequence[Decision | Refusal]) -> str:
    """How many events of a batch were allowed, of how many recorded ones nobody knows what they cost, and why others
    were not."""
    text = f"{len(results) - len(refused)} of {len(results)} events were allowed."
    unpriced = sum(1 for one in results if isinstance(one, Decision) and one.unpriced and one.event_id)
    if unpriced:
        text += f" {unpriced_events(unpriced)}"
    sentences = (one.message if isinstance(one, Refusal) else one.sentence for one in refused[:LINES_MAX])
    return text + "".join(f"\n{sentence}" for sentence in dict.fromkeys(sentences))


def checked(decision: Decision) -> str:
    """The sentence of a check, with what is still affordable of something that has a price."""
    left = decision.affordable
    if left is None:
        return decision.message
    cheaper, instead = left.cheaper, ""
    if cheaper is not None:
        would = "would fit" if left.calls == 0 else "would cost less"
        instead = f" {cheaper.title} ({cheaper.provider} {cheaper.model}) {would}."
    if left.calls == 0:
        return f"{decision.message}{instead}"
    said = []
    if left.calls is not None:
        said.append(counted(left.calls, "call") + " like this")
    if left.output_tokens is not None:
        said.append(f"{counted(left.output_tokens, 'output token')} in this one")
    units = {state.meter: state.unit for state in decision.limits}
    # The calls' first, as the numbers are; where one limit binds both it is said once.
    limits = [limit for limit in (left.binds_calls, left.binds_output_tokens) if limit is not None]
    bound = dict.fromkeys(
        f"{meter_words(one.meter, units.get(one.meter, ''))} {per_window(one.window)}" for one in limits
    )
    if not bound:
        return f"{decision.message}{instead}"
    names = ("the calls is ", "this one is ") if len(bound) == 2 else ("is ",)
    binds = ", and ".join(f"what binds {name}{words}" for name, words in zip(names, bound, strict=True))
    return f"{decision.message} Affordable: {', or '.join(said)}; {binds}.{instead}"


def quota_prompt(view: AccountView) -> str:
    return (
        "Tell me in one or two sentences how much of my plan is left and when it resets. Name first what runs out "
        f"first. Use only these numbers, as of {clock_time(view.as_of, 'UTC')}:\n\n{tier_info(view)}"
    )


def compare_plans_prompt(offered: list[Plan], catalog: Catalog, view: AccountView | None) -> str:
    mine = f"\n\nWhat I have and use now: {tier_info(view)}" if view is not None else ""
    return (
        "Compare these plans for me in a small table, then say in one sentence which fits best what I use and what "
        f"it would cost. Use only these numbers.\n\n{plans(offered, catalog)}{mine}"
    )


def explain_denial_prompt(said: list[str], view: AccountView) -> str:
    answers = "\n".join(said)
    return (
        "Explain to me in plain words why this is refused or allowed, until when, and what I can do about it. "
        f"Use only what the server says, as of {clock_time(view.as_of, 'UTC')}.\n\n{answers}\n\n"
        f"What I have: {tier_info(view)}"
    )


def limits(view: AccountView) -> str:
    """The limits, and what of them was granted."""
    sentences = [overview_sentence(view.plan, view.limits)]
    units = {state.meter: state.unit for state in view.limits}
    for one in view.grants:
        if one.ends_at is None or view.as_of < one.ends_at:
            since = f" from {clock_time(one.starts_at, 'UTC')}" if view.as_of < one.starts_at else ""
            until = f" until {clock_time(one.ends_at, 'UTC')}" if one.ends_at is not None else ""
            window, unit = one.window.replace("_", " "), units.get(one.meter, "")
            given, left = maximum_text(one.quantity, unit), maximum_text(one.left, unit)
            sentences.append(
                f"Granted {given} {one.meter} per {window}{since}{until}, {left} left ({one.id})."
            )
    return " ".join(sentences)


def limits_changed(changed: LimitsChanged) -> str:
    after = lines_of(changed.after.limits)
    return (
        f"Done, effective at once: {limit_history([changed.audit], changed.after.limits)}\n{after}".rstrip()
    )


def members(answer: MembersAnswer) -> str:
    """Who is in an account, or what has changed in it, and how many seats are taken."""
    most = answer.seats_max or UNLIMITED
    seats = f"{counted(answer.seats_used, 'seat')} used, no maximum"
    if most is not UNLIMITED:
        seats = f"{answer.seats_used:,} of {counted(most, 'seat')} used"
    if answer.change is not None and answer.changed is not None:
        return f"Done, effective at once: {_member_change(answer.change, answer.changed)} {seats}."
    if answer.history is not None:
        return account_history(answer.history)
    shown = ", ".join(
        one.user + (" (admin)" if one.role == "admin" else "") for one in answer.members[:LINES_MAX]
    )
    more = " and more" if answer.next_cursor is not None or len(answer.members) > LINES_MAX else ""
    return f"{answer.account}: {shown or 'nobody'}{more}. {seats}."


def account_history(entries: list[AuditEntry]) -> str:
    """One line for each change of an account's people and plan: when, who, what became what, why."""
    return "\n".join(
        f"{format_instant(entry.at)} {entry.actor.user} ({entry.actor.role}) {entry.action}"
        + (f" {entry.user}" if entry.user else "")
        + f": {_what_changed(entry.before or {}, entry.after or {})}. {entry.reason or ''}".rstrip()
        for entry in entries[:LINES_MAX]
    )


def _what_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name, '-')} -> {after.get(name, '-')}" for name in names)


def _member_change(change: MemberChange, changed: MembersChanged) -> str:
    user, account = change.user, changed.account.account
    match change.action:
        case "add":
            founded = (
                f" The subscription has moved to the group {account}, which begins with nothing used; what was used "
                "before stays with the personal account."
                if changed.founded
                else ""
            )
            return f"{user} is in {account} now with the role {change.role}.{founded}"
        case "remove":
            return (
                f"{user} is no longer in {account} and has a personal account again; access tokens from before do not "
                "bring them back."
            )
        case "set_role":
            return f"{user} has the role {change.role} in {account} now."


def limit_history(entries: list[AuditEntry], limits: Iterable[LimitState]) -> str:
    """One line for each change; how the `limits` stand says what they count."""
    units = {state.meter: state.unit for state in limits}
    if not entries:
        return "No limit was ever changed by hand here."
    return "\n".join(
        f"{format_instant(entry.at)} {entry.actor.user} ({entry.actor.role}) {entry.action} "
        f"{_change_of_limit(entry.before or {}, entry.after or {}, units)}. {entry.reason or ''}".rstrip()
        for entry in entries
    )


def _change_of_limit(before: Mapping[str, Any], after: Mapping[str, Any], units: Mapping[str, str]) -> str:
    def limit(entry: Mapping[str, Any]) -> str:
        value, unit = entry.get("limit"), units.get(entry.get("meter", ""), "")
        return maximum_text(value, unit) if isinstance(value, int) and currency_of(unit) else str(value)

    window = after.get("window")
    if "grant_id" in after:
        until = f" until {after['expires_at']}" if "expires_at" in after else ""
        given = maximum_text(after.get("quantity", 0), units.get(after.get("meter", ""), ""))
        return f"{after.get('meter')} per {window}: {given} more{until}"
    if "corrects" in after:
        return f"{after['event']} x{before.get('quantity', 0):,}: {after['corrects']} taken back"
    if "used" in before:
        used = before["used"].items()
        return ", ".join(
            f"{meter} per {window}: {maximum_text(quantity, units.get(meter, ''))} used -> 0"
            for meter, quantity in used
        )
    return f"{after.get('meter')} per {window}: {limit(before)} -> {limit(after)}"


def _money(money: Money) -> str:
    return f"{format_amount(money.micros, money.currency)} {money.currency}"


def _price(price: Price) -> str:
    if price.is_free:
        return "free"
    parts = [f"{_money(price.monthly)} a month"] if price.monthly is not None else []
    parts += [f"{_money(price.yearly)} a year"] if price.yearly is not None else []
    per_seat = f" and {_money(price.per_seat)} a month per seat" if price.per_seat is not None else ""
    return " or ".join(parts) + per_seat
