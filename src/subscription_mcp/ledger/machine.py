"""The state machine of the ledger: facts and a command in, an outcome and the changes out. No I/O, no clock.

`apply` first reads every fact it needs. A fact that is not loaded is noted in `facts.missing` and nothing
happens: the engine loads what is missing, for all commands that wait, and applies again. Only with every
fact at hand does it decide, write the changes into the facts (so that the next command of the batch sees
them) and note them for the engine to save.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, NamedTuple

from subscription_mcp.domain.catalog import (
    QUANTITY_MAX,
    TOTAL_MAX,
    UNLIMITED,
    Attributes,
    Catalog,
    Limit,
    Maximum,
    Plan,
    Scope,
)
from subscription_mcp.domain.decisions import (
    Decision,
    LimitState,
    Total,
    Unlock,
    count_in,
    decide,
    limit_states,
    recorded_sentence,
    sort_states,
)
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.instants import DAY, MINUTE, Instant, format_instant
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    Change,
    Membership,
    Origin,
    Subscription,
    change_of_plan,
    price_of,
)
from subscription_mcp.domain.usage import DIMENSIONS, attribute_problems, event_type_of, gains_of
from subscription_mcp.domain.windows import Anchor, Period, Window, bucket_start
from subscription_mcp.domain.wording import NO_SUBSCRIPTION, maximum_text
from subscription_mcp.ledger.commands import (
    AccountView,
    Actor,
    Arrive,
    AuditEntry,
    ChangePlan,
    CheckUsage,
    Command,
    Decided,
    LimitsChanged,
    Outcome,
    PlanChanged,
    PlansPublished,
    PublishPlans,
    RecordUsage,
    SetLimit,
    Standing,
    Subject,
    UsageEvent,
    refused,
)

KEY_RETENTION = 35 * DAY
"""How long an idempotency key is remembered, and how late an event may be reported."""
FUTURE_TOLERANCE = 5 * MINUTE
CONFIRMATION_LIFETIME = 10 * MINUTE

NO_ANCHOR = Anchor(0)
_encode = json.JSONEncoder(separators=(",", ":")).encode


class CounterKey(NamedTuple):
    """One running total: the tenant first, then the time, then whose it is (`user` is '' for a group as a
    whole; a personal account is its one user)."""

    tenant: str
    start: Instant
    window_key: str
    account_kind: str
    account: str
    user: str
    meter: str


class RollupKey(NamedTuple):
    """One cell of the hourly rollup. `dimensions` is the event, the plan and the `DIMENSIONS` in order."""

    tenant: str
    hour: Instant
    account_kind: str
    account: str
    user: str
    meter: str
    dimensions: tuple[str | None, ...]


@dataclass(slots=True)
class StoredAnswer:
    """What an idempotency key did the first time."""

    digest: bytes
    answer: str
    at: Instant


@dataclass(slots=True)
class Offer:
    """A change of plan somebody may confirm."""

    actor: str
    digest: bytes
    expires_at: Instant
    used_at: Instant | None = None


@dataclass(slots=True)
class Override:
    """A maximum set by hand in place of the plan's."""

    maximum: Maximum
    expires_at: Instant | None


@dataclass(slots=True)
class PlanHead:
    """The newest version of a plan and where it came from."""

    version: int
    digest: str
    origin: str


OverrideKey = tuple[str, str, Scope]
HolderKey = tuple[AccountKey, str]


