"""The tables of README.md that are made from the code. `python -m tests.generated_docs` writes them anew."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import click

from subscription_mcp.auth.permissions import REACH, STANDING_ROLES, Reach, reach, row_of_action
from subscription_mcp.catalogs import load_catalog
from subscription_mcp.cli.main import cli
from subscription_mcp.domain.subscriptions import ALLOWED_FROM, Status, Subscription
from subscription_mcp.tools.toolbox import TOOLS, Tool

README = Path(__file__).resolve().parents[1] / "README.md"
SHIPPED = "bedrock-chat"
DAY = 86_400_000_000


def _held(**fields: Any) -> Subscription:
    """A subscription at the instant 0."""
    return Subscription("plan", 1, "purchase", 0, 0, **fields)


TARGET = ("tenant_id", "account_id", "user_id")


def tools_table() -> str:
    catalog = load_catalog(SHIPPED)
    lines = ["| tool | call it | arguments | for | |", "|---|---|---|---|---|"]
    for tool in TOOLS:
        feature = catalog.feature_of_tool(tool.name)
        who = _who(tool) + (f"; in `{SHIPPED}` with `{feature}`" if feature else "")
        effect = "reads" if tool.read_only else "changes"
        description = tool.description.removeprefix("Call this ")
        description = description[0].upper() + description[1:]
        lines.append(f"| `{tool.name}` | {description} | {_arguments(tool)} | {who} | {effect} |")
    return "\n".join(lines)


def _arguments(tool: Tool) -> str:
    fields = tool.arguments.model_fields
    own = [
        f"`{name}`" if field.is_required() else f"`{name}?`"
        for name, field in fields.items()
        if name not in TARGET
    ]
    return ", ".join([*own, *(["target"] if "user_id" in fields else [])]) or "–"


def _who(tool: Tool) -> str:
    actions = actions_of(tool)
    rows = {action: REACH[row_of_action(tool.name, action)] for action in actions} or {"": REACH[tool.name]}
    if all(reaches["member"] > Reach.NONE for reaches in rows.values()):
        return "everybody"
    names = {"holder": "holder of a personal account", "admin": "`admin`"}
    who = []
    for role in STANDING_ROLES:
        given = [action for action, reaches in rows.items() if reaches[role] > Reach.NONE]
        some = f" ({', '.join(f'`{action}`' for action in given)})" if len(given) < len(rows) else ""
        if given:
            who.append(names.get(role, f"`{role}`") + some)
    if not actions and _may_be_opened(tool.name):
        who.append("users with `METERING__MEMBERS_MAY_RECORD`")
    return ", ".join(who)


def actions_of(tool: Tool) -> tuple[str, ...]:
    """What its argument `action` may be; none of a tool that does one thing."""
    field = tool.arguments.model_fields.get("action")
    return get_args(field.annotation) if field is not None else ()


def _may_be_opened(operation: str) -> bool:
    """Whether a setting gives it to members."""
    return reach(operation, frozenset({"member"}), members_may_record=True) > Reach.NONE


def commands_table() -> str:
    lines = ["| | |", "|---|---|"]
    for words, command in commands():
        context = click.Context(command)
        given = [
            name
            for parameter in command.get_params(context)
            if parameter.name != "help"
            for name in (
                [parameter.make_metavar(context)] if _is_argument(parameter) else parameter.opts[-1:]
            )
        ]
        summary = " ".join((command.help or "").split())
        usage = "".join(f" `{name}`" for name in given)
        lines.append(f"| `subscription-mcp {words}`{usage} | {summary} |")
    return "\n".join(lines)


def _is_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


def commands(
    command: click.Command = cli, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command with the words a person types for it."""
    if not isinstance(command, click.Group):
        yield " ".join(above), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from commands(child, (*above, name))


STATUSES: dict[Status, tuple[str, Subscription]] = {
    "trialing": ("a trial runs; it began with the first call", _held(trial_ends_at=DAY)),
    "active": ("all is well", _held()),
    "past_due": ("a payment is overdue, for 7 days at most", _held(past_due_since=0)),
    "suspended": ("an operator has suspended the account", _held(suspended_at=0)),
    "canceled": ("it was cancelled, and nothing free follows", _held(ended_at=0, ended_as="canceled")),
    "expired": ("a trial, or a fixed number of days, is over", _held(trial_ends_at=0)),
}


def statuses_table() -> str:
    """Each status with what is refused in it and what may be done about it."""
    lines = ["| status | when | everything but reading | may be changed by |", "|---|---|---|---|"]
    for status, (when, subscription) in STATUSES.items():
        assert subscription.status_at(0) == status
        code = subscription.standstill_at(0)
        legal = ", ".join(f"`{action}`" for action, statuses in ALLOWED_FROM.items() if status in statuses)
        lines.append(f"| `{status}` | {when} | {f'`{code}`' if code else 'goes on'} | {legal} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "tools": tools_table,
    "commands": commands_table,
    "statuses": statuses_table,
}


def with_tables(text: str) -> str:
    """The text with every generated table as the code says it now."""
    for name, table in TABLES.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- /generated: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md must hold {begin} and {end} once")
        made = f"{begin}\n{table()}\n{end}"
        text = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, made=made: made, text, flags=re.DOTALL
        )
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
