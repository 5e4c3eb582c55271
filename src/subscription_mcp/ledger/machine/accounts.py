"""Whose account a command is about, with the plan and limits that decide; and first sight."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from subscription_mcp.domain.catalog import Catalog, Limit, Plan
from subscription_mcp.domain.decisions import Unlock, next_plan_to_buy, plans_to_begin_with
from subscription_mcp.domain.errors import Code, FieldProblem, Refusal
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import SECOND, Instant, format_instant
from subscription_mcp.domain.invoices import Charge, HistoryRow, takes_the_place_of
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    Membership,
    Origin,
    Subscription,
    Trial,
    anchored,
    price_of,
    seats_max,
    started,
)
from subscription_mcp.domain.windows import Anchor
from subscription_mcp.domain.wording import NO_SUBSCRIPTION, counted, standstill_sentence
from subscription_mcp.ledger.commands import (
    AccountView,
    Actor,
    Arrive,
    AuditEntry,
    Grant,
    Standing,
    Subject,
    refused,
)
from subscription_mcp.ledger.machine.counting import Tally, Totals, tally_of
from subscription_mcp.ledger.machine.deliveries import tell_webhook
from subscription_mcp.ledger.machine.facts import (
    NO_ANCHOR,
    Facts,
    GroupSize,
    Holder,
    HolderKey,
    Override,
    OverrideKey,
    TenantSize,
    TrialKind,
    Turn,
)

OPERATORS = frozenset({"tenant_admin", "superadmin"})
"""Roles that change an account from outside."""


@dataclass(slots=True)
class Located:
    """A subject's account with everything that decides about it."""

    standing: Standing
    account: AccountKey
    stored: Subscription | None
    subscription: Subscription | None
    plan: Plan | None
    limits_of: Callable[[Plan], tuple[Limit, ...]]
    joins: bool
    leaves: Membership | None
    """The place in another group that is given up by joining this one."""
    seats_used: int | None
    standstill: Code | None = None
    """The code with which everything but reading and what gets it going again is refused."""
    thresholds: tuple[int, ...] = ()
    """At how many percent of its limits the account is alerted, smallest first."""
    has_own_thresholds: bool = False
    """Whether they are the account's and not its plan's."""
    grants: tuple[Grant, ...] = ()
    """Extra allowance of the user and of the group they are in."""
    terms: Plan | None = None
    """The plan that was held when what is told only now happened, where another one is held today."""
    sells: bool = True
    """Whether what goes beyond the plan is sold: not while the subscription stands still."""
    charges: bool = True
    """Whether what is sold is charged here, and not by the issuer of the token that names the plan."""
    tallies: dict[tuple[str, ...], Tally] = field(default_factory=dict)
    """The last tally of some meters: most events fall into the same windows as the one before."""
    user: str = field(init=False)
    holder: Holder = field(init=False)
    is_new: bool = field(init=False)
    """Something is written on first sight, or because a token or the time has changed the subscription."""

    def __post_init__(self) -> None:
        self.user = self.standing.user or ""
        self.holder = Holder((self.account, self.user))
        self.is_new = self.joins or (
            self.subscription is not None
            and self.subscription is not self.stored
            and self.subscription != self.stored
        )

    @property
    def limits(self) -> tuple[Limit, ...]:
        return () if self.plan is None else self.limits_of(self.plan)

    @property
    def plan_of_event(self) -> Plan | None:
        """The plan an event is recorded under."""
        return self.terms or self.plan

    @property
    def trial_ends_at(self) -> Instant | None:
        return self.subscription.trial_ends_at if self.subscription is not None else None

    @property
    def ends_at(self) -> Instant | None:
        """When nothing is allowed any more by itself: a trial is over, or a plan that nothing follows."""
        subscription = self.subscription
        if subscription is None or subscription.trial_ends_at is not None:
            return subscription.trial_ends_at if subscription is not None else None
        scheduled = subscription.scheduled
        return scheduled.at if scheduled is not None and scheduled.plan is None else None

    @property
    def anchor(self) -> Anchor:
        return self.subscription.billing_anchor if self.subscription else NO_ANCHOR