@dataclass
class Facts:
    """What is known of the ledger. A key that is absent is not loaded; None or 0 means there is none."""

    catalog: Catalog
    plan_heads: dict[str, PlanHead] = field(default_factory=dict)
    plan_versions: dict[tuple[str, str], int] = field(default_factory=dict)
    """The version of a plan that has a digest."""
    plans: dict[tuple[str, int], Plan] = field(default_factory=dict)
    members: dict[tuple[str, str], Membership | None] = field(default_factory=dict)
    seats: dict[tuple[str, str], int] = field(default_factory=dict)
    subscriptions: dict[AccountKey, Subscription | None] = field(default_factory=dict)
    overrides: dict[HolderKey, dict[OverrideKey, Override]] = field(default_factory=dict)
    counters: dict[CounterKey, int] = field(default_factory=dict)
    answers: dict[tuple[str, str, str], StoredAnswer | None] = field(default_factory=dict)
    offers: dict[tuple[str, bytes], Offer | None] = field(default_factory=dict)
    missing: dict[str, set[Any]] = field(default_factory=dict)
    periods: dict[tuple[Window, Anchor], Period] = field(default_factory=dict)

    def read(self, table: str, key: Any) -> Any:
        """The fact, or None after noting that it is missing."""
        try:
            return getattr(self, table)[key]
        except KeyError:
            self.missing.setdefault(table, set()).add(key)
            return None

    @property
    def size(self) -> int:
        """How many facts are remembered."""
        tables = (self.members, self.subscriptions, self.overrides, self.counters, self.answers, self.periods)
        return sum(len(table) for table in tables)

    def period(self, window: Window, anchor: Anchor, at: Instant) -> Period:
        """The window's period at an instant; calendars are slow and most events fall into the last one."""
        key = (window, anchor if window.name == "billing_period" else NO_ANCHOR)
        period = self.periods.get(key)
        if period is None or not period.holds(at):
            period = self.periods[key] = window.period_at(at, anchor)
        return period


@dataclass
class Changes:
    """What a batch does to the ledger, to be saved in one transaction."""

    events: list[UsageEvent] = field(default_factory=list)
    counters: dict[CounterKey, int] = field(default_factory=dict)
    rollups: dict[RollupKey, list[int]] = field(default_factory=dict)
    answers: list[tuple[tuple[str, str, str], StoredAnswer]] = field(default_factory=list)
    subscriptions: dict[AccountKey, Subscription] = field(default_factory=dict)
    members: dict[tuple[str, str], tuple[Membership, Instant]] = field(default_factory=dict)
    overrides: dict[tuple[HolderKey, OverrideKey], Override | None] = field(default_factory=dict)
    offers: dict[tuple[str, bytes], Offer] = field(default_factory=dict)
    plan_versions: list[tuple[Plan, str, Instant]] = field(default_factory=list)
    current_plans: list[tuple[str, int, str]] | None = None
    audits: list[AuditEntry] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(slots=True)
class Turn:
    """What every command of a batch shares: the facts, the changes so far, the instant, and new ids."""

    facts: Facts
    changes: Changes
    now: Instant
    new_id: Callable[[], str]
    probing: bool = False

    @property
    def may_write(self) -> bool:
        """Every fact is there, and this is not only to find out which ones a command needs."""
        return not self.facts.missing and not self.probing


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
    leaves: str | None
    seats_used: int | None

    @property
    def user(self) -> str:
        return self.standing.user or ""

    @property
    def limits(self) -> tuple[Limit, ...]:
        return () if self.plan is None else self.limits_of(self.plan)

    @property
    def anchor(self) -> Anchor:
        return self.subscription.billing_anchor if self.subscription else NO_ANCHOR


def run(turn: Turn, commands: Sequence[Command], load: Callable[[Facts], None]) -> list[Outcome]:
    """Apply the commands in order. Where a fact is missing, `load` brings in one go what all that still
    wait are missing, round by round (the counters are only known once the subscription is)."""
    outcomes: list[Outcome] = []
    for index, command in enumerate(commands):
        outcome = apply(turn, command)
        while outcome is None:
            turn.probing = True
            for later in commands[index + 1 :]:
                apply(turn, later)
            turn.probing = False
            if not turn.facts.missing:
                raise AssertionError(f"{type(command).__name__} came to nothing with every fact loaded")
            load(turn.facts)
            outcome = apply(turn, command)
        outcomes.append(outcome)
    return outcomes


def apply(turn: Turn, command: Command) -> Outcome | None:
    """The outcome of one command, its changes already in the facts; None where facts are missing."""
    try:
        match command:
            case RecordUsage():
                return _record(turn, command)
            case CheckUsage():
                return _check(turn, command)
            case Arrive():
                return _arrive(turn, command)
            case ChangePlan():
                return _change_plan(turn, command)
            case SetLimit():
                return _set_limit(turn, command)
            case PublishPlans():
                return _publish_plans(turn, command)
    except Refusal as refusal:
        return None if turn.facts.missing else refusal


# Whose account, which plan, which limits


