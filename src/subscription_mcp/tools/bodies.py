"""The bodies of the tools: parsed arguments to an operation, its answer to words and a document."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.domain.catalog_file import KEY
from subscription_mcp.domain.decisions import Decision
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.instants import Instant, parse_moment
from subscription_mcp.domain.money import Amount
from subscription_mcp.operations import Operations, PlanChanged
from subscription_mcp.operations.access import Caller, Target
from subscription_mcp.operations.billing import BillingRequest
from subscription_mcp.operations.limits import Extra, LimitChange
from subscription_mcp.operations.members import MemberChange
from subscription_mcp.operations.metering import Settlement, UsageReport
from subscription_mcp.operations.reports import EventsRequest, UsageRequest
from subscription_mcp.tools import documents, invoices, texts, wire
from subscription_mcp.tools.validation import refusal_of

EVENTS_BYTES_MAX = 224 * 1024
"""Of a page of single events, in words and as structure: an answer stays within 256 KiB."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person should be asked before it happens, and the handle that then applies it, once."""

    words: str
    handle: str


@dataclass(slots=True)
class Answer:
    """What a tool answers: words that are complete on their own, and the document. `decision` is set where
    the answer is one, `question` where it only offers to do something."""

    text: str
    document: dict[str, Any]
    decision: Decision | None = None
    question: Question | None = None


async def get_tier_info(do: Operations, caller: Caller, given: wire.GetTierInfoArguments) -> Answer:
    view = await do.plans.account(caller, target_of(given))
    return Answer(texts.tier_info(view), documents.tier_info(view, do.plans.catalog))


async def upgrade_tier(do: Operations, caller: Caller, given: wire.UpgradeTierArguments) -> Answer:
    changed = await do.plans.change(
        caller,
        target_of(given),
        given.plan,
        given.interval,
        seats=given.seats,
        duration_days=given.duration_days,
        reason=given.reason,
        dry_run=given.dry_run,
        confirmation=given.confirmation,
    )
    return _changed(do, changed)


async def manage_subscription(
    do: Operations, caller: Caller, given: wire.ManageSubscriptionArguments
) -> Answer:
    changed = await do.plans.manage(
        caller,
        target_of(given),
        given.action,
        given.seats,
        reason=given.reason,
        dry_run=given.dry_run,
        confirmation=given.confirmation,
    )
    return _changed(do, changed)


async def list_plans(do: Operations, caller: Caller, given: wire.ListPlansArguments) -> Answer:
    offered = await do.plans.offered()
    return Answer(
        texts.plans(offered, do.plans.catalog),
        {"plans": [documents.plan(plan, do.plans.catalog) for plan in offered]},
    )


async def has_feature(do: Operations, caller: Caller, given: wire.HasFeatureArguments) -> Answer:
    answer = await do.plans.feature(caller, target_of(given), given.feature)
    document = {
        "feature": answer.feature,
        "granted": answer.granted,
        "value": answer.value,
        "plans": list(answer.plans),
    }
    return Answer(texts.feature(answer), document)


async def check_quota(do: Operations, caller: Caller, given: wire.CheckQuotaArguments) -> Answer:
    decision = await do.metering.check(caller, _report_of(given))
    left = decision.affordable
    document = {**decision.as_dict(), "affordable": None if left is None else left.as_dict()}
    return Answer(texts.checked(decision), document, decision)


async def record_usage(do: Operations, caller: Caller, given: wire.RecordUsageArguments) -> Answer:
    return _decided(await do.metering.record(caller, _report_of(given)))


async def reserve_usage(do: Operations, caller: Caller, given: wire.ReserveUsageArguments) -> Answer:
    report = UsageReport(
        given.event,
        _quantity_of(given),
        given.attributes,
        given.idempotency_key,
        target=target_of(given),
        estimate_from=given.estimate_from,
    )
    return _decided(await do.metering.reserve(caller, report, given.ttl_seconds))