def locate(turn: Turn, subject: Subject) -> Located | None:
    """The subject's account; None where facts are missing."""
    facts = turn.facts
    known: Located | None = facts.located.get(subject)
    if known is not None:
        return known
    found = _standing(facts, subject)
    if found is None:
        return None
    standing, membership = found
    located = _located(turn, standing, membership, subject)
    if located is not None and not _may_change(located, facts):
        facts.keep_located(subject, located.account, located)
    return located


def locate_again(turn: Turn, account: AccountKey, user: str) -> Located | None:
    """The account something was begun in, wherever its user has gone since."""
    standing = Standing(account.tenant, account.account_kind, account.account, user, "member")
    return _located(turn, standing, None, Subject(account.tenant, user))


def _may_change(located: Located, facts: Facts) -> bool:
    """Whether it will be another by time alone, or by what this very command writes."""
    stored = located.stored
    holders = {(located.account, ""), (located.account, located.user)}
    return (
        located.joins
        or stored is None
        or stored is not located.subscription
        or stored.scheduled is not None
        or stored.is_trial
        or stored.past_due_since is not None
        or any(facts.overrides.get(holder) for holder in holders)
        or bool(located.grants)
    )


def _located(
    turn: Turn, standing: Standing, membership: Membership | None, subject: Subject
) -> Located | None:
    facts = turn.facts
    account = AccountKey(standing.tenant, standing.account_kind, standing.account)
    stored: Subscription | None = facts.read("subscriptions", account)
    size: GroupSize | None = None
    if account.account_kind == "group":
        size = facts.read("groups", (account.tenant, account.account))
    overrides = overrides_of(facts, account, standing.user)
    grants = grants_of(facts, account, standing.user)
    if facts.missing or overrides is None:
        return None
    subscription = _subscription_of(facts, stored, subject, standing, turn.now)
    if facts.missing:
        return None
    plan: Plan | None = None
    own: tuple[int, ...] | None = None
    thresholds: tuple[int, ...] = ()
    if subscription is not None:
        plan = facts.read("plans", (subscription.plan, subscription.version))
        own = facts.read("alert_settings", account)
        if plan is None or facts.missing:
            return None
        thresholds = plan.alert_thresholds if own is None else own
        if subscription.past_due_since is not None and not plan.may_charge:
            # Down to a plan for nothing: as after a cancellation nobody owes anything for it.
            subscription = replace(subscription, past_due_since=None)
    joins = standing.account_kind == "group" and standing.user is not None and standing.role is None
    leaves = None
    if joins:
        standing.role = "admin" if subject.group_admin else "member"
        leaves = membership
        if leaves is not None:
            facts.read("groups", (account.tenant, leaves.account))
            facts.read("open_sessions", (AccountKey(account.tenant, "group", leaves.account), standing.user))
        removed: Instant | None = facts.read("removed", (account.tenant, standing.user, account.account))
        if facts.missing:
            return None
        if removed is not None:
            _must_be_newer(subject, removed)
        must_have_a_seat(facts, plan, subscription, size.users if size is not None else 0)
    standstill = subscription.standstill_at(turn.now) if subscription is not None else None
    return Located(
        standing,
        account,
        stored,
        subscription,
        plan,
        limits_of_overrides(overrides),
        joins,
        leaves,
        size.users if size is not None else None,
        standstill,
        thresholds,
        own is not None,
        grants,
        sells=plan is not None and standstill is None,
        charges=subscription is not None and subscription.is_sold_here,
    )