def _locate(turn: Turn, subject: Subject) -> Located | None:
    facts = turn.facts
    found = _standing(facts, subject)
    if found is None:
        return None
    standing, membership = found
    account = AccountKey(standing.tenant, standing.account_kind, standing.account)
    stored: Subscription | None = facts.read("subscriptions", account)
    seats_used = (
        facts.read("seats", (account.tenant, account.account)) if account.account_kind == "group" else None
    )
    overrides = _overrides_of(facts, account, standing.user)
    if facts.missing or overrides is None:
        return None
    subscription = _subscription_of(facts.catalog, stored, subject.tier, turn.now)
    plan: Plan | None = None
    if subscription is not None:
        plan = facts.read("plans", (subscription.plan, subscription.version))
        if plan is None:
            return None
    joins = standing.account_kind == "group" and standing.user is not None and standing.role is None
    leaves = None
    if joins:
        standing.role = "admin" if subject.group_admin else "member"
        leaves = membership.account if membership is not None else None
        seats_max = plan.seats_max if plan is not None else None
        if isinstance(seats_max, int) and seats_used is not None and seats_used >= seats_max:
            raise refused(
                "conflict", f"All {seats_max} seats of this group are taken. Ask its administrator for one."
            )
    limits_of = _limits_of(overrides, turn.now)
    return Located(standing, account, stored, subscription, plan, limits_of, joins, leaves, seats_used)


def _standing(facts: Facts, subject: Subject) -> tuple[Standing, Membership | None] | None:
    """Which account: the one named, else the caller's own claim, else membership, else personal."""
    tenant, user, named = subject.tenant, subject.user, subject.account
    if user is None:
        assert named is not None
        group_subscription = facts.read("subscriptions", AccountKey(tenant, "group", named))
        seats = facts.read("seats", (tenant, named))
        personal_subscription = facts.read("subscriptions", AccountKey(tenant, "personal", named))
        if facts.missing:
            return None
        if group_subscription is not None or seats:
            return Standing(tenant, "group", named, None, None), None
        if personal_subscription is None:
            raise refused("not_found", "No such account yet: it appears with its first call or recorded event.")
        return Standing(tenant, "personal", named, named, None), None
    membership: Membership | None = facts.read("members", (tenant, user))
    if facts.missing:
        return None
    wanted = named if named is not None else subject.group
    if wanted is None:
        wanted = membership.account if membership is not None else user
    elif (
        named is not None
        and named == user
        and named not in (subject.group, membership and membership.account)
    ):
        wanted = user
    if membership is not None and membership.account == wanted:
        return Standing(tenant, "group", wanted, user, membership.role), membership
    if subject.group == wanted:
        return Standing(tenant, "group", wanted, user, None), membership
    if wanted == user:
        return Standing(tenant, "personal", user, user, "holder"), membership
    raise refused(
        "invalid_request",
        "That user is no member of that account. Leave account_id out, or add the user to the account first.",
        FieldProblem("account_id", "must be an account the user belongs to"),
    )


def _subscription_of(
    catalog: Catalog, stored: Subscription | None, tier: str | None, now: Instant
) -> Subscription | None:
    """The subscription as the ledger and the user's own token make it.

    The ledger is the truth; only a subscription nobody chose (`default`) is replaced, once, by the first
    token that names a valid plan.
    """
    subscription = stored.at(now) if stored is not None else None
    claimed = catalog.plans.get(tier) if tier is not None else None
    if subscription is None:
        plan = claimed or catalog.plans.get(catalog.default_plan or "")
        if plan is None:
            return None
        return Subscription(plan.key, plan.version, "token" if claimed else "default", now, now)
    if subscription.origin == "default" and claimed is not None:
        if claimed.key == subscription.plan:
            return replace(subscription, origin="token")
        return Subscription(claimed.key, claimed.version, "token", now, subscription.created_at)
    return subscription


def _overrides_of(
    facts: Facts, account: AccountKey, user: str | None, instead: Mapping[HolderKey, Any] | None = None
) -> dict[OverrideKey, Override] | None:
    """The overrides that apply: the account's, then the user's own over them. `instead` stands in for a
    holder's overrides, to see what a change would make of them."""
    holders = [""] if account.account_kind == "group" else []
    if user:
        holders.append(user)
    merged: dict[OverrideKey, Override] = {}
    for holder in holders:
        key = (account, holder)
        found = instead[key] if instead is not None and key in instead else facts.read("overrides", key)
        if found is None:
            return None
        merged.update(found)
    return merged


