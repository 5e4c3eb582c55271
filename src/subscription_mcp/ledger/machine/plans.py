"""Changes of plan, and the plans of a catalog made current."""

import json
from dataclasses import replace
from difflib import get_close_matches
from hashlib import sha256

from subscription_mcp.domain.catalog import Catalog, Plan, places_counted
from subscription_mcp.domain.errors import FieldProblem
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    Change,
    Origin,
    change_of_plan,
    price_of,
    stay_on_plan,
)
from subscription_mcp.domain.wording import clock_time
from subscription_mcp.ledger.commands import (
    Actor,
    ChangePlan,
    PlanChanged,
    PlansPublished,
    PublishPlans,
    refused,
)
from subscription_mcp.ledger.machine.accounts import (
    Located,
    audit,
    locate,
    make_known,
    must_be_fewer,
    must_be_known,
    must_have_room,
    save_subscription,
    totals_of,
)
from subscription_mcp.ledger.machine.counting import keep_what_is_limited
from subscription_mcp.ledger.machine.facts import (
    CONFIRMATION_LIFETIME,
    Offer,
    PlanHead,
    Turn,
)

PUBLISHED = "plans.publish"
"""The action of a publication in the audit trail."""


def handle_digest(actor: str, handle: str) -> bytes:
    """What is stored of a confirmation handle: enough to recognise it, not to use it. Those of one caller stand side
    by side."""
    return actor_digest(actor) + sha256(handle.encode()).digest()


def actor_digest(actor: str) -> bytes:
    """How what is stored of a caller's handles begins."""
    return sha256(actor.encode()).digest()[:8]


def change_plan(turn: Turn, command: ChangePlan) -> PlanChanged | None:
    facts, now = turn.facts, turn.now
    located = locate(turn, command.subject)
    tenant, actor = command.subject.tenant, command.actor.user
    offer_key = (
        (tenant, handle_digest(actor, command.confirmation)) if command.confirmation is not None else None
    )
    offer: Offer | None = facts.read("offers", offer_key) if offer_key is not None else None
    pending: dict[bytes, Instant] | None = (
        facts.read("pending_offers", (tenant, actor)) if command.offer is not None else None
    )
    if facts.missing or located is None:
        return None
    must_be_known(located, command.actor)
    change = _change(facts.catalog, located, command, now)
    to_plan = facts.catalog.plans[command.plan]
    whole = located.standing.user is None
    totals = totals_of(turn, located, now)
    before = totals.states(located.limits, whole_account=whole)
    totals_after = replace(totals, anchor=change.after.billing_anchor)
    after = totals_after.states(located.limits_of(to_plan), whole_account=whole)
    must_have_room(turn, located)
    if not turn.may_write:
        return None
    if command.confirmation is None:
        if command.offer is not None and pending is not None:
            most = facts.bounds.confirmations
            must_be_fewer(
                turn,
                pending.values(),
                most,
                f"{most:,} changes of plan wait for your confirmation, the most there may be at a time. Confirm one, or ask "
                "again when one has lapsed: each is good for 10 minutes.",
            )
            key = (tenant, handle_digest(actor, command.offer))
            expires_at = now + CONFIRMATION_LIFETIME
            facts.offers[key] = turn.changes.offers[key] = Offer(
                actor, command.digest, _terms(located, change, to_plan), expires_at
            )
            pending[key[1]] = expires_at
        return PlanChanged(change, before, after, False, command.offer, now)
    assert offer_key is not None
    if (
        offer is None
        or offer.used_at is not None
        or now >= offer.expires_at
        or offer.actor != actor
        or offer.digest != command.digest
    ):
        raise refused(
            "invalid_request",
            "This confirmation is not valid: it was used, is older than 10 minutes, or belongs to another request. "
            "Call again without it to get a new one.",
            FieldProblem("confirmation", "must be a handle given for exactly this request"),
        )
    *agreed, price_now = json.loads(offer.terms)
    *current, _ = json.loads(_terms(located, change, to_plan))
    if agreed != current:
        raise refused(
            "conflict",
            "The terms have changed since they were shown: the plan or its price is another now. "
            "Nothing was changed; call again without confirmation to see them.",
        )
    # What was shown is what is charged, also where a proration has moved on by some seconds.
    change = replace(change, price_now=replace(change.price_now, micros=price_now))
    facts.offers[offer_key] = turn.changes.offers[offer_key] = replace(offer, used_at=now)
    facts.pending_offers.get((tenant, actor), {}).pop(offer_key[1], None)
    make_known(turn, located, command.actor)
    action = "subscription.schedule" if change.is_scheduled else "subscription.change"
    save_subscription(turn, located.account, located.subscription, change.after, action, command.actor, None)
    return PlanChanged(change, before, after, True, None, now)


def _terms(located: Located, change: Change, to_plan: Plan) -> str:
    """What somebody agrees to; the amount charged now comes last."""
    held = located.subscription
    return json.dumps(
        [
            [held.plan, held.version, held.interval] if held is not None else None,
            [to_plan.key, to_plan.version],
            [change.price_next.micros, change.price_next.currency],
            change.effective_at if change.is_scheduled else None,
            change.price_now.micros,
        ]
    )


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
        if current.next_plan is None:
            raise refused("conflict", f"The {to_plan.title} plan is already held; nothing was changed.")
        return stay_on_plan(current, to_plan, now)
    if (
        current is not None
        and current.next_plan == to_plan.key
        and (current.next_interval or interval) == interval
    ):
        assert current.next_plan_at is not None
        when = clock_time(current.next_plan_at, "UTC")
        raise refused("conflict", f"The change to {to_plan.title} is already scheduled for {when}.")
    return change_of_plan(current, located.plan, to_plan, interval, command.origin, now)


def publish_plans(turn: Turn, command: PublishPlans) -> PlansPublished | None:
    if not turn.may_write:
        return None
    facts, changes = turn.facts, turn.changes
    if facts.catalog_name not in (None, command.catalog) and not command.replace_catalog:
        raise refused(
            "conflict",
            f"This ledger counts by the catalog '{facts.catalog_name}', not by '{command.catalog}'. Name that catalog "
            "or another ledger in the settings; `subscription-mcp catalog publish` changes it on purpose.",
        )
    is_first = facts.catalog_name is None
    if facts.catalog_name != command.catalog:
        facts.catalog_name = changes.catalog_name = command.catalog
        changes.published_at = turn.now
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
            keep_what_is_limited(turn, new)
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
        _remember_publication(turn, command.catalog, standing, wanted)
        facts.catalog = facts.catalog.with_plans(current)
        for plan in current.values():
            facts.plans[(plan.key, plan.version)] = plan
        facts.places = places_counted(facts.catalog.meters, facts.plans.values())
        facts.forget_all_located()
    return PlansPublished(
        {key: plan.version for key, plan in current.items()}, published, held_back, is_first
    )


def _remember_publication(
    turn: Turn, catalog: str, before: list[tuple[str, int, str]], after: list[tuple[str, int, str]]
) -> None:
    """Who asks one day why somebody got a version finds when it was current. It belongs to no tenant: '' in the
    trail."""
    was, becomes = ({"plans": {plan: version for plan, version, _ in plans}} for plans in (before, after))
    everybody = AccountKey("", "personal", "")
    audit(turn, everybody, "", PUBLISHED, Actor(catalog, "catalog"), None, was, becomes)


def origin_of_role(role: str) -> Origin:
    """Who chose the plan, as the subscription remembers it."""
    return "operator" if role in ("tenant_admin", "superadmin") else "purchase"
