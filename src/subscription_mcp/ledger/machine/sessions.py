"""Sessions: opened within the plan's number, renewed within its duration, over by time."""

import json
from dataclasses import replace

from subscription_mcp.domain.catalog import UNLIMITED, Limit, Maximum, Plan
from subscription_mcp.domain.decisions import (
    Decision,
    LimitState,
    Unlock,
    plans_to_begin_with,
    reachable_plans,
    stand_still,
)
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import SECOND
from subscription_mcp.domain.sessions import Session, expiry_of, has_room
from subscription_mcp.domain.windows import Level, Period
from subscription_mcp.domain.wording import clock_time, session_sentence
from subscription_mcp.ledger.commands import (
    Actor,
    CloseSession,
    EndSessions,
    OpenSession,
    RenewSession,
    SessionClosed,
    SessionDecided,
    SessionsEnded,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    Located,
    audit,
    locate,
    locate_again,
    make_known,
    must_be_known,
    must_go_on,
    must_have_room,
    open_sessions_of,
    save_session,
    view_of,
)
from subscription_mcp.ledger.machine.facts import SESSION_RETENTION, StoredAnswer, Turn
from subscription_mcp.ledger.machine.reporting import note_denial
from subscription_mcp.ledger.machine.usage import remember, remembered

METER = "sessions"
EVENT = "session"


def open_session(turn: Turn, command: OpenSession) -> SessionDecided | None:
    facts, now = turn.facts, turn.now
    stored = remembered(turn, command)
    if stored is not None:
        return _opened_before(turn, command, stored)
    located = locate(turn, command.subject)
    if facts.missing or located is None:
        return None
    sessions = open_sessions_of(turn, located)
    must_have_room(turn, located)
    facts.read("tenants", located.account.tenant)
    if not turn.may_write:
        return None
    plan = located.plan
    if plan is None:
        offers = plans_to_begin_with(facts.catalog)
        decision = Decision("payment_required", None, EVENT, 1, [], now, offers)
        return _refused(turn, located, decision, len(sessions), 0)
    if located.standstill is not None:
        assert located.subscription is not None
        state = _state(plan, len(sessions), plan.sessions.max_concurrent)
        still = stand_still(
            facts.catalog, plan, located.subscription, [state], EVENT, 1, now, located.seats_used or 1
        )
        return _refused(turn, located, still, len(sessions), plan.sessions.max_concurrent)
    maximum = plan.sessions.max_concurrent
    if not has_room(_most(turn, plan), len(sessions)):
        return _refused(turn, located, _refusal(turn, located, plan, sessions), len(sessions), maximum)
    make_known(turn, located, Actor(command.source, "service"))
    session = Session(
        turn.new_id(),
        located.account,
        located.user,
        plan.key,
        command.source,
        now,
        expiry_of(plan, now, now, command.ttl_seconds),
    )
    save_session(turn, session)
    decision = _decision(turn, plan, len(sessions) + 1)
    decision.event_id = session.id
    remember(turn, command, decision)
    decision.event_id = None
    return SessionDecided(decision, session, len(sessions) + 1, maximum)


def _refused(
    turn: Turn, located: Located, decision: Decision, active: int, maximum: Maximum
) -> SessionDecided:
    note_denial(turn, located, decision)
    return SessionDecided(decision, None, active, maximum)


def renew_session(turn: Turn, command: RenewSession) -> SessionDecided | None:
    found = _found(turn, command)
    if found is None:
        return None
    session, located = found
    sessions = open_sessions_of(turn, located)
    if not turn.may_write:
        return None
    if not session.is_open(turn.now):
        raise refused(
            "not_found", "This session is over: it was closed or has reached its end. Open a new one."
        )
    must_go_on(turn.facts, located, Actor(session.user, "member"))
    plan = located.plan
    assert plan is not None  # it was opened under one, and a plan never goes away
    renewed = replace(session, expires_at=expiry_of(plan, session.opened_at, turn.now, command.ttl_seconds))
    if not renewed.is_open(turn.now):
        raise refused(
            "not_found", f"This session is as old as the {plan.title} plan lets one be. Open a new one."
        )
    save_session(turn, renewed)
    decision = _decision(turn, plan, len(sessions))
    return SessionDecided(decision, renewed, len(sessions), plan.sessions.max_concurrent)