def _must_be_newer(subject: Subject, removed: Instant) -> None:
    """Refuse a token that names a group its user was removed from, or stopped administering, since. What it says is
    rounded down to seconds, and one that does not say when it was issued may be any age."""
    if (subject.claimed_at or 0) * SECOND <= removed:
        raise refused(
            "forbidden",
            "You were removed from the group this access token names, or are no longer its administrator, since it was "
            "issued. Sign in again to go on with a new one, or ask an administrator of the group to add you.",
        )


def must_have_a_seat(
    facts: Facts, plan: Plan | None, subscription: Subscription | None, seats_used: int
) -> None:
    """Refuse one user more than the group's subscription has seats for, or will have: who comes would have to go."""
    if plan is None or subscription is None:
        return
    most, due = seats_max(plan, subscription), subscription.scheduled
    to_plan = facts.plans.get((due.plan or "", due.version or 0)) if due is not None else None
    if due is not None and to_plan is not None:
        then = seats_max(to_plan, subscription.at(due.at))
        most = min((one for one in (most, then) if isinstance(one, int)), default=most)
    if isinstance(most, int) and seats_used >= most:
        taken = (
            f"All {counted(most, 'seat')} of this group are" if most > 1 else "The one seat of this group is"
        )
        more = (
            "its administrator can buy more with manage_subscription"
            if plan.price.per_seat is not None
            else ""
        )
        more = more or "a larger plan has more"
        raise refused("conflict", f"{taken} taken on the {plan.title} plan: {more}, or remove somebody.")


def _standing(facts: Facts, subject: Subject) -> tuple[Standing, Membership | None] | None:
    """Which account: the one named, else the caller's own claim, else membership, else personal."""
    tenant, user, named = subject.tenant, subject.user, subject.account
    if user is None:
        return _standing_of_whole(facts, subject)
    membership: Membership | None = facts.read("members", (tenant, user))
    if facts.missing:
        return None
    joined = membership.account if membership is not None else None
    group = named if named is not None else subject.group or joined
    if group is not None and group == joined:
        assert membership is not None
        return Standing(tenant, "group", group, user, membership.role), membership
    if group is not None and group == subject.group:
        return Standing(tenant, "group", group, user, None), membership
    # Who is in a group has no personal account beside it: that would be a second quota.
    personal = joined is None and subject.group is None and subject.account_kind != "group"
    if named is None or (named == user and personal):
        return Standing(tenant, "personal", user, user, "holder"), membership
    raise refused(
        "invalid_request",
        "That user is no member of that account. Leave account_id out, or add the user to the account first.",
        FieldProblem("account_id", "must be an account the user belongs to"),
    )


def _standing_of_whole(facts: Facts, subject: Subject) -> tuple[Standing, None] | None:
    """An account named alone: the group of that id, else the person's; a person is always named by user too."""
    tenant, named = subject.tenant, subject.account
    assert named is not None
    of_group = facts.read("subscriptions", AccountKey(tenant, "group", named))
    size = facts.read("groups", (tenant, named))
    of_person = facts.read("subscriptions", AccountKey(tenant, "personal", named))
    if facts.missing:
        return None
    if subject.account_kind != "personal" and (of_group is not None or size.users):
        return Standing(tenant, "group", named, None, None), None
    if subject.account_kind != "group" and of_person is not None:
        return Standing(tenant, "personal", named, named, None), None
    raise refused("not_found", "No such account yet: it appears with its first call or recorded event.")


