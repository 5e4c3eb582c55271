"""Small builders for tests: say only what the sentence is about, the rest is there.

basic = a_plan(a_limit(7))
clock = Clock("2026-11-20T14:03:11Z")
async with a_ledger(tmp_path, catalog=a_catalog(basic), clock=clock) as ledger:
    outcome = await ledger.submit_one(a_record(a_subject("bob")))
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from subscription_mcp.domain.catalog import (
    UNLIMITED,
    Catalog,
    EventType,
    Limit,
    Maximum,
    Meter,
    Overage,
    Plan,
    Scope,
)
from subscription_mcp.domain.catalog_file import plan_digest, plan_from_definition
from subscription_mcp.domain.decisions import Decision
from subscription_mcp.domain.instants import Instant, format_instant, parse_instant
from subscription_mcp.domain.money import format_amount, format_decimal, parse_amount
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import Change, MemberRole
from subscription_mcp.domain.windows import parse_window
from subscription_mcp.ledger.commands import (
    AccountView,
    Actor,
    ChangePlan,
    ChangeSubscription,
    ClearRate,
    CloseSession,
    Decided,
    ManageMember,
    MembersChanged,
    OpenSession,
    Outcome,
    PlanChanged,
    PlansPublished,
    PublishPlans,
    RecordUsage,
    RenewSession,
    Reserve,
    SessionClosed,
    SessionDecided,
    SetLimit,
    SetStatus,
    Settle,
    Subject,
)
from subscription_mcp.ledger.port import Engine
from subscription_mcp.ledger.sqlite.engine import SqliteEngine
from subscription_mcp.ledger.writer import Ledger

TODAY = "2026-11-20T14:03:11Z"


class Clock:
    """A clock that stands still until somebody moves it."""

    def __init__(self, text: str = TODAY) -> None:
        self.now: Instant = parse_instant(text)

    def __call__(self) -> Instant:
        return self.now

    def __str__(self) -> str:
        return format_instant(self.now)

    def advance(
        self, *, days: int = 0, hours: int = 0, minutes: int = 0, seconds: int = 0, microseconds: int = 0
    ) -> Instant:
        self.now += (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000_000 + microseconds
        return self.now

    def set(self, text: str) -> Instant:
        self.now = parse_instant(text)
        return self.now


# The catalog

EVENTS = {
    "message": EventType("message"),
    "tool_call": EventType("tool_call", {"tool": "text"}),
    "storage": EventType("storage", {"response_ms": "integer"}),
    "llm_call": EventType("llm_call", {"provider": "text", "tokens": "integer"}),
}
METERS = {
    meter.name: meter
    for meter in (
        Meter("messages", "message", "message"),
        Meter("tool_calls", "tool call", "tool_call"),
        Meter("storage_mb", "MB", "storage", "level"),
        Meter("llm_calls", "call", "llm_call", "count"),
        Meter("llm_tokens", "token", "llm_call", "sum_of", ("tokens",)),
        Meter("gemini_calls", "call", "llm_call", "count", (), (("provider", ("gemini", "google")),)),
    )
}


def a_limit(
    maximum: Maximum = 50,
    *,
    meter: str = "messages",
    window: str = "day",
    scope: Scope = "user",
    timezone: str = "UTC",
    overage: str | None = None,
    overage_max: int | None = None,
) -> Limit:
    """A limit; with `overage` a unit beyond it costs so much."""
    terms = None if overage is None else Overage(parse_amount(overage), "USD", overage_max)
    return Limit(meter, parse_window(window, timezone), maximum, scope, terms)


def a_plan(
    *limits: Limit,
    key: str = "basic",
    monthly: str | None = "0",
    yearly: str | None = None,
    currency: str = "USD",
    timezone: str = "UTC",
    seats: Maximum | None = None,
    per_seat: str | None = None,
    trial_days: int | None = None,
    changes_to: Sequence[str] | None = None,
    features: Mapping[str, Any] | None = None,
    sessions: Maximum = UNLIMITED,
    session_seconds: Maximum = UNLIMITED,
    multiplier: str = "1",
    alerts: Sequence[int] | None = None,
) -> Plan:
    """A plan as a catalog file would make it, its limits in its own time zone."""
    prices = (("monthly", monthly), ("yearly", yearly), ("per_seat", per_seat))
    price = {name: format_amount(parse_amount(text), currency) for name, text in prices if text is not None}
    definition: dict[str, Any] = {
        "title": key.capitalize(),
        "currency": currency,
        "timezone": timezone,
        "price": price,
        "limits": [
            {
                "meter": limit.meter,
                "window": limit.window.name,
                "limit": "unlimited" if limit.maximum is UNLIMITED else limit.maximum,
                "scope": limit.scope,
                **_overage(limit),
            }
            for limit in limits
        ],
        "features": dict(features or {}),
        "sessions": {
            "max_concurrent": "unlimited" if sessions is UNLIMITED else sessions,
            "max_duration_seconds": "unlimited" if session_seconds is UNLIMITED else session_seconds,
        },
        "rate_limit_multiplier": multiplier,
    }
    if seats is not None:
        definition["seats"] = {"max": "unlimited" if seats is UNLIMITED else seats}
    if trial_days is not None:
        definition["trial"] = {"days": trial_days}
    if changes_to is not None:
        definition["changes_to"] = list(changes_to)
    if alerts is not None:
        definition["alerts"] = {"thresholds": list(alerts)}
    return plan_from_definition(key, 0, definition)


def _overage(limit: Limit) -> dict[str, Any]:
    if limit.overage is None:
        return {}
    terms: dict[str, Any] = {"overage": format_decimal(limit.overage.price_micros)}
    return terms if limit.overage.units_max is None else terms | {"overage_max": limit.overage.units_max}


def three_plans() -> tuple[Plan, Plan, Plan]:
    """Basic for nothing, Advanced for 29.00, Premium for 99.00 a month."""
    return (
        a_plan(a_limit(50), a_limit(1_000, window="month")),
        a_plan(a_limit(200), a_limit(5_000, window="month"), key="advanced", monthly="29.00"),
        a_plan(a_limit(1_000), a_limit(25_000, window="month"), key="premium", monthly="99.00"),
    )


def a_catalog(*plans: Plan, default_plan: str | None = "basic", timezone: str = "UTC") -> Catalog:
    return Catalog(
        name="test",
        title="Test",
        currency="USD",
        timezone=timezone,
        default_plan=default_plan,
        events=EVENTS,
        meters=METERS,
        features={},
        plans={plan.key: plan for plan in plans or three_plans()},
    )


# Commands


def a_subject(user: str | None = "bob", tenant: str = "acme", **claims: Any) -> Subject:
    """A user, with `tier`, `group`, `group_admin` as claims or `account` as named by a service."""
    return Subject(tenant, user, **claims)


def a_record(
    subject: Subject | str = "bob",
    event: str = "message",
    quantity: int = 1,
    *,
    key: str | None = None,
    source: str = "app",
    **fields: Any,
) -> RecordUsage:
    """A record command; requests that differ have different digests."""
    who = a_subject(subject) if isinstance(subject, str) else subject
    digest = repr((who.user, event, quantity, fields)).encode()
    return RecordUsage(who, event, source, quantity, idempotency_key=key, digest=digest, **fields)


def a_reserve(
    subject: Subject | str = "bob",
    event: str = "message",
    quantity: int = 1,
    *,
    key: str | None = None,
    source: str = "app",
    **fields: Any,
) -> Reserve:
    """A reserve command; requests that differ have different digests."""
    who = a_subject(subject) if isinstance(subject, str) else subject
    digest = repr(("reserve", who.user, event, quantity, fields)).encode()
    return Reserve(who, event, source, quantity, idempotency_key=key, digest=digest, **fields)


def a_settle(
    reservation: Outcome | str,
    quantity: int | None = None,
    *,
    tenant: str = "acme",
    user: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Settle:
    """A settle of what was reserved, or of an id; `user` narrows it to that user's own."""
    id_ = reservation if isinstance(reservation, str) else reservation_of(reservation)
    digest = repr((id_, quantity, attributes)).encode()
    return Settle(tenant, id_, "app", digest, user, quantity, attributes)


