"""`migrate`: bring the ledger's schema up to date."""

import asyncio

import click

from subscription_mcp.cli.common import settings_of, tell


@click.command()
@click.option("--check", is_flag=True, help="Only say whether there is something to do; exit 1 if so.")
@click.pass_context
def migrate(ctx: click.Context, check: bool) -> None:
    """Bring the database's schema up to date. A server does this at its start too."""
    from subscription_mcp.assembly import catalog_of, make_service
    from subscription_mcp.ledger.sqlite.schema import schema_of_file

    settings = settings_of(ctx)
    found, newest = schema_of_file(settings.database_path)
    if check:
        tell(f"Schema {found} of {newest}.")
        ctx.exit(0 if found == newest else 1)

    async def open_once() -> None:
        ledger = make_service(settings, catalog_of(settings)).ledger
        await ledger.open()
        await ledger.close()

    asyncio.run(open_once())
    tell(f"Schema {newest}, nothing to do." if found == newest else f"Schema {found} -> {newest}, done.")
