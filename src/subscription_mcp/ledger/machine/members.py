"""Who is in a group and in which role; and how a person's account becomes one."""

from dataclasses import replace
from typing import Any

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.errors import Refusal, forbidden
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    MemberRole,
    Membership,
    Subscription,
    is_paid,
    left_behind,
    seats_max,
)
from subscription_mcp.domain.wording import list_text
from subscription_mcp.ledger.commands import AuditEntry, ManageMember, MembersChanged, refused
from subscription_mcp.ledger.machine.accounts import (
    OPERATORS,
    Located,
    audit,
    count_users,
    end_sessions_of,
    locate,
    must_go_on,
    must_have_a_seat,
    must_have_room_for,
    no_subscription,
    save_membership,
    save_subscription,
)
from subscription_mcp.ledger.machine.facts import Facts, GroupSize, Turn
from subscription_mcp.ledger.machine.subscriptions import follows_after_end

FOUNDED = "subscription.move"
"""The action of a subscription that goes from a person to the group they found, in the audit trail of both."""


def manage_member(turn: Turn, command: ManageMember) -> MembersChanged | None:
    facts = turn.facts
    located = locate(turn, command.subject)
    if located is None:
        return None
    account = located.account
    facts.read("members", (account.tenant, command.user))
    facts.read("members", (account.tenant, command.actor.user))
    facts.read("removed", (account.tenant, command.user, account.account))
    if facts.missing:
        return None
    _must_be_allowed(facts, located, command)
    if account.account_kind == "personal":
        return _in_personal_account(turn, located, command)
    match command.action:
        case "add":
            return _add(turn, located, command)
        case "remove":
            return _remove(turn, located, command)
        case "set_role":
            return _set_role(turn, located, command)


def _must_be_allowed(facts: Facts, located: Located, command: ManageMember) -> None:
    """Who administered the group a moment ago may have been removed by what came first in the batch."""
    actor, account = command.actor, located.account
    if actor.role in OPERATORS:
        return
    if account.account_kind == "group":
        held: Membership | None = facts.members[(account.tenant, actor.user)]
        if held is None or (held.account, held.role) != (account.account, "admin"):
            raise forbidden()
    must_go_on(facts, located, actor)


def _add(turn: Turn, located: Located, command: ManageMember) -> MembersChanged | None:
    facts, account = turn.facts, located.account
    _must_be_in_no_group(facts.members[(account.tenant, command.user)], account)
    _must_pay_for_nothing(turn, account.tenant, command.user)
    must_have_a_seat(turn.facts, located.plan, located.subscription, located.seats_used or 0)
    # Who was here before was counted then.
    more = 0 if facts.removed[(account.tenant, command.user, account.account)] is not None else 1
    must_have_room_for(turn, account.tenant, more)
    if not turn.may_write:
        return None
    count_users(turn, account.tenant, more)
    return _changed(turn, located, account, _join(turn, account, command.user, command.role, command))


def _remove(turn: Turn, located: Located, command: ManageMember) -> MembersChanged | None:
    account, user = located.account, command.user
    held = _member(turn.facts, located, command)
    if held.role == "admin":
        _must_not_be_the_last(turn.facts, account)
    turn.facts.read("open_sessions", (account, user))
    if not turn.may_write:
        return None
    end_sessions_of(turn, account, user)
    save_membership(turn, account.tenant, user, None)
    _note_removed(turn, account, user, command.tokens_before)
    entry = audit(
        turn, account, user, "member.remove", command.actor, command.reason, _shown(account, held.role), None
    )
    return _changed(turn, located, account, entry)


def _set_role(turn: Turn, located: Located, command: ManageMember) -> MembersChanged | None:
    account, user, role = located.account, command.user, command.role
    held = _member(turn.facts, located, command)
    if held.role == role:
        raise refused("conflict", f"That member has the role {role} already; nothing was changed.")
    if held.role == "admin":
        _must_not_be_the_last(turn.facts, account)
    if not turn.may_write:
        return None
    save_membership(turn, account.tenant, user, replace(held, role=role))
    if held.role == "admin":
        # The token from before says admin, and would make them one again after a visit to another group.
        _note_removed(turn, account, user, command.tokens_before)
    before, after = _shown(account, held.role), _shown(account, role)
    entry = audit(turn, account, user, "member.role", command.actor, command.reason, before, after)
    return _changed(turn, located, account, entry)