def close_session(turn: Turn, command: CloseSession) -> SessionClosed | None:
    found = _found(turn, command)
    if found is None or not turn.may_write:
        return None
    session, _ = found
    if session.is_open(turn.now):
        session = replace(session, closed_at=turn.now)
        save_session(turn, session)
    return SessionClosed(session.id, (session.ended_at(turn.now) - session.opened_at) // SECOND)


def end_sessions(turn: Turn, command: EndSessions) -> SessionsEnded | None:
    located = locate(turn, command.subject)
    if located is None:
        return None
    must_be_known(located, command.actor)
    sessions = open_sessions_of(turn, located)
    for user in {session.user for session in sessions}:
        turn.facts.read("open_sessions", (located.account, user))
    after = view_of(turn, located)
    if not turn.may_write:
        return None
    for session in sessions:
        save_session(turn, replace(session, closed_at=turn.now))
    after.sessions_active = 0
    entry = audit(
        turn,
        located.account,
        located.user,
        "session.end",
        command.actor,
        command.reason,
        {"sessions": len(sessions)},
        {"sessions": 0},
    )
    return SessionsEnded(len(sessions), after, entry)


def _found(turn: Turn, command: RenewSession | CloseSession) -> tuple[Session, Located] | None:
    session: Session | None = turn.facts.read("sessions", (command.tenant, command.session_id))
    if turn.facts.missing:
        return None
    if (
        session is None
        or command.user not in (None, session.user)
        or turn.now - session.ended_at(turn.now) >= SESSION_RETENTION
    ):
        raise _unknown()
    located = locate_again(turn, session.account, session.user)
    if located is None:
        return None
    turn.facts.read("open_sessions", (located.account, located.user))
    return None if turn.facts.missing else (session, located)


def _unknown() -> Refusal:
    return refused("not_found", "No such session. Open one with open_session.")


def _most(turn: Turn, plan: Plan) -> int:
    """How many a plan lets be open, which is never without end: each is looked at when one more is opened."""
    bound, maximum = turn.facts.bounds.open, plan.sessions.max_concurrent
    return bound if maximum is UNLIMITED else min(maximum, bound)


def _decision(turn: Turn, plan: Plan, active: int) -> Decision:
    maximum = plan.sessions.max_concurrent
    said = session_sentence(plan, active, maximum)
    return Decision("ok", plan, EVENT, 1, [_state(plan, active, maximum)], turn.now, said=said)


def _refusal(turn: Turn, located: Located, plan: Plan, sessions: list[Session]) -> Decision:
    active, most = len(sessions), _most(turn, plan)
    state = _state(plan, active, most)
    state.refused = True
    unlocks = []
    better = next(
        (
            candidate
            for candidate in reachable_plans(turn.facts.catalog, plan)
            if has_room(_most(turn, candidate), active)
        ),
        None,
    )
    message = session_sentence(plan, active, most)
    # After a change of plan several may have to end first.
    until = sessions[active - most].expires_at if isinstance(most, int) and 0 < most <= active else None
    if until is not None and located.ends_at is not None and until >= located.ends_at:
        until = None  # a trial or plan ends first: nothing can be opened from then on
    if until is not None:
        when = clock_time(until, plan.timezone)
        message += f" The next one ends {when}." if active == most else f" There is room from {when}."
    if better is not None:
        unlocks.append(Unlock("upgrade_tier", plan=better.key))
        more = better.sessions.max_concurrent
        message += f" {better.title} has {'no limit' if more is UNLIMITED else f'{more:,}'}."
    if until is not None:
        unlocks.append(Unlock("wait", until=until))
    return Decision("session_limit", plan, EVENT, 1, [state], turn.now, unlocks, message)


def _state(plan: Plan, active: int, most: Maximum) -> LimitState:
    limit = Limit(METER, Level(plan.timezone), most)
    return LimitState(limit, EVENT, active, 0, Period(0, None))


def _opened_before(turn: Turn, command: OpenSession, stored: StoredAnswer) -> SessionDecided | None:
    """The first answer again: the same session, as it stood when it was opened."""
    session_id, _, _, plan_key, version, as_of, states, _ = json.loads(stored.answer)
    active: int = states[0][4]  # of its one limit, what was used
    facts = turn.facts
    session: Session | None = facts.read("sessions", (command.subject.tenant, session_id))
    plan: Plan | None = facts.read("plans", (plan_key, version))
    if facts.missing or session is None or plan is None:
        return None
    decision = _decision(turn, plan, active)
    decision.as_of, decision.replayed = as_of, True
    expires_at = expiry_of(plan, session.opened_at, session.opened_at, command.ttl_seconds)
    first = replace(session, expires_at=expires_at, closed_at=None)
    return SessionDecided(decision, first, active, plan.sessions.max_concurrent)
