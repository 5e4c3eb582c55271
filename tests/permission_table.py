"""Who may do what, spelled out a second time: what `auth/permissions.py` has to say and a server has to do.

To add a tool or an action: a line in `ROWS` and its smallest call in `CALLS`.
"""

import re
from typing import Any


def table(text: str) -> dict[str, dict[str, str]]:
    """A table as it is read: the first line names the columns; two spaces or more stand between cells."""
    head, *lines = [re.split(r"  +", line.strip()) for line in text.strip().splitlines()]
    return {name: dict(zip(head, cells, strict=True)) for name, *cells in lines}


ROWS = table("""
                                  member   holder   admin    service  tenant_admin  superadmin
get_tier_info                     SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
upgrade_tier                      NONE     ACCOUNT  ACCOUNT  NONE     TENANT        ALL
manage_subscription               NONE     ACCOUNT  ACCOUNT  NONE     TENANT        ALL
get_usage_analytics               SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
list_usage_events                 SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
export_usage                      SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
get_billing_history               NONE     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
check_quota                       SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
record_usage                      NONE     NONE     NONE     TENANT   NONE          NONE
record_usage_batch                NONE     NONE     NONE     TENANT   NONE          NONE
reserve_usage                     NONE     NONE     NONE     TENANT   NONE          NONE
settle_usage                      NONE     NONE     NONE     TENANT   NONE          NONE
open_session                      SELF     SELF     SELF     TENANT   SELF          SELF
renew_session                     SELF     SELF     SELF     TENANT   SELF          SELF
close_session                     SELF     SELF     SELF     TENANT   SELF          SELF
has_feature                       SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
list_plans                        SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
list_alerts                       SELF     ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
list_alerts.mark_read             SELF     ACCOUNT  ACCOUNT  NONE     TENANT        ALL
list_alerts.thresholds            NONE     ACCOUNT  ACCOUNT  NONE     TENANT        ALL
manage_limits                     NONE     ACCOUNT  ACCOUNT  NONE     TENANT        ALL
manage_limits.clear_rate          NONE     NONE     NONE     NONE     TENANT        ALL
manage_limits.correct             NONE     NONE     NONE     NONE     TENANT        ALL
manage_limits.grant               NONE     NONE     NONE     NONE     TENANT        ALL
manage_members                    NONE     ACCOUNT  ACCOUNT  NONE     TENANT        ALL
manage_plans                      NONE     NONE     NONE     NONE     NONE          ALL
manage_accounts.search            NONE     NONE     NONE     NONE     TENANT        ALL
manage_accounts.show              NONE     NONE     NONE     NONE     TENANT        ALL
manage_accounts.end_sessions      NONE     NONE     NONE     NONE     TENANT        ALL
manage_accounts.statistics        NONE     NONE     NONE     NONE     TENANT        ALL
manage_accounts.suspend           NONE     NONE     NONE     NONE     NONE          ALL
manage_accounts.activate          NONE     NONE     NONE     NONE     NONE          ALL
manage_accounts.erase             NONE     NONE     NONE     NONE     NONE          ALL
manage_accounts.payment_failed    NONE     NONE     NONE     NONE     NONE          ALL
manage_accounts.payment_received  NONE     NONE     NONE     NONE     NONE          ALL
tenant_summary                    NONE     NONE     NONE     NONE     TENANT        ALL
revoke_tokens                     NONE     NONE     NONE     NONE     NONE          ALL
send_webhooks                     NONE     NONE     NONE     NONE     NONE          ALL
""")
ROLES = tuple(ROWS["get_tier_info"])

MESSAGE = {"event": "message"}
LEASE = "…"
"""Stands in a call for the id of a session or reservation."""

