"""Published shapes: the arguments tools take and the results they give. Strict; unknown fields are refused.

Names, units and meaning are the contract with every client: change them only with a new major version.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from subscription_mcp.domain.catalog import QUANTITY_MAX, TOTAL_MAX, UNLIMITED, Maximum, thresholds_problem
from subscription_mcp.domain.identifiers import ID_PATTERN
from subscription_mcp.domain.money import Amount, format_decimal, parse_amount
from subscription_mcp.domain.usage import TEXT_LENGTH_MAX, is_plain_text, is_visible
from subscription_mcp.domain.windows import MINUTE_WINDOW

PAGE_SIZE_MAX = 200
BATCH_EVENTS_MAX = 1000
ALERTS_MARKED_MAX = 100
EXPORT_CURSOR_MAX = 12_288
"""It remembers the columns."""

YEAR_OR_MONTH_PATTERN = r"^20\d\d(-(0[1-9]|1[0-2]))?$"

Id = Annotated[str, Field(pattern=ID_PATTERN)]
Quantity = Annotated[int, Field(ge=1, le=QUANTITY_MAX)]
SignedQuantity = Annotated[int, Field(ge=-QUANTITY_MAX, le=QUANTITY_MAX)]
Instant = Annotated[str, Field(max_length=40)]
"""RFC 3339, or a day, which is its beginning in UTC: so it has no format that JSON Schema knows."""
Word = Annotated[str, Field(min_length=1, max_length=64)]
LeaseId = Annotated[str, Field(min_length=1, max_length=64)]
TtlSeconds = Annotated[int, Field(ge=1, le=31_622_400)]
Interval = Literal["monthly", "yearly"]
Cursor = Annotated[str, Field(min_length=1, max_length=1024)]
PageSize = Annotated[int, Field(ge=1, le=PAGE_SIZE_MAX)]
Attributes = dict[str, Annotated[str | int, WithJsonSchema({"type": ["string", "integer"]})]]

EstimateFrom = Annotated[
    dict[str, Annotated[int, Field(ge=0, le=QUANTITY_MAX)] | str], WithJsonSchema({"type": "object"})
]


def _plain(text: str) -> str:
    if not is_plain_text(text):
        raise ValueError(f"must be 1 to {TEXT_LENGTH_MAX} characters without control characters")
    if not is_visible(text):
        raise ValueError("must have at least one visible character")
    return text


PlainText = Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH_MAX), AfterValidator(_plain)]
Granularity = Literal["hour", "day", "week", "month"]
GroupKey = Literal["meter", "event", "plan", "user", "account", "provider", "model", "tool", "client"]
NamedPeriod = Literal["billing_period", "today", "this_month", "last_7_days", "last_30_days", "last_6_months"]


def left_out(description: str | None = None) -> Any:
    """A field that need not be there. It is None then, which no caller can send."""
    return Field(None, description=description)


class Arguments(BaseModel):
    """What a tool is called with. A field that is not required is left out, never null."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True
    )


def must_fit_action(
    given: Arguments,
    action: str,
    *,
    needed: Mapping[str, Sequence[str]],
    allowed: Mapping[str, Sequence[str]],
) -> None:
    """Each action has the fields it needs, and of those that some action takes only its own. Raises ValueError."""
    for name in needed.get(action, ()):
        if name not in given.model_fields_set:
            raise ValueError(f"{action} needs {name}")
    for name in dict.fromkeys(name for names in allowed.values() for name in names):
        if name in given.model_fields_set and name not in allowed.get(action, ()):
            raise ValueError(f"{action} takes no {name}")


class TargetArguments(Arguments):
    """Whom a call is about. What each means alone stands in the instructions of the server, once."""

    tenant_id: Id = left_out()
    account_id: Id = left_out()
    user_id: Id = left_out()


class GetTierInfoArguments(TargetArguments):
    pass


Seats = Annotated[int, Field(ge=1, le=1_000_000)]