def _subscription_of(
    facts: Facts, stored: Subscription | None, subject: Subject, standing: Standing, now: Instant
) -> Subscription | None:
    """The subscription as the ledger and the user's own token make it.

    The ledger is the truth; only a subscription nobody chose (`default`) is replaced, once, by the first
    token that names a valid plan. Where the issuer decides about plans, every token about this account that
    names another one than the ledger knows changes it, unless one issued later was seen before.
    """
    catalog = facts.catalog
    subscription = stored.at(now) if stored is not None else None
    claimed = catalog.plans.get(subject.tier) if subject.tier is not None else None
    if subject.tier_decides:
        if claimed is not None and _is_about(subject, standing):
            return _as_issued(facts, subscription, claimed, standing, subject.claimed_at, now)
        claimed = None
    if subscription is None:
        plan = claimed or catalog.plans.get(catalog.default_plan or "")
        if plan is None:
            return None
        return _begun(facts, plan, "token" if claimed else "default", standing, now)
    if subscription.origin == "default" and claimed is not None:
        if claimed.key == subscription.plan:
            return replace(subscription, origin="token")
        begun = _begun(facts, claimed, "token", standing, now)
        return replace(
            anchored(begun, now, subscription),
            created_at=subscription.created_at,
            suspended_at=subscription.suspended_at,
        )
    return subscription


def _begun(facts: Facts, plan: Plan, origin: Origin, standing: Standing, now: Instant) -> Subscription:
    """A subscription that begins now. Who had a trial before, wherever that was, goes on with that one."""
    before: Trial | None = None
    if plan.trial_days is not None and standing.user is not None:
        before = facts.read("trials", (standing.tenant, trial_of("personal", standing.user)))
    return started(plan, origin, now, before)


def trial_of(kind: AccountKind, id_: str) -> str:
    """Whose trial it is, where trials are remembered: a user's or a group's."""
    return f"{kind}:{id_}"


def _is_about(subject: Subject, standing: Standing) -> bool:
    """Whether the issuer's word is about this account. Of a group it is where the token names that group, or
    names none and is its administrator's: what a member is worth alone says nothing about the others."""
    if standing.account_kind == "personal":
        return True
    return subject.group == standing.account if subject.group is not None else standing.role == "admin"


def _as_issued(
    facts: Facts,
    subscription: Subscription | None,
    plan: Plan,
    standing: Standing,
    claimed_at: int | None,
    now: Instant,
) -> Subscription:
    """The subscription as the issuer's word makes it: at once, up or down; nothing is charged here."""
    # Seats are the issuer's affair too: nobody buys them here, so that only the plan's own number bounds them.
    begun = replace(_begun(facts, plan, "token", standing, now), claimed_at=claimed_at, seats=None)
    if subscription is None:
        return begun
    known = subscription.claimed_at
    if claimed_at is None:  # it does not say, and its issuer is trusted
        claimed_at = known
    elif known is not None and claimed_at <= known:
        return subscription
    if plan.key == subscription.plan and subscription.ended_as is None:
        # Also where it only says it again: what was issued before this must not count any more.
        again = replace(
            subscription, origin="token", claimed_at=claimed_at, scheduled=None, prepaid_until=None
        )
        return subscription if again == subscription else again
    # As with any change: from paid to paid the periods go on, else one begins now.
    before, alive = facts.catalog.plans.get(subscription.plan), subscription.ended_as is None
    goes_on = before is not None and alive and not before.price.is_free and not plan.price.is_free
    if goes_on:
        begun = replace(begun, anchor=subscription.anchor, anchor_nudge=subscription.anchor_nudge)
    else:
        begun = anchored(begun, now, subscription)
    return replace(
        begun,
        created_at=subscription.created_at,
        interval=subscription.interval if price_of(plan, subscription.interval) else "monthly",
        claimed_at=claimed_at,
        past_due_since=subscription.past_due_since if alive and plan.may_charge else None,
        suspended_at=subscription.suspended_at,
    )


def overrides_of(
    facts: Facts, account: AccountKey, user: str | None, instead: Mapping[HolderKey, Any] | None = None
) -> dict[OverrideKey, Override] | None:
    """The overrides that apply: the account's, then the user's own over them; one that has expired covers none.
    `instead` stands in for a holder's overrides, to see what a change would make of them."""
    holders = [""] if account.account_kind == "group" else []
    if user:
        holders.append(user)
    merged: dict[OverrideKey, Override] = {}
    for holder in holders:
        key = (account, holder)
        found = instead[key] if instead is not None and key in instead else facts.read("overrides", key)
        if found is None:
            return None
        merged |= {k: o for k, o in found.items() if o.expires_at is None or facts.now < o.expires_at}
    return merged