def _limits_of(
    overrides: Mapping[OverrideKey, Override], now: Instant
) -> Callable[[Plan], tuple[Limit, ...]]:
    """A plan's limits with the overrides in them, and caps of a user inside a pool the plan only limits as a
    whole. An override stays through a change of plan: somebody meant it."""
    live = {k: o for k, o in overrides.items() if o.expires_at is None or now < o.expires_at}
    if not live:
        return lambda plan: plan.limits

    def limits_of(plan: Plan) -> tuple[Limit, ...]:
        caps = dict(live)
        limits = []
        for limit in plan.limits:
            override = caps.pop(limit.key, None)
            limits.append(limit if override is None else replace(limit, maximum=override.maximum))
        for (meter, window, scope), override in caps.items():
            pool = plan.limit_for(meter, window)
            if pool is not None:
                limits.append(replace(pool, scope=scope, maximum=override.maximum))
        return tuple(limits)

    return limits_of


def _holder_of(account: AccountKey, user: str, scope: Scope) -> str:
    return "" if account.account_kind == "group" and scope == "account" else user


class _Counters:
    """Reads the running totals of one account at one instant."""

    def __init__(self, facts: Facts, account: AccountKey, user: str, anchor: Anchor, at: Instant) -> None:
        self._facts, self._account, self._user, self._anchor, self._at = facts, account, user, anchor, at

    def key(self, meter: str, window: Window, scope: Scope) -> CounterKey:
        period = self._facts.period(window, self._anchor, self._at)
        account = self._account
        holder = _holder_of(account, self._user, scope)
        return CounterKey(
            account.tenant, period.start, window.key, account.account_kind, account.account, holder, meter
        )

    def total(self, limit: Limit) -> Total:
        used = self._facts.read("counters", self.key(limit.meter, limit.window, limit.scope))
        return Total(used or 0, 0, self._facts.period(limit.window, self._anchor, self._at))

    def states(self, catalog: Catalog, limits: Sequence[Limit], *, whole_account: bool) -> list[LimitState]:
        # What each user of a group may use says nothing about the group as a whole.
        shown = [limit for limit in limits if not whole_account or limit.scope == "account"]
        states = limit_states(catalog, shown, self.total)
        sort_states(states)
        return states


def _counters_of(facts: Facts, located: Located, at: Instant) -> _Counters:
    return _Counters(facts, located.account, located.user, located.anchor, at)


def _view(turn: Turn, located: Located) -> AccountView:
    whole = located.standing.user is None
    states = _counters_of(turn.facts, located, turn.now).states(
        turn.facts.catalog, located.limits, whole_account=whole
    )
    return AccountView(
        located.standing, located.subscription, located.plan, states, located.seats_used, turn.now
    )


# First sight


def _arrive(turn: Turn, command: Arrive) -> AccountView | None:
    located = _locate(turn, command.subject)
    if located is None:
        return None
    view = _view(turn, located)
    if not turn.may_write:
        return None
    user = command.subject.user
    if user is not None:
        _settle_in(turn, located, Actor(user, "token"))
        view.seats_used = turn.facts.seats.get(
            (located.account.tenant, located.account.account), view.seats_used
        )
    return view


def _settle_in(turn: Turn, located: Located, actor: Actor) -> None:
    """Write what first sight makes: the membership, the subscription."""
    facts, changes, account = turn.facts, turn.changes, located.account
    if located.joins:
        assert located.standing.user is not None and located.standing.role != "holder"
        role = located.standing.role or "member"
        key = (account.tenant, located.standing.user)
        membership = Membership(account.account, role)
        facts.members[key] = membership
        changes.members[key] = (membership, turn.now)
        facts.seats[(account.tenant, account.account)] = (located.seats_used or 0) + 1
        if located.leaves is not None:
            # Its count of seats is stale now; the next command that needs it loads it after the save.
            left = (account.tenant, located.leaves)
            if left in facts.seats:
                facts.seats[left] -= 1
        before = {"account_id": located.leaves} if located.leaves is not None else None
        after = {"account_id": account.account, "role": role}
        _audit(turn, account, located.standing.user, "member.join", actor, None, before, after)
    if located.subscription is not None and located.subscription != located.stored:
        action = "subscription.start" if located.stored is None else "subscription.change"
        _save_subscription(turn, account, located.stored, located.subscription, action, actor, None)


