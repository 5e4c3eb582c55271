"""Usage: checked, recorded, replayed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json, to_json

from subscription_mcp.domain.affordability import Call, affordable
from subscription_mcp.domain.catalog import (
    DIMENSIONS,
    OVERAGE,
    QUANTITY_MAX,
    UNLIMITED,
    UNPRICED,
    Attributes,
    Catalog,
    Limit,
    Plan,
    derived,
)
from subscription_mcp.domain.decisions import (
    Decision,
    LimitState,
    Unlock,
    count_in,
    decide,
    limit_states,
    say_as_recorded,
    say_if_near,
    say_what_is_beyond,
    sort_states,
    stand_still,
    unit_of,
)
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.money import MICROS
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.usage import (
    attribute_problems,
    event_type_of,
    gains_of,
    token_problems,
    unsaid_of,
)
from subscription_mcp.domain.windows import Period, quarter_of, window_of_key
from subscription_mcp.ledger.commands import (
    Actor,
    CheckUsage,
    Decided,
    Grant,
    Keyed,
    RecordUsage,
    Reserve,
    UsageEvent,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    Located,
    limits_in_effect,
    locate,
    make_known,
    must_have_room,
    tally_for,
    totals_of,
)
from subscription_mcp.ledger.machine.alerts import alerts_of_use, raise_alerts, unpriced_due
from subscription_mcp.ledger.machine.counting import CounterPlace, Passed, Tally, count, must_fit
from subscription_mcp.ledger.machine.facts import (
    FUTURE_TOLERANCE,
    KEY_RETENTION,
    Counter,
    Dimensions,
    Holder,
    Reservation,
    StoredAnswer,
    TenantSize,
    Turn,
)
from subscription_mcp.ledger.machine.reporting import note_denial, note_response, read_tenant
from subscription_mcp.ledger.machine.terms import located_then, look_for_what_was_sold

NOTHING_PASSED = Passed()
OTHER = "other"
"""Stands for every provider, model, tool or client beyond what a tenant may tell apart."""


def check(turn: Turn, command: CheckUsage) -> Decided | None:
    located = locate(turn, command.subject)
    if located is None:
        return None
    gains = gains_or_refuse(
        turn.facts.catalog,
        command.event,
        command.quantity,
        command.attributes,
        command.price,
        has_happened=False,
    )
    tally = tally_for(turn, located, gains, turn.now)
    if tally is None:
        return None
    if command.quantity < 0:
        gains = gains_in(tally, gains)
    decision = decided(turn, located, tally, command, gains, turn.now)
    sort_states(decision.limits)
    say_if_near(decision, turn.facts.catalog, limits_in_effect(totals_of(turn, located, turn.now), located))
    if tally.beyond and decision.allowed and passed_by(located, tally, decision, gains).charged:
        say_what_is_beyond(decision)
    _say_what_is_affordable(turn, located, command, decision)
    return None if turn.facts.missing else Decided(decision)


def _say_what_is_affordable(turn: Turn, located: Located, command: CheckUsage, decision: Decision) -> None:
    catalog, price = turn.facts.catalog, command.price
    if price is None or decision.unpriced or command.event not in catalog.cost_meters_of_event:
        return
    if located.plan is None or located.standstill is not None:
        return
    totals = totals_of(turn, located, turn.now)

    def fits(gains: Mapping[str, int]) -> bool:
        limits = [limit for limit in located.limits if gains.get(limit.meter, 0) > 0]
        states = limit_states(catalog, totals.granted(limits), totals.of, gains)
        return all(state.gain <= state.room for state in states)

    call = Call(command.event, command.quantity, command.attributes, price)
    decision.affordable = affordable(catalog, call, decision.limits, fits)


def record(turn: Turn, command: RecordUsage) -> Decided | None:
    facts, now = turn.facts, turn.now
    # Before anything else is looked at: a replay stays what it was, wherever the user has gone.
    stored = remembered(turn, command)
    if stored is not None:
        return replay(turn, stored, command.event, command.quantity)
    located = locate(turn, command.subject)
    if located is None or facts.missing:
        return None
    at = now if command.occurred_at is None else _instant_of_event(command.occurred_at, now)
    gains = gains_or_refuse(
        facts.catalog,
        command.event,
        command.quantity,
        command.attributes,
        command.price,
        command.estimated,
    )
    if at < now:
        then = located_then(turn, located, gains, at)
        if then is None:
            return None
        located = then
    tally = tally_for(turn, located, gains, at)
    if tally is None:
        return None
    if command.quantity < 0:
        gains = gains_in(tally, gains)
    anyway = not command.enforce
    decision = decided(turn, located, tally, command, gains, at, anyway=anyway)
    if located.terms is not None and (decision.allowed or anyway):
        decision.plan_held = located.terms
    dimensions = dimensions_counted(
        turn, located.account.tenant, dimensions_of(command.event, located.plan_of_event, command.attributes)
    )
    must_have_room(turn, located)
    due = unpriced = None
    if decision.allowed or anyway:
        due = alerts_of_use(turn, located, tally, gains, at)
        if decision.unpriced:
            unpriced = unpriced_due(turn, located.account.tenant, command.event, dimensions)
    if command.enforce:
        read_tenant(turn, located, decision)
    if not turn.may_write:
        return None
    if not decision.allowed and command.enforce:
        note_denial(turn, located, decision)
        return Decided(decision)
    passed = passed_by(located, tally, decision, gains) if tally.beyond else NOTHING_PASSED
    must_fit(turn, tally.counted, gains)
    if passed.charged:
        # Of two limited meters, one may be beyond its limit and the other not.
        beyond = [counter for counter in tally.counted_beyond if counter.meter in passed.charged]
        must_fit(turn, beyond, passed.charged)
        count(turn, beyond, passed.charged, at)
        gains |= passed.charged
        if at < now:
            look_for_what_was_sold(turn, located)
    make_known(turn, located, Actor(command.source, "service"))
    event = append_event(
        turn,
        located,
        command,
        command.quantity,
        command.attributes,
        gains,
        at,
        dimensions,
        price_applied(facts.catalog, command.event, command.price, command.attributes),
    )
    if passed.taken:
        take(turn, event, passed.taken)
    count(turn, tally.counted, gains, at)
    raise_alerts(turn, due)
    raise_alerts(turn, unpriced)
    limits_of = (
        limits_in_effect(totals_of(turn, located, at), located) if located.grants else located.limits_of
    )
    count_in(decision, facts.catalog, event.id, limits_of)
    remember(turn, command, decision)
    return Decided(decision)


def passed_by(
    located: Located,
    tally: Tally,
    decision: Decision,
    gains: Mapping[str, int],
    instead: Mapping[CounterPlace, Counter] | None = None,
) -> Passed:
    """What gains add beyond the plan; the decision tells what of it is charged. While the subscription stands still
    nothing is sold, and nothing taken of what was granted."""
    if not located.sells:
        return NOTHING_PASSED
    passed = tally.passed(gains, instead)
    for state in decision.limits:
        if state.limit.overage is not None:
            state.overage_gain = passed.charged.get(derived(state.meter, OVERAGE), 0)
    return passed


def take(turn: Turn, event: UsageEvent, taken: Sequence[tuple[Grant, Instant, int]]) -> None:
    """Take what an event uses of grants, or below 0 give it back; the event says which."""
    event.grants = [(grant.id, start, units) for grant, start, units in taken]
    for grant, start, units in taken:
        grant.uses[start] = grant.uses.get(start, 0) + units
        turn.changes.grant_uses[(event.tenant, grant.id, start)] = grant.uses[start]


def append_event(
    turn: Turn,
    located: Located,
    command: RecordUsage | Reservation,
    quantity: int,
    attributes: Attributes,
    gains: Mapping[str, int],
    at: Instant,
    dimensions: Dimensions,
    price: UnitPrice | None,
) -> UsageEvent:
    """Append one event and add it to the rollups; the counters are the caller's."""
    plan, account = located.plan_of_event, located.account
    event = UsageEvent(
        turn.new_id(),
        account.tenant,
        account.account_kind,
        account.account,
        located.user,
        command.event,
        plan.key if plan else "",
        plan.version if plan else 0,
        quantity,
        attributes,
        gains,
        command.source,
        at,
        turn.now,
        price=price,
    )
    append(turn, located.holder, event, dimensions)
    note_response(turn, event)
    return event


