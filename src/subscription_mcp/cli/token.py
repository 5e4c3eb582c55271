"""`token`: make, read and take back access tokens."""

import asyncio
import re
import sys
import time
import uuid
from typing import Any

import click

from subscription_mcp.auth.keys import verification_key
from subscription_mcp.auth.principal import Role
from subscription_mcp.auth.tokens import TokenSource, TokenVerifier, inspect, inspect_admission, mint
from subscription_mcp.cli.common import json_option, local_operator, print_json, settings_of, tell
from subscription_mcp.cli.main import EXIT_AUTHENTICATION
from subscription_mcp.domain.identifiers import ID_RULE, is_id
from subscription_mcp.domain.usage import is_visible
from subscription_mcp.ledger.commands import Actor, RevokeTokens, TokensRevoked
from subscription_mcp.settings import Settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TTL_SECONDS_MAX = 366 * 86_400
TOKEN_ID_CHARS_MAX = 1024
REASON_CHARS_MAX = 500


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
    """Make, read and take back access tokens."""


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
        profile=settings.auth.profile,
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
    from subscription_mcp.assembly import verifier_without_ledger

    settings = settings_of(ctx)
    if access_token in (None, "-"):
        piped = "" if sys.stdin.isatty() and access_token is None else sys.stdin.read().strip()
        access_token = piped or TokenSource.of(settings).read()
    assert access_token is not None
    shown = asyncio.run(inspect_admission(access_token, verifier_without_ledger(settings)))
    if as_json:
        print_json(shown)
    else:
        for part in ("header", "claims"):
            for name, value in (shown[part] or {}).items():
                click.echo(f"{part:8} {name:28} {value}")
        click.echo(f"verdict  {shown['verdict']}")
    ctx.exit(0 if shown["valid"] else EXIT_AUTHENTICATION)


@token.command("revoke")
@click.option("--id", "token_id", metavar="JTI", help="One token, by its claim jti.")
@click.option("--subject", metavar="SUB", help="Every token issued to a user until now.")
@click.option(
    "--tenant", metavar="TENANT", help="Alone: every token of the tenant. With --subject: only there."
)
@click.option("--reason", help="Why; kept in the audit trail.")
@json_option
@click.pass_context
def revoke_tokens(
    ctx: click.Context,
    token_id: str | None,
    subject: str | None,
    tenant: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Refuse tokens from now on: every server on this ledger does within a second. Tokens issued later are
    accepted, so take the right to get new ones away at the identity provider too."""
    if (token_id is None) == (subject is None and tenant is None):
        raise click.UsageError("Give --id alone, or --subject, --tenant or both.")
    for name, value in (("--subject", subject), ("--tenant", tenant)):
        if value is not None and not is_id(value):
            raise click.BadParameter(f"must be {ID_RULE}", param_hint=name)
    for name, value, most in (("--id", token_id, TOKEN_ID_CHARS_MAX), ("--reason", reason, REASON_CHARS_MAX)):
        if value is not None and not (value.isprintable() and 1 <= len(value) <= most):
            raise click.BadParameter(f"must be 1 to {most} printable characters", param_hint=name)
    if reason is not None and not is_visible(reason):
        raise click.BadParameter("must have at least one visible character", param_hint="--reason")
    operator = local_operator(tenant or "default")
    command = RevokeTokens(
        Actor(operator.user, "superadmin"), time.time_ns() // 1000, token_id, tenant, subject, reason
    )
    entry = asyncio.run(_revoked(settings_of(ctx), command)).audit
    if as_json:
        print_json({**(entry.after or {}), "reason": entry.reason, "audit_id": entry.id})
        return
    if token_id is not None:
        click.echo(f"Revoked the token {token_id}.")
    else:
        whose = " of ".join(
            name for name in (subject and f"user {subject}", tenant and f"tenant {tenant}") if name
        )
        click.echo(f"Revoked every token of {whose} issued until now.")


async def _revoked(settings: Settings, command: RevokeTokens) -> TokensRevoked:
    from subscription_mcp.assembly import catalog_of, make_service, opened

    catalog = catalog_of(settings)
    async with opened(make_service(settings, catalog), catalog, publishing=False) as service:
        return await service.ledger.do(command, TokensRevoked)
