"""`plans`: the plans as the ledger has them, and who holds which version."""

from typing import TYPE_CHECKING, Any

import click

from subscription_mcp.cli.acting import on_the_ledger
from subscription_mcp.cli.common import json_option, print_json, settings_of
from subscription_mcp.domain.wording import counted
from subscription_mcp.ledger.queries import PlanHolders
from subscription_mcp.tools import documents, texts

if TYPE_CHECKING:
    from subscription_mcp.assembly import Service


@click.group()
def plans() -> None:
    """The plans as the ledger has them."""


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
        most = "unlimited" if limit["limit"] is None else f"{limit['limit']:,}"
        per = limit["window"].replace("_", " ")
        click.echo(f"  limit     {most} {limit['meter']} per {per} for each {limit['scope']}")
    for name, value in document["features"].items():
        click.echo(f"  feature   {name}: {'yes' if value is True else value or 'no'}")
    sessions = document["sessions"]
    click.echo(
        f"  sessions  at once {_or_unlimited(sessions['max_concurrent'])}, "
        f"seconds each {_or_unlimited(sessions['max_duration_seconds'])}"
    )


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


def _or_unlimited(value: int | None) -> str:
    return "unlimited" if value is None else f"{value:,}"
