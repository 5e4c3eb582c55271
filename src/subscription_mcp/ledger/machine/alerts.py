"""Alerts: made in the transaction in which a threshold is reached, by a count or by a limit that became another.

It goes by how things stand after a count, not by what that count added: whatever brought usage above a threshold (a
plan that changed by time alone, an override that expired), the next count finds it. Below the lowest threshold
nothing is looked up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from subscription_mcp.domain.alerts import (
    FOR_GOOD,
    Need,
    ServiceTrouble,
    above_until,
    alerts_at_all,
    floor_of,
    is_due_again,
    message_of,
    recommendation_of,
    severity_of,
    suggestion,
)
from subscription_mcp.domain.catalog import Limit
from subscription_mcp.domain.decisions import LimitState, unit_of
from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.domain.rolling import used_within, with_use
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import BillingPeriod, Day, Hour, Level, Period
from subscription_mcp.domain.wording import clock_time
from subscription_mcp.ledger.commands import (
    Alert,
    AlertsMarked,
    AuditEntry,
    MarkAlerts,
    OutageReported,
    ReportOutage,
    SetAlertThresholds,
    ThresholdsSet,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    Located,
    audit,
    locate,
    make_known,
    must_be_known,
    must_have_room,
    totals_of,
)
from subscription_mcp.ledger.machine.counting import Tally, Totals, Watched, holder_of
from subscription_mcp.ledger.machine.deliveries import tell_webhook
from subscription_mcp.ledger.machine.facts import NO_ANCHOR, Counter, CounterKey, Dimensions, MarkKey, Turn

SERVICE_THRESHOLD = 0
"""The threshold under which troubles of the service are marked."""
UNAVAILABLE = "service:unavailable"
UNPRICED_MODEL = "cost:unpriced"
UNPRICED_TOLD_MAX = 20
"""How many models without a price a tenant is told of one by one, each day."""
_ALL_UNPRICED = ""
"""The subject of the mark that says how many were told; each of them has its own."""


@dataclass(slots=True)
class Due:
    """Alerts to be raised, and which thresholds are marked until when."""

    alerts: list[Alert] = field(default_factory=list)
    marks: dict[MarkKey, dict[int, Instant]] = field(default_factory=dict)


def alerts_of_use(
    turn: Turn, located: Located, tally: Tally, gains: Mapping[str, int], at: Instant
) -> Due | None:
    """What counting an event will alert of; None where that is nothing. Facts may be missing afterwards."""
    watched = tally.watched
    if watched is None:
        watched = tally.watched = watched_of(located, tally.checked)
    for floor, _, _, counter, _ in watched:
        used = counter.used if counter.length is None else counter.used_at(turn.now)
        gain = gains[counter.meter]
        if used + gain >= floor or (gain < 0 and used >= floor):
            return due_of(turn, located, watched, gains, at)
    return None


def alerts_of_counters(
    turn: Turn, located: Located, totals: Totals, counters: Sequence[Counter], gains: Mapping[str, int]
) -> Due | None:
    """What counting in just these counters will alert of. They may be those of another billing anchor, as a settle counts
    where it was held; there the limits are the same."""
    account = located.account
    by_place = {(one.key.meter, one.key.window_key, one.key.user): one for one in counters}
    checked = []
    for limit in totals.granted(located.limits):
        user = holder_of(account, located.user, limit.scope)
        counter = by_place.get((limit.meter, limit.window.key, user))
        if counter is not None:
            period = totals.shown(limit.window)
            if counter.key.start != totals.period(limit.window).start and counter.length is None:
                period = limit.window.period_at(
                    counter.key.start, located.anchor._replace(at=counter.key.start, nudge=0)
                )
            checked.append((limit, unit_of(turn.facts.catalog, limit.meter), counter, period))
    watched = watched_of(located, checked)
    return due_of(turn, located, watched, gains, totals.at) if watched else None


def watched_of(located: Located, checked: Iterable[tuple[Limit, str, Counter, Period]]) -> list[Watched]:
    """The limits of these that may alert."""
    thresholds = located.thresholds
    if not thresholds:
        return []
    return [
        Watched(floor_of(limit, thresholds[0]), limit, unit, counter, period)
        for limit, unit, counter, period in checked
        if alerts_at_all(limit)
    ]


def alerts_of_limits(turn: Turn, located: Located) -> Due | None:
    """What the limits an account has from now on alert of, as they stand. What each member of a group used under them
    is found with the member's next event."""
    totals = totals_of(turn, located, turn.now)
    checked = []
    for limit in totals.granted(located.limits):
        if located.user == "" and limit.scope == "user":
            continue
        counter = turn.facts.counter(totals.key(limit.meter, limit.window, limit.scope))
        if counter is not None:
            checked.append(
                (limit, unit_of(turn.facts.catalog, limit.meter), counter, totals.shown(limit.window))
            )
    watched = [one for one in watched_of(located, checked) if one.counter.used_at(turn.now) >= one.floor]
    return due_of(turn, located, watched, {}, turn.now) if watched else None