class ConfirmedArguments(TargetArguments):
    """What is shown with its price first, and done when it is confirmed."""

    dry_run: bool = Field(False, description="Only show price, dates and limits before and after.")
    confirmation: Annotated[str, Field(min_length=1, max_length=64)] = left_out(
        "The handle of a confirmation_required answer, with the same other arguments."
    )
    reason: PlainText = left_out("Kept in the audit trail.")

    @model_validator(mode="after")
    def _preview_or_not(self) -> "ConfirmedArguments":
        if self.dry_run and self.confirmation is not None:
            raise ValueError("give either dry_run or confirmation")
        return self


class UpgradeTierArguments(ConfirmedArguments):
    plan: Word = Field(description="The plan to move to, as in list_plans.")
    interval: Interval = left_out("monthly, or as it is paid now.")
    seats: Seats = left_out("Where the plan has a price per seat.")
    duration_days: Annotated[int, Field(ge=1, le=3_660)] = left_out(
        "Operators: for so many days, paid at once."
    )


class ManageSubscriptionArguments(ConfirmedArguments):
    action: Literal["cancel", "resume", "set_seats"] = Field(
        description="cancel ends the plan when its period ends, resume takes back what is scheduled."
    )
    seats: Seats = left_out("For set_seats: more at once, fewer at the period's end.")

    @model_validator(mode="after")
    def _seats_or_not(self) -> "ManageSubscriptionArguments":
        if (self.action == "set_seats") != (self.seats is not None):
            raise ValueError("set_seats needs seats, and nothing else takes them")
        return self


class CheckQuotaArguments(TargetArguments):
    event: Word = Field(description="The kind of event, like message.")
    quantity: SignedQuantity = 1
    attributes: Attributes = Field(default_factory=dict, description="What meters filter on, like tool.")

    estimate_from: EstimateFrom = Field(
        default_factory=dict,
        description="Text to estimate tokens from, or its size.",
    )


class RecordUsageArguments(CheckQuotaArguments):
    idempotency_key: Id = left_out("The same key and request count once; kept 35 days.")
    occurred_at: Instant = left_out("35 days back to 5 minutes ahead.")
    enforce: bool = Field(True, description="False: it already happened, record it even when over a limit.")


class _AsForRecordUsage:
    """Publishes an event of a batch by names and types: whoever sees that tool sees record_usage too, and a model
    pays for every word twice."""

    @staticmethod
    def __get_pydantic_json_schema__(_core: Any, _handler: Any) -> dict[str, Any]:
        schema = RecordUsageArguments.model_json_schema()
        types = {name: {"type": field["type"]} for name, field in schema["properties"].items()}
        return {**schema, "properties": types}


_AnyEvent = Annotated[dict[str, Any], _AsForRecordUsage]


class ReserveUsageArguments(CheckQuotaArguments):
    quantity: Quantity = 1
    ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        120, description="After this it is given back by itself."
    )
    idempotency_key: Id = left_out("The same key and request hold once; kept 35 days.")


class SettleUsageArguments(Arguments):
    reservation_id: LeaseId
    quantity: Annotated[int, Field(ge=0, le=QUANTITY_MAX)] = left_out(
        "What it really was, also 0; what was reserved unless given."
    )
    attributes: Attributes = left_out("As they really were.")
    release: Literal[True] = left_out("Give all of it back: it did not happen.")

    @model_validator(mode="after")
    def _either(self) -> "SettleUsageArguments":
        if self.release and ("quantity" in self.model_fields_set or "attributes" in self.model_fields_set):
            raise ValueError("give either release or what really happened")
        return self


class OpenSessionArguments(TargetArguments):
    ttl_seconds: TtlSeconds = left_out("By default and at most the plan's duration.")
    idempotency_key: Id = left_out("The same key and request open one session; kept 35 days.")


class RenewSessionArguments(Arguments):
    session_id: LeaseId
    ttl_seconds: TtlSeconds = left_out("From now; at most to the plan's duration from opening.")


class CloseSessionArguments(Arguments):
    session_id: LeaseId