def append(turn: Turn, holder: Holder, event: UsageEvent, dimensions: Dimensions) -> None:
    """Append an event as it is and add it to the rollups."""
    turn.changes.events.append((holder, event))
    _roll_up(turn, holder, event, dimensions)


def remember(turn: Turn, command: Keyed, decision: Decision) -> None:
    """Keep the answer under the request's idempotency key, if it has one."""
    key = command.answer_key
    if key is not None:
        answer = StoredAnswer(command.digest, pack(decision), turn.now)
        turn.facts.answers[key] = answer
        turn.changes.answers.append((key, answer))


def remembered(turn: Turn, command: Keyed) -> StoredAnswer | None:
    """What the request's idempotency key did before. Raises Refusal `conflict` where that was another request."""
    key = command.answer_key
    if key is None:
        return None
    stored: StoredAnswer | None = turn.facts.read("answers", key)
    if stored is None or turn.now - stored.at >= KEY_RETENTION:
        return None
    if stored.digest != command.digest:
        raise refused(
            "conflict",
            "This idempotency_key was already used for another request. Use a new key for a new event.",
        )
    return stored


def _instant_of_event(occurred_at: Instant, now: Instant) -> Instant:
    if not now - KEY_RETENTION <= occurred_at <= now + FUTURE_TOLERANCE:
        raise refused(
            "invalid_request",
            "The event is too old or lies in the future. Events are taken from 35 days back to 5 minutes ahead.",
            FieldProblem("occurred_at", "must lie between 35 days ago and 5 minutes from now"),
        )
    return occurred_at


