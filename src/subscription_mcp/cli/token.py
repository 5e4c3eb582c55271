"""`token`: make and read access tokens of this server."""

import re
import sys
import time
import uuid
from typing import Any

import click

from subscription_mcp.auth.keys import verification_key
from subscription_mcp.auth.principal import Role
from subscription_mcp.auth.tokens import TokenSource, TokenVerifier, inspect, mint
from subscription_mcp.cli.common import json_option, print_json, settings_of, tell
from subscription_mcp.cli.main import EXIT_AUTHENTICATION

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TTL_SECONDS_MAX = 366 * 86_400


class Duration(click.ParamType[int]):
    """`30d`, `12h`, `90m`, `45s`: whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,9})([smhd])", value)
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 1 <= seconds <= TTL_SECONDS_MAX:
            self.fail("give a number and s, m, h or d, like 12h or 30d; at most 366d", param, ctx)
        return seconds


@click.group()
def token() -> None:
    """Make and read access tokens."""


@token.command("mint")
@click.option("--user", required=True, help="The claim sub: who the token is for.")
@click.option("--tenant", help="The tenant; without one it is 'default'.")
@click.option("--group", help="The group account the user belongs to.")
@click.option("--tier", help="The plan the user starts on.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["member", "admin", "service", "tenant_admin", "superadmin"]),
    help="May be given several times.",
)
@click.option(
    "--ttl", "ttl_seconds", type=Duration(), default="1d", show_default=True, help="How long it is valid."
)
@json_option
@click.pass_context
def mint_token(
    ctx: click.Context,
    user: str,
    tenant: str | None,
    group: str | None,
    tier: str | None,
    roles: tuple[Role, ...],
    ttl_seconds: int,
    as_json: bool,
) -> None:
    """Make a token with this machine's key or AUTH__SECRET: the token on stdout, its claims on stderr."""
    settings = settings_of(ctx)
    access_token = mint(
        verification_key(settings),
        user=user,
        tenant=tenant,
        group=group,
        tier=tier,
        roles=roles,
        ttl_seconds=ttl_seconds,
        issuer=settings.issuer,
        audience=settings.audiences[0],
        now_seconds=int(time.time()),
        token_id=str(uuid.uuid4()),
        claims=settings.auth.claims,
    )
    shown = inspect(access_token, TokenVerifier.of(settings))
    if as_json:
        print_json({"token": access_token, **shown})
        return
    click.echo(access_token)
    tell("\n".join(f"{name:28} {value}" for name, value in shown["claims"].items()))


@token.command("inspect")
@click.argument("access_token", required=False)
@json_option
@click.pass_context
def inspect_token(ctx: click.Context, access_token: str | None, as_json: bool) -> None:
    """Say what a token claims and whether this server takes it. Reads the argument, else stdin where
    something is piped in, else SUBSCRIPTION_MCP_TOKEN."""
    settings = settings_of(ctx)
    if access_token in (None, "-"):
        piped = "" if sys.stdin.isatty() and access_token is None else sys.stdin.read().strip()
        access_token = piped or TokenSource.of(settings).read()
    assert access_token is not None
    shown = inspect(access_token, TokenVerifier.of(settings))
    if as_json:
        print_json(shown)
    else:
        for part in ("header", "claims"):
            for name, value in (shown[part] or {}).items():
                click.echo(f"{part:8} {name:28} {value}")
        click.echo(f"verdict  {shown['verdict']}")
    ctx.exit(0 if shown["valid"] else EXIT_AUTHENTICATION)
