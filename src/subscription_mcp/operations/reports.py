"""Reports: usage summed from the rollups, single events page by page, a tenant at a glance."""

import json
from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from hashlib import blake2b

from subscription_mcp.domain.analytics import (
    FIRST_PAGE_BYTES,
    NEXT_PAGE_BYTES,
    Granularity,
    Group,
    GroupKey,
    NamedPeriod,
    UsageRow,
    digest_of,
    explicit_period,
    grouped,
    named_period,
    pages_of,
    series,
    step_starts,
    totals,
    whole_quarters,
)
from subscription_mcp.domain.catalog import COUNTED_BESIDE, is_derived
from subscription_mcp.domain.decisions import LimitState, unit_of
from subscription_mcp.domain.errors import FieldProblem, Refusal, forbidden
from subscription_mcp.domain.histogram import percentile
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.outlook import (
    DAYS_BEHIND,
    Comparison,
    Projection,
    SessionSummary,
    TrendLine,
    comparison,
    projections,
    session_summary,
    trend,
)
from subscription_mcp.domain.windows import Period, local_date, midnight
from subscription_mcp.ledger.commands import AccountView, UsageEvent
from subscription_mcp.ledger.machine.facts import NO_CELL
from subscription_mcp.ledger.queries import (
    AccountCount,
    Conversions,
    Denials,
    EventPage,
    Responses,
    SessionSpans,
    TenantSummary,
    UsageTotals,
    Whose,
)
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Target, whose_of
from subscription_mcp.operations.cursors import cursor_of, position_of

PAGE_SIZE = 50
SESSIONS_MAX = 200_000
"""How many sessions of a period are looked at, the newest first."""
DENIALS_MAX = 100
"""Kinds of refusals: what is left is one more, `OTHER`."""
OTHER = "other"
TOOLS_MAX = 20
"""Of each plan, in a tenant's summary."""
_ROWS = 2**31
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
    cursor: str | None = None

    def is_about(self, meter: str) -> bool:
        """Whether a meter was asked for, or is counted beside one that was."""
        return self.meters is None or meter in self.meters or meter.partition(":")[0] in self.meters


@dataclass(slots=True)
class EventPerformance:
    """How one kind of event went, also where it was taken back later: `timed` of them said how long they took."""

    event: str
    count: int
    failed: int
    timed: int
    p50_ms: int | None
    p95_ms: int | None


@dataclass(slots=True)
class Denied:
    """How often something was refused with a code, by a limit on a meter where one did; with `OTHER`, all the rest."""

    code: str
    meter: str
    count: int


@dataclass(slots=True)
class Outlook:
    """What usage means: the same for every page of a report, and on its first page only."""

    compared: Comparison
    trend: list[TrendLine]
    projections: list[Projection] | None
    """None for a whole tenant, which has no limits."""
    performance: list[EventPerformance]
    sessions: SessionSummary
    denials: list[Denied]


@dataclass(slots=True)
class UsageReportAnswer:
    """Usage in a period: totals, series and breakdown of the same rows, so they agree."""

    period: Period
    timezone: str
    totals: list[Group]
    limits: list[LimitState]
    series: list[Group]
    breakdown: list[Group]
    outlook: Outlook | None
    next_cursor: str | None
    """Where rows were left out: brings older steps and smaller groups, as long as nothing was counted since."""
    as_of: Instant

    @property
    def truncated(self) -> bool:
        return self.next_cursor is not None


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
    """Events newest first. Whoever shows fewer of them asks `cursor_after` for where the next page begins."""

    events: list[UsageEvent]
    positions: list[int]
    has_more: bool
    whose: Whose

    def cursor_after(self, count: int) -> str | None:
        """Where the page ends after so many of its events; None where that is the end of the list."""
        if count == len(self.events) and not self.has_more:
            return None
        return cursor_of(self.positions[count - 1], *astuple(self.whose))


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
    trial_to_paid: int
    free_to_paid: int
    """How often in the period somebody who had a trial, or a plan for nothing, began to pay."""
    truncated: bool
    """Of some plan only the tools used most are told."""


