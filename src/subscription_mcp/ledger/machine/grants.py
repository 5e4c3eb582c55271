"""Extra allowance of a limit, given by hand, and ended."""

from dataclasses import replace
from typing import Any

from subscription_mcp.domain.catalog import QUANTITY_MAX, UNLIMITED, Limit
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.ledger.commands import EndGrant, Grant, GrantAllowance, LimitsChanged, refused
from subscription_mcp.ledger.machine.accounts import (
    Located,
    audit,
    locate,
    make_known,
    must_be_known,
    must_have_room,
    view_of,
)
from subscription_mcp.ledger.machine.facts import HolderKey, Turn

GRANTS_MAX = 100
"""How many grants may be in effect, or still to come, for one user or account at a time."""


def grant(turn: Turn, command: GrantAllowance) -> LimitsChanged | None:
    facts, now = turn.facts, turn.now
    located = locate(turn, command.subject)
    if located is None:
        return None
    before = view_of(turn, located)
    if facts.missing:
        return None
    must_be_known(located, command.actor)
    limit = _limit_to_grant(located, command)
    starts_at = now if command.starts_at is None else command.starts_at
    if command.expires_at is not None and command.expires_at <= max(now, starts_at):
        raise _wrong("expires_at", "must lie in the future, and after starts_at")
    if not 1 <= command.quantity <= QUANTITY_MAX:
        raise _wrong("quantity", f"must be an integer from 1 to {QUANTITY_MAX}")
    holder: HolderKey = (located.account, located.user)
    held = facts.read("grants", holder)
    must_have_room(turn, located)
    if not turn.may_write:
        return None
    if sum(1 for one in held if one.ends_at is None or now < one.ends_at) >= GRANTS_MAX:
        raise refused(
            "conflict",
            f"There are {GRANTS_MAX} grants in effect here, the most there may be. End some first.",
        )
    given = Grant(
        turn.new_id(),
        limit.meter,
        limit.window.name,
        limit.scope,
        command.quantity,
        starts_at,
        command.expires_at,
    )
    held.append(given)
    make_known(turn, located, command.actor)
    return _changed(turn, located, before, given, "limit.grant", command, None)


def end_grant(turn: Turn, command: EndGrant) -> LimitsChanged | None:
    """Have a grant end now. What it gave stays given."""
    facts, now = turn.facts, turn.now
    located = locate(turn, command.subject)
    if located is None:
        return None
    before = view_of(turn, located)
    if facts.missing:
        return None
    holder: HolderKey = (located.account, located.user)
    held = [one for one in facts.grants.get(holder, ()) if one.id == command.grant_id]
    if not held or (held[0].ends_at is not None and held[0].ends_at <= now):
        raise refused(
            "not_found",
            "There is no such grant in effect here. The action list shows the grants of whom is meant.",
            FieldProblem("grant_id", "must be the id of a grant that has not ended"),
        )
    if not turn.may_write:
        return None
    (given,) = held
    shown = _as_dict(given)
    given.ends_at = max(now, given.starts_at)
    return _changed(turn, located, before, given, "limit.end_grant", command, shown)


def _changed(
    turn: Turn,
    located: Located,
    before: Any,
    given: Grant,
    action: str,
    command: GrantAllowance | EndGrant,
    shown: dict[str, Any] | None,
) -> LimitsChanged:
    holder: HolderKey = (located.account, located.user)
    turn.changes.grants[(holder, given.id)] = given
    turn.facts.forget_located(located.account.tenant, located.account.account)
    entry = audit(
        turn, located.account, located.user, action, command.actor, command.reason, shown, _as_dict(given)
    )
    grants = (*(one for one in located.grants if one is not given), given)
    return LimitsChanged(before, view_of(turn, replace(located, grants=grants)), entry)


def _limit_to_grant(located: Located, command: GrantAllowance) -> Limit:
    """The limit that is meant: of a group as a whole the account's, of a member their own."""
    plan = located.plan
    if plan is None:
        raise refused(
            "payment_required", "There is no subscription for this account yet. Choose a plan first."
        )
    is_group = located.standing.account_kind == "group"
    scope = "account" if located.standing.user is None else "user"
    named = [one for one in located.limits if (one.meter, one.window.name) == (command.meter, command.window)]
    limit = next((one for one in named if not is_group or one.scope == scope), None)
    if limit is None:
        whose = {"user": "each user: name a member", "account": "the whole account: name no user"}
        if named:
            raise _wrong("user_id", f"must fit the limit, which is of {whose[named[0].scope]}")
        known = ", ".join(sorted({f"{one.meter} per {one.window.name}" for one in located.limits})) or "none"
        raise _wrong("meter", f"must, with window, name a limit of the {plan.title} plan: {known}")
    if limit.window.is_rolling:
        raise _wrong("window", "cannot be one that slides: what is used in it comes back by itself")
    if limit.maximum is UNLIMITED:
        raise _wrong("meter", "must be limited: there is no maximum to add to")
    return limit


def _wrong(field: str, rule: str) -> Exception:
    return refused("invalid_request", f"{field} {rule}.", FieldProblem(field, rule))


def _as_dict(given: Grant) -> dict[str, Any]:
    """A grant as the audit trail shows it."""
    shown: dict[str, Any] = {
        "grant_id": given.id,
        "meter": given.meter,
        "window": given.window,
        "scope": given.scope,
        "quantity": given.quantity,
        "starts_at": format_instant(given.starts_at),
    }
    if given.ends_at is not None:
        shown["expires_at"] = format_instant(given.ends_at)
    return shown