def price_applied(
    catalog: Catalog, event: str, price: UnitPrice | None, attributes: Attributes
) -> UnitPrice | None:
    """The price kept with an event: as it was for this call, and only where something adds up what it costs."""
    agreed = price_agreed(catalog, event, price)
    return agreed.for_call(attributes) if agreed is not None and agreed.covers(attributes) else None


def price_agreed(catalog: Catalog, event: str, price: UnitPrice | None) -> UnitPrice | None:
    """The price kept with a reservation: whole, since how long the call is only its settle says."""
    return price if event in catalog.cost_meters_of_event else None


def gains_or_refuse(
    catalog: Catalog,
    event: str,
    quantity: int,
    attributes: Attributes,
    price: UnitPrice | None = None,
    estimated: Collection[str] = (),
    *,
    has_happened: bool = True,
) -> dict[str, int]:
    """What each meter gains. Raises Refusal where the event could not have happened like that."""
    if not 1 <= quantity <= QUANTITY_MAX:
        _must_be_able_to_fall(catalog, event, quantity)
    event_type = catalog.events.get(event) or event_type_of(catalog, event)
    if attributes:
        problems = attribute_problems(event_type, attributes)
        if not problems and event in catalog.cost_meters_of_event:
            problems = token_problems(attributes)
        if problems:
            raise refused("invalid_request", f"{problems[0].field} {problems[0].rule}", *problems)
    gains = gains_of(catalog, event, quantity, attributes, price, estimated, has_happened=has_happened)
    for meter in catalog.cost_meters_of_event.get(event, ()):
        if gains.get(meter.name, 0) > QUANTITY_MAX:
            rule = f"costs more than {QUANTITY_MAX // MICROS:,} {catalog.currency}, the most one event can"
            raise refused("invalid_request", f"The event {rule}.", FieldProblem("attributes", rule))
    return gains