def due_of(
    turn: Turn, located: Located, watched: Iterable[Watched], gains: Mapping[str, int], at: Instant
) -> Due | None:
    """What is due once an event of these gains has been counted. None of a period that is over: nobody can do anything
    about it any more."""
    due = Due()
    for one in watched:
        end = one.period.end
        if end is not None and end <= turn.now and not one.limit.window.is_rolling:
            continue
        _look_at(turn, located, one, gains, at, due)
    return due if due.alerts or due.marks else None


def _look_at(
    turn: Turn, located: Located, one: Watched, gains: Mapping[str, int], at: Instant, due: Due
) -> None:
    counter, limit, now = one.counter, one.limit, turn.now
    gain = gains.get(counter.meter, 0)
    used = counter.used + gain
    cells = counter.cells
    if counter.length is not None:
        if counter.cleared_at <= at:
            cells = with_use(cells, at, gain, counter.length, now)
        used = used_within(cells, counter.length, now)
    if max(used, counter.used) < one.floor:
        return
    key = MarkKey(counter.key, limit.scope)
    marks: Mapping[int, Instant] | None = turn.facts.read("alert_marks", key)
    if marks is None:
        return
    fresh: dict[int, Instant] = {}
    for threshold in located.thresholds:
        floor, known = floor_of(limit, threshold), marks.get(threshold)
        if used >= floor:
            until = FOR_GOOD if counter.length is None else above_until(cells, counter.length, floor)
            if known is None or is_due_again(limit.window, known, now):
                _make(turn, located, one, used, threshold, gains, at, due)
            elif counter.length is not None:
                until = max(until, known)
            if until != known:
                fresh[threshold] = until
        elif isinstance(limit.window, Level) and known == FOR_GOOD:
            fresh[threshold] = now  # from here on it is below
    if fresh:
        due.marks[key] = fresh


def _make(
    turn: Turn,
    located: Located,
    one: Watched,
    used: int,
    threshold: int,
    gains: Mapping[str, int],
    at: Instant,
    due: Due,
) -> None:
    plan, limit, catalog = located.plan, one.limit, turn.facts.catalog
    assert plan is not None and isinstance(limit.maximum, int)
    is_reached = used >= limit.maximum

    def need_of(limit: Limit) -> Need:
        return _need_of(turn, located, limit, gains, at)

    suggested = suggestion(
        catalog, plan, located.limits_of, need_of, located.seats_used or 1, is_reached=is_reached
    )
    state = LimitState(limit, one.unit, used, 0, one.period)
    key, account = one.counter.key, located.account
    due.alerts.append(
        Alert(
            "",
            account.tenant,
            account.account_kind,
            account.account,
            key.user,
            limit.meter,
            key.window_key,
            key.start,
            limit.scope,
            threshold,
            severity_of(threshold),
            message_of(plan, state, threshold),
            recommendation_of(
                plan, suggested, state, need_of(limit), located.limits_of, is_reached=is_reached
            ),
            suggested.key if suggested is not None and suggested.key != plan.key else None,
            used,
            limit.maximum,
            turn.now,
        )
    )