def an_opening(
    subject: Subject | str = "bob",
    *,
    ttl_seconds: int | None = None,
    key: str | None = None,
    source: str = "app",
) -> OpenSession:
    who = a_subject(subject) if isinstance(subject, str) else subject
    digest = repr(("open", who.user, ttl_seconds)).encode()
    return OpenSession(who, source, ttl_seconds, key, digest)


def a_renewal(
    session: Outcome | str,
    ttl_seconds: int | None = None,
    *,
    tenant: str = "acme",
    user: str | None = None,
) -> RenewSession:
    return RenewSession(tenant, _session_id(session), user, ttl_seconds)


def a_closing(session: Outcome | str, *, tenant: str = "acme", user: str | None = None) -> CloseSession:
    return CloseSession(tenant, _session_id(session), user)


def a_change(
    plan: str, subject: Subject | str = "bob", *, actor: str = "bob", digest: bytes = b"change", **fields: Any
) -> ChangePlan:
    who = a_subject(subject) if isinstance(subject, str) else subject
    return ChangePlan(who, Actor(actor, fields.pop("role", "holder")), plan, digest, **fields)


def a_subscription_change(
    action: Any,
    subject: Subject | str = "bob",
    *,
    actor: str = "bob",
    seats: int | None = None,
    **fields: Any,
) -> ChangeSubscription:
    who = a_subject(subject) if isinstance(subject, str) else subject
    digest = repr((action, seats)).encode()
    return ChangeSubscription(who, Actor(actor, "holder"), action, digest, seats, **fields)


def a_status(action: Any, subject: Subject | str = "bob", reason: str = "asked for it") -> SetStatus:
    who = a_subject(subject) if isinstance(subject, str) else subject
    return SetStatus(who, Actor("olivia", "superadmin"), action, reason)


