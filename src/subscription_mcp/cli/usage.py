"""`usage`: what is used and left, on the command line."""

import asyncio
from typing import Any

import click

from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.tokens import TokenSource
from subscription_mcp.cli.common import json_option, local_operator, print_json, settings_of
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.identifiers import ID_RULE, is_id
from subscription_mcp.domain.wording import line_of
from subscription_mcp.ledger.commands import AccountView
from subscription_mcp.operations.access import Target
from subscription_mcp.settings import Settings

BAR_CELLS = 20


@click.command()
@click.option("--tenant", help="The tenant; 'default' unless given.")
@click.option("--account", help="An account; alone the whole account.")
@click.option("--user", help="A user. Without a target: whoever SUBSCRIPTION_MCP_TOKEN names.")
@json_option
@click.pass_context
def usage(
    ctx: click.Context, tenant: str | None, account: str | None, user: str | None, as_json: bool
) -> None:
    """What is used and left of every limit."""
    from subscription_mcp.assembly import verifier_without_ledger
    from subscription_mcp.tools import documents

    for name, value in (("--tenant", tenant), ("--account", account), ("--user", user)):
        if value is not None and not is_id(value):
            raise click.BadParameter(f"must be {ID_RULE}", param_hint=name)
    if tenant is not None and user is None and account is None:
        raise click.UsageError("--tenant goes with --user or --account.")
    settings = settings_of(ctx)
    if user is None and account is None:
        principal: Principal = asyncio.run(
            verifier_without_ledger(settings).admit(TokenSource.of(settings).read())
        )
        target = Target()
    else:
        principal = local_operator(tenant or "default")
        target = Target(None, account, user)
    view, catalog = asyncio.run(_view(settings, principal, target))
    if as_json:
        print_json(documents.tier_info(view, catalog))
        return
    plan = view.plan
    who = view.standing.user or view.standing.account
    click.echo(f"{who} in {view.standing.tenant}: {plan.title + ' plan' if plan else 'no subscription'}")
    for state in view.limits:
        click.echo(f"  {_bar(state)}  {line_of(state, view.limits)}")


async def _view(settings: Settings, principal: Principal, target: Target) -> tuple[AccountView, Any]:
    from subscription_mcp.assembly import catalog_of, make_service, opened

    catalog = catalog_of(settings)
    async with opened(make_service(settings, catalog), catalog, publishing=False) as service:
        do = service.operations
        caller = await do.access.caller(principal)
        return await do.plans.account(caller, target), do.plans.catalog


def _bar(state: LimitState) -> str:
    if state.permille is None:
        return " " * BAR_CELLS + "   no limit"
    filled = min(BAR_CELLS, state.permille * BAR_CELLS // 1000)
    return f"{'█' * filled}{'░' * (BAR_CELLS - filled)} {state.permille / 10:6.1f} %"