def _need_of(turn: Turn, located: Located, limit: Limit, gains: Mapping[str, int], at: Instant) -> Need:
    """What was used under a limit of some plan: before, and so far with what is being counted."""
    facts, totals = turn.facts, totals_of(turn, located, turn.now)
    key = totals.key(limit.meter, limit.window, limit.scope)
    if facts.kept_since(key) is None:  # a cap that was set by hand: it goes with no plan
        return Need(None, 0)
    counter, period = facts.counter(key), totals.period(limit.window)
    used = counter.used_at(turn.now) if counter is not None else 0
    if limit.window.is_rolling or period.holds(at):
        used += max(gains.get(limit.meter, 0), 0)
    if limit.window.is_rolling or period.end is None:
        return Need(None, used)
    subscription = located.subscription
    nudge = totals.anchor.nudge if isinstance(limit.window, BillingPeriod) else 0
    before = replace(totals, at=period.start + nudge - 1)
    began = before.period(limit.window).start
    since = subscription.created_at if subscription is not None else turn.now
    if isinstance(limit.window, BillingPeriod):
        since = max(since, totals.anchor.at)
    if began < since:
        return Need(None, used)
    last = facts.counter(before.key(limit.meter, limit.window, limit.scope))
    return Need(last.used if last is not None else 0, used)


def raise_alerts(turn: Turn, due: Due | None) -> None:
    """Raise what is due, with a message to the webhook for each."""
    if due is None:
        return
    for alert in due.alerts:
        alert.id = turn.new_id()
        turn.changes.alerts.append(alert)
        tell_webhook(turn, "alert.created", alert.tenant, alert_as_dict(alert))
    for key, fresh in due.marks.items():
        turn.facts.alert_marks[key] = {**turn.facts.alert_marks[key], **fresh}
        turn.changes.alert_marks.update({(key, threshold): until for threshold, until in fresh.items()})


def alert_as_dict(alert: Alert) -> dict[str, object]:
    """An alert as the webhook tells it."""
    return {
        "alert_id": alert.id,
        "tenant_id": alert.tenant or None,
        "account_id": alert.account or None,
        "account_kind": alert.account_kind if alert.account else None,
        "user_id": alert.user or None,
        "meter": alert.meter,
        "window": alert.window,
        "window_start": format_instant(alert.window_start),
        "scope": alert.scope,
        "threshold_percent": alert.threshold_percent,
        "severity": alert.severity,
        "message": alert.message,
        "recommendation": alert.recommendation,
        "suggested_plan": alert.suggested_plan,
        "used": alert.used,
        "limit": alert.maximum,
        "created_at": format_instant(alert.created_at),
    }


# Of the service


def trouble_due(turn: Turn, tenant: str, trouble: ServiceTrouble) -> Due | None:
    """What a fault of the service alerts of; None where it did already. Facts may be missing afterwards."""
    key = _trouble_key(turn, tenant, trouble)
    marks: Mapping[int, Instant] | None = turn.facts.read("alert_marks", key)
    if marks is None or SERVICE_THRESHOLD in marks:
        return None
    alert = Alert(
        *("", tenant, "personal", "", ""),
        trouble.meter,
        trouble.window.key,
        key.place.start,
        "account",
        None,
        trouble.severity,
        trouble.message,
        trouble.recommendation,
        None,
        None,
        None,
        turn.now,
    )
    return Due([alert], {key: {SERVICE_THRESHOLD: FOR_GOOD}})


def _trouble_key(turn: Turn, tenant: str, trouble: ServiceTrouble) -> MarkKey:
    start = trouble.window.period_at(turn.now, NO_ANCHOR).start
    place = CounterKey(tenant, start, trouble.window.key, "personal", "", "", trouble.meter)
    return MarkKey(place, "account", trouble.subject)


def unpriced_due(turn: Turn, tenant: str, event: str, dimensions: Dimensions) -> Due | None:
    """That a call has no price: once for each model and day. Who names a model as they like could make any number of
    them; so after `UNPRICED_TOLD_MAX` one more alert stands for all the others of that day."""
    _, _, provider, model, *_ = dimensions
    called = model or provider or event
    what = f"the model {model}" if model else f"{provider or event} without a model"
    told_key = _trouble_key(turn, tenant, _unpriced("", _ALL_UNPRICED))
    told: Mapping[int, Instant] | None = turn.facts.read("alert_marks", told_key)
    if told is not None and len(told) > UNPRICED_TOLD_MAX:
        return None
    due = trouble_due(turn, tenant, _unpriced(f"of {what}", called))
    if due is None or told is None:
        return None
    if len(told) == UNPRICED_TOLD_MAX:
        due = trouble_due(turn, tenant, _unpriced(f"of {what}, and perhaps of others after it,", called))
        assert due is not None
        due.marks.clear()
    due.marks[told_key] = {len(told): FOR_GOOD}
    return due