def grants_of(facts: Facts, account: AccountKey, user: str | None) -> tuple[Grant, ...]:
    """What was granted the account, and the user in it, as far as an event may still need it."""
    holders = _holders_granted(account, user)
    return tuple(grant for holder in holders for grant in facts.read("grants", holder) or ())


def with_grants_of_old(facts: Facts, located: Located) -> Located:
    """The same with every grant there ever was. They may be missing."""
    found = []
    for holder in _holders_granted(located.account, located.user):
        known = {one.id for one in facts.grants[holder]}
        found += [one for one in facts.read("grants_of_old", holder) or () if one.id not in known]
    return replace(located, grants=(*located.grants, *found)) if found else located


def _holders_granted(account: AccountKey, user: str | None) -> list[HolderKey]:
    holders = [""] if account.account_kind == "group" else []
    holders += [user] if user else []
    return [(account, holder) for holder in holders]


def limits_in_effect(totals: Totals, located: Located) -> Callable[[Plan], Sequence[Limit]]:
    """The limits of any plan with overrides and grants in them, as they are in the windows of the totals."""
    if not located.grants:
        return located.limits_of
    return lambda plan: totals.granted(located.limits_of(plan))


def limits_of_overrides(overrides: Mapping[OverrideKey, Override]) -> Callable[[Plan], tuple[Limit, ...]]:
    """A plan's limits with the overrides in them, and caps of a user inside a pool the plan only limits as a
    whole. An override stays through a change of plan: somebody meant it, and nothing goes beyond it at a price."""
    if not overrides:
        return lambda plan: plan.limits

    def limits_of(plan: Plan) -> tuple[Limit, ...]:
        caps = dict(overrides)
        limits = []
        for limit in plan.limits:
            override = caps.pop(limit.key, None)
            if override is not None:
                limit = replace(limit, maximum=override.maximum, overage=None)
            limits.append(limit)
        for (meter, window, scope), override in caps.items():
            pool = plan.limit_for(meter, window)
            if pool is not None:
                limits.append(replace(pool, scope=scope, maximum=override.maximum, overage=None))
        return tuple(limits)

    return limits_of


def totals_of(turn: Turn, located: Located, at: Instant) -> Totals:
    """The account's totals in the windows that hold an instant."""
    return Totals(turn.facts, located.account, located.user, located.anchor, at, turn.now, located.grants)


def tally_for(turn: Turn, located: Located, gains: Mapping[str, int], at: Instant) -> Tally | None:
    """What an event that moves some meters counts in; None where facts are missing."""
    meters = tuple(gains)
    known = located.tallies.get(meters)
    if known is not None and known.period.holds(at):
        return known
    totals = totals_of(turn, located, at)
    tally = tally_of(totals, totals.granted(located.limits), meters)
    if tally is not None:
        tally.is_sold_here = located.charges
    if tally is not None and tally.period.holds(turn.now):
        located.tallies[meters] = tally
    return tally


def open_sessions_of(turn: Turn, located: Located) -> list[Session]:
    """The sessions a user has open (of a whole group: everybody's), in the order they end."""
    known: dict[str, Session] | None = turn.facts.read("open_sessions", (located.account, located.user))
    if known is not None and not located.user:
        # A group's list may have been loaded in the middle of a batch that has not been saved yet.
        known.update({s.id: s for s in turn.changes.sessions.values() if s.account == located.account})
    still_open = [session for session in (known or {}).values() if session.is_open(turn.now)]
    return sorted(still_open, key=lambda session: (session.expires_at, session.id))


