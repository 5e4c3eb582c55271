"""Usage: checked, recorded, replayed."""

import json
from collections.abc import Mapping

from subscription_mcp.domain.catalog import (
    QUANTITY_MAX,
    TOTAL_MAX,
    UNLIMITED,
    Attributes,
    Catalog,
    Plan,
    Scope,
)
from subscription_mcp.domain.decisions import (
    Decision,
    LimitState,
    Unlock,
    count_in,
    decide,
    recorded_sentence,
)
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.usage import DIMENSIONS, attribute_problems, event_type_of, gains_of
from subscription_mcp.domain.windows import Period, quarter_of
from subscription_mcp.domain.wording import NO_SUBSCRIPTION
from subscription_mcp.ledger.commands import (
    Actor,
    CheckUsage,
    Decided,
    OpenSession,
    RecordUsage,
    Reserve,
    UsageEvent,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    Counters,
    Located,
    counters_of,
    locate,
    make_known,
)
from subscription_mcp.ledger.machine.facts import (
    FUTURE_TOLERANCE,
    KEY_RETENTION,
    Changes,
    CounterKey,
    Facts,
    Reservation,
    RollupKey,
    StoredAnswer,
    Turn,
)

# Made once: `json.dumps` would make an encoder for every answer.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def check(turn: Turn, command: CheckUsage) -> Decided | None:
    located = locate(turn, command.subject)
    if located is None:
        return None
    gains = gains_or_refuse(turn.facts.catalog, command.event, command.quantity, command.attributes)
    counters = counters_of(turn, located, turn.now)
    decision = decided(turn, located, counters, command.event, command.quantity, gains)
    return None if turn.facts.missing else Decided(decision)


def record(turn: Turn, command: RecordUsage) -> Decided | None:
    facts, now = turn.facts, turn.now
    # Before anything else is looked at: a replay stays what it was, wherever the user has gone.
    stored = remembered(turn, command)
    if stored is not None:
        return replay(turn, stored, command.event, command.quantity)
    located = locate(turn, command.subject)
    if facts.missing or located is None:
        return None
    at = _instant_of_event(command.occurred_at, now)
    gains = gains_or_refuse(facts.catalog, command.event, command.quantity, command.attributes)
    counters = counters_of(turn, located, at)
    decision = decided(turn, located, counters, command.event, command.quantity, gains)
    counted = counted_in(facts, located, counters, gains)
    if not turn.may_write:
        return None
    if not decision.allowed and command.enforce:
        return Decided(decision)
    if any(used > TOTAL_MAX for used in counted.values()):
        raise refused("invalid_request", f"The total would pass {TOTAL_MAX}, the most one counter can hold.")

    make_known(turn, located, Actor(command.source, "service"))
    plan = located.plan
    event = append_event(turn, located, command, command.quantity, command.attributes, gains, at)
    facts.counters.update(counted)
    turn.changes.counters.update(counted)
    if plan is not None:
        count_in(decision, facts.catalog, plan, gains, event.id)
    else:
        decision.event_id = event.id
    remember(turn, command, decision, plan)
    return Decided(decision)


def append_event(
    turn: Turn,
    located: Located,
    command: RecordUsage | Reservation,
    quantity: int,
    attributes: Attributes,
    gains: Mapping[str, int],
    at: Instant,
) -> UsageEvent:
    """Append one event and add it to the rollups; the counters are the caller's."""
    plan, account = located.plan, located.account
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
    )
    turn.changes.events.append(event)
    _roll_up(turn.changes, event)
    return event


def remember(
    turn: Turn, command: RecordUsage | Reserve | OpenSession, decision: Decision, plan: Plan | None
) -> None:
    """Keep the answer under the request's idempotency key, if it has one."""
    if command.idempotency_key is not None:
        key = (command.subject.tenant, command.source, command.idempotency_key)
        answer = StoredAnswer(command.digest, pack(decision, plan), turn.now)
        turn.facts.answers[key] = answer
        turn.changes.answers.append((key, answer))


def remembered(turn: Turn, command: RecordUsage | Reserve | OpenSession) -> StoredAnswer | None:
    """What the request's idempotency key did before. Raises Refusal `conflict` where that was another request."""
    if command.idempotency_key is None:
        return None
    key = (command.subject.tenant, command.source, command.idempotency_key)
    stored: StoredAnswer | None = turn.facts.read("answers", key)
    if stored is None or turn.now - stored.at >= KEY_RETENTION:
        return None
    if stored.digest != command.digest:
        raise refused(
            "conflict",
            "This idempotency_key was already used for another request. Use a new key for a new event.",
        )
    return stored


def _instant_of_event(occurred_at: Instant | None, now: Instant) -> Instant:
    if occurred_at is None:
        return now
    if not now - KEY_RETENTION <= occurred_at <= now + FUTURE_TOLERANCE:
        raise refused(
            "invalid_request",
            "The event is too old or lies in the future. Events are taken from 35 days back to 5 minutes ahead.",
            FieldProblem("occurred_at", "must lie between 35 days ago and 5 minutes from now"),
        )
    return occurred_at


