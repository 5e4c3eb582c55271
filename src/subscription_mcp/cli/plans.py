"""`plans`: the plans as the ledger has them, who holds which version, and editing them as the operator of this machine."""

import asyncio
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from subscription_mcp.cli.acting import call_tool, on_the_ledger, reason_option
from subscription_mcp.cli.common import json_option, print_json, settings_of, tell
from subscription_mcp.cli.plans_try import try_plans
from subscription_mcp.domain.wording import counted, maximum_text
from subscription_mcp.ledger.queries import PlanHolders
from subscription_mcp.tools import documents, texts

if TYPE_CHECKING:
    from subscription_mcp.assembly import Service

TOOL = "manage_plans"


@click.group()
def plans() -> None:
    """The plans as the ledger has them."""


plans.add_command(try_plans)


@plans.command("list")
@json_option
@click.pass_context
def list_plans(ctx: click.Context, as_json: bool) -> None:
    """The plans on offer, cheapest first."""

    async def look(service: "Service") -> tuple[list[Any], str]:
        do = service.operations.plans
        offered = await do.offered()
        return [documents.plan(plan, do.catalog) for plan in offered], texts.plans(offered, do.catalog)

    found, text = on_the_ledger(settings_of(ctx), look)
    if as_json:
        print_json({"plans": found})
    else:
        click.echo(text)


@plans.command("show")
@click.argument("plan")
@json_option
@click.pass_context
def show_plan(ctx: click.Context, plan: str, as_json: bool) -> None:
    """One plan: price, limits, features, sessions."""

    async def look(service: "Service") -> dict[str, Any]:
        do = service.operations.plans
        keys = [offered.key for offered in await do.offered()]
        if plan not in keys:
            raise click.BadParameter(f"there are {', '.join(keys)}", param_hint="PLAN")
        return documents.plan(do.plan(plan), do.catalog)

    document = on_the_ledger(settings_of(ctx), look)
    if as_json:
        print_json(document)
        return
    click.echo(f"{document['title']} ({document['plan']}), version {document['version']}")
    for name, amount in document["price"].items():
        if amount is not None:
            click.echo(f"  price     {amount['amount']} {amount['currency']} {name.replace('_', ' ')}")
    for limit in document["limits"]:
        most = "unlimited" if limit["limit"] is None else maximum_text(limit["limit"], limit["unit"])
        per = limit["window"].replace("_", " ")
        click.echo(
            f"  limit     {most} {limit['meter']} per {per} for each {limit['scope']}{_overage(limit)}"
        )
    for name, value in document["features"].items():
        click.echo(f"  feature   {name}: {'yes' if value is True else value or 'no'}")
    sessions = document["sessions"]
    click.echo(
        f"  sessions  at once {_or_unlimited(sessions['max_concurrent'])}, "
        f"seconds each {_or_unlimited(sessions['max_duration_seconds'])}"
    )


dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what it would be, and for whom.")


@plans.command("create")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--reason", help="Kept in the audit trail.")
@dry_run_option
@json_option
@click.pass_context
def create_plan(ctx: click.Context, /, file: str, as_json: bool, **given: Any) -> None:
    """Offer a new plan at once: a TOML file with the keys of a plan in a catalog, and its name as `plan`."""
    call_tool(ctx, TOOL, {"action": "create", "plan": _table_in(file), **given}, as_json)


@plans.command("update")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--reason", help="Kept in the audit trail.")
@dry_run_option
@json_option
@click.pass_context
def update_plan(ctx: click.Context, /, file: str, as_json: bool, **given: Any) -> None:
    """Give a plan a new version: a TOML file with its name as `plan` and what changes. Subscribers stay on theirs."""
    call_tool(ctx, TOOL, {"action": "update", "plan": _table_in(file), **given}, as_json)


@plans.command("archive")
@click.argument("plan")
@reason_option
@dry_run_option
@json_option
@click.pass_context
def archive_plan(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Offer a plan no longer. Who holds it keeps it; a catalog file does not bring it back."""
    call_tool(ctx, TOOL, {"action": "archive", **given}, as_json)


@plans.command("migrate")
@click.argument("plan")
@click.option("--from-version", type=click.IntRange(1), help="Only who holds this version.")
@reason_option
@dry_run_option
@json_option
@click.pass_context
def migrate_plan(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Move subscribers to a plan's newest version: its limits at once, its price at the next renewal."""
    call_tool(ctx, TOOL, {"action": "migrate", **given}, as_json)


@plans.command("reset")
@click.argument("plan")
@click.option("--yes", is_flag=True, help="Do it: what was edited or archived at run time is given up.")
@click.pass_context
def reset_plan(ctx: click.Context, plan: str, yes: bool) -> None:
    """Let the catalog file win again over what was edited or archived at run time. Subscribers stay on their version."""
    from subscription_mcp.assembly import catalog_of, make_service, opened

    settings = settings_of(ctx)
    found = catalog_of(settings)
    if not yes:
        raise click.UsageError(f"This offers {plan} as {found.source} has it. Add --yes to do it.")

    async def reset_once() -> None:
        async with opened(make_service(settings, found), found, reset=plan):
            pass

    asyncio.run(reset_once())
    tell(f"Plan {plan} is offered as {found.source} has it.")


def _table_in(file: str) -> dict[str, Any]:
    """The plan in a TOML file. Raises BadParameter."""
    try:
        return tomllib.loads(Path(file).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{file}: not valid TOML: {error}", param_hint="FILE") from None


@plans.command("holders")
@json_option
@click.pass_context
def plan_holders(ctx: click.Context, as_json: bool) -> None:
    """How many accounts of all tenants hold which version of each plan."""

    async def look(service: "Service") -> list[dict[str, Any]]:
        current = {plan.key: plan.version for plan in await service.operations.plans.offered()}
        rows = await service.ledger.query(PlanHolders(service.ledger.now()))
        return [
            {
                "plan": plan,
                "version": version,
                "accounts": accounts,
                "is_current": current.get(plan) == version,
            }
            for plan, version, accounts in sorted(rows)
        ]

    found = on_the_ledger(settings_of(ctx), look)
    if as_json:
        print_json({"holders": found})
        return
    for line in found:
        older = "" if line["is_current"] else "  (not the newest)"
        click.echo(
            f"{line['plan']:20} version {line['version']}  {counted(line['accounts'], 'account')}{older}"
        )
    if not found:
        click.echo("Nobody holds a plan yet.")


def _overage(limit: dict[str, Any]) -> str:
    """What is asked for a unit beyond a limit."""
    terms = limit.get("overage")
    if terms is None:
        return ""
    up_to = "" if terms["max"] is None else f", up to {terms['max']:,} more"
    return f", then {terms['price']} {terms['currency']} each{up_to}"


def _or_unlimited(value: int | None) -> str:
    return "unlimited" if value is None else f"{value:,}"
