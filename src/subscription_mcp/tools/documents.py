"""Domain values as the documents of `wire.py`: plain dicts and lists, every field present."""

from collections.abc import Iterable, Mapping
from typing import Any

from subscription_mcp.domain.catalog import (
    ESTIMATED,
    UNLIMITED,
    Catalog,
    Limit,
    Maximum,
    ModelPrice,
    Money,
    Plan,
    Price,
    is_derived,
)
from subscription_mcp.domain.catalog_file import table_of_plan
from subscription_mcp.domain.decisions import LimitState, unit_of
from subscription_mcp.domain.instants import SECOND, Instant, format_instant
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.outlook import METHOD
from subscription_mcp.domain.pricing import CATALOG_SOURCE, UnitPrice
from subscription_mcp.domain.subscriptions import Scheduled, Subscription, seats_max
from subscription_mcp.domain.windows import Period
from subscription_mcp.domain.wording import pricing_note
from subscription_mcp.operations import (
    AccountView,
    AuditEntry,
    MemberRow,
    PlanChanged,
    PlanRecord,
    SessionDecided,
    UsageEvent,
)
from subscription_mcp.operations.alerts import AlertsAnswer
from subscription_mcp.operations.members import Member, MembersAnswer
from subscription_mcp.operations.plan_editing import PlanManaged
from subscription_mcp.operations.prices import LIBRARY_CURRENCY, KnownPrice
from subscription_mcp.operations.reports import Outlook, TenantAnswer, UsageReportAnswer

Document = dict[str, Any]
BY_MILLION = ("input_per_million_tokens", "output_per_million_tokens", "per_million")


def amount(money: Money | None) -> Document | None:
    if money is None:
        return None
    return {"amount": format_amount(money.micros, money.currency), "currency": money.currency}


def price(value: Price) -> Document:
    return {
        "monthly": amount(value.monthly),
        "yearly": amount(value.yearly),
        "per_seat": amount(value.per_seat),
    }


def maximum(value: Maximum) -> int | None:
    return None if value is UNLIMITED else value


def limits(states: Iterable[LimitState]) -> list[Document]:
    return [state.as_dict(with_refused=False) for state in states]


def plan(value: Plan, catalog: Catalog) -> Document:
    """One plan as `list_plans` shows it."""
    return {
        "plan": value.key,
        "title": value.title,
        "version": value.version,
        "price": price(value.price),
        "limits": [
            {
                "meter": limit.meter,
                "window": limit.window.name,
                "scope": limit.scope,
                "unit": catalog.meters[limit.meter].unit if limit.meter in catalog.meters else limit.meter,
                "limit": maximum(limit.maximum),
                **overage(limit),
            }
            for limit in value.limits
        ],
        "features": features(value, catalog),
        "sessions": {
            "max_concurrent": maximum(value.sessions.max_concurrent),
            "max_duration_seconds": maximum(value.sessions.max_duration_seconds),
        },
        "seats": None
        if value.seats_max is None and value.price.per_seat is None
        else {"max": maximum(value.seats_max or UNLIMITED)},
        "trial": None if value.trial_days is None else {"days": value.trial_days},
        "rate_limit_multiplier": value.rate_limit_multiplier,
    }


def overage(limit: Limit) -> Document:
    """What a unit beyond a limit costs, where it may be passed."""
    terms = limit.overage
    if terms is None:
        return {}
    price_ = {"price": format_amount(terms.price_micros, terms.currency), "currency": terms.currency}
    return {"overage": {"max": terms.units_max, **price_}}


def grants(view: AccountView) -> list[Document]:
    """What was granted and has not ended."""
    return [
        {
            "grant_id": one.id,
            "meter": one.meter,
            "window": one.window,
            "scope": one.scope,
            "quantity": one.quantity,
            "left": one.left,
            "starts_at": format_instant(one.starts_at),
            "expires_at": None if one.ends_at is None else format_instant(one.ends_at),
        }
        for one in view.grants
        if one.ends_at is None or view.as_of < one.ends_at
    ]


def managed_plan(value: PlanRecord, catalog: Catalog) -> Document:
    """One plan as `manage_plans` shows it."""
    plan_ = value.plan
    return {
        **plan(plan_, catalog),
        "changes_to": None if plan_.changes_to is None else list(plan_.changes_to),
        "provider_price_ids": dict(plan_.provider_price_ids),
        "origin": value.origin,
        "offered": value.is_offered,
        "archived": value.is_archived,
        "holders": holders(value.holders),
        "definition": {"plan": plan_.key, **table_of_plan(plan_, catalog)},
    }


def holders(accounts_by_version: Mapping[int, int]) -> list[Document]:
    return [
        {"version": version, "accounts": accounts}
        for version, accounts in sorted(accounts_by_version.items(), reverse=True)
    ]


