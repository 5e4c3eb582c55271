"""`accounts`: what operators do with accounts, as the operator of this machine."""

from typing import Any

import click

from subscription_mcp.auth.tokens import DEFAULT_TENANT
from subscription_mcp.cli.acting import call_tool, reason_option, target_options, whom
from subscription_mcp.cli.common import json_option

TOOL = "manage_accounts"
tenant_option = click.option("--tenant", help="The tenant; 'default' unless given.")


@click.group()
def accounts() -> None:
    """The accounts of a tenant: found, shown, suspended, counted, and users erased."""


@accounts.command("search")
@tenant_option
@click.argument("query", required=False)
@click.option("--cursor", help="The next_cursor of the last page.")
@click.option("--page-size", type=click.IntRange(1, 50), help="Accounts a page; 20 unless given.")
@json_option
@click.pass_context
def search(ctx: click.Context, /, tenant: str | None, as_json: bool, **given: Any) -> None:
    """Accounts by parts of their ids or of their users'; plan:KEY, status:WORD, kind:group narrow it."""
    _do(ctx, "search", {"tenant_id": tenant or DEFAULT_TENANT, **given}, as_json)


@accounts.command("statistics")
@tenant_option
@json_option
@click.pass_context
def statistics(ctx: click.Context, tenant: str | None, as_json: bool) -> None:
    """A tenant in numbers: accounts by plan and status, trials, sessions, who is near a limit."""
    _do(ctx, "statistics", {"tenant_id": tenant or DEFAULT_TENANT}, as_json)


@accounts.command("show")
@target_options
@json_option
@click.pass_context
def show(ctx: click.Context, /, as_json: bool, **target: str | None) -> None:
    """One account: plan, limits, members, open sessions, what was changed last."""
    _do(ctx, "show", whom(**target), as_json)


@accounts.command("suspend")
@target_options
@reason_option
@json_option
@click.pass_context
def suspend(ctx: click.Context, /, reason: str, as_json: bool, **target: str | None) -> None:
    """Refuse everything but reading, from now on."""
    _do(ctx, "suspend", {**whom(**target), "reason": reason}, as_json)


@accounts.command("activate")
@target_options
@reason_option
@json_option
@click.pass_context
def activate(ctx: click.Context, /, reason: str, as_json: bool, **target: str | None) -> None:
    """Let a suspended account go on."""
    _do(ctx, "activate", {**whom(**target), "reason": reason}, as_json)


@accounts.command("payment-failed")
@target_options
@reason_option
@json_option
@click.pass_context
def payment_failed(ctx: click.Context, /, reason: str, as_json: bool, **target: str | None) -> None:
    """Say that a payment failed: the account goes on for 7 days."""
    _do(ctx, "payment_failed", {**whom(**target), "reason": reason}, as_json)


@accounts.command("payment-received")
@target_options
@reason_option
@json_option
@click.pass_context
def payment_received(ctx: click.Context, /, reason: str, as_json: bool, **target: str | None) -> None:
    """Say that a payment that had failed was received."""
    _do(ctx, "payment_received", {**whom(**target), "reason": reason}, as_json)


@accounts.command("end-sessions")
@target_options
@reason_option
@json_option
@click.pass_context
def end_sessions(ctx: click.Context, /, reason: str, as_json: bool, **target: str | None) -> None:
    """End every open session of a user, or of everybody in an account."""
    _do(ctx, "end_sessions", {**whom(**target), "reason": reason}, as_json)


@accounts.command("erase")
@tenant_option
@click.option("--user", required=True, help="Whose id is taken out of the ledger; totals stay.")
@reason_option
@click.confirmation_option("--yes", prompt="This cannot be taken back. Erase the user?", help="Do not ask.")
@json_option
@click.pass_context
def erase(ctx: click.Context, tenant: str | None, user: str, reason: str, as_json: bool) -> None:
    """Erase one user for good, here and in the log; backups made before still have them."""
    _do(ctx, "erase", {**whom(tenant, None, user), "reason": reason}, as_json)


def _do(ctx: click.Context, action: str, arguments: dict[str, Any], as_json: bool) -> None:
    call_tool(ctx, TOOL, {**arguments, "action": action}, as_json)