class RecordUsageBatchArguments(Arguments):
    # Each event is judged by itself, by the model of record_usage, so that one bad one does not refuse the rest.
    events: Annotated[list[_AnyEvent], Field(min_length=1, max_length=BATCH_EVENTS_MAX)] = Field(
        description="1 to 1,000 events, each as for record_usage."
    )


class HasFeatureArguments(TargetArguments):
    feature: Word = Field(description="The feature, like mcp_access.")


class ListPlansArguments(Arguments):
    pass


class GetUsageAnalyticsArguments(TargetArguments):
    period: NamedPeriod = "billing_period"
    start: Instant = left_out("With end, instead of period; at most 400 days.")
    end: Instant = left_out("Not with it.")
    granularity: Granularity = "day"
    group_by: Annotated[list[GroupKey], Field(max_length=4)] = Field(default_factory=list)
    meters: Annotated[list[Word], Field(min_length=1, max_length=50)] = left_out()
    cursor: Cursor = left_out()

    @model_validator(mode="after")
    def _both_ends(self) -> "GetUsageAnalyticsArguments":
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end go together")
        if self.start is not None and "period" in self.model_fields_set:
            raise ValueError("give either period or start and end")
        return self


class ListUsageEventsArguments(TargetArguments):
    start: Instant = left_out("30 days before end unless given.")
    end: Instant = left_out("Not with it.")
    event: Word = left_out()
    cursor: Cursor = left_out("next_cursor of the last page.")
    page_size: PageSize = 50


class ExportUsageArguments(TargetArguments):
    format: Literal["csv", "jsonl"]
    start: Instant
    end: Instant = Field(description="Not with it; at most 400 days after start.")
    cursor: Annotated[str, Field(min_length=1, max_length=EXPORT_CURSOR_MAX)] = left_out(
        "next_cursor of the last page."
    )


class GetBillingHistoryArguments(TargetArguments):
    period: Annotated[str, Field(pattern=YEAR_OR_MONTH_PATTERN)] = left_out("A year or month, like 2026-11.")
    cursor: Cursor = left_out()


def _integer_or_amount(value: Any, least: int, most: int) -> int | Amount | None:
    """What is neither is None. Raises ValueError where it is one that cannot be."""
    if type(value) is int and least <= value <= most:
        return value
    if not (isinstance(value, str) and any(map(str.isdigit, value))):
        return None
    micros = parse_amount(value)
    if not least <= micros <= most:
        raise ValueError(f"must be from {format_decimal(least)} to {format_decimal(most)}")
    return Amount(micros)


def _limit(value: Any) -> Maximum | Amount:
    if value == UNLIMITED.value:
        return UNLIMITED
    found = _integer_or_amount(value, 0, TOTAL_MAX)
    if found is None:
        raise ValueError(f'must be an integer from 0 to {TOTAL_MAX}, "unlimited", or an amount like "150.00"')
    return found


def _extra(value: Any) -> int | Amount:
    found = _integer_or_amount(value, 1, QUANTITY_MAX)
    if found is None:
        raise ValueError(f'must be an integer from 1 to {QUANTITY_MAX}, or an amount like "150.00"')
    return found


_NUMBER_OR_TEXT = WithJsonSchema({"type": ["integer", "string"]})
LimitValue = Annotated[Maximum | Amount, PlainValidator(_limit), _NUMBER_OR_TEXT]
Extra = Annotated[int | Amount, PlainValidator(_extra), _NUMBER_OR_TEXT]