def is_unpriced(gains: Mapping[str, int], catalog: Catalog, event: str) -> bool:
    """Whether something should add up what the event costs, and nobody knows."""
    return any(
        derived(meter.name, UNPRICED) in gains for meter in catalog.cost_meters_of_event.get(event, ())
    )


def _must_be_able_to_fall(catalog: Catalog, event: str, quantity: int) -> None:
    falls = event in catalog.events_that_fall
    if falls and -QUANTITY_MAX <= quantity <= QUANTITY_MAX and quantity:
        return
    rule = f"must be an integer from 1 to {QUANTITY_MAX}"
    if falls:
        rule += ", or its negative to lower the level"
    raise refused("invalid_request", f"The quantity {rule}.", FieldProblem("quantity", rule))


def gains_in(tally: Tally, gains: Mapping[str, int]) -> dict[str, int]:
    """What lowers levels, as it can be counted: none falls below nothing."""
    return {meter: max(gain, -tally.level(meter)) for meter, gain in gains.items()}


def decided(
    turn: Turn,
    located: Located,
    tally: Tally,
    command: CheckUsage | RecordUsage | Reserve,
    gains: Mapping[str, int],
    at: Instant,
    *,
    anyway: bool = False,
) -> Decision:
    """The decision on something that happened, or would happen, at `at`; `anyway` it is counted."""
    now, catalog = turn.now, turn.facts.catalog
    event, quantity = command.event, command.quantity
    unsaid = unsaid_of(catalog, event, gains, command.attributes, command.price)
    states = tally.states(gains, at, now, anyway=anyway, unsaid=unsaid)
    if located.standstill is not None:
        assert located.plan is not None and located.subscription is not None
        users = located.seats_used or 1
        decision = stand_still(
            catalog, located.plan, located.subscription, states, event, quantity, now, users
        )
    else:
        decision = decide(
            catalog=catalog,
            plan=located.plan,
            states=states,
            limits_of=limits_in_effect(totals_of(turn, located, at), located)
            if located.grants
            else located.limits_of,
            totals=lambda limit: totals_of(turn, located, at).of(limit),
            event=event,
            quantity=quantity,
            gains=gains,
            now=now,
            unsaid=unsaid,
            trial_ends_at=located.trial_ends_at,
            ends_at=located.ends_at,
        )
    decision.unpriced = is_unpriced(gains, catalog, event)
    return decision


def dimensions_counted(turn: Turn, tenant: str, dimensions: Dimensions) -> Dimensions:
    """The dimensions usage is kept by: the event's own, or `other` for what a tenant has too many of."""
    facts = turn.facts
    if facts.dimensions.get((tenant, dimensions)):
        return dimensions
    known: bool | None = facts.read("dimensions", (tenant, dimensions))
    size: TenantSize | None = facts.read("tenants", tenant)
    if known or size is None or size.dimensions < facts.bounds.dimensions:
        return dimensions
    dimensions = folded(dimensions)
    facts.read("dimensions", (tenant, dimensions))  # it, too, is noted once
    return dimensions


def folded(dimensions: Dimensions) -> Dimensions:
    """Dimensions with `other` in place of what a tenant has too many of."""
    kept, told_apart = dimensions[:2], dimensions[2:]
    return (*kept, *(None if value is None else OTHER for value in told_apart))


def _roll_up(turn: Turn, holder: Holder, event: UsageEvent, dimensions: Dimensions) -> None:
    quarter = quarter_of(event.occurred_at)
    rollups = turn.changes.rollups
    for meter, gain in event.gains.items():
        key = (holder, quarter, meter, dimensions)
        cell = rollups.get(key)
        if cell is None:
            rollups[key] = [event.number, gain]
            _note_dimensions(turn, event.tenant, dimensions)
        else:
            cell[0] += event.number
            cell[1] += gain


