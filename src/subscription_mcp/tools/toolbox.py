"""The toolbox: every tool by name, who sees it, and the one way to call it.

MCP and HTTP both call here, so that a call means the same on each. The order is fixed: a tool the caller's
role hides does not exist; one its plan withholds is refused; then the arguments are judged; an action beyond the
caller's role is forbidden; then it runs.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel

from subscription_mcp.auth.permissions import row_of_action
from subscription_mcp.auth.principal import Principal
from subscription_mcp.domain.errors import FieldProblem, Refusal, forbidden
from subscription_mcp.operations import Operations
from subscription_mcp.operations.access import Caller
from subscription_mcp.tools import accounts, accounts_wire, bodies, exports, wire
from subscription_mcp.tools.bodies import Answer
from subscription_mcp.tools.validation import parsed

Body = Callable[[Operations, Caller, Any], Awaitable[Answer]]


class UnknownTool(Exception):
    """No tool of that name for this caller."""


@dataclass(frozen=True)
class Tool:
    """One tool: what clients are told, the models, the body."""

    name: str
    title: str
    description: str
    arguments: type[wire.Arguments]
    result: type[BaseModel]
    body: Body
    read_only: bool = True
    destructive: bool = False
    idempotent: bool = True
    asks: bool = False
    """Whether its answer can be a question first."""
    for_operators: bool = False
    """Whether it is never about the caller: calling it makes nobody known."""

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """What a list of tools says of the arguments. Which texts and numbers are fit, and that there are no others,
        a refusal says: in a list that every model pays for, an id's pattern in each tool is the largest part."""
        schema: dict[str, Any] = _without(_RULES_OF_VALUES, schema_of(self.arguments))
        return schema

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """What a list of tools says of the result. That there is nothing else, and that all of it is always there, is
        not worth its bytes there: `/openapi.json` says so."""
        schema: dict[str, Any] = _without(_WHOLE, schema_of(self.result))
        return schema