def _save_subscription(
    turn: Turn,
    account: AccountKey,
    before: Subscription | None,
    after: Subscription,
    action: str,
    actor: Actor,
    reason: str | None,
) -> None:
    turn.facts.subscriptions[account] = after
    turn.changes.subscriptions[account] = after
    _audit(
        turn, account, "", action, actor, reason, subscription_as_dict(before), subscription_as_dict(after)
    )


def _audit(
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


def subscription_as_dict(subscription: Subscription | None) -> dict[str, Any] | None:
    """A subscription as the audit trail shows it."""
    if subscription is None:
        return None
    shown: dict[str, Any] = {
        "plan": subscription.plan,
        "version": subscription.version,
        "status": subscription.status,
        "origin": subscription.origin,
        "interval": subscription.interval,
    }
    if subscription.next_plan is not None and subscription.next_plan_at is not None:
        shown["next_plan"] = subscription.next_plan
        shown["next_plan_at"] = format_instant(subscription.next_plan_at)
    return shown


# Usage


def _check(turn: Turn, command: CheckUsage) -> Decided | None:
    located = _locate(turn, command.subject)
    if located is None:
        return None
    gains = _gains(turn.facts.catalog, command.event, command.quantity, command.attributes)
    counters = _counters_of(turn.facts, located, turn.now)
    decision = _decide(turn, located, counters, command.event, command.quantity, gains)
    return None if turn.facts.missing else Decided(decision)


def _record(turn: Turn, command: RecordUsage) -> Decided | None:
    facts, now = turn.facts, turn.now
    tenant = command.subject.tenant
    key = command.idempotency_key
    stored: StoredAnswer | None = None
    if key is not None:
        stored = facts.read("answers", (tenant, command.source, key))
        if stored is not None and now - stored.at < KEY_RETENTION:
            # Before anything else is looked at: a replay stays what it was, wherever the user has gone.
            return _replay(turn, command, stored)
    located = _locate(turn, command.subject)
    if facts.missing or located is None:
        return None
    at = _instant_of_event(command.occurred_at, now)
    gains = _gains(facts.catalog, command.event, command.quantity, command.attributes)
    counters = _counters_of(facts, located, at)
    decision = _decide(turn, located, counters, command.event, command.quantity, gains)
    counted = _counted(facts, located, counters, gains)
    if not turn.may_write:
        return None
    if not decision.allowed and command.enforce:
        return Decided(decision)
    if any(used > TOTAL_MAX for used in counted.values()):
        raise refused("invalid_request", f"The total would pass {TOTAL_MAX}, the most one counter can hold.")

    _settle_in(turn, located, Actor(command.source, "service"))
    plan = located.plan
    event = UsageEvent(
        turn.new_id(),
        tenant,
        located.account.account_kind,
        located.account.account,
        located.user,
        command.event,
        plan.key if plan else "",
        plan.version if plan else 0,
        command.quantity,
        command.attributes,
        gains,
        command.source,
        at,
        now,
    )
    turn.changes.events.append(event)
    facts.counters.update(counted)
    turn.changes.counters.update(counted)
    _roll_up(turn.changes, event, plan.timezone if plan else facts.catalog.timezone)
    if plan is not None:
        count_in(decision, facts.catalog, plan, gains, event.id)
    else:
        decision.event_id = event.id
    if key is not None:
        answer = StoredAnswer(command.digest, _pack(decision, plan), now)
        facts.answers[(tenant, command.source, key)] = answer
        turn.changes.answers.append(((tenant, command.source, key), answer))
    return Decided(decision)


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


def _gains(catalog: Catalog, event: str, quantity: int, attributes: Attributes) -> dict[str, int]:
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


def _decide(
    turn: Turn, located: Located, counters: _Counters, event: str, quantity: int, gains: Mapping[str, int]
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


def _counted(
    facts: Facts, located: Located, counters: _Counters, gains: Mapping[str, int]
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


def _roll_up(changes: Changes, event: UsageEvent, timezone: str) -> None:
    hour = bucket_start(event.occurred_at, timezone)
    dimensions = dimensions_of(event)
    for meter, gain in event.gains.items():
        key = RollupKey(event.tenant, hour, event.account_kind, event.account, event.user, meter, dimensions)
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


def _pack(decision: Decision, plan: Plan | None) -> str:
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
    packed = [decision.event_id, decision.code, decision.plan, version, decision.as_of, states, unlocks]
    return _encode(packed)


def _replay(turn: Turn, command: RecordUsage, stored: StoredAnswer) -> Decided | None:
    if stored.digest != command.digest:
        raise refused(
            "conflict",
            "This idempotency_key was already used for another request. Use a new key for a new event.",
        )
    event_id, code, plan_key, version, as_of, packed, unlocks = json.loads(stored.answer)
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
            )
        )
    offers = [Unlock(action, plan_, until) for action, plan_, until in unlocks]
    decision = Decision(
        code == "ok",
        code,
        NO_SUBSCRIPTION,
        plan_key,
        command.event,
        command.quantity,
        states,
        as_of,
        offers,
        event_id,
        replayed=True,
    )
    if plan is not None:
        decision.message = recorded_sentence(decision, facts.catalog, plan)
    return Decided(decision)


# Changes of plan and limits


def handle_digest(handle: str) -> bytes:
    """What is stored of a confirmation handle: enough to recognise it, not to use it."""
    return sha256(handle.encode()).digest()


def _change_plan(turn: Turn, command: ChangePlan) -> PlanChanged | None:
    facts, now = turn.facts, turn.now
    located = _locate(turn, command.subject)
    offer_key = (
        (command.subject.tenant, handle_digest(command.confirmation))
        if command.confirmation is not None
        else None
    )
    offer: Offer | None = facts.read("offers", offer_key) if offer_key is not None else None
    if facts.missing or located is None:
        return None
    _must_be_known(located, command.actor)
    change = _change(facts.catalog, located, command, now)
    to_plan = facts.catalog.plans[command.plan]
    whole = located.standing.user is None
    before = _counters_of(facts, located, now).states(facts.catalog, located.limits, whole_account=whole)
    after = _Counters(facts, located.account, located.user, change.after.billing_anchor, now).states(
        facts.catalog, located.limits_of(to_plan), whole_account=whole
    )
    if not turn.may_write:
        return None
    if command.confirmation is None:
        if command.offer is not None:
            key = (command.subject.tenant, handle_digest(command.offer))
            facts.offers[key] = turn.changes.offers[key] = Offer(
                command.actor.user, command.digest, now + CONFIRMATION_LIFETIME
            )
        return PlanChanged(change, before, after, False, command.offer, now)
    assert offer_key is not None
    if (
        offer is None
        or offer.used_at is not None
        or now >= offer.expires_at
        or offer.actor != command.actor.user
        or offer.digest != command.digest
    ):
        raise refused(
            "invalid_request",
            "This confirmation is not valid: it was used, is older than 10 minutes, or belongs to another request. "
            "Call again without it to get a new one.",
            FieldProblem("confirmation", "must be a handle given for exactly this request"),
        )
    facts.offers[offer_key] = turn.changes.offers[offer_key] = replace(offer, used_at=now)
    _settle_in(turn, located, command.actor)
    action = "subscription.schedule" if change.is_scheduled else "subscription.change"
    _save_subscription(turn, located.account, located.subscription, change.after, action, command.actor, None)
    return PlanChanged(change, before, after, True, None, now)


def _must_be_known(located: Located, actor: Actor) -> None:
    """Changing somebody never seen is most likely a typing error; one's own account is made on the way."""
    own = located.standing.user == actor.user
    if located.stored is None and not own:
        raise refused("not_found", "No such account yet: it appears with its first call or recorded event.")


def _change(catalog: Catalog, located: Located, command: ChangePlan, now: Instant) -> Change:
    to_plan = catalog.plans.get(command.plan)
    if to_plan is None:
        names = [plan.key for plan in catalog.plans_by_price]
        nearest = get_close_matches(command.plan, names, n=1)
        hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
        raise refused(
            "invalid_request",
            f"There is no such plan.{hint} Plans: {', '.join(names)}.",
            FieldProblem("plan", f"must be one of {', '.join(names)}"),
        )
    interval = command.interval or "monthly"
    current = located.subscription
    if price_of(to_plan, interval) is None:
        raise refused(
            "invalid_request",
            f"{to_plan.title} is not sold {interval}.",
            FieldProblem("interval", "must be one the plan is sold for"),
        )
    if current is not None and current.plan == to_plan.key and current.interval == interval:
        raise refused("conflict", f"The {to_plan.title} plan is already held; nothing was changed.")
    if (
        current is not None
        and current.next_plan == to_plan.key
        and (current.next_interval or interval) == interval
    ):
        assert current.next_plan_at is not None
        when = format_instant(current.next_plan_at)
        raise refused("conflict", f"The change to {to_plan.title} is already scheduled for {when}.")
    return change_of_plan(current, located.plan, to_plan, interval, command.origin, now)


def _set_limit(turn: Turn, command: SetLimit) -> LimitsChanged | None:
    facts = turn.facts
    located = _locate(turn, command.subject)
    if located is None:
        return None
    before = _view(turn, located)
    if facts.missing:
        return None
    _must_be_known(located, command.actor)
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
            _must_be_within(limit, command.maximum, for_member=for_user)
        if command.expires_at is not None and command.expires_at <= turn.now:
            raise refused(
                "invalid_request",
                "The override would have expired already.",
                FieldProblem("expires_at", "must lie in the future"),
            )
        override = held[key] = Override(command.maximum, command.expires_at)
    elif previous is None:
        raise refused("not_found", "There is no override to clear: the plan's own limit applies.")
    overrides = _overrides_of(facts, located.account, standing.user, {holder: held})
    after = _view(turn, replace(located, limits_of=_limits_of(overrides or {}, turn.now)))
    if not turn.may_write:
        return None
    facts.overrides[holder] = held
    turn.changes.overrides[(holder, key)] = override
    _settle_in(turn, located, command.actor)
    audit = _audit(
        turn,
        located.account,
        located.user,
        "limit.clear" if override is None else "limit.set",
        command.actor,
        command.reason,
        override_as_dict(key, previous, limit),
        override_as_dict(key, override, limit),
    )
    return LimitsChanged(before, after, audit)


def _limit_to_override(located: Located, command: SetLimit) -> Limit:
    plan = located.plan
    if plan is None:
        raise refused(
            "payment_required", "There is no subscription for this account yet, so it has no limits to set."
        )
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


def _must_be_within(limit: Limit, maximum: Maximum, *, for_member: bool) -> None:
    if not for_member or (
        limit.maximum is not UNLIMITED and (maximum is UNLIMITED or maximum > limit.maximum)
    ):
        raise refused(
            "forbidden",
            f"You may set limits of members up to the plan's own, {maximum_text(limit.maximum)}. "
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


# Plans


def _publish_plans(turn: Turn, command: PublishPlans) -> PlansPublished | None:
    if not turn.may_write:
        return None
    facts, changes = turn.facts, turn.changes
    published, held_back = [], []
    current: dict[str, Plan] = {}
    for plan in command.plans:
        head = facts.plan_heads.get(plan.key)
        digest = command.digests[plan.key]
        if head is not None and head.origin == "runtime" and head.digest != digest:
            held_back.append(plan.key)
        elif head is None or (plan.key, digest) not in facts.plan_versions:
            version = head.version + 1 if head is not None else 1
            head = facts.plan_heads[plan.key] = PlanHead(version, digest, "file")
            facts.plan_versions[(plan.key, digest)] = version
            new = facts.plans[(plan.key, version)] = plan.with_version(version)
            changes.plan_versions.append((new, digest, turn.now))
            published.append(plan.key)
        # A definition that was there before is that version again, not a new one.
        version = head.version if plan.key in held_back else facts.plan_versions[(plan.key, digest)]
        current[plan.key] = facts.plans[(plan.key, version)]
    for key, plan in facts.catalog.plans.items():
        head = facts.plan_heads.get(key)
        if key not in current and head is not None and head.origin == "runtime":
            current[key] = plan
    wanted = [(key, plan.version, facts.plan_heads[key].origin) for key, plan in current.items()]
    standing = [
        (key, plan.version, facts.plan_heads[key].origin)
        for key, plan in facts.catalog.plans.items()
        if key in facts.plan_heads
    ]
    if wanted != standing:
        changes.current_plans = wanted
        facts.catalog = facts.catalog.with_plans(current)
        for plan in current.values():
            facts.plans[(plan.key, plan.version)] = plan
    return PlansPublished({key: plan.version for key, plan in current.items()}, published, held_back)


def origin_of_role(role: str) -> Origin:
    """Who chose the plan, as the subscription remembers it."""
    return "operator" if role in ("tenant_admin", "superadmin") else "purchase"
