"""The command `subscription-mcp`: its subcommands, its faults as sentences, its exit codes."""

import copy
import importlib
import sys
from typing import Any

import click

from subscription_mcp import __version__
from subscription_mcp.auth.permissions import is_for_the_operator

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_QUOTA = 3
EXIT_AUTHENTICATION = 4
EXIT_UNREACHABLE = 5
EXIT_INTERRUPTED = 130

COMMANDS = {
    "stdio": "subscription_mcp.cli.serving:stdio",
    "serve": "subscription_mcp.cli.serving:serve",
    "demo": "subscription_mcp.cli.demo:demo",
    "init": "subscription_mcp.cli.init:init",
    "token": "subscription_mcp.cli.token:token",
    "catalog": "subscription_mcp.cli.catalog:catalog",
    "usage": "subscription_mcp.cli.usage:usage",
    "limits": "subscription_mcp.cli.limits:limits",
    "accounts": "subscription_mcp.cli.accounts:accounts",
    "plans": "subscription_mcp.cli.plans:plans",
    "events": "subscription_mcp.cli.events:events",
    "webhook": "subscription_mcp.cli.webhook:webhook",
    "connect": "subscription_mcp.cli.connect:connect",
    "bridge": "subscription_mcp.cli.bridge:bridge",
    "doctor": "subscription_mcp.cli.doctor:doctor",
    "export": "subscription_mcp.cli.export:export",
    "import": "subscription_mcp.cli.keeping:import_ledger",
    "verify": "subscription_mcp.cli.keeping:verify",
    "backup": "subscription_mcp.cli.keeping:backup",
    "restore": "subscription_mcp.cli.keeping:restore",
    "migrate": "subscription_mcp.cli.migrate:migrate",
}


class LazyGroup(click.Group):
    """Imports a command when it is used: the stdio server must start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, name = place.split(":")
        return permitted(getattr(importlib.import_module(module), name), cmd_name)


def permitted(command: click.Command, words: str) -> click.Command | None:
    """The command, a group with those the permission table gives the operator of this machine."""
    if not isinstance(command, click.Group):
        return command if is_for_the_operator(words) else None
    group = copy.copy(command)
    children = {name: permitted(child, f"{words} {name}") for name, child in command.commands.items()}
    group.commands = {name: child for name, child in children.items() if child is not None}
    return group


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="subscription-mcp")
@click.option("--config", metavar="FILE", help="A subscription.toml to read; else SUBSCRIPTION_MCP_CONFIG.")
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Plans, quotas, usage metering and billing as an MCP server."""
    ctx.obj = {} if config is None else {"config": config}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failed, 2 usage or configuration, 3 refused by quota,
    4 authentication, 5 cannot reach the database or server."""
    try:
        code: Any = cli.main(args=arguments, prog_name="subscription-mcp", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show(file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)
    except Exception as error:
        known = exit_code_of(error)
        if known is None:
            raise
        click.echo(f"Error: {error_text(error)}", err=True)
        sys.exit(known)
    sys.exit(code if isinstance(code, int) else 0)


def exit_code_of(error: Exception) -> int | None:
    """The exit code of a fault that is told in a sentence; None where it is a defect of ours."""
    from subscription_mcp.domain.catalog_file import CatalogError
    from subscription_mcp.domain.errors import Refusal
    from subscription_mcp.ledger.port import LedgerUnusable, TransferRefused
    from subscription_mcp.settings import SettingsError

    if isinstance(error, SettingsError | CatalogError):
        return EXIT_CONFIGURATION
    if isinstance(error, LedgerUnusable):
        return EXIT_UNREACHABLE
    if isinstance(error, TransferRefused):
        return EXIT_FAILED
    if isinstance(error, Refusal):
        return {
            "unauthenticated": EXIT_AUTHENTICATION,
            "quota_exceeded": EXIT_QUOTA,
            "rate_limited": EXIT_QUOTA,
            "session_limit": EXIT_QUOTA,
            "unavailable": EXIT_UNREACHABLE,
            "invalid_request": EXIT_CONFIGURATION,
        }.get(error.code, EXIT_FAILED)
    return None


def error_text(error: Exception) -> str:
    from subscription_mcp.domain.errors import Refusal

    return error.message if isinstance(error, Refusal) else str(error)