def save_session(turn: Turn, session: Session) -> None:
    """Have a session as it is now. The open ones of its user are loaded already."""
    facts, place = turn.facts, (session.account.tenant, session.id)
    facts.sessions[place] = turn.changes.sessions[place] = session
    known = facts.open_sessions[(session.account, session.user)]
    known[session.id] = session
    for id_ in [id_ for id_, one in known.items() if not one.is_open(turn.now)]:
        del known[id_]
    # The whole group's list is loaded again when somebody asks.
    facts.open_sessions.pop((session.account, ""), None)


def end_sessions_of(turn: Turn, group: AccountKey, user: str) -> None:
    """End what somebody who leaves a group has open in it. It is loaded already."""
    for session in list(turn.facts.open_sessions[(group, user)].values()):
        if session.is_open(turn.now):
            save_session(turn, replace(session, closed_at=turn.now))


def view_of(turn: Turn, located: Located) -> AccountView:
    whole = located.standing.user is None
    states = totals_of(turn, located, turn.now).states(located.limits, whole_account=whole)
    active = len(open_sessions_of(turn, located))
    return AccountView(
        located.standing,
        located.subscription,
        located.plan,
        states,
        located.seats_used,
        active,
        turn.now,
        located.thresholds,
        located.grants,
    )


def arrive(turn: Turn, command: Arrive) -> AccountView | None:
    located = locate(turn, command.subject)
    if located is None:
        return None
    view = view_of(turn, located)
    user = command.subject.user
    if user is not None:
        must_have_room(turn, located)
    if not turn.may_write:
        return None
    if user is not None:
        make_known(turn, located, Actor(user, "token"))
        if located.joins:
            view.seats_used = turn.facts.groups[(located.account.tenant, located.account.account)].users
    return view


def must_have_room(turn: Turn, located: Located) -> None:
    """Refuse one user more than a tenant may have, where first sight would make one."""
    if located.is_new and _is_new_user(located):
        must_have_room_for(turn, located.account.tenant, 1)


def must_have_room_for(turn: Turn, tenant: str, users: int) -> None:
    """Refuse so many users more than a tenant may have."""
    size: TenantSize | None = turn.facts.read("tenants", tenant)
    if size is not None and users and size.users + users > turn.facts.bounds.users:
        raise refused(
            "conflict",
            f"This tenant has {size.users:,} users, the most it may have here. The operator of this server can "
            "allow more.",
        )


def _is_new_user(located: Located) -> bool:
    first = located.stored is None and located.subscription is not None
    return located.joins or (first and located.account.account_kind == "personal")


def make_known(turn: Turn, located: Located, actor: Actor, reason: str | None = None) -> None:
    """Write what first sight makes: the membership, the subscription. `reason` is of a plan bought on first sight."""
    if not located.is_new:
        return
    account = located.account
    if _is_new_user(located):
        count_users(turn, account.tenant, 1)
    if located.joins:
        user = located.standing.user
        assert user is not None and located.standing.role != "holder"
        before, role = None, located.standing.role or "member"
        if located.leaves is not None:
            before = {"account_id": located.leaves.account}
            _leave(turn, account.tenant, user, located.leaves, actor)
        save_membership(turn, account.tenant, user, Membership(account.account, role, turn.now))
        after = {"account_id": account.account, "role": role}
        audit(turn, account, user, "member.join", actor, None, before, after)
    if located.subscription is not None and located.subscription != located.stored:
        action = "subscription.start" if located.stored is None else "subscription.change"
        user = located.standing.user
        save_subscription(turn, account, located.stored, located.subscription, action, actor, reason, user)


def _leave(turn: Turn, tenant: str, user: str, held: Membership, actor: Actor) -> None:
    """What leaving for the group a token names does in the group that is left. Also the last administrator may: who is
    in which group is the issuer's word."""
    group = AccountKey(tenant, "group", held.account)
    end_sessions_of(turn, group, user)
    before = {"account_id": held.account, "role": held.role}
    audit(turn, group, user, "member.leave", actor, None, before, None)