async def settle_usage(do: Operations, caller: Caller, given: wire.SettleUsageArguments) -> Answer:
    quantity = 0 if given.release else given.quantity
    settled = await do.metering.settle(caller, Settlement(given.reservation_id, quantity, given.attributes))
    decision = settled.decision
    document = {**decision.as_dict(), "late": settled.late}
    late = " It came after the reservation had expired." if settled.late else ""
    return Answer(f"{document['message']}{late}", document, decision)


async def open_session(do: Operations, caller: Caller, given: wire.OpenSessionArguments) -> Answer:
    decided = await do.sessions.open(caller, target_of(given), given.ttl_seconds, given.idempotency_key)
    return Answer(texts.session(decided), documents.session(decided), decided.decision)


async def renew_session(do: Operations, caller: Caller, given: wire.RenewSessionArguments) -> Answer:
    decided = await do.sessions.renew(caller, given.session_id, given.ttl_seconds)
    return Answer(texts.session(decided), documents.session(decided), decided.decision)


async def close_session(do: Operations, caller: Caller, given: wire.CloseSessionArguments) -> Answer:
    closed = await do.sessions.close(caller, given.session_id)
    text = f"The session is over; it was open for {closed.duration_seconds:,} seconds."
    return Answer(text, {"session_id": closed.session_id, "duration_seconds": closed.duration_seconds})


async def record_usage_batch(do: Operations, caller: Caller, given: wire.RecordUsageBatchArguments) -> Answer:
    reports = [_report_or_refusal(event) for event in given.events]
    results = await do.metering.record_batch(caller, reports)
    refused = [result for result in results if isinstance(result, Refusal) or not result.allowed]
    return Answer(texts.batch(results, refused), {"results": [result.as_dict() for result in results]})


async def get_usage_analytics(
    do: Operations, caller: Caller, given: wire.GetUsageAnalyticsArguments
) -> Answer:
    request = UsageRequest(
        given.period,
        instant_of(given.start, "start"),
        instant_of(given.end, "end"),
        given.granularity,
        tuple(dict.fromkeys(given.group_by)),
        given.meters,
        given.cursor,
    )
    answer = await do.reports.usage(caller, target_of(given), request)
    catalog = do.plans.catalog
    units = {total.meter: documents.unit_of_total(catalog, total.meter) for total in answer.totals}
    return Answer(texts.usage_report(answer, units), documents.usage_report(answer, catalog))


async def get_billing_history(
    do: Operations, caller: Caller, given: wire.GetBillingHistoryArguments
) -> Answer:
    request = BillingRequest(given.period, given.cursor)
    answer = await do.invoices.history(caller, target_of(given), request)
    catalog = do.plans.catalog
    return Answer(invoices.history_text(answer, catalog), invoices.history_document(answer, catalog))


async def list_usage_events(do: Operations, caller: Caller, given: wire.ListUsageEventsArguments) -> Answer:
    request = EventsRequest(
        instant_of(given.start, "start"),
        instant_of(given.end, "end"),
        given.event,
        given.cursor,
        given.page_size,
    )
    answer = await do.reports.events(caller, target_of(given), request)
    shown: list[dict[str, Any]] = []
    lines: list[str] = []
    room = EVENTS_BYTES_MAX
    for event in answer.events:
        row, line = documents.usage_event(event, do.plans.catalog), texts.usage_event(event)
        room -= len(json.dumps(row)) + len(json.dumps(line))
        if room < 0 and shown:
            break
        shown.append(row)
        lines.append(line)
    next_cursor = answer.cursor_after(len(shown))
    return Answer(texts.usage_events(lines, next_cursor), {"events": shown, "next_cursor": next_cursor})