class Reports:
    """Reading what was used."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def usage(self, caller: Caller, target: Target, request: UsageRequest) -> UsageReportAnswer:
        """Totals, limits, series and breakdown of a period. Raises Refusal."""
        granted = await self._access.grant("get_usage_analytics", caller, target)
        self._check_meters(request.meters)
        view = await self._access.view_of(granted)
        plan = view.plan if view is not None else None
        timezone = plan.timezone if plan is not None else self._access.catalog.timezone
        limits = [state for state in view.limits if request.is_about(state.meter)] if view is not None else []
        whose = whose_of(view) if view is not None else Whose(granted.tenant)
        now = self._ledger.now()
        period = self._period(request, view, now, timezone)
        if view is None:
            period = whole_quarters(period)
        starts = step_starts(period, request.granularity, timezone)
        rows = await self._rows(whose, period, request, starts)
        steps = series(
            rows, request.granularity, [key for key in request.group_by if key != "meter"], timezone
        )
        lines = grouped(rows, request.group_by or ("meter",))
        sums = totals(rows)
        outlook = None
        if request.cursor is None:
            outlook = await self._outlook(whose, period, timezone, request, sums, now)
            if view is not None:
                outlook.projections = await self._projections(whose, limits, timezone, now)
        asked = (*astuple(whose), _digest(period, request))
        # The newest steps first: what is left out is long ago.
        steps.reverse()
        skipped, room = (0, 0), FIRST_PAGE_BYTES
        if request.cursor is not None:
            position = position_of(request.cursor, *asked, state=digest_of(steps, lines))
            skipped, room = divmod(position or 0, _ROWS), NEXT_PAGE_BYTES
        some_steps, some_lines = pages_of(steps, lines, skipped, room)
        given = skipped[0] + len(some_steps), skipped[1] + len(some_lines)
        next_cursor = None
        if given[0] < len(steps) or given[1] < len(lines):
            next_cursor = cursor_of(given[0] * _ROWS + given[1], *asked, digest_of(steps, lines))
        return UsageReportAnswer(
            period,
            timezone,
            sums,
            limits,
            some_steps[::-1],
            some_lines,
            outlook,
            next_cursor,
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
        view = await self._access.view_of(granted)
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
        return EventsAnswer([event for _, event in page], [position for position, _ in page], more, whose)

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
                sorted(
                    grouped([row for row in of_plan.get(key, []) if row.value_of("tool")], ("tool",)),
                    key=lambda line: -line.events,
                ),
            )
            for key in keys
        ]
        free = frozenset(plan.key for plan in self._access.catalog.plans.values() if plan.price.is_free)
        trial_to_paid, free_to_paid = await self._ledger.query(
            Conversions(tenant, period.start, period.end, free)
        )
        truncated = any(len(plan.tools) > TOOLS_MAX for plan in plans)
        for plan in plans:
            del plan.tools[TOOLS_MAX:]
        return TenantAnswer(
            tenant,
            sum(plan.accounts for plan in plans),
            sum(plan.users for plan in plans),
            sum(count.accounts for count in counts if count.is_inactive),
            period,
            plans,
            trial_to_paid,
            free_to_paid,
            truncated,
        )

    async def _outlook(
        self,
        whose: Whose,
        period: Period,
        timezone: str,
        request: UsageRequest,
        sums: list[Group],
        now: Instant,
    ) -> Outlook:
        """What the totals of a period mean, and what happened beside usage."""
        assert period.end is not None
        start, end = period.start, period.end
        compared = comparison(period, request.granularity, timezone, now)
        before = whole_quarters(compared.before)
        current, previous, *usual = [
            await self._sums(whose, one) for one in (compared.current, before, *compared.usual)
        ]
        total = {line.meter: line.quantity for line in sums}
        known = {*total, *current, *previous, *(meter for one in usual for meter in one)}
        meters = [meter for meter in sorted(known) if request.is_about(meter)]
        units = {meter: unit_of(self._access.catalog, meter) for meter in meters}
        spans = await self._ledger.query(SessionSpans(whose, start, end, now, SESSIONS_MAX + 1))
        denied = await self._ledger.query(Denials(whose, start, end))
        return Outlook(
            compared,
            trend(meters, units, request.granularity, compared, current, usual, total, previous),
            None,
            performance_of(await self._ledger.query(Responses(whose, start, end))),
            session_summary(spans, period, SESSIONS_MAX),
            denials_of(one for one in denied if not one[1] or request.is_about(one[1])),
        )

    async def _projections(
        self, whose: Whose, limits: Sequence[LimitState], timezone: str, now: Instant
    ) -> list[Projection]:
        today = local_date(now, timezone)
        starts = [midnight(today - timedelta(days=n), timezone) for n in range(DAYS_BEHIND, -1, -1)]
        daily: dict[str, list[Mapping[str, int]]] = {}
        for scope in sorted({state.scope for state in limits}):
            of_scope = replace(whose, user=None) if scope == "account" else whose
            question = UsageTotals(of_scope, starts[0], starts[-1], frozenset({"quarter"}), tuple(starts))
            days: list[dict[str, int]] = [{} for _ in starts[1:]]
            for row in await self._ledger.query(question):
                day = days[bisect_right(starts, row.quarter) - 1]
                day[row.meter] = day.get(row.meter, 0) + row.quantity
            daily[scope] = list(days)
        return projections(limits, daily, now)

    async def _sums(self, whose: Whose, period: Period) -> dict[str, int]:
        assert period.end is not None
        rows = await self._ledger.query(UsageTotals(whose, period.start, period.end, frozenset()))
        return {line.meter: line.quantity for line in totals(rows)}

    async def _rows(
        self, whose: Whose, period: Period, request: UsageRequest, starts: tuple[Instant, ...] | None
    ) -> list[UsageRow]:
        columns: set[str] = {"quarter"}
        if {"user", "account"} & set(request.group_by):
            columns |= {"user", "account"}
        if _DIMENSION_KEYS & set(request.group_by):
            columns.add("dimensions")
        assert period.end is not None
        question = UsageTotals(whose, period.start, period.end, frozenset(columns), starts)
        rows: list[UsageRow] = await self._ledger.query(question)
        return [row for row in rows if request.is_about(row.meter)]

    def _period(self, request: UsageRequest, view: AccountView | None, now: Instant, timezone: str) -> Period:
        if request.start is not None and request.end is not None:
            return explicit_period(request.start, request.end)
        billing = None
        if view is not None and view.subscription is not None:
            billing = view.subscription.period_at(now)
        return named_period(request.period, now, timezone, billing)

    def _check_meters(self, meters: Sequence[str] | None) -> None:
        known = self._access.catalog.meters
        if meters is not None and any(not _is_counted(meter, known) for meter in meters):
            names = ", ".join(known)
            raise Refusal(
                "invalid_request",
                f"Unknown meter. There are: {names}.",
                fields=[FieldProblem("meters", f"must be among {names}")],
            )


def performance_of(rows: Iterable[tuple[str, bool, int, int]]) -> list[EventPerformance]:
    """Counts of response times by event, in order of their names."""
    found: dict[str, EventPerformance] = {}
    cells: dict[str, dict[int, int]] = {}
    for event, failed, cell, count in rows:
        one = found.setdefault(event, EventPerformance(event, 0, 0, 0, None, None))
        one.count += count
        one.failed += count if failed else 0
        if cell != NO_CELL:
            one.timed += count
            of_event = cells.setdefault(event, {})
            of_event[cell] = of_event.get(cell, 0) + count
    for event, of_event in cells.items():
        found[event].p50_ms, found[event].p95_ms = percentile(of_event, 50), percentile(of_event, 95)
    return [found[event] for event in sorted(found)]


def denials_of(rows: Iterable[tuple[str, str, int]]) -> list[Denied]:
    """Code, meter and how often, the most first; beyond the first ones in one number."""
    found = [Denied(*one) for one in rows]
    rest = sum(one.count for one in found[DENIALS_MAX:])
    return [*found[:DENIALS_MAX], *([Denied(OTHER, "", rest)] if rest else [])]


def _is_counted(meter: str, known: Container[str]) -> bool:
    """Whether it is a meter of the catalog, or the name of what may be counted beside one."""
    name, _, beside = meter.partition(":")
    return name in known and (not is_derived(meter) or beside in COUNTED_BESIDE)


def _digest(period: Period, request: UsageRequest) -> str:
    """What a cursor goes on with: no other report."""
    text = json.dumps([*period, request.granularity, *request.group_by, request.meters], default=list)
    return blake2b(text.encode(), digest_size=12).hexdigest()
