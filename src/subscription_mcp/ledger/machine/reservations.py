"""Reservations: quantity held now and settled later. They expire by time; nothing has to give them back."""

from collections.abc import Mapping
from dataclasses import replace

from subscription_mcp.domain.catalog import TOTAL_MAX, UNLIMITED, Limit, Plan
from subscription_mcp.domain.decisions import (
    Decision,
    Total,
    decide,
    limit_states,
    recorded_sentence,
    sort_states,
)
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import SECOND
from subscription_mcp.ledger.commands import Actor, Decided, Reserve, Settle, refused
from subscription_mcp.ledger.machine.accounts import (
    Counters,
    Located,
    counters_of,
    held_of,
    holder_of,
    locate,
    locate_again,
    make_known,
)
from subscription_mcp.ledger.machine.facts import KEY_RETENTION, CounterKey, Hold, Reservation, Turn
from subscription_mcp.ledger.machine.usage import (
    append_event,
    counted_in,
    decided,
    gains_or_refuse,
    pack,
    remember,
    remembered,
    replay,
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
    gains = gains_or_refuse(facts.catalog, command.event, command.quantity, command.attributes)
    counters = counters_of(turn, located, now)
    decision = decided(turn, located, counters, command.event, command.quantity, gains)
    touched = counted_in(facts, located, counters, gains)
    taken = {key: used + held_of(facts, key, now) for key, used in touched.items()}
    if not turn.may_write:
        return None
    if not decision.allowed:
        return Decided(decision)
    _must_fit(taken)
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
        {key: gains[key.meter] for key in touched},
    )
    _hold(turn, reservation)
    for state in decision.limits:
        state.held += gains[state.meter]
    sort_states(decision.limits)
    decision.reservation_id = reservation.id
    decision.message = recorded_sentence(decision, facts.catalog, plan)
    remember(turn, command, decision, plan)
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
    attributes = reservation.attributes if command.attributes is None else command.attributes
    gains = gains_or_refuse(facts.catalog, reservation.event, quantity, attributes) if quantity else {}
    counters = counters_of(turn, located, reservation.reserved_at)
    keys = _keys_of(turn, located, counters, reservation, gains)
    counted = {key: (facts.read("counters", key) or 0) + gains[key.meter] for key in keys}
    within = not gains or (
        not late and all(gains[meter] <= _held_of_meter(reservation, meter) for meter in gains)
    )
    decision = _decision_on(turn, located, counters, reservation, quantity, gains, within=within)
    for key in reservation.held:  # known before it is given back: nobody loads it again within the batch
        facts.read("holds", key)
    if not turn.may_write:
        return None
    _must_fit(counted)
    if quantity:
        event = append_event(turn, located, reservation, quantity, attributes, gains, reservation.reserved_at)
        facts.counters.update(counted)
        turn.changes.counters.update(counted)
        decision.event_id = event.id
    for state in decision.limits:
        state.used += gains.get(state.meter, 0)
    sort_states(decision.limits)
    decision.reservation_id = reservation.id
    if located.plan is not None:
        decision.message = recorded_sentence(decision, facts.catalog, located.plan)
    for key in reservation.held:
        facts.holds[key].pop(reservation.id, None)
        turn.changes.holds[(key, reservation.id)] = None
    ended = replace(reservation, digest=command.digest, answer=pack(decision, located.plan))
    facts.reservations[place] = turn.changes.reservations[place] = ended
    return Decided(decision, late)


def _hold(turn: Turn, reservation: Reservation) -> None:
    facts, changes = turn.facts, turn.changes
    for key, quantity in reservation.held.items():
        holds = facts.holds.setdefault(key, {})
        for id_ in [id_ for id_, hold in holds.items() if hold.expires_at <= turn.now]:
            del holds[id_]
            changes.holds[(key, id_)] = None
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


def _keys_of(
    turn: Turn,
    located: Located,
    counters: Counters,
    reservation: Reservation,
    gains: Mapping[str, int],
) -> list[CounterKey]:
    """The counters to add to: those that were held; for a meter that was not, those of that time."""
    held = {key.meter for key in reservation.held}
    others = {meter: gain for meter, gain in gains.items() if meter not in held}
    keys = [key for key in reservation.held if key.meter in gains]
    return keys + list(counted_in(turn.facts, located, counters, others))


def _held_of_meter(reservation: Reservation, meter: str) -> int:
    return max((quantity for key, quantity in reservation.held.items() if key.meter == meter), default=0)


def _decision_on(
    turn: Turn,
    located: Located,
    counters: Counters,
    reservation: Reservation,
    quantity: int,
    gains: Mapping[str, int],
    *,
    within: bool,
) -> Decision:
    """How the settle stands against the limits: what was held was granted; more than that may be over."""
    held_in = {(key.meter, key.window_key, key.user): key for key in reservation.held}

    def total(limit: Limit) -> Total:
        holder = holder_of(located.account, located.user, limit.scope)
        key = held_in.get((limit.meter, limit.window.key, holder))
        if key is None:
            key = counters.key(limit.meter, limit.window, limit.scope)
        used = turn.facts.read("counters", key) or 0
        held = held_of(turn.facts, key, turn.now, besides=reservation.id)
        period = turn.facts.period(limit.window, located.anchor, reservation.reserved_at)
        if period.start != key.start:  # a billing period that another plan has cut short since
            anchor = located.anchor._replace(at=key.start)
            period = limit.window.period_at(reservation.reserved_at, anchor)
        return Total(used, held, period)

    def limits_of(plan: Plan) -> list[Limit]:
        limits = located.limits_of(plan)
        # What was granted is granted: nothing refuses it afterwards.
        return [replace(limit, maximum=UNLIMITED) for limit in limits] if within else list(limits)

    decision = decide(
        catalog=turn.facts.catalog,
        plan=located.plan,
        limits_of=limits_of,
        totals=total,
        event=reservation.event,
        quantity=quantity,
        gains=gains,
        now=turn.now,
    )
    if located.plan is not None and within:
        meters = gains or {key.meter: 0 for key in reservation.held}
        decision.limits = limit_states(turn.facts.catalog, located.limits, total, meters)
        sort_states(decision.limits)
    return decision


def _must_fit(totals: Mapping[CounterKey, int]) -> None:
    if any(total > TOTAL_MAX for total in totals.values()):
        raise refused(
            "invalid_request",
            f"The total would pass {TOTAL_MAX}, the most one counter can hold.",
            FieldProblem("quantity", "is more than the counter can still hold"),
        )
