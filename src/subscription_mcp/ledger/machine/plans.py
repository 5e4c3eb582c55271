"""The plans of a catalog made current."""

from subscription_mcp.domain.catalog import Plan, places_counted
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import Actor, PlansPublished, PublishPlans, refused
from subscription_mcp.ledger.machine.accounts import audit
from subscription_mcp.ledger.machine.counting import keep_what_is_limited
from subscription_mcp.ledger.machine.facts import PlanHead, Turn

PUBLISHED = "plans.publish"
"""The action of a publication in the audit trail."""


def publish_plans(turn: Turn, command: PublishPlans) -> PlansPublished | None:
    if not turn.may_write:
        return None
    facts, changes = turn.facts, turn.changes
    if facts.catalog_name not in (None, command.catalog) and not command.replace_catalog:
        raise refused(
            "conflict",
            f"This ledger counts by the catalog '{facts.catalog_name}', not by '{command.catalog}'. Name that catalog "
            "(CATALOG) or another ledger (DATABASE_URL) in the settings; `subscription-mcp catalog publish` changes it "
            "on purpose.",
        )
    is_first = facts.catalog_name is None
    if facts.catalog_name != command.catalog:
        facts.catalog_name = changes.catalog_name = command.catalog
        changes.published_at = turn.now
    # Before the first there is nothing that was not kept: it is told apart from an event of the same instant.
    at = turn.now - 1 if is_first else turn.now
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
            changes.plan_versions.append((new, digest, at))
            keep_what_is_limited(turn, new, at)
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
