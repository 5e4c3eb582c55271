"""`catalog`: look at catalogs and check one's own."""

import asyncio

import click

from subscription_mcp.catalogs import load_catalog, shipped_names
from subscription_mcp.cli.common import json_option, print_json, settings_of, tell
from subscription_mcp.domain.catalog import EventType
from subscription_mcp.domain.wording import counted
from subscription_mcp.tools import documents, texts


@click.group()
def catalog() -> None:
    """Shipped catalogs, and checking one's own."""


@catalog.command("list")
@json_option
def list_catalogs(as_json: bool) -> None:
    """The catalogs that come with the package."""
    found = [load_catalog(name) for name in shipped_names()]
    if as_json:
        print_json([{"name": one.name, "title": one.title, "plans": list(one.plans)} for one in found])
        return
    for one in found:
        click.echo(f"{one.name:20} {one.title} ({', '.join(one.plans)})")


@catalog.command("show")
@click.argument("name_or_path", required=False)
@json_option
@click.pass_context
def show_catalog(ctx: click.Context, name_or_path: str | None, as_json: bool) -> None:
    """The events, plans and prices of a catalog: a shipped name or a file, else the configured one."""
    found = load_catalog(name_or_path or settings_of(ctx).catalog)
    if as_json:
        plans = [documents.plan(plan, found) for plan in found.plans_by_price]
        events = {event.name: dict(event.attributes) for event in found.events.values()}
        head = {"name": found.name, "title": found.title, "currency": found.currency, "events": events}
        print_json({**head, "plans": plans, **documents.pricing(found)})
        return
    click.echo(f"{found.title} ({found.name})")
    click.echo(f"Events: {', '.join(_event(event) for event in found.events.values())}.")
    click.echo(texts.plans(list(found.plans_by_price), found))
    if found.prices:
        click.echo("Calls of models and providers cost:")
        click.echo(texts.model_prices(found.prices))


def _event(event: EventType) -> str:
    """What is recorded, with the attributes it may have: `document (characters: integer)`."""
    attributes = ", ".join(f"{name}: {kind}" for name, kind in event.attributes.items())
    return f"{event.name} ({attributes})" if attributes else event.name


@catalog.command("publish")
@click.option("--yes", is_flag=True, help="Do it: the ledger counts by this catalog from then on.")
@click.pass_context
def publish_catalog(ctx: click.Context, yes: bool) -> None:
    """Make the configured catalog that of a ledger that counts by another one. Subscribers keep their plans."""
    from subscription_mcp.assembly import catalog_of, make_service, opened

    settings = settings_of(ctx)
    found = catalog_of(settings)
    if not yes:
        raise click.UsageError(
            f"This changes the plans on offer to those of {found.name}. Add --yes to do it."
        )

    async def publish_once() -> None:
        async with opened(make_service(settings, found), found, replace_catalog=True):
            pass

    asyncio.run(publish_once())
    tell(f"The ledger counts by the catalog {found.name} now: {', '.join(found.plans)}.")


@catalog.command("check")
@click.argument("path", required=False)
@click.pass_context
def check_catalog(ctx: click.Context, path: str | None) -> None:
    """Check a catalog file, else the configured one; says file, key, what is wrong and the nearest valid word."""
    path = path or settings_of(ctx).catalog
    found = load_catalog(path)
    parts = [
        counted(len(found.plans), "plan"),
        counted(len(found.meters), "meter"),
        counted(len(found.events), "event"),
    ]
    if found.prices:
        parts.append(counted(len(found.prices), "price"))
    tell(f"{path}: fine, {', '.join(parts)}.")
