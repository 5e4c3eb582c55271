"""Reservations: quantity held now and settled later. They expire by time; nothing has to give them back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from subscription_mcp.domain.catalog import (
    OVERAGE,
    QUANTITY,
    QUANTITY_MAX,
    UNLIMITED,
    Catalog,
    Limit,
    Plan,
    derived,
    is_derived,
)
from subscription_mcp.domain.decisions import (
    Decision,
    Total,
    decide,
    limit_states,
    say_as_recorded,
    sort_states,
    stand_still,
)
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import SECOND
from subscription_mcp.domain.usage import gains_of
from subscription_mcp.ledger.commands import Actor, Decided, Reserve, Settle, refused
from subscription_mcp.ledger.machine.accounts import (
    Located,
    locate,
    locate_again,
    make_known,
    must_be_fewer,
    must_have_room,
    tally_for,
    totals_of,
)
from subscription_mcp.ledger.machine.alerts import alerts_of_counters, raise_alerts, unpriced_due
from subscription_mcp.ledger.machine.counting import (
    CounterPlace,
    Tally,
    Totals,
    count,
    holder_of,
    must_fit,
    place_of_counter,
    tally_of,
    total_of,
)
from subscription_mcp.ledger.machine.facts import KEY_RETENTION, Counter, Hold, Reservation, Turn
from subscription_mcp.ledger.machine.reporting import note_denial, read_tenant
from subscription_mcp.ledger.machine.terms import located_as_reserved, look_for_what_was_sold
from subscription_mcp.ledger.machine.usage import (
    NOTHING_PASSED,
    append_event,
    decided,
    dimensions_counted,
    dimensions_of,
    gains_or_refuse,
    is_unpriced,
    pack,
    passed_by,
    price_agreed,
    price_applied,
    remember,
    remembered,
    replay,
    take,
    unpacked,
)


def reserve(turn: Turn, command: Reserve) -> Decided | None:
    """Decide as for an event, and hold instead of count."""
    facts, now = turn.facts, turn.now
    stored = remembered(turn, command)
    if stored is not None:
        return replay(turn, stored, command.event, command.quantity)
    located = locate(turn, command.subject)
    if facts.missing or located is None:
        return None
    if command.quantity < 0:
        rule = f"must be an integer from 1 to {QUANTITY_MAX}"
        raise refused("invalid_request", f"The quantity {rule}.", FieldProblem("quantity", rule))
    gains = gains_or_refuse(
        facts.catalog,
        command.event,
        command.quantity,
        command.attributes,
        command.price,
        command.estimated,
        has_happened=False,
    )
    tally = tally_for(turn, located, gains, now)
    if tally is None:
        return None
    decision = decided(turn, located, tally, command, gains, now)
    must_have_room(turn, located)
    read_tenant(turn, located, decision)
    if not turn.may_write:
        return None
    if not decision.allowed:
        note_denial(turn, located, decision)
        return Decided(decision)
    must_fit(turn, tally.counted, gains)
    most = facts.bounds.open
    for counter in tally.counted:
        must_be_fewer(
            turn,
            (hold.expires_at for hold in counter.holds.values()),
            most,
            f"{most:,} reservations are open here, the most there may be at a time. Settle or release some, or wait "
            "until they expire.",
        )
    make_known(turn, located, Actor(command.source, "service"))
    plan = located.plan
    assert plan is not None  # without one nothing is allowed
    reservation = Reservation(
        turn.new_id(),
        located.account,
        located.user,
        command.event,
        command.quantity,
        command.attributes,
        plan.key,
        plan.version,
        command.source,
        now,
        now + command.ttl_seconds * SECOND,
        {counter.key: gains[counter.key.meter] for counter in tally.counted}
        # It is settled there, too: an invoice looks for what is beyond the plan in the period it was reserved in.
        | {counter.key: 0 for counter in tally.counted_beyond},
        price_agreed(facts.catalog, command.event, command.price),
        command.estimated,
    )
    _hold(turn, reservation, tally.counted)
    for state in decision.limits:
        state.held += state.gain
    sort_states(decision.limits)
    decision.reservation_id = reservation.id
    remember(turn, command, decision)
    return Decided(decision)


def settle(turn: Turn, command: Settle) -> Decided | None:
    """Count what really happened in the windows it was held in, and give back the rest.

    What happened is recorded also where it was more than was held and is over a limit, or came too late.
    """
    facts, now = turn.facts, turn.now
    place = (command.tenant, command.reservation_id)
    reservation: Reservation | None = facts.read("reservations", place)
    if facts.missing:
        return None
    if (
        reservation is None
        or command.user not in (None, reservation.user)
        or now - reservation.reserved_at > KEY_RETENTION
    ):
        raise refused("not_found", "No such reservation. Reserve again.")
    quantity = reservation.quantity if command.quantity is None else command.quantity
    late = now >= reservation.expires_at
    if reservation.answer is not None:
        return _settled_before(turn, command, reservation, quantity)
    located = locate_again(turn, reservation.account, reservation.user)
    if located is None:
        return None
    attributes = command.attributes_of(reservation.attributes)
    price = reservation.price if command.keeps_price else command.price
    gains = {}
    if quantity:
        estimated = _still_estimated(command, reservation)
        gains = gains_or_refuse(facts.catalog, reservation.event, quantity, attributes, price, estimated)
    granted = _granted(facts.catalog, reservation)
    as_reserved = located_as_reserved(turn, located, reservation, granted.keys() | gains.keys())
    if as_reserved is None:
        return None
    located = as_reserved
    totals = totals_of(turn, located, reservation.reserved_at)
    tally = tally_of(totals, totals.granted(located.limits), granted.keys() | gains.keys())
    if tally is None:
        return None
    tally.is_sold_here = located.charges
    holding = [facts.counter(key) for key in reservation.held]
    within = not gains or (
        not late
        and all(gain <= granted.get(meter, 0) for meter, gain in gains.items() if not is_derived(meter))
    )
    decision = _decision_on(turn, located, totals, reservation, quantity, gains, within=within)
    decision.unpriced = is_unpriced(gains, facts.catalog, reservation.event)
    if located.terms is not None:
        decision.plan_held = located.terms
    dimensions = dimensions_counted(
        turn, reservation.account.tenant, dimensions_of(reservation.event, located.plan_of_event, attributes)
    )
    held_in = {place_of_counter(one): one for one in holding if one is not None}
    due = unpriced = None
    if quantity:
        due = alerts_of_counters(turn, located, totals, _counters_of(tally, held_in, gains), gains)
        if decision.unpriced:
            unpriced = unpriced_due(turn, reservation.account.tenant, reservation.event, dimensions)
    if not turn.may_write:
        return None
    if quantity:
        at = reservation.reserved_at
        passed = passed_by(located, tally, decision, gains, held_in) if tally.beyond else NOTHING_PASSED
        gains |= passed.charged
        if passed.charged:
            look_for_what_was_sold(turn, located)
        counters = _counters_of(tally, held_in, gains)
        must_fit(turn, counters, gains, besides=reservation.id)
        event = append_event(
            turn,
            located,
            reservation,
            quantity,
            attributes,
            gains,
            at,
            dimensions,
            price_applied(facts.catalog, reservation.event, price, attributes),
        )
        take(turn, event, passed.taken)
        count(turn, counters, gains, at)
        raise_alerts(turn, due)
        raise_alerts(turn, unpriced)
        decision.event_id = event.id
    for state in decision.limits:
        state.count_in()
    sort_states(decision.limits)
    decision.reservation_id = reservation.id
    say_as_recorded(decision, facts.catalog)
    for key in reservation.held:
        turn.changes.holds[(key, reservation.id)] = None
    for counter in (*holding, *tally.counted):
        # Also where it is only looked at because of a cap that was set since.
        if counter is not None:
            counter.holds.pop(reservation.id, None)
    ended = replace(reservation, digest=command.digest, answer=pack(decision))
    facts.reservations[place] = turn.changes.reservations[place] = ended
    return Decided(decision, late)


def _hold(turn: Turn, reservation: Reservation, counters: Sequence[Counter]) -> None:
    facts, changes = turn.facts, turn.changes
    for counter in counters:
        key, holds = counter.key, counter.holds
        for id_ in [id_ for id_, hold in holds.items() if hold.expires_at <= turn.now]:
            del holds[id_]
            changes.holds[(key, id_)] = None
        quantity = reservation.held[key]
        if quantity:  # an estimate of 0 holds nothing, yet is settled in this window
            hold = Hold(quantity, reservation.expires_at)
            holds[reservation.id] = changes.holds[(key, reservation.id)] = hold
    place = (reservation.account.tenant, reservation.id)
    facts.reservations[place] = changes.reservations[place] = reservation


def _settled_before(turn: Turn, command: Settle, reservation: Reservation, quantity: int) -> Decided | None:
    if reservation.digest != command.digest:
        raise refused("conflict", "This reservation was already settled or released otherwise; that stands.")
    assert reservation.answer is not None
    decision = unpacked(turn, reservation.answer, reservation.event, quantity)
    return None if decision is None else Decided(decision, decision.as_of >= reservation.expires_at)


def _counters_of(
    tally: Tally, held_in: Mapping[CounterPlace, Counter], gains: Mapping[str, int]
) -> list[Counter]:
    """Where a settle counts: where it was held; for what is counted only since, in the windows of that time."""
    since = {place_of_counter(one): one for one in (*tally.counted, *tally.counted_beyond)}
    return [counter for counter in {**since, **held_in}.values() if counter.meter in gains]


def _granted(catalog: Catalog, reservation: Reservation) -> dict[str, int]:
    """What each meter may gain by a reservation; where nothing limited one yet, nothing is held of it."""
    held = {key.meter: quantity for key, quantity in reservation.held.items() if not is_derived(key.meter)}
    return held | gains_of(
        catalog, reservation.event, reservation.quantity, reservation.attributes, reservation.price
    )


def _still_estimated(command: Settle, reservation: Reservation) -> tuple[str, ...]:
    """What was estimated when it was reserved, and was not said since."""
    said = {QUANTITY} if command.quantity is not None else set()
    if command.attributes is not None:
        said |= set(reservation.estimated) - {QUANTITY}
    return tuple(name for name in reservation.estimated if name not in said)


def _decision_on(
    turn: Turn,
    located: Located,
    totals: Totals,
    reservation: Reservation,
    quantity: int,
    gains: Mapping[str, int],
    *,
    within: bool,
) -> Decision:
    """How the settle stands against the limits: what was held was granted; more than that may be over."""
    held_in = {(key.meter, key.window_key, key.user): key for key in reservation.held}
    at, now = reservation.reserved_at, turn.now

    def total(limit: Limit) -> Total:
        key = held_in.get(
            (limit.meter, limit.window.key, holder_of(located.account, located.user, limit.scope))
        )
        key = key or totals.key(limit.meter, limit.window, limit.scope)
        counter = turn.facts.counter(key)
        period = totals.shown(limit.window)
        if not limit.window.is_rolling and totals.period(limit.window).start != key.start:
            # A billing period that another plan has cut short since.
            period = limit.window.period_at(key.start, located.anchor._replace(at=key.start, nudge=0))
        if counter is None:
            return Total(0, 0, period)
        found = total_of(counter, limit.window, period, at, now, besides=reservation.id)
        if limit.overage is not None:
            charged = turn.facts.counter(key._replace(meter=derived(key.meter, OVERAGE)))
            found.overage_used = 0 if charged is None else charged.used
        return found

    def limits_of(plan: Plan) -> list[Limit]:
        limits = totals.granted(located.limits_of(plan))
        # What was granted is granted: nothing refuses it afterwards.
        return (
            [replace(limit, maximum=UNLIMITED, overage=None) for limit in limits] if within else list(limits)
        )

    catalog, plan, subscription = turn.facts.catalog, located.plan, located.subscription
    if quantity and now >= reservation.expires_at and located.standstill is not None:
        # Nothing was held for it any more: it is told as what is recorded anyway.
        assert plan is not None and subscription is not None
        states = limit_states(catalog, limits_of(plan), total, gains, anyway=True)
        return stand_still(catalog, plan, subscription, states, reservation.event, quantity, now)
    decision = decide(
        catalog=catalog,
        plan=plan,
        states=limit_states(catalog, limits_of(plan), total, gains, anyway=True) if plan is not None else [],
        limits_of=limits_of,
        totals=total,
        event=reservation.event,
        quantity=quantity,
        gains=gains,
        now=now,
    )
    if plan is not None and within:
        meters = gains or dict.fromkeys(_granted(catalog, reservation), 0)
        limits = totals.granted(located.limits)
        decision.limits = limit_states(catalog, limits, total, meters, anyway=True)
        sort_states(decision.limits)
    return decision
