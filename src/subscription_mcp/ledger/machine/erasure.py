"""A user who is erased: everything of theirs ends and goes on under an alias."""

from dataclasses import replace

from subscription_mcp.domain.erasure import Redaction
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import AccountKey, Membership, Subscription, Trial
from subscription_mcp.ledger.commands import Actor, EraseUser, UserErased, refused
from subscription_mcp.ledger.machine.accounts import audit, note_history, subscription_as_dict, trial_of
from subscription_mcp.ledger.machine.facts import GroupSize, TenantSize, Turn


def erase_user(turn: Turn, command: EraseUser) -> UserErased | None:
    """Everything written here is the alias's. What stands under the id already is renamed by the engine, before."""
    facts, changes, now = turn.facts, turn.changes, turn.now
    tenant, user, alias = command.tenant, command.user, command.alias
    trial_key = (tenant, trial_of("personal", user))
    known = facts.read("named", (tenant, user))
    membership: Membership | None = facts.read("members", (tenant, user))
    stored: Subscription | None = facts.read("subscriptions", AccountKey(tenant, "personal", user))
    trial: Trial | None = facts.read("trials", trial_key)
    size: TenantSize | None = facts.read("tenants", tenant)
    group: GroupSize | None = (
        facts.read("groups", (tenant, membership.account)) if membership is not None else None
    )
    if facts.missing:
        return None
    if not known:
        raise refused("not_found", "No such user in this tenant: nothing was erased.")
    others_need_them = group is not None and group.admins == 1 and group.users > 1
    if membership is not None and membership.role == "admin" and others_need_them:
        raise refused(
            "conflict",
            "This user is the only administrator of a group. Name another one first; nothing was erased.",
        )
    if not turn.may_write:
        return None
    actor = Actor(alias, command.actor.role) if command.actor.user == user else command.actor
    reason = Redaction(user, alias, theirs=True).sentence(command.reason)
    if membership is not None:
        assert size is not None
        changes.tenants[tenant] = size._replace(users=size.users - 1)
        left = AccountKey(tenant, "group", membership.account)
        audit(turn, left, alias, "member.remove", actor, reason, {"role": membership.role}, None)
    account = AccountKey(tenant, "personal", alias)
    if stored is not None:
        if stored.is_trial and trial is not None and now < trial.ends_at:
            changes.trials[trial_key] = ("personal", replace(trial, ends_at=now))
        ended = changes.subscriptions[account] = _ended(stored.at(now), now)
        note_history(turn, account, ended, "subscription.cancel")
        was, is_now = subscription_as_dict(stored, now), subscription_as_dict(ended, now)
        audit(turn, account, "", "subscription.cancel", actor, reason, was, is_now)
    entry = audit(turn, account, "", "account.erase", actor, reason, None, {"alias": alias})
    erased = changes.erased = UserErased(tenant, user, alias, entry)
    return erased


def _ended(subscription: Subscription, now: Instant) -> Subscription:
    """The subscription of somebody who is gone; one that had ended before has ended as it did."""
    if subscription.ended_as is None:
        subscription = replace(subscription, ended_at=now, ended_as="canceled")
    return replace(subscription, scheduled=None, prepaid_until=None, past_due_since=None, suspended_at=None)