def gains_or_refuse(catalog: Catalog, event: str, quantity: int, attributes: Attributes) -> dict[str, int]:
    if not 1 <= quantity <= QUANTITY_MAX:
        raise refused(
            "invalid_request",
            f"The quantity must be an integer from 1 to {QUANTITY_MAX}.",
            FieldProblem("quantity", f"must be an integer from 1 to {QUANTITY_MAX}"),
        )
    event_type = event_type_of(catalog, event)
    if attributes:
        problems = attribute_problems(event_type, attributes)
        if problems:
            raise refused("invalid_request", f"{problems[0].field} {problems[0].rule}", *problems)
    return gains_of(catalog, event, quantity, attributes)


def decided(
    turn: Turn, located: Located, counters: Counters, event: str, quantity: int, gains: Mapping[str, int]
) -> Decision:
    return decide(
        catalog=turn.facts.catalog,
        plan=located.plan,
        limits_of=located.limits_of,
        totals=counters.total,
        event=event,
        quantity=quantity,
        gains=gains,
        now=turn.now,
    )


def counted_in(
    facts: Facts, located: Located, counters: Counters, gains: Mapping[str, int]
) -> dict[CounterKey, int]:
    """The totals after the event, in every window any plan limits the meter in, for user and account."""
    scopes: tuple[Scope, ...] = ("user", "account") if located.account.account_kind == "group" else ("user",)
    windows_of_meter = facts.catalog.windows_of_meter
    counted: dict[CounterKey, int] = {}
    for meter, gain in gains.items():
        windows = windows_of_meter.get(meter, ())
        if located.plan is not None and located.plan.version != _current_version(facts, located.plan.key):
            # A subscriber of an older version may be limited in a window no current plan has.
            known = {window.key for window in windows}
            windows += tuple(
                limit.window
                for limit in located.plan.limits
                if limit.meter == meter and limit.window.key not in known
            )
        for window in windows:
            for scope in scopes:
                key = counters.key(meter, window, scope)
                used = facts.read("counters", key)
                counted[key] = (used or 0) + gain
    return counted


def _current_version(facts: Facts, plan: str) -> int | None:
    current = facts.catalog.plans.get(plan)
    return current.version if current is not None else None


def _roll_up(changes: Changes, event: UsageEvent) -> None:
    quarter = quarter_of(event.occurred_at)
    dimensions = dimensions_of(event)
    for meter, gain in event.gains.items():
        key = RollupKey(
            event.tenant, quarter, event.account_kind, event.account, event.user, meter, dimensions
        )
        cell = changes.rollups.get(key)
        if cell is None:
            changes.rollups[key] = [1, gain]
        else:
            cell[0] += 1
            cell[1] += gain


def dimensions_of(event: UsageEvent) -> tuple[str | None, ...]:
    """What usage of the event can be grouped by, in the order of `RollupKey.dimensions`."""
    return (event.event, event.plan, *(_text(event.attributes.get(name)) for name in DIMENSIONS))


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def pack(decision: Decision, plan: Plan | None) -> str:
    """The numbers the first answer is rebuilt from; names and sentences follow from them and the plan."""
    states = [
        [
            state.meter,
            state.window_key,
            state.scope,
            None if state.maximum is UNLIMITED else state.maximum,
            state.used,
            state.held,
            *state.period,
            int(state.refused),
        ]
        for state in decision.limits
    ]
    unlocks = [[u.action, u.plan, u.until] for u in decision.unlocks]
    version = plan.version if plan is not None else None
    ids = [decision.event_id, decision.reservation_id]
    return _encode([*ids, decision.code, decision.plan, version, decision.as_of, states, unlocks])


def replay(turn: Turn, stored: StoredAnswer, event: str, quantity: int) -> Decided | None:
    """The first answer again, from its numbers."""
    decision = unpacked(turn, stored.answer, event, quantity)
    return None if decision is None else Decided(decision)


def unpacked(turn: Turn, answer: str, event: str, quantity: int) -> Decision | None:
    event_id, reservation_id, code, plan_key, version, as_of, packed, unlocks = json.loads(answer)
    facts = turn.facts
    plan: Plan | None = facts.read("plans", (plan_key, version)) if plan_key is not None else None
    if facts.missing:
        return None
    states = []
    for meter, window_key, scope, maximum, used, held, start, end, is_refused in packed:
        name, _, timezone = window_key.partition("@")
        known = plan.limit_for(meter, name) if plan is not None else None
        known_meter = facts.catalog.meters.get(meter)
        states.append(
            LimitState(
                meter,
                name,
                window_key,
                known.window.seconds if known else None,
                scope,
                known_meter.unit if known_meter else meter,
                UNLIMITED if maximum is None else maximum,
                used,
                held,
                Period(start, end),
                known.window.timezone if known else timezone or "UTC",
                bool(is_refused),
                end is not None and end <= as_of,
            )
        )
    offers = [Unlock(action, plan_, until) for action, plan_, until in unlocks]
    decision = Decision(
        code == "ok",
        code,
        NO_SUBSCRIPTION,
        plan_key,
        event,
        quantity,
        states,
        as_of,
        offers,
        event_id,
        reservation_id,
        replayed=True,
    )
    if plan is not None:
        decision.message = recorded_sentence(decision, facts.catalog, plan)
    return decision