def plan_managed(value: PlanManaged, catalog: Catalog) -> Document:
    """What was done with a plan, or would be, and who holds another version of it."""
    return {
        "plans": [managed_plan(value.record, catalog)],
        "dry_run": value.is_preview,
        "affected": holders(value.affected),
        "affected_accounts": [
            {
                "tenant_id": account.tenant,
                "account_id": account.account,
                "account_kind": account.account_kind,
                "version": version,
            }
            for account, version in value.accounts
        ],
        "moved": value.moved,
        "audit_id": value.audit_id,
    }


def features(value: Plan, catalog: Catalog) -> Document:
    """Every feature of the catalog with the plan's value, in the catalog's order."""
    return {name: value.features.get(name, False) for name in catalog.features}


def pricing(catalog: Catalog) -> Document:
    """The price book, in the order of the catalog, and what of calls it does not price."""
    prices = [{**model_price(value), "tiers": [], "source": CATALOG_SOURCE} for value in catalog.prices]
    return {"prices": prices, "note": _note(catalog)}


def pricing_of_model(value: KnownPrice, price: UnitPrice, catalog: Catalog) -> Document:
    """The price of one model that was asked for, wherever it is from."""
    line = price.model_price(value.provider, value.model, value.title)
    tiers = [
        {"above_input_tokens": tier.above_input_tokens, **_unit_prices(price.of_tier(tier), BY_MILLION)}
        for tier in price.tiers
    ]
    shown = {**model_price(line), "tiers": tiers, "source": price.source}
    return {"prices": [shown], "note": _note(catalog)}


def _note(catalog: Catalog) -> str:
    meter = next((meter.name for meter in catalog.meters.values() if meter.is_cost), None)
    return pricing_note(meter, catalog.currency == LIBRARY_CURRENCY)


def model_price(value: ModelPrice) -> Document:
    return {
        "provider": value.provider,
        "model": value.model,
        "title": value.title,
        "input_per_million_tokens": amount(value.input_per_million_tokens),
        "output_per_million_tokens": amount(value.output_per_million_tokens),
        "per_unit": amount(value.per_unit),
        "unit": value.unit,
        "per_million": {name: amount(money) for name, money in value.per_million},
    }


def _unit_prices(price: UnitPrice, parts: Iterable[str]) -> Document:
    line = model_price(price.model_price("", None, ""))
    return {part: line[part] for part in parts}


def tier_info(view: AccountView, catalog: Catalog) -> Document:
    """An account's plan, state and limits."""
    standing, subscription, held = view.standing, view.subscription, view.plan
    period_ = subscription.period_at(view.as_of) if subscription is not None else None
    return {
        "tenant_id": standing.tenant,
        "account_id": standing.account,
        "account_kind": standing.account_kind,
        "user_id": standing.user,
        "plan": held.key if held is not None else None,
        "title": held.title if held is not None else None,
        "status": subscription.status_at(view.as_of) if subscription is not None else None,
        "origin": subscription.origin if subscription is not None else None,
        "price": price(held.price) if held is not None else None,
        "interval": subscription.interval if subscription is not None else None,
        "limits": limits(view.limits),
        "usage_status": usage_status(view.limits),
        "features": features(held, catalog) if held is not None else {},
        "sessions": None
        if held is None
        else {
            "active": view.sessions_active,
            "max_concurrent": maximum(held.sessions.max_concurrent),
            "max_duration_seconds": maximum(held.sessions.max_duration_seconds),
        },
        "rate_limit_multiplier": held.rate_limit_multiplier if held is not None else None,
        "trial": trial(subscription, view.as_of) if subscription is not None else None,
        "period": period(period_) if period_ is not None else None,
        "seats": seats(held, subscription, view.seats_used),
        "scheduled": scheduled(subscription.scheduled) if subscription is not None else None,
        "next_plans": next_plans(held, subscription, catalog),
        "as_of": format_instant(view.as_of),
    }


def trial(subscription: Subscription, now: Instant) -> Document | None:
    started_at, ends_at = subscription.trial_started_at, subscription.trial_ends_at
    if started_at is None or ends_at is None:
        return None
    return {
        "started_at": format_instant(started_at),
        "ends_at": format_instant(ends_at),
        "remaining_seconds": max(0, ends_at - now) // SECOND,
    }


def seats(held: Plan | None, subscription: Subscription | None, used: int | None) -> Document | None:
    """How many users the account has and may have; a personal account is its one user."""
    most = seats_max(held, subscription) if held is not None and subscription is not None else None
    return None if most is None else {"used": 1 if used is None else used, "max": maximum(most)}


def scheduled(value: Scheduled | None) -> Document | None:
    """What happens by itself, and when; without a plan it is the end."""
    if value is None:
        return None
    return {
        "plan": value.plan,
        "interval": value.interval,
        "seats": value.seats,
        "reason": value.reason,
        "effective_at": format_instant(value.at),
    }