TOOLS: tuple[Tool, ...] = (
    Tool(
        "get_tier_info",
        "Plan and what is left",
        "Call this to see the plan, what is used and left of every limit and when it resets.",
        wire.GetTierInfoArguments,
        wire.TierInfoResult,
        bodies.get_tier_info,
    ),
    Tool(
        "check_quota",
        "Would this be allowed?",
        "Call this before something that costs quota to see whether it would be allowed now. Changes nothing.",
        wire.CheckQuotaArguments,
        wire.CheckedResult,
        bodies.check_quota,
    ),
    Tool(
        "upgrade_tier",
        "Change the plan",
        "Call this to move to another plan: up at once, down at the period's end. The user is asked first, with price "
        "and dates; where the client cannot ask, a handle is returned, and a second call with it applies.",
        wire.UpgradeTierArguments,
        wire.PlanChangeResult,
        bodies.upgrade_tier,
        read_only=False,
        destructive=True,
        idempotent=False,
        asks=True,
    ),
    Tool(
        "manage_subscription",
        "Cancel, resume, seats",
        "Call this to cancel the plan at its period's end, to take that back, or to buy seats. Confirmed like "
        "upgrade_tier.",
        wire.ManageSubscriptionArguments,
        wire.PlanChangeResult,
        bodies.manage_subscription,
        read_only=False,
        destructive=True,
        idempotent=False,
        asks=True,
    ),
    Tool(
        "list_plans",
        "Plans on offer",
        "Call this to compare plans: prices, limits and features, cheapest first.",
        wire.ListPlansArguments,
        wire.PlansResult,
        bodies.list_plans,
    ),
    Tool(
        "has_feature",
        "Is a feature included?",
        "Call this to see whether the plan includes a feature, and which plans do.",
        wire.HasFeatureArguments,
        wire.FeatureResult,
        bodies.has_feature,
    ),
    Tool(
        "get_usage_analytics",
        "Usage over time",
        "Call this to see what was used in a period: totals, a time series, and who or what used it (group_by).",
        wire.GetUsageAnalyticsArguments,
        wire.UsageAnalyticsResult,
        bodies.get_usage_analytics,
    ),
    Tool(
        "list_usage_events",
        "Single events",
        "Call this to see single recorded events, newest first, page by page.",
        wire.ListUsageEventsArguments,
        wire.UsageEventsResult,
        bodies.list_usage_events,
    ),
    Tool(
        "export_usage",
        "Usage as a file",
        "Call this to hand out every event of a period as CSV or JSON lines, page by page: join the pages to one file.",
        wire.ExportUsageArguments,
        wire.ExportResult,
        exports.export_usage,
    ),
    Tool(
        "get_billing_history",
        "Invoices",
        "Call this to see what was charged and why, line by line, what the next renewal will charge so far, and credit.",
        wire.GetBillingHistoryArguments,
        wire.BillingHistoryResult,
        bodies.get_billing_history,
    ),
    Tool(
        "list_alerts",
        "Alerts",
        "Call this to see which limits are nearly or fully used, and what to do; it marks alerts as read, too.",
        wire.ListAlertsArguments,
        wire.AlertsResult,
        bodies.list_alerts,
        read_only=False,
    ),
    Tool(
        "record_usage",
        "Record one event",
        "Call this when a user does something metered: decides and counts in one step, and says why if it may not be.",
        wire.RecordUsageArguments,
        wire.DecisionResult,
        bodies.record_usage,
        read_only=False,
        idempotent=False,
    ),
    Tool(
        "record_usage_batch",
        "Record many events",
        "Call this to record up to 1,000 events at once; each is decided on its own and answered in order.",
        wire.RecordUsageBatchArguments,
        wire.BatchResult,
        bodies.record_usage_batch,
        read_only=False,
        idempotent=False,
    ),
    Tool(
        "reserve_usage",
        "Hold before acting",
        "Call this before something whose size is not known yet: holds the estimate until settle_usage, or gives it "
        "back by itself after ttl_seconds.",
        wire.ReserveUsageArguments,
        wire.DecisionResult,
        bodies.reserve_usage,
        read_only=False,
        idempotent=False,
    ),
    Tool(
        "settle_usage",
        "Settle what was held",
        "Call this when it has happened: counts what it really was, less or more, or gives all back (release).",
        wire.SettleUsageArguments,
        wire.SettledResult,
        bodies.settle_usage,
        read_only=False,
    ),
    Tool(
        "open_session",
        "Open a session",
        "Call this when a user starts a session: takes one of the plan's concurrent sessions until it ends.",
        wire.OpenSessionArguments,
        wire.SessionResult,
        bodies.open_session,
        read_only=False,
        idempotent=False,
    ),
    Tool(
        "renew_session",
        "Keep a session open",
        "Call this to keep an open session open, at most to the plan's duration from its opening.",
        wire.RenewSessionArguments,
        wire.SessionResult,
        bodies.renew_session,
        read_only=False,
    ),
    Tool(
        "close_session",
        "Close a session",
        "Call this when a session is done: it frees its place at once.",
        wire.CloseSessionArguments,
        wire.SessionClosedResult,
        bodies.close_session,
        read_only=False,
    ),
    Tool(
        "manage_limits",
        "Limits set by hand",
        "Call this to list, set or clear limits of a user or account, to grant more, to let somebody who was too fast go on, to take an event back, or to see who changed what.",
        wire.ManageLimitsArguments,
        wire.ManageLimitsResult,
        bodies.manage_limits,
        read_only=False,
        destructive=True,
    ),
    Tool(
        "manage_members",
        "People in a group",
        "Call this to list the members of a group, to add or remove one, to change a role, or to see who "
        "changed what in the account. Adding somebody to a "
        "personal account whose plan has seats founds a group with an id of its own.",
        wire.ManageMembersArguments,
        wire.ManageMembersResult,
        bodies.manage_members,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
    Tool(
        "manage_accounts",
        "Accounts of a tenant",
        "Call this as an operator to find accounts, show one, end its sessions, suspend or activate it, to see a tenant's "
        "statistics, or to erase a user.",
        accounts_wire.ManageAccountsArguments,
        accounts_wire.ManageAccountsResult,
        accounts.manage_accounts,
        read_only=False,
        destructive=True,
        idempotent=False,
        for_operators=True,
    ),
    Tool(
        "manage_plans",
        "Plans at run time",
        "Call this to create, change or archive a plan, at once and for everybody, to see all plans with who holds which "
        "version, or to move subscribers to a plan's newest one (migrate). They keep theirs until then.",
        wire.ManagePlansArguments,
        wire.ManagePlansResult,
        bodies.manage_plans,
        read_only=False,
        destructive=True,
        for_operators=True,
    ),
)


class Toolbox:
    """All tools over the use cases."""

    def __init__(self, operations: Operations) -> None:
        self._do = operations
        self._tools = {tool.name: tool for tool in TOOLS}

    @property
    def operations(self) -> Operations:
        return self._do

    async def listed(self, principal: Principal) -> list[Tool]:
        """The tools as this caller sees them."""
        caller = await self._do.access.caller(principal)
        return self.visible_to(caller)

    def visible_to(self, caller: Caller) -> list[Tool]:
        access = self._do.access
        return [
            tool
            for tool in TOOLS
            if access.has_tool(tool.name, caller) and access.withheld(tool.name, caller) is None
        ]

    def listed_for_nobody(self) -> list[Tool]:
        """The tools where there is no token yet: those of a newcomer. Each answers how to get one."""
        access = self._do.access
        return [tool for tool in TOOLS if access.is_for_newcomers(tool.name)]

    async def call(
        self, principal: Principal, name: str, arguments: Mapping[str, Any], *, tenant: str | None = None
    ) -> Answer:
        """Run a tool for a caller. `tenant` is that of an HTTP envelope: it must agree with the arguments.

        Raises UnknownTool, and Refusal for everything that is refused and is no decision.
        """
        access = self._do.access
        tool = self._tools.get(name)
        if tool is None:
            raise UnknownTool
        # Whoever acts for others is not thereby somebody with a subscription of its own.
        is_first_sight = not tool.for_operators and (
            not principal.is_operator or _is_about_caller(principal, arguments)
        )
        caller = await access.caller(principal, may_make_known=is_first_sight)
        if not access.has_tool(name, caller):
            raise UnknownTool
        refusal = access.withheld(name, caller)
        if refusal is not None:
            raise refusal
        given = parsed(tool.arguments, arguments)
        action = getattr(given, "action", None)
        if action is not None and not access.is_visible(row_of_action(name, action), caller):
            raise forbidden()
        if tenant is not None:
            given = _in_tenant(given, tenant, principal)
        return await tool.body(self._do, caller, given)


def _is_about_caller(principal: Principal, arguments: Mapping[str, Any]) -> bool:
    """Whether a call names nobody else: then it is the caller's own, and makes them known."""
    return (
        arguments.get("user_id", principal.user) == principal.user
        and arguments.get("tenant_id", principal.tenant) == principal.tenant
        and "account_id" not in arguments
    )


def _in_tenant(given: Any, tenant: str, principal: Principal) -> Any:
    events = given.events if isinstance(given, wire.RecordUsageBatchArguments) else ()
    named = {event["tenant_id"] for event in events if isinstance(event.get("tenant_id"), str)}
    named |= {getattr(given, "tenant_id", None)} - {None}
    if named - {tenant}:
        raise Refusal(
            "invalid_request",
            "tenant_id beside the arguments and tenant_id in them differ; give one.",
            fields=[FieldProblem("tenant_id", "must agree with the tenant_id in the arguments")],
        )
    if tenant == principal.tenant:
        return given
    if isinstance(given, wire.RecordUsageBatchArguments):
        return given.model_copy(update={"events": [{"tenant_id": tenant, **event} for event in given.events]})
    if isinstance(given, wire.TargetArguments):
        return given.model_copy(update={"tenant_id": tenant})
    raise forbidden()  # these act in the caller's own tenant only


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The published schema of a tool's arguments or result."""
    mode: Literal["validation", "serialization"] = (
        "validation" if issubclass(model, wire.Arguments) else "serialization"
    )
    return _tidy(model.model_json_schema(mode=mode))


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without what only costs the reader tokens: generated titles, nulls as defaults of fields that are
    simply left out, and a choice of plain types spelled out as schemas."""

    def tidied(node: Any, *, is_properties: bool = False) -> Any:
        if isinstance(node, list):
            return [tidied(item) for item in node]
        if not isinstance(node, dict):
            return node
        types = [branch.get("type") for branch in node.get("anyOf", ()) if len(branch) == 1]
        if not is_properties and types and None not in types and len(types) == len(node["anyOf"]):
            node = {key: value for key, value in node.items() if key != "anyOf"} | {"type": types}
        return {
            key: tidied(value, is_properties=key in ("properties", "$defs") and not is_properties)
            for key, value in node.items()
            if is_properties or not (key == "title" or (key == "default" and value is None))
        }

    tidy: dict[str, Any] = tidied(schema)
    return tidy


_CLOSED = ("additionalProperties", False)
_WHOLE = frozenset({"required", "additionalProperties"})
_RULES_OF_VALUES = frozenset(
    {"pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "format"}
)


def _without(left_out: frozenset[str], node: Any) -> Any:
    if isinstance(node, list):
        return [_without(left_out, item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without(left_out, value)
        for key, value in node.items()
        if key not in left_out and (key, value) != _CLOSED
    }


def list_bytes(tools: list[Tool]) -> int:
    """What a list of tools costs a model: bytes of name, title, description and input schema."""
    return sum(
        len(
            json.dumps(
                [tool.name, tool.title, tool.description, tool.input_schema], separators=(",", ":")
            ).encode()
        )
        for tool in tools
    )