def _note_dimensions(turn: Turn, tenant: str, dimensions: Dimensions) -> None:
    facts = turn.facts
    if facts.dimensions.get((tenant, dimensions)):
        return
    facts.dimensions[(tenant, dimensions)] = True
    turn.changes.dimensions.append((tenant, dimensions))
    size = facts.tenants.get(tenant) or TenantSize()
    facts.tenants[tenant] = turn.changes.tenants[tenant] = size._replace(dimensions=size.dimensions + 1)


def dimensions_of(event: str, plan: Plan | None, attributes: Attributes) -> Dimensions:
    """What usage of an event can be grouped by."""
    return _dimensions(event, plan.key if plan is not None else "", attributes)


def dimensions_of_event(event: UsageEvent) -> Dimensions:
    """What usage of a recorded event can be grouped by."""
    return _dimensions(event.event, event.plan, event.attributes)


def _dimensions(event: str, plan: str, attributes: Attributes) -> Dimensions:
    # Every event may carry them, and they are texts: `attribute_problems` has seen to that.
    return (event, plan, *map(attributes.get, DIMENSIONS))  # type: ignore[arg-type]


def pack(decision: Decision) -> str:
    """The numbers the first answer is rebuilt from; names and sentences follow from them and the plan."""
    states = [
        [
            *state.limit.place,
            None if state.limit.maximum is UNLIMITED else state.limit.maximum,
            state.used,
            state.held,
            *state.period,
            int(state.refused),
            *([state.overage_used] if state.limit.overage is not None else []),
        ]
        for state in decision.limits
    ]
    unlocks = [[u.action, u.plan, u.until] for u in decision.unlocks]
    plan = decision.plan_held
    held = [plan.key, plan.version] if plan is not None else [None, None]
    ids = [decision.event_id, decision.reservation_id]
    flags = [1] if decision.unpriced else []
    return to_json([*ids, decision.code, *held, decision.as_of, states, unlocks, *flags]).decode()


def replay(turn: Turn, stored: StoredAnswer, event: str, quantity: int) -> Decided | None:
    """The first answer again, from its numbers."""
    decision = unpacked(turn, stored.answer, event, quantity)
    return None if decision is None else Decided(decision)


def unpacked(turn: Turn, answer: str, event: str, quantity: int) -> Decision | None:
    event_id, reservation_id, code, plan_key, version, as_of, packed, unlocks, *flags = from_json(answer)
    facts = turn.facts
    plan: Plan | None = facts.read("plans", (plan_key, version)) if plan_key is not None else None
    if facts.missing:
        return None
    states = [_unpacked_state(facts.catalog, plan, as_of, *fields) for fields in packed]
    offers = [Unlock(action, plan_, until) for action, plan_, until in unlocks]
    decision = Decision(code, plan, event, quantity, states, as_of, offers)
    decision.event_id, decision.reservation_id, decision.replayed = event_id, reservation_id, True
    decision.unpriced = bool(flags)
    say_as_recorded(decision, facts.catalog)
    return decision


def _unpacked_state(
    catalog: Catalog,
    plan: Plan | None,
    as_of: Instant,
    meter: str,
    window_key: str,
    scope: Any,
    *numbers: Any,
) -> LimitState:
    maximum, used, held, start, end, is_refused, *charged = numbers
    known = plan.limit_for(meter, window_key.partition("@")[0]) if plan is not None else None
    window = known.window if known is not None else window_of_key(window_key)
    limit = Limit(meter, window, UNLIMITED if maximum is None else maximum, scope)
    is_over = end is not None and end <= as_of
    state = LimitState(
        limit, unit_of(catalog, meter), used, held, Period(start, end), 0, bool(is_refused), is_over
    )
    if charged and plan is not None:
        passed = plan.limit_for(meter, window.name, scope)
        state.limit = replace(limit, overage=passed.overage if passed is not None else None)
        (state.overage_used,) = charged
    return state
