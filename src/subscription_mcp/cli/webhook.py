"""`webhook send`: what the webhook has not received yet, sent again; and a test message."""

from typing import TYPE_CHECKING, Any

import click

from subscription_mcp.cli.acting import on_the_ledger
from subscription_mcp.cli.common import json_option, print_json, settings_of, tell
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.wording import counted
from subscription_mcp.settings import SettingsError

if TYPE_CHECKING:
    from subscription_mcp.assembly import Service
    from subscription_mcp.ledger.commands import Delivery
    from subscription_mcp.settings import Settings


SHOWN_MAX = 1000


@click.group()
def webhook() -> None:
    """Messages to your webhook."""


@webhook.command("send")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--dead", is_flag=True, help="Everything that nobody tries to send any more.")
@click.option("--test", is_flag=True, help="A message that means nothing, to see that it arrives.")
@click.option("--list", "only_list", is_flag=True, help="Only show what was not received yet; send nothing.")
@json_option
@click.pass_context
def send(
    ctx: click.Context, ids: tuple[str, ...], dead: bool, test: bool, only_list: bool, as_json: bool
) -> None:
    """Send messages to the webhook now, once each, also such that were given up or received before. Exit 1 where one was
    not received."""
    if sum((bool(ids), dead, test, only_list)) != 1:
        raise click.UsageError("Send what? Name ids of --list, or give --dead, --test or --list.")
    settings = settings_of(ctx)
    if only_list:
        found = on_the_ledger(settings, _waiting)
    else:
        if settings.webhooks.url is None:
            raise SettingsError("There is no webhook: set SUBSCRIPTION_MCP_WEBHOOKS__URL and …__SECRET.")
        found = on_the_ledger(settings, lambda service: _sent(settings, service, ids, dead=dead, test=test))
    if as_json:
        print_json({"messages": [_document(one) for one in found]})
    else:
        for one in found:
            click.echo(_line(one))
        if not found:
            tell("There is nothing to send." if dead else "There are no messages.")
    failed = [one for one in found if one.state != "delivered"]
    if failed and not only_list:
        tell(f"{counted(len(failed), 'message')} not received.")
        ctx.exit(1)


async def _waiting(service: "Service") -> "list[Delivery]":
    from subscription_mcp.ledger.queries import DeliveryPage

    found: list[Delivery] = await service.ledger.query(DeliveryPage(SHOWN_MAX))
    return found


async def _sent(
    settings: "Settings", service: "Service", ids: tuple[str, ...], *, dead: bool, test: bool
) -> "list[Delivery]":
    from subscription_mcp.assembly import courier_of

    courier = courier_of(settings, service)
    assert courier is not None  # there is an address
    return await (courier.send_test() if test else courier.send_again(None if dead else ids))


def _document(one: "Delivery") -> dict[str, Any]:
    return {
        "id": one.id,
        "event": one.event,
        "tenant_id": one.tenant or None,
        "state": one.state,
        "attempts": one.attempts,
        "last_error": one.last_error,
        "created_at": format_instant(one.created_at),
        "next_attempt_at": format_instant(one.next_attempt_at) if one.state == "pending" else None,
    }


def _line(one: "Delivery") -> str:
    error = f", last error {one.last_error}" if one.last_error else ""
    when = f", next at {format_instant(one.next_attempt_at)}" if one.state == "pending" else ""
    return f"{one.id}  {one.state:9} {one.event}, {counted(one.attempts, 'attempt')}{error}{when}"
