"""What an outcome of the ledger says, as plain values that can be held against the model's."""

from typing import Any

from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.ledger.commands import (
    AccountView,
    Decided,
    LimitsChanged,
    Outcome,
    PlanChanged,
    PlanEdited,
    PlanMigrated,
    PlansPublished,
    SessionClosed,
    SessionDecided,
)


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """Every number of an outcome; `thing` is the id of the event, reservation or session it made."""
    match outcome:
        case Refusal():
            return {"code": outcome.code}
        case Decided(decision=decision):
            assert decision.allowed == (decision.code == "ok")
            assert [state.refused for state in decision.limits] == sorted(
                (state.refused for state in decision.limits), reverse=True
            )
            return {
                "code": decision.code,
                "plan": decision.plan,
                "limits": limits_of(decision.limits),
                "replayed": decision.replayed,
                "late": outcome.late,
                "thing": decision.event_id or decision.reservation_id,
            }
        case SessionDecided():
            return {
                "code": outcome.decision.code,
                "plan": outcome.decision.plan,
                "active": outcome.active,
                "max": outcome.max_concurrent,
                "ends": outcome.session and outcome.session.expires_at,
                "replayed": outcome.decision.replayed,
                "thing": outcome.session and outcome.session.id,
            }
        case SessionClosed():
            return {"code": "ok", "seconds": outcome.duration_seconds}
        case AccountView():
            assert outcome.plan is not None
            return {
                "code": "ok",
                "plan": outcome.plan.key,
                "version": outcome.plan.version,
                "limits": limits_of(outcome.limits),
                "seats": outcome.seats_used,
                "active": outcome.sessions_active,
            }
        case LimitsChanged():
            return {"code": "ok", "limits": limits_of(outcome.after.limits)}
        case PlanChanged(change=change):
            return {
                "code": "ok",
                "plan": change.to_plan,
                "at": change.effective_at,
                "scheduled": change.is_scheduled,
                "limits": limits_of(outcome.limits_after),
            }
        case PlansPublished():
            return {"code": "ok", "versions": dict(outcome.versions)}
        case PlanEdited(plan=plan):
            return {"code": "ok", "plan": plan.key, "version": plan.version}
        case PlanMigrated(plan=plan):
            return {"code": "ok", "version": plan.version, "moved": outcome.moved}
    raise AssertionError(outcome)


def limits_of(states: list[LimitState]) -> dict[tuple[str, str, str], list[Any]]:
    found = {
        (state.meter, state.window, state.scope): [
            state.maximum,
            state.used,
            state.held,
            state.period.start,
            state.resets_at,
            state.refused,
        ]
        for state in states
    }
    assert len(found) == len(states)
    for state in states:
        left = None if not isinstance(state.maximum, int) else state.maximum - state.used - state.held
        assert state.remaining == (None if left is None else max(0, left))
    return found