CALLS: dict[str, dict[str, Any]] = {
    "get_tier_info": {},
    "upgrade_tier": {"plan": "advanced", "dry_run": True},
    "manage_subscription": {"action": "cancel", "dry_run": True},
    "get_usage_analytics": {},
    "list_usage_events": {},
    "export_usage": {"format": "csv", "start": "2026-01-01T00:00:00Z", "end": "2027-01-01T00:00:00Z"},
    "get_billing_history": {},
    "check_quota": MESSAGE,
    "record_usage": MESSAGE,
    "record_usage_batch": {"events": [MESSAGE]},
    "reserve_usage": MESSAGE,
    "settle_usage": {"reservation_id": LEASE},
    "open_session": {},
    "renew_session": {"session_id": LEASE},
    "close_session": {"session_id": LEASE},
    "has_feature": {"feature": "mcp_access"},
    "list_plans": {},
    "list_alerts": {},
    "list_alerts.mark_read": {"mark_read": ["00000000-0000-7000-8000-000000000000"]},
    "list_alerts.thresholds": {"thresholds": [80, 90, 100]},
    "manage_limits": {"action": "list"},
    "manage_members": {"action": "list"},
    "manage_plans": {"action": "list"},
    "manage_accounts.search": {"action": "search"},
    "manage_accounts.show": {"action": "show"},
    "manage_accounts.end_sessions": {"action": "end_sessions", "reason": "why"},
    "manage_accounts.statistics": {"action": "statistics"},
    "manage_accounts.suspend": {"action": "suspend", "reason": "why"},
    "manage_accounts.activate": {"action": "activate", "reason": "why"},
    "manage_accounts.erase": {"action": "erase", "reason": "why"},
    "manage_accounts.payment_failed": {"action": "payment_failed", "reason": "why"},
    "manage_accounts.payment_received": {"action": "payment_received", "reason": "why"},
    "manage_limits.clear_rate": {"action": "clear_rate", "reason": "why"},
    "manage_limits.correct": {"action": "correct", "event_id": "none", "reason": "why"},
    "manage_limits.grant": {
        "action": "grant",
        "meter": "messages",
        "window": "day",
        "quantity": 1,
        "reason": "why",
    },
}
"""The smallest valid call of every row that is a tool or an action of one, without a target."""

_ACCOUNT_ACTIONS = (
    "show",
    "end_sessions",
    "suspend",
    "activate",
    "erase",
    "payment_failed",
    "payment_received",
)
ONLY_TENANTS = {"manage_accounts.search", "manage_accounts.statistics"}
"""Rows that take no account or user."""
ONLY_ACCOUNTS = {"manage_members"}
"""Rows that take no user."""
SOMEBODY = {f"manage_accounts.{action}" for action in _ACCOUNT_ACTIONS}
"""Rows that need an account or a user; `erase` a user alone."""
LASTING = {"manage_accounts.suspend", "manage_accounts.erase"}
"""What would change the others' answers: only its denials are walked."""
OR_ELSE = {
    "manage_accounts.activate": ("conflict", "invalid_request"),
    "manage_accounts.payment_failed": ("conflict", "invalid_request"),
    "manage_accounts.payment_received": ("conflict", "invalid_request"),
    "manage_limits.clear_rate": ("invalid_request",),
    "manage_limits.correct": ("not_found",),
    "list_alerts.mark_read": ("not_found",),
    "manage_limits.grant": ("invalid_request",),
}
"""What may be answered as well where the role reaches: nothing is suspended or overdue, the user is in a group whose
account has to be named, there is no such rate or alert."""
ABOUT_NOBODY = {"list_plans", "manage_plans"}
"""Tools that take no target."""
OF_WHOLE_TENANTS = {
    *("get_usage_analytics", "list_usage_events", "export_usage"),
    *("list_alerts", "list_alerts.mark_read"),
}
"""Rows that answer about all of a tenant at once; the others then ask for a user or account."""

# How far each reach goes. yes: answered; no: forbidden; whole: answered by the tools of whole tenants, else invalid;
# name: invalid, for a service has to name a user; -: nobody of that reach has such a target.
TARGETS = table("""
                         SELF  ACCOUNT  TENANT  ALL    service
me                       yes   yes      yes     yes    name
me by name               yes   yes      yes     yes    yes
my group                 no    yes      -       -      -
my personal account      yes   yes      yes     yes    -
a colleague              no    yes      -       -      -
another user             no    no       yes     yes    yes
another account          no    no       yes     yes    name
a stranger in mine       no    no       -       -      -
a user of a group        no    no       yes     yes    yes
the tenant               no    no       whole   whole  name
another tenant           no    no       no      whole  no
a user elsewhere         no    no       no      yes    no
an account elsewhere     no    no       no      yes    no
a member elsewhere       no    no       no      yes    no
""")

# Whose sessions and reservations a call by id reaches; the rest do not exist.
LEASES = table("""
                SELF  service
mine            yes   yes
a colleague's   no    yes
another user's  no    yes
elsewhere       no    no
""")