async def manage_limits(do: Operations, caller: Caller, given: wire.ManageLimitsArguments) -> Answer:
    target = target_of(given)
    document: dict[str, Any] = dict.fromkeys(
        ("limits", "limits_before", "limits_after", "grants", "history", "audit_id")
    )
    if given.action == "list":
        view = await do.limits.listed(caller, target)
        grants = documents.grants(view)
        return Answer(
            texts.limits(view), document | {"limits": documents.limits(view.limits), "grants": grants}
        )
    if given.action == "history":
        view, entries = await do.limits.history(caller, target)
        shown = [documents.audit_entry(entry) for entry in entries]
        return Answer(
            texts.limit_history(entries, view.limits),
            document | {"limits": documents.limits(view.limits), "history": shown},
        )
    if given.action == "clear_rate":
        changed = await do.limits.clear_rate(caller, target, given.meter, given.reason)
    elif given.action == "grant":
        extra = Extra(
            given.meter,
            given.window,
            _units_of(do, given, "quantity"),
            given.reason,
            instant_of(given.starts_at, "starts_at"),
            instant_of(given.expires_at, "expires_at"),
        )
        changed = await do.limits.grant(caller, target, extra)
    elif given.grant_id is not None:
        changed = await do.limits.end_grant(caller, target, given.grant_id, given.reason)
    elif given.action == "correct":
        changed = await do.limits.correct(caller, target, given.event_id, given.reason)
    else:
        maximum = _units_of(do, given, "limit") if given.action == "set" else None
        expires_at = instant_of(given.expires_at, "expires_at")
        changed = await do.limits.change(
            caller, target, LimitChange(given.meter, given.window, maximum, given.reason, expires_at)
        )
    after = documents.limits(changed.after.limits)
    document |= {
        "limits": after,
        "limits_before": documents.limits(changed.before.limits),
        "limits_after": after,
        "grants": documents.grants(changed.after),
        "history": [documents.audit_entry(changed.audit)],
        "audit_id": changed.audit.id,
    }
    return Answer(texts.limits_changed(changed), document)


async def list_alerts(do: Operations, caller: Caller, given: wire.ListAlertsArguments) -> Answer:
    target, marked = target_of(given), None
    if given.thresholds is not None:
        own = tuple(given.thresholds) if isinstance(given.thresholds, list) else None
        await do.alerts.set_thresholds(caller, target, own)
    if given.mark_read is not None:
        marked = await do.alerts.mark_read(caller, target, given.mark_read)
    answer = await do.alerts.listed(
        caller, target, given.cursor, unread_only=given.unread_only, marked=marked
    )
    return Answer(texts.alerts(answer), documents.alerts(answer))


async def manage_members(do: Operations, caller: Caller, given: wire.ManageMembersArguments) -> Answer:
    group = Target(given.tenant_id, given.account_id)
    if given.action == "list":
        answer = await do.members.listed(caller, group, given.cursor, given.page_size)
    elif given.action == "history":
        answer = await do.members.history(caller, group)
    else:
        change = MemberChange(given.action, given.user_id, given.role or "member", given.reason)
        answer = await do.members.change(caller, group, change)
    return Answer(texts.members(answer), documents.members(answer))


async def manage_plans(do: Operations, caller: Caller, given: wire.ManagePlansArguments) -> Answer:
    catalog = do.plans.catalog
    if given.action == "list":
        records = await do.plan_editing.listed(caller)
        empty = dict.fromkeys(("affected", "affected_accounts", "moved", "audit_id"))
        shown = [documents.managed_plan(record, catalog) for record in records]
        return Answer(texts.plan_records(records), {"plans": shown, "dry_run": False, **empty})
    key, table = _key_and_table(given)
    if given.action == "migrate":
        managed = await do.plan_editing.migrate(
            caller, key, given.reason, given.from_version, dry_run=given.dry_run
        )
    else:
        managed = await do.plan_editing.edit(
            caller, given.action, key, table, given.reason, dry_run=given.dry_run
        )
    return Answer(texts.plan_managed(managed), documents.plan_managed(managed, catalog))


# From arguments to requests


