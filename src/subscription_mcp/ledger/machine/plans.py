"""The plans everybody is offered: those of a catalog file, those edited at run time, and who is moved to which version."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from subscription_mcp.domain.catalog import Plan, places_counted
from subscription_mcp.domain.catalog_file import CatalogError, may_be_default, plan_digest, plan_of_table
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.subscriptions import AccountKey, Subscription, is_older, migrated, price_of
from subscription_mcp.domain.wording import counted
from subscription_mcp.ledger.commands import (
    Actor,
    AuditEntry,
    EditPlan,
    MigratePlan,
    PlanEdited,
    PlanMigrated,
    PlansPublished,
    PublishPlans,
    refused,
)
from subscription_mcp.ledger.machine.accounts import audit, save_subscription
from subscription_mcp.ledger.machine.counting import keep_what_is_limited
from subscription_mcp.ledger.machine.facts import (
    Facts,
    GroupSize,
    Holding,
    NewVersion,
    PlanHead,
    PlanOrigin,
    ToMigrate,
    Turn,
)

PUBLISHED = "plans.publish"
"""The action of a publication in the audit trail."""
EVERYBODY = AccountKey("", "personal", "")
"""Plans belong to no tenant: '' in the trail."""
FIELD_LENGTH_MAX = 128


# By a catalog file


def publish_plans(turn: Turn, command: PublishPlans) -> PlansPublished | None:
    facts, changes = turn.facts, turn.changes
    if facts.catalog_name not in (None, command.catalog) and not command.replace_catalog:
        raise refused(
            "conflict",
            f"This ledger counts by the catalog '{facts.catalog_name}', not by '{command.catalog}'. Name that catalog "
            "(CATALOG) or another ledger (DATABASE_URL) in the settings; `subscription-mcp catalog publish` changes it "
            "on purpose.",
        )
    held_back, archived = _as_edited(facts, command)
    offered = {
        plan.key: facts.plans[(plan.key, facts.plan_heads[plan.key].version)]
        if plan.key in held_back
        else plan
        for plan in command.plans
        if plan.key not in archived
    }
    for key, plan in facts.catalog.plans.items():
        head = facts.plan_heads.get(key)
        if key not in offered and key not in archived and head is not None and head.origin == "runtime":
            offered[key] = plan
    _must_fit_what_is_held(turn, command, offered)
    if not turn.may_write:
        return None
    is_first = facts.catalog_name is None
    if facts.catalog_name != command.catalog:
        facts.catalog_name = changes.catalog_name = command.catalog
        changes.published_at = turn.now
    for name, meter in facts.catalog.meters.items():
        if facts.meters.get(name) != meter.as_dict():
            facts.meters[name] = changes.meters[name] = meter.as_dict()
    published = []
    for key, plan in offered.items():
        if plan.version:  # as it was edited at run time
            continue
        head, digest = facts.plan_heads.get(key), command.digests[key]
        overruled = key == command.reset and head is not None and head.origin == "runtime"
        if overruled or (key, digest) not in facts.plan_versions:
            offered[key] = _new_version(turn, plan, digest, "file", is_first=is_first)
            published.append(key)
        else:  # a definition that was there before is that version again, not a new one
            offered[key] = facts.plans[(key, facts.plan_versions[(key, digest)])]
        if key in facts.plans_archived:
            del facts.plans_archived[key]
            changes.plans_archived[key] = None
    standing = {key: plan.version for key, plan in facts.catalog.plans.items() if key in facts.plan_heads}
    versions = {key: plan.version for key, plan in offered.items()}
    if list(standing.items()) != list(versions.items()):
        by = Actor(command.catalog, "catalog")
        _audited(turn, PUBLISHED, by, None, {"plans": standing}, {"plans": versions})
        _offer(turn, offered)
    brought_back = tuple(key for key, version in versions.items() if version < standing.get(key, 0))
    return PlansPublished(versions, published, held_back, is_first, tuple(archived), brought_back)


def _as_edited(facts: Facts, command: PublishPlans) -> tuple[list[str], list[str]]:
    """The plans of the file that stay as they were edited at run time, and those that were archived."""
    if command.reset is not None and command.reset not in command.digests:
        raise refused(
            "invalid_request",
            f"The catalog file has no plan of that name, so there is nothing to go back to. "
            f"{_there_are(command.reset, command.digests)} To offer a plan no longer, archive it.",
            FieldProblem("plan", f"must be one of {', '.join(command.digests)}"),
        )
    held_back, archived = [], []
    for plan in command.plans:
        head = facts.plan_heads.get(plan.key)
        if head is None or plan.key == command.reset:
            continue
        if plan.key in facts.plans_archived:
            archived.append(plan.key)
        elif head.origin == "runtime" and head.digest != command.digests[plan.key]:
            held_back.append(plan.key)
    return held_back, archived


def _must_fit_what_is_held(turn: Turn, command: PublishPlans, offered: Mapping[str, Plan]) -> None:
    """Refuse a catalog by which what is held or counted could not go on. What it says is for who edits the file."""
    facts = turn.facts
    catalog = facts.catalog
    default = catalog.default_plan
    if default is not None and default not in offered:
        raise _misfit(
            "default_plan",
            f"plan '{default}' was archived at run time. Name another one, or offer it again with "
            f"`subscription-mcp plans reset {default} --yes`",
        )
    if default is not None and not may_be_default(offered[default]):
        raise _misfit(
            "default_plan",
            f"plan '{default}' was edited at run time and costs something, and a default plan is for nothing. Name "
            f"another one, or let the file win with `subscription-mcp plans reset {default} --yes`",
        )
    everyone = [*facts.plans.values(), *offered.values()]
    _must_have_none(
        turn,
        [plan for plan in everyone if plan.may_charge and plan.definition["currency"] != catalog.currency],
        offered,
        "currency",
        lambda plan: (
            f"is {catalog.currency} now, but {{what}} costs {plan.definition['currency']}, and an amount of one cannot "
            f"be charged against the other. Set it back to {plan.definition['currency']}; to sell in another currency "
            "begin a ledger of its own"
        ),
    )
    if command.replace_catalog:
        return
    for plan in everyone:
        for limit in plan.limits:
            if limit.meter not in catalog.meters:
                _must_have_none(
                    turn,
                    [plan],
                    offered,
                    f"meters.{limit.meter}",
                    lambda plan, meter=limit.meter: (
                        f"is gone, but {{what}} limits it: what is used of it would no longer be counted. Put it back "
                        f"for now, publish plan '{plan.key}' without that limit, move its subscribers with "
                        f"`subscription-mcp plans migrate {plan.key}`, then take {meter} away"
                    ),
                )
    for name, meter in catalog.meters.items():
        before, after = facts.meters.get(name), meter.as_dict()
        if before is None or before == after:
            continue
        (key, *_) = changed = [key for key in after if before.get(key) != after[key]]
        if facts.read("meters_used", name):
            raise _misfit(
                f"meters.{name}.{key}",
                f"{' and '.join(changed)} of this meter changed after it was used, and what was counted stays as it "
                "was counted. Give what counts otherwise a new name, or set it back; where it means the same, "
                "`subscription-mcp catalog publish --yes` takes it as it is",
            )


def _must_have_none(
    turn: Turn, plans: Iterable[Plan], offered: Mapping[str, Plan], key: str, says: Any
) -> None:
    """Refuse where somebody has one of these plans, or it would go on being offered as it was edited at run time."""
    plans = [plan for plan in plans if plan.version]
    if not plans:
        return
    holdings: list[Holding] | None = turn.facts.read("holdings", None)
    for plan in plans:
        accounts = sum(h.accounts for h in holdings or () if (h.plan, h.version) == (plan.key, plan.version))
        is_offered = offered.get(plan.key) == plan
        if accounts or is_offered:
            who = f"which {counted(accounts, 'account')} hold{'s' if accounts == 1 else ''}"
            what = (
                f"version {plan.version} of plan '{plan.key}', {who if accounts else 'edited at run time'},"
            )
            raise _misfit(key, says(plan).format(what=what))


def _misfit(key: str, problem: str) -> Refusal:
    return refused("conflict", f"{key}: {problem}.", FieldProblem(key, "does not fit what the ledger holds"))


# At run time


def edit_plan(turn: Turn, command: EditPlan) -> PlanEdited | None:
    facts = turn.facts
    head = facts.plan_heads.get(command.plan)
    if command.action == "create" and head is not None:
        was = (
            "exists already"
            if command.plan in facts.catalog.plans
            else "was there before and is no longer offered"
        )
        then = "edits it" if command.plan in facts.catalog.plans else "brings it back"
        raise refused("conflict", f"A plan of that name {was}: update {then}. Nothing was changed.")
    before = None if command.action == "create" else _newest(facts, command.plan)
    if command.action == "archive":
        assert before is not None
        _must_not_be_needed(facts, before)
        if not turn.may_write:
            return None
        facts.plans_archived[before.key] = turn.changes.plans_archived[before.key] = turn.now
        _offer(turn, {key: plan for key, plan in facts.catalog.plans.items() if key != before.key})
        shown = _definition(before)
        entry = _audited(
            turn, "plan.archive", command.actor, command.reason, shown, {**shown, "archived": True}
        )
        return PlanEdited(before, True, entry)
    plan = _judged(command, facts, before)
    digest = plan_digest(plan.definition)
    is_offered = command.plan in facts.catalog.plans
    if before is not None and is_offered and plan_digest(before.definition) == digest:
        raise refused("conflict", f"Nothing changed: version {before.version} of {before.key} says the same.")
    if not turn.may_write:
        return None
    if command.plan in facts.plans_archived:
        del facts.plans_archived[command.plan]
        turn.changes.plans_archived[command.plan] = None
    plan = _new_version(turn, plan, digest, "runtime")
    _offer(turn, {**facts.catalog.plans, plan.key: plan})
    entry = _audited(
        turn,
        f"plan.{command.action}",
        command.actor,
        command.reason,
        None if before is None else _definition(before),
        _definition(plan),
    )
    return PlanEdited(plan, False, entry)


def migrate_plan(turn: Turn, command: MigratePlan) -> PlanMigrated | None:
    facts, now = turn.facts, turn.now
    plan = _newest(facts, command.plan)
    _must_be_older(facts, plan, command.from_version)
    asked = ToMigrate(plan.key, plan.version, command.from_version, command.after, command.size)
    accounts: list[AccountKey] | None = facts.read("to_migrate", asked)
    holdings: list[Holding] | None = facts.read("holdings", None)
    if accounts is None or holdings is None:
        return None
    stored = {account: facts.read("subscriptions", account) for account in accounts}
    groups: dict[AccountKey, GroupSize | None] = {
        account: facts.read("groups", (account.tenant, account.account))
        for account in accounts
        if plan.price.per_seat is not None and account.account_kind == "group"
    }
    older = [h for h in holdings if h.plan == plan.key and is_older(h.version, plan, command.from_version)]
    if command.after is None:
        _must_be_sold_to(plan, older)
        if not accounts:
            raise refused(
                "conflict",
                f"Everybody who holds {plan.title} has version {plan.version}, or not the one named; nothing was changed.",
            )
    if not turn.may_write:
        return None
    entry = None
    if command.after is None:
        who = {"accounts": {f"version {h.version}, {h.interval}": h.accounts for h in older}}
        entry = _audited(turn, "plan.migrate", command.actor, command.reason, who, {"version": plan.version})

    def users_of(account: AccountKey) -> int:
        group = groups.get(account)
        return max(1, group.users) if group is not None else 1

    moved = 0
    for account, before in stored.items():
        current = before.at(now)
        held = facts.plans[(current.plan, current.version)]
        after = migrated(current, held, plan, command.from_version, users_of(account), now)
        if _is_sold(plan, after):
            save_subscription(
                turn, account, before, after, "subscription.migrate", command.actor, command.reason
            )
            moved += 1
    return PlanMigrated(plan, moved, accounts[-1] if len(accounts) == command.size else None, entry)


def _newest(facts: Facts, key: str) -> Plan:
    """The version of a plan new subscribers get or, of one that is not offered, would get."""
    current = facts.catalog.plans.get(key)
    if current is not None and current.version:
        return current
    head = facts.plan_heads.get(key)
    if head is None:
        raise refused(
            "not_found",
            f"No such plan. {_there_are(key, facts.plan_heads)}",
            FieldProblem("plan", "names no plan"),
        )
    return facts.plans[(key, head.version)]


def _must_not_be_needed(facts: Facts, plan: Plan) -> None:
    """Refuse to archive what newcomers get, or the only way on from another plan."""
    if plan.key not in facts.catalog.plans:
        raise refused("conflict", f"{plan.title} is not offered any more; nothing was changed.")
    if plan.key == facts.catalog.default_plan:
        raise refused(
            "conflict",
            f"{plan.title} is the default plan, which everybody has who bought nothing: it cannot be archived. Name "
            "another default_plan in the catalog file first.",
        )
    left = facts.catalog.plans.keys() - {plan.key}
    for other in facts.catalog.plans.values():
        if other.key in left and plan.key in (ways := other.changes_to or ()) and not left & set(ways):
            raise refused(
                "conflict",
                f"{plan.title} is the only plan to which {other.title} leads (changes_to): it cannot be archived. Give "
                f"{other.title} another way first.",
            )


def _judged(command: EditPlan, facts: Facts, newest: Plan | None) -> Plan:
    try:
        return plan_of_table(command.plan, command.table, facts.catalog, newest)
    except CatalogError as error:
        # The path may hold a key the caller wrote.
        field = re.sub(r"[^A-Za-z0-9_.\[\]-]", "?", f"plan.{error.key}".rstrip("."))[:FIELD_LENGTH_MAX]
        message = f"{field} {error.rule}. Nothing was changed."
        raise refused("invalid_request", message, FieldProblem(field, error.rule)) from None


def _must_be_older(facts: Facts, plan: Plan, from_version: int | None) -> None:
    if from_version is None:
        return
    if (plan.key, from_version) not in facts.plans or from_version == plan.version:
        known = [
            version for key, version in sorted(facts.plans) if key == plan.key and version != plan.version
        ]
        raise refused(
            "invalid_request",
            f"{plan.title} has no older version of that number. Older ones: {', '.join(map(str, known)) or 'none'}.",
            FieldProblem("from_version", f"must be a version of the plan other than {plan.version}"),
        )


def _must_be_sold_to(plan: Plan, older: Iterable[Holding]) -> None:
    """Refuse before anything changes where the newest version has no price for an interval somebody pays in."""
    for holding in older:
        if price_of(plan, holding.interval) is None:
            raise refused(
                "conflict",
                f"{counted(holding.accounts, 'account')} of version {holding.version} pay {holding.interval}, and "
                f"version {plan.version} of {plan.title} is not sold {holding.interval}. Give it such a price with "
                "update, or change the plan of these accounts first. Nothing was changed.",
            )


def _is_sold(plan: Plan, subscription: Subscription) -> bool:
    """Whether the newest version has a price for the interval somebody has just changed to."""
    due = subscription.scheduled
    held = subscription.plan != plan.key or subscription.ended_as is not None
    return (held or price_of(plan, subscription.interval) is not None) and (
        due is None
        or due.plan != plan.key
        or price_of(plan, due.interval or subscription.interval) is not None
    )


# What both do


def _new_version(turn: Turn, plan: Plan, digest: str, origin: PlanOrigin, *, is_first: bool = False) -> Plan:
    facts = turn.facts
    head = facts.plan_heads.get(plan.key)
    version = head.version + 1 if head is not None else 1
    facts.plan_heads[plan.key] = PlanHead(version, digest, origin)
    facts.plan_versions[(plan.key, digest)] = version
    new = facts.plans[(plan.key, version)] = plan.with_version(version)
    # Before the first there is nothing that was not kept: it is told apart from an event of the same instant.
    at = turn.now - 1 if is_first else turn.now
    turn.changes.plan_versions.append(NewVersion(new, digest, origin, at))
    keep_what_is_limited(turn, new, at)
    return new


def _offer(turn: Turn, plans: Mapping[str, Plan]) -> None:
    """Make these the plans on offer, in this order."""
    facts = turn.facts
    turn.changes.current_plans = [(key, plan.version) for key, plan in plans.items()]
    facts.catalog = facts.catalog.with_plans(dict(plans))
    facts.places = places_counted(facts.catalog.meters, facts.plans.values())
    facts.forget_all_located()


def _audited(
    turn: Turn,
    action: str,
    actor: Actor,
    reason: str | None,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> AuditEntry:
    """Who asks one day why somebody got a version finds who made it current, and when."""
    return audit(turn, EVERYBODY, "", action, actor, reason, before, after)


def _definition(plan: Plan) -> dict[str, Any]:
    return {"plan": plan.key, "version": plan.version, "definition": dict(plan.definition)}


def _there_are(word: str, words: Iterable[str]) -> str:
    names = sorted(words)
    nearest = get_close_matches(word, names, n=1)
    return f"Did you mean '{nearest[0]}'?" if nearest else f"There are: {', '.join(names) or 'none'}."
