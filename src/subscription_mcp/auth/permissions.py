"""Who may do what, on every surface: the rows of operation, role and reach, and which row decides for each tool,
resource, prompt, completion, route and command. What has no row is available to nobody.

A tool has its row in `REACH` under its name; an action that is for others than the tool, or every action of a tool
without a row, under `TOOL.ACTION`, and an argument that changes something under `TOOL.ARGUMENT`. Anything else has a line in the table of its surface that names a row.
"""

from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache


class Reach(IntEnum):
    """How far an operation may look or act; each reach includes those before it."""

    NONE = 0
    SELF = 1
    """The caller as a user."""
    ACCOUNT = 2
    """Everybody in the caller's account."""
    TENANT = 3
    """Every account of the caller's tenant."""
    ALL = 4
    """Every tenant."""


_N, _S, _A, _T, _X = Reach

STANDING_ROLES = ("member", "holder", "admin", "service", "tenant_admin", "superadmin")
"""Roles as they stand at the moment of a call: `holder` holds the personal account that is meant, `admin` is
an admin of the group in the ledger, the last three come from the token."""

_READS = (_S, _A, _A, _T, _T, _X)
_MARKS = (_S, _A, _A, _N, _T, _X)
_CHANGES = (_N, _A, _A, _N, _T, _X)
_RECORDS = (_N, _N, _N, _T, _N, _N)
_SESSIONS = (_S, _S, _S, _T, _S, _S)
_BILLS = (_N, _A, _A, _T, _T, _X)
_OF_TENANTS = (_N, _N, _N, _N, _T, _X)
_SUPERADMIN = (_N, _N, _N, _N, _N, _X)

REACH: Mapping[str, Mapping[str, Reach]] = {
    operation: dict(zip(STANDING_ROLES, reaches, strict=True))
    for operation, reaches in {
        #                      member, holder, admin, service, tenant_admin, superadmin
        "get_tier_info": _READS,
        "upgrade_tier": _CHANGES,
        "manage_subscription": _CHANGES,
        "get_usage_analytics": _READS,
        "list_usage_events": _READS,
        "export_usage": _READS,
        "get_billing_history": _BILLS,
        "check_quota": _READS,
        "record_usage": _RECORDS,
        "record_usage_batch": _RECORDS,
        "reserve_usage": _RECORDS,
        "settle_usage": _RECORDS,
        "open_session": _SESSIONS,
        "renew_session": _SESSIONS,
        "close_session": _SESSIONS,
        "has_feature": _READS,
        "list_plans": _READS,
        "list_alerts": _READS,
        "list_alerts.mark_read": _MARKS,  # what a whole group reads only from ACCOUNT on
        "list_alerts.thresholds": _CHANGES,
        "manage_limits": _CHANGES,
        "manage_limits.clear_rate": _OF_TENANTS,
        "manage_limits.correct": _OF_TENANTS,
        "manage_limits.grant": _OF_TENANTS,
        "manage_members": _CHANGES,
        "manage_plans": _SUPERADMIN,
        "manage_accounts.search": _OF_TENANTS,
        "manage_accounts.show": _OF_TENANTS,
        "manage_accounts.end_sessions": _OF_TENANTS,
        "manage_accounts.statistics": _OF_TENANTS,
        "manage_accounts.suspend": _SUPERADMIN,
        "manage_accounts.activate": _SUPERADMIN,
        "manage_accounts.erase": _SUPERADMIN,
        "manage_accounts.payment_failed": _SUPERADMIN,
        "manage_accounts.payment_received": _SUPERADMIN,
        # No tools of these names: other surfaces do them.
        "tenant_summary": _OF_TENANTS,
        "revoke_tokens": _SUPERADMIN,
        "send_webhooks": _SUPERADMIN,
    }.items()
}

ANYBODY = "anybody"
"""Decides nothing: no access token is asked for."""
ANY_CALLER = "any caller"
"""Asks for an access token only; what is listed, read and called behind it has rows of its own."""
FILES_ONLY = "files only"
"""Works on files, settings and processes of this machine: whoever may read them may."""
NOBODY = "nobody"
"""What decides where no row does."""


class Deciding(dict[str, str]):
    """What is offered on a surface → the row that decides."""

    def __missing__(self, key: str) -> str:
        return NOBODY


RESOURCES = Deciding(
    {
        "subscription://plans": "list_plans",
        "subscription://plans/{plan}": "list_plans",
        "pricing://models": "list_plans",
        "pricing://models/{+model}": "list_plans",
        "subscription://me": "get_tier_info",
        "quota://me": "get_tier_info",
        "quota://me/{meter}": "get_tier_info",
        "usage://me/{period}": "get_usage_analytics",
        "alerts://me": "list_alerts",
        "quota://accounts/{account_id}": "get_tier_info",
        "usage://accounts/{account_id}/{period}": "get_usage_analytics",
    }
)

PROMPTS = Deciding(
    {
        "quota": "get_tier_info",
        "compare_plans": "list_plans",
        "explain_denial": "check_quota",
    }
)

