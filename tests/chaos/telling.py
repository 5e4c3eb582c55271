"""What an outcome of the ledger says, as plain values that can be held against the model's."""

from typing import Any

from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.ledger.commands import (
    AccountView,
    Decided,
    LimitsChanged,
    MembersChanged,
    Outcome,
    PlanChanged,
    PlanEdited,
    PlanMigrated,
    PlansPublished,
    SessionClosed,
    SessionDecided,
    StatusChanged,
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
                "unpriced": decision.unpriced,
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
            return held_of(outcome) | {
                "code": "ok",
                "limits": limits_of(outcome.limits),
                "seats": outcome.seats_used,
                "active": outcome.sessions_active,
            }
        case StatusChanged():
            assert outcome.audit.after is not None and outcome.after.subscription is not None
            status = outcome.after.subscription.status_at(outcome.after.as_of)
            assert outcome.audit.after["status"] == status
            return facts_of(outcome.after)
        case LimitsChanged():
            told = {"code": "ok", "limits": limits_of(outcome.after.limits)}
            assert outcome.audit.after is not None or outcome.audit.action != "limit.grant"
            made = outcome.audit.after if outcome.audit.action == "limit.grant" else None
            return told | {"thing": made and made["grant_id"]}
        case MembersChanged():
            told = {"code": "ok", "seats": outcome.seats_used, "max": outcome.seats_max}
            return told | {"founded": outcome.founded, "action": outcome.audit.action}
        case PlanChanged(change=change):
            whole = sum(line.micros for line in change.lines)
            assert outcome.confirmed or change.is_scheduled or change.price_now.micros == max(0, whole)
            return {
                "code": "ok",
                "plan": change.to_plan,
                "at": change.effective_at,
                "scheduled": change.is_scheduled,
                "price_now": change.price_now.micros,
                "price_next": change.price_next.micros,
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
            overage_of(state),
        ]
        for state in states
    }
    assert len(found) == len(states)
    for state in states:
        left = None if not isinstance(state.maximum, int) else state.maximum - state.used - state.held
        assert state.remaining == (None if left is None else max(0, left))
    return found


def overage_of(state: LimitState) -> list[Any] | None:
    terms = state.limit.overage
    return terms and [state.overage_used, terms.price_micros, terms.units_max]


def held_of(view: AccountView) -> dict[str, Any]:
    """What an account holds: the plan, its billing period, its status, and what ends or comes by itself."""
    held, plan = view.subscription, view.plan
    if held is None or plan is None:
        assert held is plan
        return {"held": None}
    assert (held.plan, held.version) == (plan.key, plan.version)
    then, months = held.scheduled, {"monthly": 1, "yearly": 12}[held.interval]
    period, status = held.period_at(view.as_of), held.status_at(view.as_of)
    return {
        "held": (plan.key, months, plan.version, status, *period),
        "ends": (
            held.trial_ends_at,
            held.prepaid_until,
            held.seats,
            then and (then.at, then.reason, then.plan),
        ),
    }