def next_plans(held: Plan | None, subscription: Subscription | None, catalog: Catalog) -> list[str]:
    """The plans that are more than the held one and can be moved to, cheapest first."""
    if held is None or held.key not in catalog.plans or (subscription is not None and subscription.ended_as):
        return [plan.key for plan in catalog.plans_to_buy]
    order = [plan.key for plan in catalog.plans_by_price]
    later = order[order.index(held.key) + 1 :]
    reachable = [plan.key for plan in catalog.plans_to_buy] if held.changes_to is None else held.changes_to
    return [key for key in later if key in reachable]


def usage_status(states: Iterable[LimitState]) -> str:
    """How near the fullest limit is: warning from 80 %, critical from 90 %, exceeded at 100 %."""
    fullest = max((state.permille or 0 for state in states), default=0)
    if fullest >= 1000:
        return "exceeded"
    return "critical" if fullest >= 900 else "warning" if fullest >= 800 else "ok"


def period(value: Period) -> Document:
    return {
        "start": format_instant(value.start),
        "end": None if value.end is None else format_instant(value.end),
    }


def session(decided: SessionDecided) -> Document:
    opened = decided.session
    return {
        **decided.decision.as_dict(),
        "session_id": opened.id if opened is not None else None,
        "session_key": opened.key if opened is not None else None,
        "expires_at": format_instant(opened.expires_at) if opened is not None else None,
        "active": decided.active,
        "max_concurrent": maximum(decided.max_concurrent),
    }


def plan_change(changed: PlanChanged, status: str) -> Document:
    change = changed.change
    return {
        "status": status,
        "from_plan": change.from_plan,
        "to_plan": change.to_plan,
        "price_now": amount(change.price_now),
        "price_next": amount(change.price_next),
        "effective_at": format_instant(change.effective_at),
        "limits_before": limits(changed.limits_before),
        "limits_after": limits(changed.limits_after),
        "confirmation": changed.handle,
        "checkout_url": None,
    }


def unit_of_total(catalog: Catalog, meter: str) -> str:
    """The unit of what a report adds up: its name where the catalog has no such meter."""
    return unit_of(catalog, meter) if meter in catalog.meters or is_derived(meter) else meter


def usage_report(answer: UsageReportAnswer, catalog: Catalog) -> Document:
    def unit(meter: str) -> str:
        return unit_of_total(catalog, meter)

    return {
        "period": {**period(answer.period), "timezone": answer.timezone},
        "totals": [
            {"meter": t.meter, "unit": unit(t.meter), "quantity": t.quantity, "events": t.events}
            for t in answer.totals
        ],
        "limits": limits(answer.limits),
        "series": [
            {
                "start": format_instant(step.start or 0),
                "meter": step.meter,
                "quantity": step.quantity,
                **step.keys,
            }
            for step in answer.series
        ],
        "breakdown": [
            {
                **line.keys,
                "meter": line.meter,
                "quantity": line.quantity,
                "share": line.share_millionths / 1_000_000,  # shown, never calculated with
            }
            for line in answer.breakdown
        ],
        **_outlook(answer.outlook),
        "truncated": answer.truncated,
        "next_cursor": answer.next_cursor,
        "as_of": format_instant(answer.as_of),
    }


def _outlook(outlook: Outlook | None) -> Document:
    """What usage means; null on the pages after the first."""
    if outlook is None:
        return dict.fromkeys(("projection", "trend", "performance", "sessions", "denials"))
    compared, projected = outlook.compared, outlook.projections
    return {
        "projection": None
        if projected is None
        else {
            "method": METHOD,
            "limits": [
                {
                    "meter": one.meter,
                    "window": one.window,
                    "scope": one.scope,
                    "limit": one.limit,
                    "basis_days": one.days,
                    "projected": one.projected,
                    "percent": one.percent,
                    "runs_out_at": None if one.runs_out_at is None else format_instant(one.runs_out_at),
                    "message": one.message,
                }
                for one in projected
            ],
        },
        "trend": {
            "step": period(compared.current),
            "previous_period": period(compared.before),
            "meters": [
                {
                    "meter": line.meter,
                    "current": line.current,
                    "usual": line.usual,
                    "change_percent": line.change_percent,
                    "period": line.total,
                    "previous_period": line.previous,
                    "previous_change_percent": line.previous_change_percent,
                    "message": line.message,
                }
                for line in outlook.trend
            ],
        },
        "performance": {
            "method": "Of everything that was recorded, also what was taken back later.",
            "error_percent_max": 5,
            "events": [
                {
                    "event": one.event,
                    "count": one.count,
                    "failed": one.failed,
                    "error_rate": one.failed / one.count,  # shown, never calculated with
                    "timed": one.timed,
                    "p50_ms": one.p50_ms,
                    "p95_ms": one.p95_ms,
                }
                for one in outlook.performance
            ],
        },
        "sessions": {
            "count": outlook.sessions.count,
            "p50_seconds": outlook.sessions.p50_seconds,
            "p95_seconds": outlook.sessions.p95_seconds,
            "longest_seconds": outlook.sessions.longest_seconds,
            "peak_concurrent": outlook.sessions.peak_concurrent,
            "truncated": outlook.sessions.truncated,
        },
        "denials": [
            {"code": one.code, "meter": one.meter or None, "count": one.count} for one in outlook.denials
        ],
    }


