"""Events taken back: a new event with what the old one gained below zero, where and when that was counted."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from subscription_mcp.domain.allowances import Shares, Sum, refund_of, shares_of, use_is_over
from subscription_mcp.domain.catalog import OVERAGE, OVERAGE_CHARGE, Limit, Plan, derived, is_derived
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.rolling import used_at
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import Anchor
from subscription_mcp.ledger.commands import CorrectUsage, LimitsChanged, UsageEvent, refused
from subscription_mcp.ledger.machine.accounts import (
    Located,
    audit,
    locate_again,
    totals_of,
    view_of,
    with_grants_of_old,
)
from subscription_mcp.ledger.machine.alerts import alerts_of_counters, raise_alerts
from subscription_mcp.ledger.machine.counting import (
    CounterPlace,
    Passed,
    Tally,
    Totals,
    holder_of,
    place_of_counter,
    tally_of,
)
from subscription_mcp.ledger.machine.facts import CountedPlace, Counter, Turn
from subscription_mcp.ledger.machine.terms import look_for_what_was_sold
from subscription_mcp.ledger.machine.usage import append, dimensions_counted, dimensions_of_event, take


def correct(turn: Turn, command: CorrectUsage) -> LimitsChanged | None:
    facts = turn.facts
    place = (command.tenant, command.event_id)
    event: UsageEvent | None = facts.read("events", place)
    if facts.missing:
        return None
    if event is None or not _is_meant(event, command):
        raise _not_found()
    if event.corrects is not None:
        raise refused(
            "conflict", "This entry takes an event back itself; to count that again, record it anew."
        )
    if event.corrected_by is not None:
        raise refused("conflict", f"This event was taken back already, by {event.corrected_by}.")
    account = AccountKey(event.tenant, event.account_kind, event.account)
    located = locate_again(turn, account, event.user)
    anchors: Set[Anchor] | None = facts.read("anchors", (account, event.occurred_at, event.recorded_at))
    if located is None or anchors is None:
        return None
    before = view_of(turn, located)
    of_today, located = located, with_grants_of_old(facts, located)
    passable = _limits_passed(turn, located, event)
    found = _tally(turn, located, event, anchors, passable)
    dimensions = dimensions_counted(turn, event.tenant, dimensions_of_event(event))
    if facts.missing or found is None:
        return None
    totals, tally = found
    gains = _gains_back(turn, event, tally)
    passed = Passed()
    for limit in passable:
        _give_back(event, totals, tally, limit, gains, passed)
    gains |= passed.charged
    # A level that falls below a threshold may alert of it again; nothing else ever does by what is taken back.
    today = totals_of(turn, located, event.occurred_at)
    due = alerts_of_counters(turn, located, today, tally.counted, gains)
    if not turn.may_write:
        return None
    correction = replace(
        event,
        id=turn.new_id(),
        quantity=-event.quantity,
        gains=gains,
        source=command.actor.user,
        recorded_at=turn.now,
        corrects=event.id,
        grants=(),
    )
    if passed.charged:
        look_for_what_was_sold(turn, located)
    take(turn, correction, passed.taken)
    append(turn, located.holder, correction, dimensions)
    _count(turn, tally.counted, gains, event)
    raise_alerts(turn, due)
    facts.events[place] = replace(event, corrected_by=correction.id)
    entry = audit(
        turn,
        account,
        event.user,
        "limit.correct",
        command.actor,
        command.reason,
        {"event": event.event, "event_id": event.id, "quantity": event.quantity},
        {"event": event.event, "event_id": correction.id, "quantity": 0, "corrects": event.id},
    )
    return LimitsChanged(before, view_of(turn, of_today), entry)


def _is_meant(event: UsageEvent, command: CorrectUsage) -> bool:
    return command.user in (None, event.user) and command.account in (None, event.account)


def _not_found() -> Refusal:
    return refused(
        "not_found",
        "There is no such event here. list_usage_events shows the ids of somebody's events.",
        FieldProblem("event_id", "must be the id of an event of whom is meant"),
    )


def _limits_passed(turn: Turn, located: Located, event: UsageEvent) -> list[Limit]:
    """The limits beyond which what the event used may have been granted or charged: those of its plan, and those since.
    Where the plan of today includes more, that counts."""
    of_then: Plan | None = turn.facts.plans.get((event.plan, event.plan_version))
    of_now = located.limits
    granted = {(grant.meter, grant.window, grant.scope) for grant in located.grants if grant.uses}
    found: dict[CountedPlace, Limit] = {}
    for limit in (*(of_then.limits if of_then is not None else ()), *of_now):
        if limit.meter in event.gains and (limit.overage is not None or limit.key in granted):
            alike = [one.included for one in of_now if one.key == limit.key]
            found.setdefault(limit.place, replace(limit, maximum=max(limit.included, *alike, 0)))
    return list(found.values())


def _tally(
    turn: Turn, located: Located, event: UsageEvent, anchors: Set[Anchor], passable: Sequence[Limit]
) -> tuple[Totals, Tally] | None:
    """Where the event was counted. Of several billing periods it may have been counted in, the one that has it, or else
    the fullest."""
    meters = {*event.gains}
    meters |= {derived(limit.meter, what) for limit in passable for what in (OVERAGE, OVERAGE_CHARGE)}
    found = []
    for anchor in sorted(anchors):
        totals = Totals(
            turn.facts, located.account, located.user, anchor, event.occurred_at, turn.now, located.grants
        )
        tally = tally_of(totals, (), meters)
        if tally is not None:
            found.append((totals, tally))
    return max(found, key=lambda each: _fit(each[1].counted, event.gains), default=None)


def _fit(counters: Sequence[Counter], gains: Mapping[str, int]) -> tuple[bool, int]:
    has_it = all(
        counter.used >= gains[counter.meter]
        for counter in counters
        if counter.length is None and counter.meter in gains
    )
    return has_it, sum(counter.used for counter in counters)


def _gains_back(turn: Turn, event: UsageEvent, tally: Tally) -> dict[str, int]:
    """What the event gained, below zero; a level falls to nothing and no further."""
    meters = turn.facts.catalog.meters
    charges = (OVERAGE, OVERAGE_CHARGE)
    gains = {}
    for meter, gain in event.gains.items():
        if is_derived(meter) and meter.partition(":")[2] in charges:
            continue
        gains[meter] = -gain
        if meter in meters and meters[meter].is_level:
            gains[meter] = max(-gain, -tally.level(meter))
    return gains


def _give_back(
    event: UsageEvent,
    totals: Totals,
    tally: Tally,
    limit: Limit,
    gains: Mapping[str, int],
    passed: Passed,
) -> None:
    """Give back what is no longer beyond a limit, and what it cost: never more than was charged in all the totals of
    it. One unit is charged once: what one limit gave back, another does not."""
    by_place = {place_of_counter(counter): counter for counter in tally.counted}
    units, cost = derived(limit.meter, OVERAGE), derived(limit.meter, OVERAGE_CHARGE)
    whose = holder_of(totals.account, totals.user, limit.scope)
    used = by_place.get((limit.meter, limit.window.key, whose))
    if used is None or limit.window.is_rolling:
        return
    charged = by_place.get((units, limit.window.key, whose))
    start = totals.period(limit.window).start
    pots = [] if use_is_over(limit.window.name, start, totals.now) else totals.pots(limit)
    grants = {grant.id: grant for grant, _ in pots}
    own = Sum(event.gains.get(units, 0), event.gains.get(cost, 0))
    taken = {id_: quantity for id_, at, quantity in event.grants if at == start}
    shares = shares_of(
        limit.included,
        used.used,
        gains[limit.meter],
        pots=[pot for _, pot in pots],
        charged=charged.used if charged is not None else 0,
        own=Shares(taken, own.units),
    )
    passed.taken += [(grants[id_], start, back) for id_, back in shares.granted.items()]
    if limit.overage is None or units in passed.charged:
        return
    back = min([-shares.overage, *(one.used for one in tally.counted if one.meter == units)])
    if back > 0:
        micros = refund_of(back, own, _charged_in_billing_period(by_place, units, cost))
        passed.charged |= {units: -back, cost: -micros} if micros else {units: -back}


def _charged_in_billing_period(by_place: Mapping[CounterPlace, Counter], units: str, cost: str) -> Sum:
    """All that is charged beyond limits of a meter where its cost is counted: in the billing period of the account."""
    micros = next(one for one in by_place.values() if one.meter == cost)
    _, window, whose = place_of_counter(micros)
    return Sum(by_place[units, window, whose].used, micros.used)


def _count(turn: Turn, counters: Sequence[Counter], gains: Mapping[str, Any], event: UsageEvent) -> None:
    for counter in counters:
        gain = gains.get(counter.meter, 0)
        if counter.length is not None:
            counter.take_back(-gain, used_at(event.occurred_at, event.recorded_at), turn.now)
        elif counter.used + gain >= 0:  # else it is not kept any more
            counter.used += gain
        else:
            continue
        turn.changes.counters.add(counter)
