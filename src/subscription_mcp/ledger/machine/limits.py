"""Limits set by hand, and rates cleared."""

from dataclasses import replace
from typing import Any

from subscription_mcp.domain.catalog import (
    UNLIMITED,
    Limit,
    Maximum,
    Plan,
    Scope,
)
from subscription_mcp.domain.decisions import unit_of
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.windows import MINUTE_WINDOW
from subscription_mcp.domain.wording import maximum_text
from subscription_mcp.ledger.commands import (
    ClearRate,
    LimitsChanged,
    SetLimit,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    Located,
    audit,
    limits_of_overrides,
    locate,
    make_known,
    must_be_known,
    must_go_on,
    must_have_room,
    overrides_of,
    totals_of,
    view_of,
)
from subscription_mcp.ledger.machine.alerts import alerts_of_limits, raise_alerts
from subscription_mcp.ledger.machine.facts import (
    Counter,
    HolderKey,
    Override,
    OverrideKey,
    Turn,
)


def set_limit(turn: Turn, command: SetLimit) -> LimitsChanged | None:
    facts = turn.facts
    located = locate(turn, command.subject)
    if located is None:
        return None
    before = view_of(turn, located)
    if facts.missing:
        return None
    must_be_known(located, command.actor)
    must_go_on(facts, located, command.actor)
    limit = _limit_to_override(located, command)
    standing = located.standing
    for_user = standing.user is not None
    scope: Scope = "user" if for_user and standing.account_kind == "group" else limit.scope
    holder: HolderKey = (located.account, located.user)
    key: OverrideKey = (command.meter, command.window, scope)
    held = dict(facts.overrides.get(holder, {}))
    previous = held.pop(key, None)
    override = None
    if command.maximum is not None:
        if command.within_plan:
            unit = unit_of(facts.catalog, limit.meter)
            _must_be_within(limit, command.maximum, unit, for_member=for_user)
        if command.expires_at is not None and command.expires_at <= turn.now:
            raise refused(
                "invalid_request",
                "The override would have expired already.",
                FieldProblem("expires_at", "must lie in the future"),
            )
        override = held[key] = Override(command.maximum, command.expires_at)
    elif previous is None:
        raise refused("not_found", "There is no override to clear: the plan's own limit applies.")
    overrides = overrides_of(facts, located.account, standing.user, {holder: held})
    limited = replace(located, limits_of=limits_of_overrides(overrides or {}))
    after = view_of(turn, limited)
    must_have_room(turn, located)
    due = alerts_of_limits(turn, limited)
    if not turn.may_write:
        return None
    facts.overrides[holder] = held
    facts.forget_located(located.account.tenant, located.account.account)
    turn.changes.overrides[(holder, key)] = override
    make_known(turn, located, command.actor)
    raise_alerts(turn, due)
    entry = audit(
        turn,
        located.account,
        located.user,
        "limit.clear" if override is None else "limit.set",
        command.actor,
        command.reason,
        override_as_dict(key, previous, limit),
        override_as_dict(key, override, limit),
    )
    return LimitsChanged(before, after, entry)


def clear_rate(turn: Turn, command: ClearRate) -> LimitsChanged | None:
    """Let somebody who was too fast go on at once. What open reservations hold stays held."""
    facts, now = turn.facts, turn.now
    # Time goes on, so that nothing used before shares its instant with what is used from now on: a period may begin
    # with it, so all that is looked at is looked at then.
    turn.now = facts.now = now + 1
    changed = None
    try:
        changed = _clear_rate(turn, command)
    finally:
        if changed is None:
            turn.now = facts.now = now
    return changed