def _unpriced(calls: str, subject: str) -> ServiceTrouble:
    return ServiceTrouble(
        UNPRICED_MODEL,
        Day(),
        "critical",
        f"Calls {calls} are counted as if they cost nothing: no price for them is known, or they say no tokens.",
        "Add one to [[prices]] of the catalog, or correct the provider, model and tokens the events name.",
        subject,
    )


def report_outage(turn: Turn, command: ReportOutage) -> OutageReported | None:
    since = clock_time(command.since, "UTC")
    due = trouble_due(
        turn,
        "",
        ServiceTrouble(
            UNAVAILABLE,
            Hour(),
            "critical",
            f"The ledger could not be written from {since} on; it is again. What was refused as unavailable was not "
            "counted.",
            "Look at the log of the server for the cause (a full disk, a file that was moved, a lock that was held), and "
            "send again what was refused.",
        ),
    )
    if not turn.may_write:
        return None
    raise_alerts(turn, due)
    return OutageReported(due.alerts[0] if due is not None else None)


# Read and set


def mark_alerts(turn: Turn, command: MarkAlerts) -> AlertsMarked | None:
    """Mark all of them or, where one is not theirs to read, none."""
    tenants = (command.tenant, "") if command.with_service else (command.tenant,)
    found: list[Alert | None] = [
        next(filter(None, [turn.facts.read("alerts", (tenant, id_)) for tenant in tenants]), None)
        for id_ in dict.fromkeys(command.alert_ids)
    ]
    if turn.facts.missing:
        return None
    alerts = [alert for alert in found if alert is not None and _is_for(alert, command)]
    if len(alerts) == len(found) and not command.with_whole and any(_is_of_group(alert) for alert in alerts):
        raise refused(
            "forbidden",
            "One of these is of the whole group: an admin of the group marks it as read, for everybody. None was marked.",
        )
    if len(alerts) < len(found):
        raise refused("not_found", "One of these is no alert that is yours to mark; none was marked as read.")
    if not turn.may_write:
        return None
    unread = [alert for alert in alerts if alert.read_at is None]
    for alert in unread:
        read = replace(alert, read_at=turn.now)
        place = (alert.tenant, alert.id)
        turn.facts.alerts[place] = turn.changes.alerts_read[place] = read
    return AlertsMarked(len(unread))


def _is_for(alert: Alert, command: MarkAlerts) -> bool:
    if command.account is None:
        return True
    account = AccountKey(alert.tenant, alert.account_kind, alert.account)
    return account == command.account and (command.user is None or alert.user in (command.user, ""))


def _is_of_group(alert: Alert) -> bool:
    return alert.account_kind == "group" and not alert.user


def set_alert_thresholds(turn: Turn, command: SetAlertThresholds) -> ThresholdsSet | None:
    """For the whole account: there is one list for all its members."""
    located = locate(turn, command.subject)
    if located is None:
        return None
    must_be_known(located, command.actor)
    must_have_room(turn, located)
    before = turn.facts.read("alert_settings", located.account)
    plan = located.plan
    if plan is None and not turn.facts.missing:
        raise refused("payment_required", "There is no subscription yet, so there are no limits to alert at.")
    if not turn.may_write or plan is None:
        return None
    make_known(turn, located, command.actor)
    turn.facts.alert_settings[located.account] = command.thresholds
    turn.changes.alert_settings[located.account] = command.thresholds
    turn.facts.forget_located(located.account.tenant, located.account.account)
    holds = plan.alert_thresholds if command.thresholds is None else command.thresholds
    entry: AuditEntry = audit(
        turn,
        located.account,
        "",
        "alerts.thresholds",
        command.actor,
        None,
        {"thresholds": list(plan.alert_thresholds if before is None else before)},
        {"thresholds": list(holds)},
    )
    return ThresholdsSet(holds, entry)
