"""`limits`: limits set by hand in place of the plan's, and rates cleared, as the operator of this machine."""

from typing import Any, cast

import click

from subscription_mcp.cli.acting import call_tool, reason_option, target_options, whom
from subscription_mcp.cli.common import json_option

TOOL = "manage_limits"
meter_option = click.option("--meter", required=True, help="A meter of the catalog, like messages.")
window_option = click.option("--window", required=True, help="day, month, … as the plan limits it.")


class IntegerOrText(click.ParamType[int | str]):
    """An integer as one, and all else as it is written: what may be said is the tool's to judge."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        is_integer = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
        return int(value) if is_integer else cast(int | str, value)


@click.group()
def limits() -> None:
    """Limits of a user or account, set by hand in place of the plan's."""


@limits.command("list")
@target_options
@json_option
@click.pass_context
def list_limits(ctx: click.Context, /, as_json: bool, **target: str | None) -> None:
    """Every limit as it stands, with what is used and left."""
    _do(ctx, "list", target, as_json)


@limits.command("set")
@target_options
@meter_option
@window_option
@click.option(
    "--limit",
    required=True,
    type=IntegerOrText(),
    help="An integer, of a cost an amount like 150.00, or unlimited.",
)
@reason_option
@click.option("--expires-at", help="When the plan's limit applies again: RFC 3339, or a day in UTC.")
@json_option
@click.pass_context
def set_limit(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Set a limit, effective at once, also beyond the plan's."""
    _do(ctx, "set", given, as_json)


@limits.command("grant")
@target_options
@meter_option
@window_option
@click.option(
    "--quantity",
    required=True,
    type=IntegerOrText(),
    help="How much more, in all; of a cost an amount like 25.00.",
)
@click.option("--starts-at", help="RFC 3339, or a day in UTC; now unless given.")
@click.option("--expires-at", help="When it ends, like 2027-01-01 for the whole of 2026; never unless given.")
@reason_option
@json_option
@click.pass_context
def grant(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Give more of a limit, used up after the plan's own and before anything is charged."""
    _do(ctx, "grant", given, as_json)


@limits.command("clear")
@target_options
@click.option("--meter", help="A meter of the catalog, like messages.")
@click.option("--window", help="day, month, … as the plan limits it.")
@click.option("--grant-id", help="Instead of a meter and window: the grant to end now, as list shows it.")
@reason_option
@json_option
@click.pass_context
def clear_limit(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Let the plan's limit apply again, or end a grant."""
    _do(ctx, "clear", given, as_json)


@limits.command("clear-rate")
@target_options
@click.option("--meter", help="A meter the plan limits per minute; all of them unless given.")
@reason_option
@json_option
@click.pass_context
def clear_rate(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Let somebody who was too fast go on at once: forget the last minute."""
    _do(ctx, "clear_rate", given, as_json)


@limits.command("correct")
@target_options
@click.option("--event-id", required=True, help="The event to take back, as list_usage_events shows it.")
@reason_option
@json_option
@click.pass_context
def correct_usage(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Take an event back, once: by a new entry, in every window it was counted in."""
    _do(ctx, "correct", given, as_json)


@limits.command("history")
@target_options
@json_option
@click.pass_context
def limit_history(ctx: click.Context, /, as_json: bool, **target: str | None) -> None:
    """The newest changes, with who made them and why."""
    _do(ctx, "history", target, as_json)


def _do(ctx: click.Context, action: str, given: dict[str, Any], as_json: bool) -> None:
    target = whom(given.pop("tenant"), given.pop("account"), given.pop("user"))
    call_tool(ctx, TOOL, {**target, **given, "action": action}, as_json, by_sentence=True)