def usage_event(event: UsageEvent, catalog: Catalog) -> Document:
    return {
        "event_id": event.id,
        "tenant_id": event.tenant,
        "account_id": event.account,
        "account_kind": event.account_kind,
        "user_id": event.user,
        "event": event.event,
        "plan": event.plan or None,
        "plan_version": event.plan_version,
        "quantity": event.quantity,
        "attributes": dict(event.attributes),
        "gains": dict(event.gains),
        "price": applied_price(event, catalog),
        "estimated": any(name.endswith(f":{ESTIMATED}") for name in event.gains),
        "source": event.source,
        "occurred_at": format_instant(event.occurred_at),
        "recorded_at": format_instant(event.recorded_at),
        **({} if event.corrects is None else {"corrects": event.corrects}),
        **({} if event.corrected_by is None else {"corrected_by": event.corrected_by}),
    }


def applied_price(event: UsageEvent, catalog: Catalog) -> Document | None:
    """What the event was counted with, and what it came to."""
    price = event.price
    if price is None:
        return None
    costs = catalog.cost_meters_of_event.get(event.event, ())
    cost = next((event.gains[meter.name] for meter in costs if meter.name in event.gains), 0)
    return {
        "source": price.source,
        "cost": amount(Money(cost, price.currency)),
        **_unit_prices(price, (*BY_MILLION, "per_unit")),
    }


def audit_entry(entry: AuditEntry) -> Document:
    return {
        "audit_id": entry.id,
        "action": entry.action,
        "account_id": entry.account,
        "user_id": entry.user or None,
        "actor": entry.actor.user,
        "actor_role": entry.actor.role,
        "reason": entry.reason,
        "before": _plain(entry.before),
        "after": _plain(entry.after),
        "at": format_instant(entry.at),
    }


def alerts(answer: AlertsAnswer) -> Document:
    return {
        "alerts": [
            {
                "alert_id": alert.id,
                "account_id": alert.account or None,
                "user_id": alert.user or None,
                "meter": alert.meter,
                "window": alert.window,
                "threshold_percent": alert.threshold_percent,
                "severity": alert.severity,
                "message": alert.message,
                "recommendation": alert.recommendation,
                "suggested_plan": alert.suggested_plan,
                "read": alert.read_at is not None,
                "created_at": format_instant(alert.created_at),
            }
            for alert in answer.alerts
        ],
        "next_cursor": answer.next_cursor,
        "thresholds": None if answer.thresholds is None else list(answer.thresholds),
    }


def member(one: Member | MemberRow) -> Document:
    return {
        "user_id": one.user,
        "role": one.role,
        "joined_at": None if one.joined_at is None else format_instant(one.joined_at),
    }


def members(answer: MembersAnswer) -> Document:
    """One page of an account's users, its seats, and the entry of what was changed."""
    changed = answer.changed
    return {
        "account_id": answer.account,
        "account_kind": answer.account_kind,
        "members": [member(one) for one in answer.members],
        "next_cursor": answer.next_cursor,
        "seats": {"used": answer.seats_used, "max": maximum(answer.seats_max or UNLIMITED)},
        "history": None if answer.history is None else [audit_entry(entry) for entry in answer.history],
        "audit_id": changed.audit.id if changed is not None else None,
    }


def tenant_summary(answer: TenantAnswer) -> Document:
    """A tenant at a glance, by plan; usage is that of the current month."""
    return {
        "tenant_id": answer.tenant,
        "accounts": answer.accounts,
        "users": answer.users,
        "inactive": answer.inactive,
        "period": period(answer.period),
        "plans": [
            {
                "plan": of.plan,
                "accounts": of.accounts,
                "users": of.users,
                "usage": [{"meter": u.meter, "quantity": u.quantity, "events": u.events} for u in of.usage],
                "tools": [
                    {"tool": t.keys["tool"], "meter": t.meter, "quantity": t.quantity} for t in of.tools
                ],
            }
            for of in answer.plans
        ],
        "conversions": {"trial_to_paid": answer.trial_to_paid, "free_to_paid": answer.free_to_paid},
        "truncated": answer.truncated,
    }


def _plain(value: Mapping[str, Any] | None) -> Document | None:
    return None if value is None else dict(value)