COMPLETIONS = Deciding(
    {
        "plan of subscription://plans/{plan}": "list_plans",
        "model of pricing://models/{+model}": "list_plans",
        "meter of quota://me/{meter}": "get_tier_info",
        "period of usage://me/{period}": "get_usage_analytics",
        "account_id of quota://accounts/{account_id}": "get_tier_info",
        "account_id of usage://accounts/{account_id}/{period}": "get_usage_analytics",
        "period of usage://accounts/{account_id}/{period}": "get_usage_analytics",
        "plans of compare_plans": "list_plans",
        "event of explain_denial": "check_quota",
        "feature of explain_denial": "has_feature",
    }
)

ROUTES = Deciding(
    {
        "/mcp": ANY_CALLER,
        "GET /api/mcp/tools": ANY_CALLER,
        "POST /api/mcp/tools/{tool_name}": ANY_CALLER,
        "GET /api/tenants/{tenant_id}/subscription": "get_tier_info",
        "GET /api/tenants/{tenant_id}/subscription#tenant": "tenant_summary",  # a part of the same document
        "GET /api/plans": ANYBODY,
        "GET /api/pricing": ANYBODY,
        "GET /openapi.json": ANYBODY,
        "GET /healthz": ANYBODY,
        "GET /readyz": ANYBODY,
        "GET /.well-known/oauth-protected-resource/mcp": ANYBODY,
    }
)
"""Method and path; the path alone takes every method."""

COMMANDS = Deciding(
    {
        "stdio": FILES_ONLY,
        "serve": FILES_ONLY,
        "demo": FILES_ONLY,
        "init": FILES_ONLY,
        "token mint": FILES_ONLY,
        "token inspect": FILES_ONLY,
        "token revoke": "revoke_tokens",
        "catalog list": FILES_ONLY,
        "catalog show": FILES_ONLY,
        "catalog check": FILES_ONLY,
        "catalog publish": "manage_plans",
        "usage": "get_tier_info",
        "limits list": "manage_limits",
        "limits set": "manage_limits",
        "limits clear": "manage_limits",
        "limits clear-rate": "manage_limits.clear_rate",
        "limits correct": "manage_limits.correct",
        "limits grant": "manage_limits.grant",
        "limits history": "manage_limits",
        "plans list": "list_plans",
        "plans show": "list_plans",
        "plans holders": "manage_plans",
        "plans try": "manage_plans",
        "plans create": "manage_plans",
        "plans update": "manage_plans",
        "plans archive": "manage_plans",
        "plans migrate": "manage_plans",
        "plans reset": "manage_plans",
        "accounts search": "manage_accounts.search",
        "accounts show": "manage_accounts.show",
        "accounts suspend": "manage_accounts.suspend",
        "accounts activate": "manage_accounts.activate",
        "accounts payment-failed": "manage_accounts.payment_failed",
        "accounts payment-received": "manage_accounts.payment_received",
        "accounts end-sessions": "manage_accounts.end_sessions",
        "accounts statistics": "manage_accounts.statistics",
        "accounts erase": "manage_accounts.erase",
        "events tail": "list_usage_events",
        "webhook send": "send_webhooks",
        "connect": FILES_ONLY,
        "bridge": FILES_ONLY,
        "doctor": FILES_ONLY,
        "export": FILES_ONLY,
        "import": FILES_ONLY,
        "verify": FILES_ONLY,
        "backup": FILES_ONLY,
        "restore": FILES_ONLY,
        "migrate": FILES_ONLY,
    }
)
"""What each command does as the operator of this machine, who is a superadmin."""

_MEMBERS_MAY = frozenset({"record_usage", "record_usage_batch", "reserve_usage", "settle_usage"})
"""What `METERING__MEMBERS_MAY_RECORD` opens to members, for themselves."""


@lru_cache(maxsize=4096)
def reach(operation: str, standing_roles: frozenset[str], *, members_may_record: bool) -> Reach:
    """The farthest reach any of the roles gives; NONE for an unknown operation or role."""
    row = REACH.get(operation, {})
    farthest = max((row.get(role, Reach.NONE) for role in standing_roles), default=Reach.NONE)
    if members_may_record and operation in _MEMBERS_MAY and "member" in standing_roles:
        return max(farthest, Reach.SELF)
    return farthest


@lru_cache(maxsize=1024)
def rows_of_tool(tool: str) -> tuple[str, ...]:
    """Its own row and those of its actions: whoever has any of them has the tool."""
    return tuple(row for row in REACH if row.partition(".")[0] == tool)


@lru_cache(maxsize=1024)
def row_of_action(tool: str, action: str) -> str:
    """The row that decides a tool's action: its own, else the tool's."""
    own = f"{tool}.{action}"
    return own if own in REACH else tool


def is_for_the_operator(command: str) -> bool:
    """Whether a command of the command line is available to the operator of the machine."""
    row = COMMANDS[command]
    return row == FILES_ONLY or reach(row, frozenset({"superadmin"}), members_may_record=False) is Reach.ALL