def count_users(turn: Turn, tenant: str, users: int) -> None:
    """Note that a tenant has so many users more. Nobody is taken off: the bound is on all there ever were."""
    size = turn.facts.tenants[tenant]
    turn.facts.tenants[tenant] = turn.changes.tenants[tenant] = size._replace(users=size.users + users)


def save_membership(turn: Turn, tenant: str, user: str, after: Membership | None) -> None:
    """Have a user in a group, in another one or, with None, in none. The sizes of the groups are loaded already."""
    facts = turn.facts
    before = facts.members[(tenant, user)]
    for membership, step in ((before, -1), (after, 1)):
        if membership is None:
            continue
        users, admins = facts.groups[(tenant, membership.account)]
        is_admin = membership.role == "admin"
        facts.groups[(tenant, membership.account)] = GroupSize(users + step, admins + step * is_admin)
        facts.forget_located(tenant, membership.account)
    facts.members[(tenant, user)] = turn.changes.members[(tenant, user)] = after
    facts.forget_located(tenant, user)


def save_subscription(
    turn: Turn,
    account: AccountKey,
    before: Subscription | None,
    after: Subscription,
    action: str,
    actor: Actor,
    reason: str | None,
    user: str | None = None,
    *,
    charge: Charge | None = None,
) -> AuditEntry | None:
    """Have a subscription as it is now, in its history too. `charge` is what somebody agreed to pay for that."""
    _note_trial(turn, account, before, after, user)
    turn.facts.subscriptions[account] = after
    turn.facts.forget_located(account.tenant, account.account)
    turn.changes.subscriptions[account] = after
    was, is_now = subscription_as_dict(before, turn.now), subscription_as_dict(after, turn.now)
    if was != is_now or charge is not None:
        note_history(turn, account, after, action, charge)
    if was == is_now:  # a newer token that says the same again is no news
        return None
    if before is not None or after.origin in ("purchase", "operator"):  # else it is only first sight
        changed = {
            "tenant_id": account.tenant,
            "account_id": account.account,
            "account_kind": account.account_kind,
        }
        tell_webhook(
            turn,
            "subscription.changed",
            account.tenant,
            {**changed, "action": action, "before": was, "after": is_now},
        )
    return audit(turn, account, "", action, actor, reason, was, is_now)


def note_history(
    turn: Turn, account: AccountKey, after: Subscription, action: str, charge: Charge | None = None
) -> None:
    """Append the state a subscription was left in; invoices are worked out from these. Where the last row is known and
    only said what is scheduled, and so does this one, it goes."""
    row, last = HistoryRow(turn.new_id(), turn.now, action, after, charge), turn.facts.last_rows.get(account)
    turn.changes.history.append((account, row))
    if last is not None and takes_the_place_of(row, last):
        turn.changes.history_replaced.append((account, last.id))
    turn.facts.last_rows[account] = row
    turn.facts.histories.pop(account, None)
    if turn.facts.plans[(after.plan, after.version)].may_charge or (charge is not None and charge.lines):
        turn.changes.billing_due[account] = turn.now


def _note_trial(
    turn: Turn, account: AccountKey, before: Subscription | None, after: Subscription, user: str | None
) -> None:
    """Remember who begins a trial, and who bought a plan after one."""
    facts, changes, tenant = turn.facts, turn.changes, account.tenant
    key = (tenant, trial_of(account.account_kind, account.account))

    def note(key: tuple[str, str], kind: TrialKind, trial: Trial) -> None:
        facts.trials[key] = trial
        changes.trials[key] = (kind, trial)

    if after.is_trial and after.trial_started_at is not None and after.trial_ends_at is not None:
        trial = Trial(after.plan, after.trial_started_at, after.trial_ends_at)
        if before is None or before.trial_ends_at != after.trial_ends_at:
            note(key, account.account_kind, trial)
            if account.account_kind == "group" and user is not None:
                note((tenant, trial_of("personal", user)), "founder", trial)
    elif before is not None and before.is_trial and before.trial_started_at and before.trial_ends_at:
        note(
            key,
            account.account_kind,
            Trial(before.plan, before.trial_started_at, before.trial_ends_at, converted_at=turn.now),
        )