def _units_of(do: Operations, given: wire.ManageLimitsArguments, field: str) -> Any:
    """What an argument says in the units of its meter: of money it is an amount, of anything else never. Raises Refusal
    `invalid_request`."""
    value = getattr(given, field)
    meter = do.plans.catalog.meters.get(given.meter)
    if meter is None or value is UNLIMITED:
        return value.micros if isinstance(value, Amount) else value
    if isinstance(value, Amount) is not meter.is_cost:
        # An integer would be in millionths, and whoever means 5.00 by 5 would not see it.
        rule = f"must be an integer: {meter.name} is no amount of money"
        if meter.is_cost:
            rule = f'must be an amount in quotes, like "5.00": {meter.name} is money'
        raise Refusal("invalid_request", f"{field} {rule}.", fields=[FieldProblem(field, rule)])
    return value.micros if isinstance(value, Amount) else value


def _key_and_table(given: wire.ManagePlansArguments) -> tuple[str, dict[str, Any]]:
    """The key of a plan and what else is said of it. Raises Refusal `invalid_request`."""
    table = given.plan if isinstance(given.plan, dict) else {KEY: given.plan}
    key = table.get(KEY)
    if not isinstance(key, str):
        rule = "must be the key of the plan, like basic"
        problem = FieldProblem(f"plan.{KEY}", rule)
    elif given.action in ("create", "update") and not isinstance(given.plan, dict):
        rule = "must be an object: the plan as in a catalog file"
        problem = FieldProblem("plan", rule)
    elif given.action in ("archive", "migrate") and len(table) > 1:
        rule = f"must be nothing but the key to {given.action}; update changes a plan"
        problem = FieldProblem("plan", rule)
    else:
        return key, table
    raise Refusal("invalid_request", f"{problem.field} {rule}.", fields=[problem])


def target_of(given: wire.TargetArguments) -> Target:
    return Target(given.tenant_id, given.account_id, given.user_id)


def instant_of(text: str | None, field: str) -> Instant | None:
    """The instant a field names, or a day its beginning. Raises Refusal `invalid_request`."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        rule = str(error)
        raise Refusal("invalid_request", f"{field} {rule}.", fields=[FieldProblem(field, rule)]) from None


def _report_of(given: wire.CheckQuotaArguments) -> UsageReport:
    if not isinstance(given, wire.RecordUsageArguments):
        return UsageReport(
            given.event,
            _quantity_of(given),
            given.attributes,
            target=target_of(given),
            estimate_from=given.estimate_from,
        )
    return UsageReport(
        given.event,
        _quantity_of(given),
        given.attributes,
        given.idempotency_key,
        instant_of(given.occurred_at, "occurred_at"),
        given.enforce,
        target_of(given),
        given.estimate_from,
    )


def _quantity_of(given: wire.CheckQuotaArguments) -> int | None:
    """None where it was not said: then it may be estimated."""
    return given.quantity if "quantity" in given.model_fields_set else None


def _report_or_refusal(event: dict[str, Any]) -> UsageReport | Refusal:
    try:
        return _report_of(wire.RecordUsageArguments.model_validate(event))
    except ValidationError as error:
        return refusal_of(error, wire.RecordUsageArguments)
    except Refusal as refusal:
        return refusal


def _decided(decision: Decision) -> Answer:
    document = decision.as_dict()
    return Answer(document["message"], document, decision)


def _changed(do: Operations, changed: PlanChanged) -> Answer:
    status, words = _status_of(changed), texts.ChangeWords.of(changed, do.plans.catalog)
    question = None
    if changed.handle is not None:
        question = Question(texts.plan_change_question(changed, words), changed.handle)
    return Answer(
        texts.plan_change(changed, status, words), documents.plan_change(changed, status), question=question
    )


def _status_of(changed: PlanChanged) -> str:
    if changed.confirmed:
        return "scheduled" if changed.change.is_scheduled else "applied"
    return "confirmation_required" if changed.handle is not None else "preview"
