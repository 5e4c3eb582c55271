"""Reports: usage summed from the rollups, single events page by page, a tenant at a glance."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from subscription_mcp.domain.analytics import (
    BREAKDOWN_ROWS_MAX,
    SERIES_ROWS_MAX,
    Granularity,
    Group,
    GroupKey,
    NamedPeriod,
    UsageRow,
    explicit_period,
    grouped,
    named_period,
    series,
    totals,
    whole_quarters,
)
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.errors import FieldProblem, Refusal, forbidden
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.windows import Period
from subscription_mcp.ledger.commands import AccountView, Arrive, UsageEvent
from subscription_mcp.ledger.queries import AccountCount, EventPage, TenantSummary, UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Granted, Target, whose_of
from subscription_mcp.operations.cursors import cursor_of, position_of

PAGE_SIZE = 50
_DIMENSION_KEYS = frozenset({"event", "plan", "provider", "model", "tool", "client"})


@dataclass(frozen=True, slots=True)
class UsageRequest:
    """What a usage report is asked for."""

    period: NamedPeriod = "billing_period"
    start: Instant | None = None
    end: Instant | None = None
    granularity: Granularity = "day"
    group_by: Sequence[GroupKey] = ()
    meters: Sequence[str] | None = None


@dataclass(slots=True)
class UsageReportAnswer:
    """Usage in a period: totals, series and breakdown of the same rows, so they agree."""

    period: Period
    timezone: str
    totals: list[Group]
    limits: list[LimitState]
    series: list[Group]
    breakdown: list[Group]
    truncated: bool
    as_of: Instant


@dataclass(frozen=True, slots=True)
class EventsRequest:
    """Which events a page is asked for."""

    start: Instant | None = None
    end: Instant | None = None
    event: str | None = None
    cursor: str | None = None
    page_size: int = PAGE_SIZE


@dataclass(slots=True)
class EventsAnswer:
    events: list[UsageEvent]
    next_cursor: str | None


@dataclass(slots=True)
class PlanUsage:
    """One plan of a tenant: who holds it and what was used under it this month."""

    plan: str
    accounts: int
    users: int
    usage: list[Group]
    tools: list[Group]


@dataclass(slots=True)
class TenantAnswer:
    tenant: str
    accounts: int
    users: int
    inactive: int
    """Accounts whose subscription has ended: they hold no plan."""
    period: Period
    plans: list[PlanUsage]


class Reports:
    """Reading what was used."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def usage(self, caller: Caller, target: Target, request: UsageRequest) -> UsageReportAnswer:
        """Totals, limits, series and breakdown of a period. Raises Refusal."""
        granted = await self._access.grant("get_usage_analytics", caller, target)
        self._check_meters(request.meters)
        view = await self._view(granted)
        plan = view.plan if view is not None else None
        timezone = plan.timezone if plan is not None else self._access.catalog.timezone
        whose = whose_of(view) if view is not None else Whose(granted.tenant)
        now = self._ledger.now()
        period = self._period(request, view, now, timezone)
        if view is None:
            period = whole_quarters(period)
        rows = await self._rows(whose, period, request)
        steps = series(
            rows, request.granularity, [key for key in request.group_by if key != "meter"], timezone
        )
        lines = grouped(rows, request.group_by or ("meter",))
        return UsageReportAnswer(
            period,
            timezone,
            totals(rows),
            view.limits if view is not None else [],
            steps[-SERIES_ROWS_MAX:],
            lines[:BREAKDOWN_ROWS_MAX],
            len(steps) > SERIES_ROWS_MAX or len(lines) > BREAKDOWN_ROWS_MAX,
            now,
        )

    async def events(self, caller: Caller, target: Target, request: EventsRequest) -> EventsAnswer:
        """One page of single events, newest first. Raises Refusal."""
        granted = await self._access.grant("list_usage_events", caller, target)
        if request.event is not None and request.event not in self._access.catalog.events:
            names = ", ".join(sorted(self._access.catalog.events))
            raise Refusal(
                "invalid_request",
                f"Unknown event. There are: {names}.",
                fields=[FieldProblem("event", f"must be one of {names}")],
            )
        view = await self._view(granted)
        whose = whose_of(view) if view is not None else Whose(granted.tenant)
        now = self._ledger.now()
        end = request.end if request.end is not None else now + 1
        start = (
            request.start
            if request.start is not None
            else named_period("last_30_days", end, "UTC", None).start
        )
        period = explicit_period(start, end)
        before = position_of(request.cursor, *astuple(whose))
        page, more = await self._ledger.query(
            EventPage(whose, period.start, period.end or end, request.page_size, request.event, before)
        )
        return EventsAnswer(
            [event for _, event in page], cursor_of(page[-1][0], *astuple(whose)) if more else None
        )

    async def tenant(self, caller: Caller, tenant: str) -> TenantAnswer:
        """Accounts, users and usage by plan, and which tools each plan uses. Raises Refusal."""
        granted = await self._access.grant("tenant_summary", caller, Target(tenant_id=tenant))
        if granted.subject is not None:
            raise forbidden()
        timezone = self._access.catalog.timezone
        period = named_period("this_month", self._ledger.now(), timezone, None)
        assert period.end is not None
        counts: list[AccountCount] = await self._ledger.query(TenantSummary(tenant, self._ledger.now()))
        rows = await self._ledger.query(
            UsageTotals(Whose(tenant), period.start, period.end, frozenset({"dimensions"}))
        )
        of_plan: dict[str | None, list[UsageRow]] = {}
        for row in rows:
            of_plan.setdefault(row.value_of("plan"), []).append(row)
        held: dict[str, list[AccountCount]] = {}
        for count in counts:
            if not count.is_inactive:
                held.setdefault(count.plan, []).append(count)
        order = [plan.key for plan in self._access.catalog.plans_by_price]
        keys = [*order, *sorted((set(held) | {plan for plan in of_plan if plan}) - set(order))]
        plans = [
            PlanUsage(
                key,
                sum(count.accounts for count in held.get(key, [])),
                sum(count.users for count in held.get(key, [])),
                totals(of_plan.get(key, [])),
                grouped([row for row in of_plan.get(key, []) if row.value_of("tool")], ("tool",)),
            )
            for key in keys
        ]
        return TenantAnswer(
            tenant,
            sum(plan.accounts for plan in plans),
            sum(plan.users for plan in plans),
            sum(count.accounts for count in counts if count.is_inactive),
            period,
            plans,
        )

    async def _view(self, granted: Granted) -> AccountView | None:
        """The account meant; None for a whole tenant."""
        if granted.subject is None:
            return None
        if granted.is_self and granted.caller.view is not None:
            return granted.caller.view
        return await self._ledger.look(Arrive(granted.subject), may_make_known=False)

    async def _rows(self, whose: Whose, period: Period, request: UsageRequest) -> list[UsageRow]:
        columns: set[str] = {"quarter"}
        if {"user", "account"} & set(request.group_by):
            columns |= {"user", "account"}
        if _DIMENSION_KEYS & set(request.group_by):
            columns.add("dimensions")
        assert period.end is not None
        question = UsageTotals(whose, period.start, period.end, frozenset(columns))
        rows: list[UsageRow] = await self._ledger.query(question)
        return [row for row in rows if request.meters is None or row.meter in request.meters]

    def _period(self, request: UsageRequest, view: AccountView | None, now: Instant, timezone: str) -> Period:
        if request.start is not None and request.end is not None:
            return explicit_period(request.start, request.end)
        billing = None
        if view is not None and view.subscription is not None:
            billing = view.subscription.period_at(now)
        return named_period(request.period, now, timezone, billing)

    def _check_meters(self, meters: Sequence[str] | None) -> None:
        known = self._access.catalog.meters
        if meters is not None and any(meter not in known for meter in meters):
            names = ", ".join(known)
            raise Refusal(
                "invalid_request",
                f"Unknown meter. There are: {names}.",
                fields=[FieldProblem("meters", f"must be among {names}")],
            )