def a_limit_set(
    maximum: Maximum | None,
    subject: Subject | str = "bob",
    *,
    meter: str = "messages",
    window: str = "day",
    within_plan: bool = False,
    reason: str = "asked for it",
    expires_at: Instant | None = None,
) -> SetLimit:
    who = a_subject(subject) if isinstance(subject, str) else subject
    operator = Actor("olivia", "tenant_admin")
    return SetLimit(who, operator, meter, window, maximum, reason, within_plan, expires_at)


def a_clearing(
    subject: Subject | str = "bob", *, meter: str | None = None, reason: str = "asked for it"
) -> ClearRate:
    who = a_subject(subject) if isinstance(subject, str) else subject
    return ClearRate(who, Actor("olivia", "tenant_admin"), reason, meter)


def a_member_change(
    action: Literal["add", "remove", "set_role"],
    user: str,
    group: str = "team",
    *,
    actor: str = "ada",
    actor_role: str = "admin",
    role: MemberRole = "member",
    tokens_before: Instant = 0,
    reason: str | None = None,
    tenant: str = "acme",
    **fields: Any,
) -> ManageMember:
    """A change in a group, or with `account_kind` personal in the account of the person `group`."""
    subject = Subject(tenant, None, group, **{"account_kind": "group", **fields})
    return ManageMember(subject, Actor(actor, actor_role), action, user, role, tokens_before, reason)


def a_publication(*plans: Plan) -> PublishPlans:
    return PublishPlans("test", list(plans), {plan.key: plan_digest(plan.definition) for plan in plans})


# The ledger

ENGINES: dict[str, Callable[..., Engine]] = {
    "sqlite": lambda place, catalog, clock, **how: SqliteEngine(
        place / "ledger.db", catalog, clock=clock, random_bits=random.getrandbits, **how
    ),
}


@asynccontextmanager
async def a_ledger(
    place: Path,
    *,
    catalog: Catalog | None = None,
    clock: Clock | None = None,
    engine: str = "sqlite",
    publish: bool = True,
    **how: Any,
) -> AsyncIterator[Ledger]:
    """A ledger in the folder `place` with the catalog's plans published. Open it inside the test. `how` goes to
    the engine."""
    catalog = catalog or a_catalog()
    ledger = Ledger(ENGINES[engine](place, catalog, clock or Clock(), **how))
    await ledger.open()
    try:
        if publish:
            published = await ledger.submit_one(a_publication(*catalog.plans.values()))
            assert isinstance(published, PlansPublished), published
        yield ledger
    finally:
        await ledger.close()


async def buy(ledger: Ledger, plan: str, subject: Subject | str = "bob", **fields: Any) -> Outcome:
    """Change the plan as people do: get an offer, confirm it."""
    offered = await ledger.submit_one(a_change(plan, subject, offer=f"handle-{plan}", **fields))
    if isinstance(offered, Exception):
        return offered
    return await ledger.submit_one(a_change(plan, subject, confirmation=f"handle-{plan}", **fields))


async def manage(ledger: Ledger, action: Any, subject: Subject | str = "bob", **fields: Any) -> Outcome:
    """Cancel, resume or set seats as people do: get an offer, confirm it."""
    handle = f"handle-{action}-{fields.get('seats')}"
    offered = await ledger.submit_one(a_subscription_change(action, subject, offer=handle, **fields))
    if isinstance(offered, Exception):
        return offered
    return await ledger.submit_one(a_subscription_change(action, subject, confirmation=handle, **fields))


def change_of(outcome: Outcome) -> Change:
    assert isinstance(outcome, PlanChanged), outcome
    return outcome.change


def decision_of(outcome: Outcome) -> Decision:
    assert isinstance(outcome, Decided), outcome
    return outcome.decision


def reservation_of(outcome: Outcome) -> str:
    """The id of what was reserved."""
    id_ = decision_of(outcome).reservation_id
    assert id_ is not None, outcome
    return id_


def opened_of(outcome: Outcome) -> SessionDecided:
    assert isinstance(outcome, SessionDecided), outcome
    return outcome


def session_of(outcome: Outcome) -> Session:
    session = opened_of(outcome).session
    assert session is not None, outcome
    return session


def duration_of(outcome: Outcome) -> int:
    """How many seconds a session that was closed had been open."""
    assert isinstance(outcome, SessionClosed), outcome
    return outcome.duration_seconds


def _session_id(session: Outcome | str) -> str:
    return session if isinstance(session, str) else session_of(session).id


def members_of(outcome: Outcome) -> MembersChanged:
    assert isinstance(outcome, MembersChanged), outcome
    return outcome


def view_of(outcome: Outcome) -> AccountView:
    assert isinstance(outcome, AccountView), outcome
    return outcome


def code_of(outcome: Outcome) -> str:
    """The code of a decision or refusal; `ok` for everything else that worked."""
    if isinstance(outcome, Decided | SessionDecided):
        return outcome.decision.code
    return outcome.code if isinstance(outcome, Exception) else "ok"
