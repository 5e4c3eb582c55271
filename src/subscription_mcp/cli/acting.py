"""What commands that act on the ledger share: whose account is meant, and a tool call as the local operator."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from subscription_mcp.auth.tokens import DEFAULT_TENANT
from subscription_mcp.cli.common import local_operator, print_json, settings_of
from subscription_mcp.domain.identifiers import ID_RULE, is_id
from subscription_mcp.settings import Settings

if TYPE_CHECKING:
    from subscription_mcp.assembly import Service

T = TypeVar("T")
Command = Callable[..., Any]
reason_option = click.option("--reason", required=True, help="Kept in the audit trail.")


def target_options(command: Command) -> Command:
    """`--tenant`, `--account` and `--user`."""
    for option in (
        click.option("--user", callback=an_id, help="A user."),
        click.option("--account", callback=an_id, help="An account; alone the whole account."),
        click.option("--tenant", callback=an_id, help="The tenant; 'default' unless given."),
    ):
        command = option(command)
    return command


def an_id(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_id(value):
        raise click.BadParameter(f"must be {ID_RULE}", ctx, param)
    return value


def whom(tenant: str | None, account: str | None, user: str | None) -> dict[str, Any]:
    """The target as arguments of a tool. Raises UsageError where nobody is named."""
    if account is None and user is None:
        raise click.UsageError("Whose? Name a --user or an --account.")
    given = {"tenant_id": tenant or DEFAULT_TENANT, "account_id": account, "user_id": user}
    return {name: value for name, value in given.items() if value is not None}


def on_the_ledger(settings: Settings, do: "Callable[[Service], Awaitable[T]]") -> T:
    """Open the ledger as a server would, do one thing, close it. Raises LedgerUnusable."""
    from subscription_mcp.assembly import catalog_of, make_service, opened

    async def once() -> T:
        catalog = catalog_of(settings)
        async with opened(make_service(settings, catalog), catalog, publishing=False) as service:
            return await do(service)

    return asyncio.run(once())


def call_tool(
    ctx: click.Context, tool: str, given: dict[str, Any], as_json: bool, *, by_sentence: bool = False
) -> None:
    """Show what a tool answers the operator of this machine, by the same rules as over MCP; what is None was not
    given. `by_sentence` begins a line with each sentence. Raises Refusal."""
    arguments = {name: value for name, value in given.items() if value is not None}
    operator = local_operator(arguments.get("tenant_id", DEFAULT_TENANT))
    answer = on_the_ledger(settings_of(ctx), lambda service: service.toolbox.call(operator, tool, arguments))
    if as_json:
        print_json(answer.document)
    else:
        click.echo(answer.text.replace(". ", ".\n") if by_sentence else answer.text)