# What is read and put before a model. accounts: those of them the role reaches.
OFFERS = table("""
                                        member  holder  admin  service  tenant_admin  superadmin
subscription://plans                    yes     yes     yes    yes      yes           yes
subscription://plans/{plan}             yes     yes     yes    yes      yes           yes
pricing://models                        yes     yes     yes    yes      yes           yes
pricing://models/{+model}               yes     yes     yes    yes      yes           yes
subscription://me                       yes     yes     yes    no       yes           yes
quota://me                              yes     yes     yes    no       yes           yes
quota://me/{meter}                      yes     yes     yes    no       yes           yes
usage://me/{period}                     yes     yes     yes    no       yes           yes
alerts://me                             yes     yes     yes    no       yes           yes
quota://accounts/{account_id}           no      mine    mine   no       tenant        tenant
usage://accounts/{account_id}/{period}  no      mine    mine   no       tenant        tenant
quota                                   yes     yes     yes    no       yes           yes
compare_plans                           yes     yes     yes    yes      yes           yes
explain_denial                          yes     yes     yes    no       yes           yes
""")

# What completes: something, nothing, or the ids of accounts.
COMPLETIONS = table("""
                                                      member  holder  admin  service  tenant_admin  superadmin
plan of subscription://plans/{plan}                   yes     yes     yes    yes      yes           yes
model of pricing://models/{+model}                    yes     yes     yes    yes      yes           yes
meter of quota://me/{meter}                           yes     yes     yes    no       yes           yes
period of usage://me/{period}                         yes     yes     yes    no       yes           yes
account_id of quota://accounts/{account_id}           no      mine    mine   no       tenant        tenant
account_id of usage://accounts/{account_id}/{period}  no      mine    mine   no       tenant        tenant
period of usage://accounts/{account_id}/{period}      no      yes     yes    no       yes           yes
plans of compare_plans                                yes     yes     yes    yes      yes           yes
event of explain_denial                               yes     yes     yes    no       yes           yes
feature of explain_denial                             yes     yes     yes    no       yes           yes
""")

# What a caller without and with an access token is answered.
ROUTES = table("""
                                                  nobody  member  service
/mcp                                              401     400     400
GET /api/mcp/tools                                401     200     200
POST /api/mcp/tools/{tool_name}                   401     200     200
GET /api/tenants/{tenant_id}/subscription         401     200     422
GET /api/tenants/{tenant_id}/subscription#tenant  401     -       -
GET /api/plans                                    200     200     200
GET /api/pricing                                  200     200     200
GET /openapi.json                                 200     200     200
GET /healthz                                      200     200     200
GET /readyz                                       200     200     200
GET /.well-known/oauth-protected-resource/mcp     200     200     200
""")

# What a command does as the operator of the machine, and how it is typed; nothing where it only reads and writes files.
COMMANDS = table("""
                 row                typed
stdio            files only         -
serve            files only         -
demo             files only         -
init             files only         -
token mint       files only         -
token inspect    files only         -
token revoke     revoke_tokens      --tenant globex --subject doug
catalog list     files only         -
catalog show     files only         -
catalog check    files only         -
catalog publish  manage_plans       --yes
usage            get_tier_info      --tenant globex --user doug
limits list      manage_limits      --tenant globex --user doug
limits grant     manage_limits.grant  --tenant globex --user doug --meter messages --window month --quantity 5 --reason why
limits set       manage_limits      --tenant globex --user doug --meter messages --window day --limit 5 --reason why
limits clear     manage_limits      --tenant globex --user doug --meter messages --window day --reason why
limits history   manage_limits      --tenant globex --user doug
plans list       list_plans         --json
plans show       list_plans         basic
plans holders    manage_plans       --json
plans create     manage_plans       extra.toml
plans try        manage_plans       bedrock-chat --tenant globex
plans archive    manage_plans       extra --reason why
plans update     manage_plans       basic.toml
plans migrate    manage_plans       basic --reason why
limits clear-rate  manage_limits.clear_rate  --tenant globex --user doug --reason why
limits correct   manage_limits.correct  --tenant globex --user doug --event-id EVENT --reason why
plans reset      manage_plans       basic --yes
accounts search  manage_accounts.search  --tenant globex
accounts show    manage_accounts.show  --tenant globex --user doug
accounts suspend  manage_accounts.suspend  --tenant globex --user doug --reason why
accounts activate  manage_accounts.activate  --tenant globex --user doug --reason why
accounts payment-failed  manage_accounts.payment_failed  --tenant globex --user gina --reason why
accounts payment-received  manage_accounts.payment_received  --tenant globex --user gina --reason why
accounts end-sessions  manage_accounts.end_sessions  --tenant globex --user doug --reason why
accounts statistics  manage_accounts.statistics  --tenant globex
events tail      list_usage_events  --tenant globex --user doug
webhook send     send_webhooks      --list
connect          files only         -
bridge           files only         -
doctor           files only         -
export           files only         -
import           files only         -
verify           files only         -
backup           files only         -
restore          files only         -
accounts erase   manage_accounts.erase  --tenant globex --user doug --reason why --yes
migrate          files only         -
""")