def _in_personal_account(turn: Turn, located: Located, command: ManageMember) -> MembersChanged | None:
    """A personal account is its one user. Whoever adds another founds a group, to which the subscription moves as it
    is. Its id is nobody's: people come and go, and may be erased."""
    facts, account = turn.facts, located.account
    tenant, holder, user = account.tenant, account.account, command.user
    if command.action != "add":
        if user == holder:
            raise refused(
                "conflict", "A personal account is its one user, who holds it: there is no role to change."
            )
        raise _no_member(command)
    if user == holder:
        raise refused("conflict", "That user holds this account already; nothing was changed.")
    if located.plan is None or located.subscription is None:
        raise no_subscription(facts.catalog)
    facts.read("members", (tenant, holder))
    more = 2 if located.stored is not None else 3
    must_have_room_for(turn, tenant, more)
    if facts.missing:
        return None
    for member in (holder, user):
        _must_be_in_no_group(facts.members[(tenant, member)], account)
    _must_pay_for_nothing(turn, tenant, user)
    _must_have_room_for_members(facts, located)
    if not turn.may_write:
        return None
    count_users(turn, tenant, more)
    group = AccountKey(tenant, "group", turn.new_id())
    facts.groups[(tenant, group.account)] = GroupSize()
    held, reason = located.subscription, command.reason
    stays = left_behind(held, follows_after_end(facts.catalog), turn.now)
    # The group's comes last: a trial that moves with it was not turned into a purchase.
    save_subscription(turn, account, located.stored, stays, FOUNDED, command.actor, reason)
    save_subscription(turn, group, None, held, FOUNDED, command.actor, reason, holder)
    _join(turn, group, holder, "admin", command)
    return _changed(turn, located, group, _join(turn, group, user, command.role, command))


def _must_have_room_for_members(facts: Facts, located: Located) -> None:
    """Refuse a group on a plan that is for one person, with the plans that are for more."""
    plan, subscription = located.plan, located.subscription
    assert plan is not None and subscription is not None
    if _has_room(plan):
        must_have_a_seat(facts, plan, subscription, 1)
        return
    roomy = [one.title for one in facts.catalog.plans_by_price if _has_room(one)]
    where = f"{list_text(roomy, 'and')} {'has' if len(roomy) == 1 else 'have'}" if roomy else "no plan has"
    raise refused("conflict", f"The {plan.title} plan has no room for members; {where}. Nothing was changed.")


def _has_room(plan: Plan) -> bool:
    """Whether the plan says that it is for more than one user; one that says nothing is for whoever holds it."""
    if plan.seats_max is None:
        return plan.price.per_seat is not None
    return not isinstance(plan.seats_max, int) or plan.seats_max > 1


def _must_be_in_no_group(held: Membership | None, account: AccountKey) -> None:
    if held is None:
        return
    if account.account_kind == "group" and held.account == account.account:
        raise refused("conflict", "That user is a member already; nothing was changed.")
    raise refused(
        "conflict", "That user belongs to another group, which has to let them go first; nothing was changed."
    )


def _must_pay_for_nothing(turn: Turn, tenant: str, user: str) -> None:
    """Refuse somebody who would lose the use of a plan of their own and go on paying for it, or who is suspended."""
    stored: Subscription | None = turn.facts.read("subscriptions", AccountKey(tenant, "personal", user))
    if stored is None:
        return
    held = stored.at(turn.now)
    if held.suspended_at is not None:
        raise refused(
            "conflict", "This user is suspended. An operator has to activate their own account first."
        )
    plan: Plan | None = turn.facts.read("plans", (held.plan, held.version))
    if plan is not None and is_paid(plan, held):
        raise refused(
            "conflict",
            "This user has a paid plan of their own. It has to end first, or their token has to name the group.",
        )


def _must_not_be_the_last(facts: Facts, account: AccountKey) -> None:
    if facts.groups[(account.tenant, account.account)].admins <= 1:
        raise refused(
            "conflict",
            "That is the last administrator of the group. Give somebody else the role admin first, with the action "
            "set_role.",
        )


def _member(facts: Facts, located: Located, command: ManageMember) -> Membership:
    """The place of the user meant. Raises Refusal, the same whether there is such a user or not."""
    held: Membership | None = facts.members[(located.account.tenant, command.user)]
    if held is None or held.account != located.account.account:
        raise _no_member(command)
    return held


def _no_member(command: ManageMember) -> Refusal:
    if command.actor.role in OPERATORS:
        return refused("not_found", "That user is no member of this account.")
    return forbidden()


def _join(turn: Turn, group: AccountKey, user: str, role: MemberRole, command: ManageMember) -> AuditEntry:
    save_membership(turn, group.tenant, user, Membership(group.account, role, turn.now))
    if turn.facts.removed.get((group.tenant, user, group.account)) is not None:
        _note_removed(turn, group, user, None)
    after = _shown(group, role)
    return audit(turn, group, user, "member.add", command.actor, command.reason, None, after)


def _note_removed(turn: Turn, group: AccountKey, user: str, tokens_before: Instant | None) -> None:
    key = (group.tenant, user, group.account)
    turn.facts.removed[key] = turn.changes.removed[key] = tokens_before


def _shown(group: AccountKey, role: MemberRole) -> dict[str, Any]:
    return {"account_id": group.account, "role": role}


def _changed(turn: Turn, located: Located, account: AccountKey, entry: AuditEntry) -> MembersChanged:
    plan, subscription = located.plan, located.subscription
    most = seats_max(plan, subscription) if plan is not None and subscription is not None else None
    used = turn.facts.groups[(account.tenant, account.account)].users
    return MembersChanged(account, used, most, account != located.account, entry)