def audit(
    turn: Turn,
    account: AccountKey,
    user: str,
    action: str,
    actor: Actor,
    reason: str | None,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> AuditEntry:
    entry = AuditEntry(
        turn.new_id(),
        account.tenant,
        account.account_kind,
        account.account,
        user,
        action,
        actor,
        reason,
        before,
        after,
        turn.now,
    )
    turn.changes.audits.append(entry)
    return entry


def subscription_as_dict(subscription: Subscription | None, now: Instant) -> dict[str, Any] | None:
    """A subscription as the audit trail shows it."""
    if subscription is None:
        return None
    shown: dict[str, Any] = {
        "plan": subscription.plan,
        "version": subscription.version,
        "status": subscription.at(now).status_at(now),
        "origin": subscription.origin,
        "interval": subscription.interval,
        "billing_anchor": format_instant(subscription.anchor),
    }
    if subscription.anchor_nudge:
        shown["billing_nudge"] = subscription.anchor_nudge
    if subscription.seats is not None:
        shown["seats"] = subscription.seats
    for name in ("trial_ends_at", "prepaid_until", "ended_at", "past_due_since", "suspended_at"):
        at: Instant | None = getattr(subscription, name)
        if at is not None:
            shown[name] = format_instant(at)
    scheduled = subscription.scheduled
    if scheduled is not None:
        shown["scheduled"] = scheduled.reason
        shown["next_plan"] = scheduled.plan
        shown["next_interval"] = scheduled.interval
        shown["next_seats"] = scheduled.seats
        shown["next_plan_at"] = format_instant(scheduled.at)
        if scheduled.plan is not None and subscription.next_anchor != subscription.anchor:
            shown["next_billing_anchor"] = format_instant(subscription.next_anchor)
    return shown


def must_go_on(facts: Facts, located: Located, actor: Actor) -> None:
    """Refuse what the account's own people do while its subscription stands still; operators may."""
    if located.standstill is not None and actor.role not in OPERATORS:
        raise standing_still(facts, located)


def standing_still(facts: Facts, located: Located) -> Refusal:
    """Why nothing goes on and what would help, in the words of a decision."""
    plan, subscription = located.plan, located.subscription
    assert located.standstill is not None and plan is not None and subscription is not None
    offered = next_plan_to_buy(facts.catalog, plan, subscription, located.seats_used or 1)
    sentence = standstill_sentence(plan, subscription, facts.now, offered)
    unlocks = [Unlock("upgrade_tier", offered.key).as_dict()] if offered is not None else []
    return Refusal(located.standstill, sentence, unlocks)


def no_subscription(catalog: Catalog) -> Refusal:
    """That there is none yet, and with which plan to begin."""
    unlocks = [unlock.as_dict() for unlock in plans_to_begin_with(catalog)]
    return Refusal("payment_required", NO_SUBSCRIPTION, unlocks)


def must_be_fewer(turn: Turn, ends: Iterable[Instant], most: int, sentence: str) -> None:
    """Refuse one more of what ends by itself, where there are so many that looking at all takes long."""
    live = [end for end in ends if turn.now < end]
    if len(live) >= most:
        wait_seconds = -((turn.now - min(live)) // SECOND)
        raise Refusal("rate_limited", sentence, retry_after_seconds=wait_seconds)


def must_be_known(located: Located, actor: Actor) -> None:
    """Changing somebody never seen is most likely a typing error; one's own account is made on the way. Where no plan is
    the default, a group is seen by who is in it."""
    own = located.standing.user == actor.user
    if located.stored is None and not own and not located.seats_used:
        raise refused("not_found", "No such account yet: it appears with its first call or recorded event.")