class ManageLimitsArguments(TargetArguments):
    action: Literal["list", "set", "grant", "clear", "clear_rate", "correct", "history"]
    meter: Word = left_out()
    window: Word = left_out("As the plan limits it.")
    limit: LimitValue = left_out('For set. An integer, of a cost an amount: "150.00", or "unlimited".')
    quantity: Extra = left_out('To grant; of a cost an amount: "5.00".')
    starts_at: Instant = left_out()
    expires_at: Instant = left_out()
    grant_id: Word = left_out("To clear.")
    event_id: Word = left_out("To correct.")
    reason: PlainText = left_out("Required to change anything.")

    @model_validator(mode="after")
    def _what_the_action_needs(self) -> "ManageLimitsArguments":
        needed = {
            "set": ("meter", "window", "limit", "reason"),
            "grant": ("meter", "window", "quantity", "reason"),
            "clear": ("reason",) if self.grant_id is not None else ("meter", "window", "reason"),
            "clear_rate": ("reason",),
            "correct": ("event_id", "reason"),
        }
        allowed = {
            "set": ("meter", "window", "limit", "expires_at", "reason"),
            "grant": ("meter", "window", "quantity", "starts_at", "expires_at", "reason"),
            "clear": ("grant_id", "reason") if self.grant_id is not None else ("meter", "window", "reason"),
            "clear_rate": ("meter", "window", "reason"),
            "correct": ("event_id", "reason"),
        }
        must_fit_action(self, self.action, needed=needed, allowed=allowed)
        if self.action == "clear_rate" and self.window not in (None, MINUTE_WINDOW):
            raise ValueError(f"clear_rate clears the window {MINUTE_WINDOW} and no other")
        return self


def _at_most_a_hundred(ids: list[str]) -> list[str]:
    # A rule of its own: in the list of tools its numbers would cost more than they tell.
    if not 1 <= len(ids) <= ALERTS_MARKED_MAX:
        raise ValueError(f"must be 1 to {ALERTS_MARKED_MAX} alert_ids")
    return ids


def _that_can_be(thresholds: list[int]) -> list[int]:
    if (problem := thresholds_problem(thresholds)) is not None:
        raise ValueError(problem)
    return thresholds


class ListAlertsArguments(TargetArguments):
    unread_only: bool = False
    cursor: Cursor = left_out()
    mark_read: Annotated[list[LeaseId], AfterValidator(_at_most_a_hundred)] = left_out()
    thresholds: Annotated[list[int], AfterValidator(_that_can_be)] | Literal["plan"] = left_out(
        'Percents to be alerted at; "plan": its plan\'s.'
    )


class ManageMembersArguments(TargetArguments):
    account_id: Id = left_out("The group; mine unless given.")
    user_id: Id = left_out("The member meant; not for list.")
    action: Literal["list", "add", "remove", "set_role", "history"]
    role: Literal["admin", "member"] = left_out("For add, member unless given; for set_role.")
    reason: PlainText = left_out("Kept in the audit trail.")
    cursor: Cursor = left_out("next_cursor of the last page.")
    page_size: PageSize = 50

    @model_validator(mode="after")
    def _what_the_action_needs(self) -> "ManageMembersArguments":
        needed = {"add": ("user_id",), "remove": ("user_id",), "set_role": ("user_id", "role")}
        allowed = {
            "add": ("user_id", "role", "reason"),
            "remove": ("user_id", "reason"),
            "set_role": ("user_id", "role", "reason"),
            "list": ("cursor", "page_size"),
        }
        must_fit_action(self, self.action, needed=needed, allowed=allowed)
        return self


def _table_or_key(given: Any) -> Any:
    if isinstance(given, dict) or (isinstance(given, str) and 0 < len(given) <= 64):
        return given
    raise ValueError("must be a plan as an object, or the key of one")


class ManagePlansArguments(Arguments):
    action: Literal["list", "create", "update", "archive", "migrate"]
    plan: Annotated[
        dict[str, Any] | str, PlainValidator(_table_or_key), WithJsonSchema({"type": ["object", "string"]})
    ] = left_out(
        'A plan as in a catalog file, with its key as "plan": {"plan", "title", "price": {"monthly": "29.99"}, '
        '"limits": [{"meter", "window", "limit", "scope"}], …}. To update, only what changes; null takes away. '
        "To archive or migrate, its key."
    )
    dry_run: bool = Field(False, description="Only say what it would be, and for whom.")
    from_version: Annotated[int, Field(ge=1)] = left_out("To migrate only who holds this version.")
    reason: PlainText = left_out("Kept in the audit trail; required to archive and migrate.")

    @model_validator(mode="after")
    def _what_the_action_needs(self) -> "ManagePlansArguments":
        if self.action == "list" and self.model_fields_set - {"action"}:
            raise ValueError("list takes nothing else")
        needed = {
            "create": ("plan",),
            "update": ("plan",),
            "archive": ("plan", "reason"),
            "migrate": ("plan", "reason"),
        }
        must_fit_action(self, self.action, needed=needed, allowed={"migrate": ("from_version",)})
        return self


