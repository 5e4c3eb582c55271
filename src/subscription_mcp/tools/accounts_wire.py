"""Published shapes of `manage_accounts`; as strict as all of `wire.py`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from subscription_mcp.tools.wire import (
    AuditEntryResult,
    Cursor,
    LimitResult,
    MemberResult,
    PlainText,
    Result,
    TargetArguments,
    TierInfoResult,
    left_out,
    must_fit_action,
)

PAGE_SIZE_MAX = 50
_OF_TENANT = ("search", "statistics")
_CHANGES = ("end_sessions", "suspend", "activate", "payment_failed", "payment_received", "erase")


class ManageAccountsArguments(TargetArguments):
    action: Literal[
        "search",
        "show",
        "end_sessions",
        "statistics",
        "suspend",
        "activate",
        "payment_failed",
        "payment_received",
        "erase",
    ] = Field(description="payment_failed lets it go on for 7 days; erase takes a user_id out for good.")
    query: Annotated[str, Field(min_length=1, max_length=256)] = left_out(
        "For search: parts of ids; plan:KEY, status:WORD, kind:group or kind:personal narrow it."
    )
    cursor: Cursor = left_out("next_cursor of the last page.")
    page_size: Annotated[int, Field(ge=1, le=PAGE_SIZE_MAX)] = 20
    reason: PlainText = left_out("Required to change something; kept in the audit trail.")

    @model_validator(mode="after")
    def _what_the_action_needs(self) -> "ManageAccountsArguments":
        given, action = self.model_fields_set, self.action
        whom = given & {"account_id", "user_id"}
        if action in _OF_TENANT and whom:
            raise ValueError(f"{action} is about a whole tenant: it takes no account_id or user_id")
        if action == "erase" and whom != {"user_id"}:
            raise ValueError("erase needs user_id, and takes no account_id")
        if action not in _OF_TENANT and not whom:
            raise ValueError(f"{action} needs account_id or user_id")
        reasoned = dict.fromkeys(_CHANGES, ("reason",))
        allowed = {**reasoned, "search": ("query", "cursor", "page_size")}
        must_fit_action(self, action, needed=reasoned, allowed=allowed)
        return self


class AccountFoundResult(Result):
    account_id: str
    account_kind: Literal["personal", "group"]
    plan: str | None
    status: str | None
    origin: str | None
    users: int
    usage_status: Literal["ok", "warning", "critical", "exceeded"]
    limits: list[LimitResult]
    created_at: str | None


class OpenSessionResult(Result):
    session_id: str
    session_key: str
    user_id: str
    opened_at: str
    expires_at: str


class AccountShownResult(TierInfoResult):
    members: list[MemberResult] | None = Field(description="The first 50 of a group; null for a person.")
    open_sessions: list[OpenSessionResult] = Field(description="At most 50, those that end first.")
    audit: list[AuditEntryResult] = Field(description="The newest 20 entries.")


class PlanPopularityResult(Result):
    plan: str
    accounts: int
    users: int
    began_last_30_days: int


class TrialsResult(Result):
    started: int
    running: int
    converted: int
    expired: int
    conversion_percent: float | None = Field(description="null before the first trial.")


class NearLimitResult(Result):
    account_id: str
    account_kind: Literal["personal", "group"]
    user_id: str | None = Field(description="null is a group as a whole.")
    plan: str | None
    limit: LimitResult


class TenantStatisticsResult(Result):
    tenant_id: str
    accounts: int
    users: int
    inactive: int = Field(description="Accounts whose subscription has ended: they hold no plan.")
    plans: list[PlanPopularityResult] = Field(description="Popular first.")
    by_status: dict[str, int] = Field(description="Accounts of each status.")
    trials: TrialsResult
    sessions_open: int
    near_limits: list[NearLimitResult] = Field(
        description="At 80 % of a limit or more, fullest first; at most 20."
    )
    as_of: str


class ErasedResult(Result):
    tenant_id: str
    alias: str = Field(description="What stands for the user now.")
    counts: dict[str, int] = Field(description="Rows of each kind that were theirs.")
    remaining: int = Field(
        description="Where the id still is: places of a group of that id; others' idempotency_keys are not counted."
    )


class ManageAccountsResult(Result):
    accounts: list[AccountFoundResult] | None
    next_cursor: str | None
    account: AccountShownResult | None = Field(description="As it stands now.")
    sessions_ended: int | None
    statistics: TenantStatisticsResult | None
    erased: ErasedResult | None
    audit_id: str | None