def _clear_rate(turn: Turn, command: ClearRate) -> LimitsChanged | None:
    facts = turn.facts
    located = locate(turn, command.subject)
    if located is None:
        return None
    before = view_of(turn, located)
    if facts.missing:
        return None
    must_be_known(located, command.actor)
    rates = _rates_of(turn, located, command.meter)
    must_have_room(turn, located)
    if not turn.may_write:
        return None
    make_known(turn, located, command.actor)
    shown = {
        "window": MINUTE_WINDOW,
        "scope": "account" if located.standing.user is None else "user",
        "used": {meter: counter.used_at(turn.now) for meter, counter in rates.items()},
    }
    for counter in rates.values():
        counter.cleared_at = turn.changes.rates_cleared[counter.key] = turn.now
        if counter.cells:
            counter.cells = ()
            turn.changes.counters.add(counter)
    entry = audit(
        turn,
        located.account,
        located.user,
        "limit.clear_rate",
        command.actor,
        command.reason,
        shown,
        {**shown, "used": dict.fromkeys(rates, 0)},
    )
    return LimitsChanged(before, view_of(turn, located), entry)


def _rates_of(turn: Turn, located: Located, meter: str | None) -> dict[str, Counter]:
    """The sliding minutes of exactly whom is meant, by meter: a group's member has their own, and so has the group."""
    plan = _plan_of(located)
    rates = [limit for limit in located.limits if limit.window.key == MINUTE_WINDOW]
    if located.standing.account_kind == "group":
        scope: Scope = "account" if located.standing.user is None else "user"
        own = [limit for limit in rates if limit.scope == scope]
    else:
        own = rates
    totals = totals_of(turn, located, turn.now)
    found = {
        limit.meter: counter
        for limit in own
        if meter in (None, limit.meter)
        and (counter := turn.facts.counter(totals.key(limit.meter, limit.window, limit.scope))) is not None
    }
    if not found and not turn.facts.missing:
        whose = {"user": "for each user", "account": "for the whole account"}
        known = ", ".join(f"{limit.meter} {whose[limit.scope]}" for limit in rates) or "nothing"
        raise refused(
            "invalid_request",
            f"There is no such rate to clear. The {plan.title} plan limits per minute: {known}.",
            FieldProblem("meter", "must be one the plan limits per minute, for whom is meant"),
        )
    return found


def _plan_of(located: Located) -> Plan:
    if located.plan is None:
        raise refused(
            "payment_required",
            "There is no subscription for this account yet, so it has no limits to set. Choose a plan first.",
        )
    return located.plan


def _limit_to_override(located: Located, command: SetLimit) -> Limit:
    plan = _plan_of(located)
    for_group = located.standing.account_kind == "group" and located.standing.user is None
    preferred: Scope = "account" if for_group else "user"
    limit = plan.limit_for(command.meter, command.window, preferred) or plan.limit_for(
        command.meter, command.window
    )
    if limit is None:
        known = (
            ", ".join(sorted({f"{entry.meter} per {entry.window.name}" for entry in plan.limits})) or "none"
        )
        raise refused(
            "invalid_request",
            f"The {plan.title} plan has no such limit. It limits: {known}.",
            FieldProblem("meter", "must, with window, name a limit of the plan"),
        )
    return limit


def _must_be_within(limit: Limit, maximum: Maximum, unit: str, *, for_member: bool) -> None:
    if not for_member or (
        limit.maximum is not UNLIMITED and (maximum is UNLIMITED or maximum > limit.maximum)
    ):
        raise refused(
            "forbidden",
            f"You may set limits of members up to the plan's own, {maximum_text(limit.maximum, unit)}. "
            "Beyond it a tenant administrator can, or a larger plan.",
        )


def override_as_dict(key: OverrideKey, override: Override | None, limit: Limit) -> dict[str, Any]:
    """One limit before or after an override changed, as the audit trail shows it."""
    maximum = limit.maximum if override is None else override.maximum
    shown: dict[str, Any] = {
        "meter": key[0],
        "window": key[1],
        "scope": key[2],
        "limit": "unlimited" if maximum is UNLIMITED else maximum,
        "source": "plan" if override is None else "override",
    }
    if override is not None and override.expires_at is not None:
        shown["expires_at"] = format_instant(override.expires_at)
    return shown
