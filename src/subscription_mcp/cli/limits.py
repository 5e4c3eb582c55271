"""`limits`: limits set by hand in place of the plan's, and rates cleared, as the operator of this machine."""

from typing import Any

import click

from subscription_mcp.cli.acting import call_tool, target_options, whom
from subscription_mcp.cli.common import json_option, print_json, settings_of
from subscription_mcp.domain.catalog import TOTAL_MAX
from subscription_mcp.tools.bodies import Answer

TOOL = "manage_limits"
meter_option = click.option("--meter", required=True, help="A meter of the catalog, like messages.")
window_option = click.option("--window", required=True, help="day, month, … as the plan limits it.")
reason_option = click.option("--reason", required=True, help="Kept in the audit trail.")


class LimitValue(click.ParamType[int | str]):
    """An integer, or `unlimited`."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int):
            return value
        if value == "unlimited":
            return "unlimited"
        if not (value.isascii() and value.isdigit() and int(value) <= TOTAL_MAX):
            self.fail(f"give an integer from 0 to {TOTAL_MAX}, or unlimited", param, ctx)
        return int(value)


@click.group()
def limits() -> None:
    """Limits of a user or account, set by hand in place of the plan's."""


@limits.command("list")
@target_options
@json_option
@click.pass_context
def list_limits(ctx: click.Context, /, as_json: bool, **target: str | None) -> None:
    """Every limit as it stands, with what is used and left."""
    _show(_ask(ctx, target, action="list"), as_json)


@limits.command("set")
@target_options
@meter_option
@window_option
@click.option("--limit", required=True, type=LimitValue(), help="An integer, or unlimited.")
@reason_option
@click.option("--expires-at", help="When the plan's limit applies again, like 2026-12-31T00:00:00Z.")
@json_option
@click.pass_context
def set_limit(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Set a limit, effective at once, also beyond the plan's."""
    _show(_ask(ctx, given, action="set"), as_json)


@limits.command("clear")
@target_options
@meter_option
@window_option
@reason_option
@json_option
@click.pass_context
def clear_limit(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Let the plan's limit apply again."""
    _show(_ask(ctx, given, action="clear"), as_json)


@limits.command("clear-rate")
@target_options
@click.option("--meter", help="A meter the plan limits per minute; all of them unless given.")
@reason_option
@json_option
@click.pass_context
def clear_rate(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Let somebody who was too fast go on at once: forget the last minute."""
    _show(_ask(ctx, given, action="clear_rate"), as_json)


@limits.command("history")
@target_options
@json_option
@click.pass_context
def limit_history(ctx: click.Context, /, as_json: bool, **target: str | None) -> None:
    """The newest changes, with who made them and why."""
    _show(_ask(ctx, target, action="history"), as_json)


def _ask(ctx: click.Context, given: dict[str, Any], **more: Any) -> Answer:
    target = whom(given.pop("tenant"), given.pop("account"), given.pop("user"))
    named = {name: value for name, value in given.items() if value is not None}
    return call_tool(settings_of(ctx), TOOL, {**target, **named, **more})


def _show(answer: Answer, as_json: bool) -> None:
    if as_json:
        print_json(answer.document)
    else:
        click.echo(answer.text.replace(". ", ".\n"))
