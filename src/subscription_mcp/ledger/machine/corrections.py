"""Events taken back: a new event with what the old one gained below zero, where and when that was counted."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from subscription_mcp.domain.allowances import shares_of
from subscription_mcp.domain.catalog import OVERAGE, OVERAGE_CHARGE, Limit, Plan, derived, is_derived
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.rolling import used_at
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import Anchor
from subscription_mcp.ledger.commands import CorrectUsage, LimitsChanged, UsageEvent, refused
from subscription_mcp.ledger.machine.accounts import Located, audit, locate_again, totals_of, view_of
from subscription_mcp.ledger.machine.alerts import alerts_of_counters, raise_alerts
from subscription_mcp.ledger.machine.counting import Tally, Totals, holder_of, place_of_counter, tally_of
from subscription_mcp.ledger.machine.facts import Counter, Turn
from subscription_mcp.ledger.machine.usage import append, dimensions_counted, dimensions_of_event


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
    limit = _limit_passed(turn, located, event)
    tally = _tally(turn, located, event, anchors, limit)
    dimensions = dimensions_counted(turn, event.tenant, dimensions_of_event(event))
    if facts.missing or tally is None:
        return None
    gains = _gains_back(turn, event, tally)
    if limit is not None:
        gains |= _charged_back(turn, located, tally, limit, gains)
    # A level that falls below a threshold may alert of it again; nothing else ever does by what is taken back.
    totals = totals_of(turn, located, event.occurred_at)
    due = alerts_of_counters(turn, located, totals, tally.counted, gains)
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
    )
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
    return LimitsChanged(before, view_of(turn, located), entry)


def _is_meant(event: UsageEvent, command: CorrectUsage) -> bool:
    return command.user in (None, event.user) and command.account in (None, event.account)


def _not_found() -> Refusal:
    return refused(
        "not_found",
        "There is no such event here. list_usage_events shows the ids of somebody's events.",
        FieldProblem("event_id", "must be the id of an event of whom is meant"),
    )


def _limit_passed(turn: Turn, located: Located, event: UsageEvent) -> Limit | None:
    """The limit beyond which what the event used may have been charged: that of its plan, or of the one since. Where
    the plan of today includes more, that counts."""
    of_then: Plan | None = turn.facts.plans.get((event.plan, event.plan_version))
    of_now = located.limits
    passable = [
        limit for limit in (*(of_then.limits if of_then else ()), *of_now) if limit.overage is not None
    ]
    for limit in passable:
        if limit.meter in event.gains:
            alike = [one.included for one in of_now if one.place == limit.place]
            return replace(limit, maximum=max(limit.included, *alike))
    return None


def _tally(
    turn: Turn, located: Located, event: UsageEvent, anchors: Set[Anchor], limit: Limit | None
) -> Tally | None:
    """Where the event was counted. Of several billing periods it may have been counted in, the one that has it, or else
    the fullest."""
    meters = {*event.gains}
    if limit is not None:
        meters |= {derived(limit.meter, OVERAGE), derived(limit.meter, OVERAGE_CHARGE)}
    found = []
    for anchor in sorted(anchors):
        totals = Totals(turn.facts, located.account, located.user, anchor, event.occurred_at, turn.now)
        tally = tally_of(totals, (), meters)
        if tally is not None:
            found.append(tally)
    return max(found, key=lambda tally: _fit(tally.counted, event.gains), default=None)


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


def _charged_back(
    turn: Turn, located: Located, tally: Tally, limit: Limit, gains: Mapping[str, int]
) -> dict[str, int]:
    """What is no longer beyond the limit, and what it cost: never more than was charged in all the totals of it."""
    by_place = {place_of_counter(counter): counter for counter in tally.counted}
    units, cost = derived(limit.meter, OVERAGE), derived(limit.meter, OVERAGE_CHARGE)
    whose = holder_of(located.account, located.user, limit.scope)
    used = by_place.get((limit.meter, limit.window.key, whose))
    charged = by_place.get((units, limit.window.key, whose))
    assert limit.overage is not None
    if used is None or charged is None:
        return {}
    back = -shares_of(limit.included, used.used, gains[limit.meter], charged=charged.used).overage
    back = min([back, *(one.used for one in tally.counted if one.meter == units)])
    if back <= 0:
        return {}
    micros = min(
        [back * limit.overage.price_micros, *(one.used for one in tally.counted if one.meter == cost)]
    )
    return {units: -back, cost: -micros}


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