# Results


class Result(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class AmountResult(Result):
    amount: str = Field(description="A decimal string.")
    currency: str


class PriceResult(Result):
    monthly: AmountResult | None
    yearly: AmountResult | None
    per_seat: AmountResult | None


class LimitResult(Result):
    meter: str
    window: str
    scope: Literal["user", "account"]
    unit: str
    limit: int | None = Field(description="null is unlimited.")
    used: int
    held: int
    remaining: int | None
    percent: float | None
    window_start: str
    resets_at: str | None
    timezone: str
    overage: dict[str, Any] = left_out()


class DecisionLimitResult(LimitResult):
    refused: bool


class UnlockResult(Result):
    action: str
    plan: str | None = None
    until: str | None = None


class DecisionResult(Result):
    allowed: bool
    code: str
    message: str
    retryable: bool
    plan: str | None
    event: str
    quantity: int
    limits: list[DecisionLimitResult]
    unlocks: list[UnlockResult]
    event_id: str | None
    reservation_id: str | None
    replayed: bool
    as_of: str
    unpriced: bool = False


class CheckedResult(DecisionResult):
    affordable: dict[str, Any] | None = Field(
        description="Of what has a price: calls, output_tokens, cost, binds_calls, binds_output_tokens, cheaper."
    )


class SettledResult(DecisionResult):
    late: bool = Field(description="The reservation had expired before.")


class SessionResult(DecisionResult):
    session_id: str | None
    session_key: str | None
    expires_at: str | None
    active: int
    max_concurrent: int | None


class SessionClosedResult(Result):
    session_id: str
    duration_seconds: int


class FieldProblemResult(Result):
    field: str
    rule: str


class ErrorResult(Result):
    code: str
    message: str
    retryable: bool
    unlocks: list[UnlockResult] | None = None
    fields: list[FieldProblemResult] | None = None
    decision: DecisionResult | None = None


class BatchResult(Result):
    results: list[DecisionResult | ErrorResult]


class SessionsResult(Result):
    active: int
    max_concurrent: int | None
    max_duration_seconds: int | None


class TrialResult(Result):
    started_at: str
    ends_at: str
    remaining_seconds: int


class PeriodResult(Result):
    start: str
    end: str | None


class SeatsResult(Result):
    used: int
    max: int | None


class ScheduledResult(Result):
    plan: str | None
    interval: str | None
    seats: int | None
    reason: Literal["change", "cancel", "end"]
    effective_at: str


class TierInfoResult(Result):
    tenant_id: str
    account_id: str
    account_kind: Literal["personal", "group"]
    user_id: str | None
    plan: str | None
    title: str | None
    status: str | None
    origin: str | None
    price: PriceResult | None
    interval: str | None
    limits: list[LimitResult]
    usage_status: Literal["ok", "warning", "critical", "exceeded"]
    features: dict[str, bool | int | str]
    sessions: SessionsResult | None
    rate_limit_multiplier: str | None
    trial: TrialResult | None
    period: PeriodResult | None
    seats: SeatsResult | None
    scheduled: ScheduledResult | None = Field(description="What happens by itself; plan null is the end.")
    next_plans: list[str]
    as_of: str


class MeterUsageResult(Result):
    meter: str
    quantity: int
    events: int


class ToolUsageResult(Result):
    tool: str
    meter: str
    quantity: int


class TenantPlanResult(Result):
    plan: str
    accounts: int
    users: int
    usage: list[MeterUsageResult]
    tools: list[ToolUsageResult]


class TenantSummaryResult(Result):
    tenant_id: str
    accounts: int
    users: int
    inactive: int = Field(description="Accounts whose subscription has ended: they hold no plan.")
    period: PeriodResult
    plans: list[TenantPlanResult]
    conversions: dict[str, int] = Field(description="In the period: trial_to_paid, free_to_paid.")
    truncated: bool = Field(description="Of some plan only the tools used most are told.")


class SubscriptionResult(TierInfoResult):
    """What `GET /api/tenants/{tenant_id}/subscription` answers."""

    tenant: TenantSummaryResult = left_out("Only for who may see the whole tenant.")


class TenantResult(Result):
    """The same of another tenant, in which the caller is nobody."""

    tenant: TenantSummaryResult


class PlanChangeResult(Result):
    status: Literal[
        "preview", "confirmation_required", "declined", "applied", "scheduled", "checkout_required"
    ]
    from_plan: str | None
    to_plan: str | None = Field(description="null is no plan any more.")
    price_now: AmountResult
    price_next: AmountResult
    effective_at: str
    limits_before: list[LimitResult]
    limits_after: list[LimitResult]
    confirmation: str | None
    checkout_url: str | None


class ReportPeriodResult(Result):
    start: str
    end: str
    timezone: str


class TotalResult(Result):
    meter: str
    unit: str
    quantity: int
    events: int


class SeriesResult(BaseModel):
    """One step of time; the keys grouped by stand beside these."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)

    start: str
    meter: str
    quantity: int


class BreakdownResult(BaseModel):
    """One group; the keys grouped by stand beside these."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)

    meter: str
    quantity: int
    share: float


class UsageAnalyticsResult(Result):
    period: ReportPeriodResult
    totals: list[TotalResult]
    limits: list[LimitResult]
    series: list[SeriesResult]
    breakdown: list[BreakdownResult]
    projection: dict[str, Any] | None
    trend: dict[str, Any] | None
    performance: dict[str, Any] | None
    sessions: dict[str, Any] | None
    denials: list[dict[str, Any]] | None
    truncated: bool
    next_cursor: str | None
    as_of: str


class UsageEventResult(Result):
    event_id: str
    tenant_id: str
    account_id: str
    account_kind: Literal["personal", "group"]
    user_id: str
    event: str
    plan: str | None
    plan_version: int
    quantity: int
    attributes: dict[str, str | int]
    gains: dict[str, int]
    price: dict[str, Any] | None = Field(
        description="What it was counted with: source, cost and unit prices."
    )
    estimated: bool
    source: str
    occurred_at: str
    recorded_at: str
    corrects: str = left_out("The event this one takes back.")
    corrected_by: str = left_out()


class UsageEventsResult(Result):
    events: list[UsageEventResult]
    next_cursor: str | None


class ExportResult(Result):
    format: Literal["csv", "jsonl"]
    content: str = Field(
        description="The next part of the file; only the first page of CSV names the columns."
    )
    events: int
    next_cursor: str | None = Field(description="Null: that was all.")


class BillingHistoryResult(Result):
    """Invoices are not spelled out: a schema of them would be the largest part of every list of tools."""

    account_id: str
    account_kind: str
    invoices: list[dict[str, Any]] = Field(
        description="number, status (open, closed, paid), issued_at, period, currency, lines (kind, description, "
        "quantity, unit_price, amount), total, closed_at, paid_at"
    )
    next_cursor: str | None
    upcoming: dict[str, Any] | None
    credit: list[dict[str, str]]
    as_of: str


class FeatureResult(Result):
    feature: str
    granted: bool
    value: bool | int | str
    plans: list[str]


class PlanLimitResult(Result):
    meter: str
    window: str
    scope: Literal["user", "account"]
    unit: str
    limit: int | None = Field(description="null is unlimited.")
    overage: dict[str, Any] = left_out("price of a unit beyond the limit; max null is no maximum.")


class PlanSessionsResult(Result):
    max_concurrent: int | None
    max_duration_seconds: int | None


class PlanSeatsResult(Result):
    max: int | None


class PlanTrialResult(Result):
    days: int


class PlanResult(Result):
    plan: str
    title: str
    version: int
    price: PriceResult
    limits: list[PlanLimitResult]
    features: dict[str, bool | int | str]
    sessions: PlanSessionsResult
    seats: PlanSeatsResult | None
    trial: PlanTrialResult | None
    rate_limit_multiplier: str


class PlansResult(Result):
    plans: list[PlanResult]


class VersionHoldersResult(Result):
    version: int
    accounts: int


class AffectedAccountResult(Result):
    tenant_id: str
    account_id: str
    account_kind: Literal["personal", "group"]
    version: int


class ManagedPlanResult(PlanResult):
    changes_to: list[str] | None = Field(description="null is all plans.")
    provider_price_ids: dict[str, str]
    origin: Literal["file", "runtime"]
    offered: bool
    archived: bool
    holders: list[VersionHoldersResult]
    definition: dict[str, Any] = Field(description="As in a catalog file: what create and update take.")


class ManagePlansResult(Result):
    plans: list[ManagedPlanResult] = Field(description="All of them, or the one that is meant.")
    dry_run: bool
    affected: list[VersionHoldersResult] | None = Field(description="Who holds another version.")
    affected_accounts: list[AffectedAccountResult] | None = Field(description="Up to 20 of them.")
    moved: int | None
    audit_id: str | None


class PriceTierResult(Result):
    above_input_tokens: int
    input_per_million_tokens: AmountResult | None
    output_per_million_tokens: AmountResult | None
    per_million: dict[str, AmountResult]


class ModelPriceResult(Result):
    provider: str
    model: str | None = Field(description="null is the provider as a whole.")
    title: str
    input_per_million_tokens: AmountResult | None
    output_per_million_tokens: AmountResult | None
    per_unit: AmountResult | None
    unit: str | None = Field(description="What per_unit is the price of, like search.")
    per_million: dict[str, AmountResult] = Field(
        description="For a million of an attribute: of a part of the tokens, or of something beside them."
    )
    tiers: list[PriceTierResult] = Field(description="What long calls cost instead.")
    source: str = Field(description="catalog: these win over the price library.")


class PricingResult(Result):
    """What `GET /api/pricing` answers: the price book, or the one price that was asked for."""

    prices: list[ModelPriceResult]
    note: str = Field(description="What is priced otherwise, and what is not priced.")


class AuditEntryResult(Result):
    audit_id: str
    action: str
    account_id: str
    user_id: str | None
    actor: str
    actor_role: str
    reason: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    at: str


class GrantResult(Result):
    grant_id: str
    meter: str
    window: str
    scope: Literal["user", "account"]
    quantity: int
    left: int
    starts_at: str
    expires_at: str | None


class ManageLimitsResult(Result):
    limits: list[LimitResult] | None = Field(description="As they stand now.")
    limits_before: list[LimitResult] | None
    limits_after: list[LimitResult] | None
    grants: list[GrantResult] | None = Field(description="In effect or still to come.")
    history: list[AuditEntryResult] | None
    audit_id: str | None


class AlertResult(Result):
    alert_id: str
    account_id: str | None = Field(description="null: the tenant or the service.")
    user_id: str | None = Field(description="null: the account as a whole.")
    meter: str
    window: str
    threshold_percent: int | None
    severity: Literal["info", "warning", "critical"]
    message: str
    recommendation: str
    suggested_plan: str | None
    read: bool
    created_at: str


class AlertsResult(Result):
    alerts: list[AlertResult]
    next_cursor: str | None
    thresholds: list[int] | None


class MemberResult(Result):
    user_id: str
    role: Literal["admin", "member"]
    joined_at: str | None = Field(description="null where a personal account has no subscription yet.")


class ManageMembersResult(Result):
    account_id: str
    account_kind: Literal["personal", "group"]
    members: list[MemberResult] = Field(description="One page, as it is now.")
    next_cursor: str | None
    seats: SeatsResult = Field(description="max null is no maximum.")
    history: list[AuditEntryResult] | None = Field(description="Newest first.")
    audit_id: str | None
