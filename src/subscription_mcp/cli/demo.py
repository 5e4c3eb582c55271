"""`demo`: a server with two tenants, users on every plan and 90 days of usage, and how to reach it."""

import asyncio
import json
import os
import secrets
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import platformdirs

from subscription_mcp.auth.keys import verification_key
from subscription_mcp.auth.principal import Role
from subscription_mcp.auth.tokens import mint
from subscription_mcp.cli.common import log_to_stderr, settings_of, tell
from subscription_mcp.cli.serving import DEFAULT_PORT, listen, run_http
from subscription_mcp.ledger.filelock import FileLock
from subscription_mcp.settings import DEFAULT_NAME, Settings, SettingsError, load_settings

OURSELVES = (sys.executable, "-m", "subscription_mcp")
CATALOG = "bedrock-chat"
PORTS_TRIED = 20
TOKEN_DAYS = 30


@dataclass(frozen=True, slots=True)
class Persona:
    """Somebody to be in the demonstration."""

    name: str
    user: str
    tier: str | None = None
    role: Role | None = None
    tenant: str = "acme"


PERSONAS = (
    Persona("basic", "bella", tier="basic"),
    Persona("advanced", "adam", tier="advanced"),
    Persona("premium", "petra", tier="premium"),
    Persona("service", "chat-backend", role="service"),
    Persona("tenant admin", "tara", role="tenant_admin"),
    Persona("super-admin", "root", role="superadmin"),
)


@click.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Where its data lives.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(1, 65535))
@click.option("--reset", is_flag=True, help="Make the demo data anew.")
@click.option("--no-serve", is_flag=True, help="Make the data and print everything, but start no server.")
@click.pass_context
def demo(ctx: click.Context, directory: Path | None, port: int, reset: bool, no_serve: bool) -> None:
    """Start a server with demo data of the catalog bedrock-chat and print how to reach it: URLs, a token per persona, client configurations."""
    log_to_stderr()
    with suppress(SettingsError):  # nothing of the environment is used, so none of its faults stop it
        if (configured := settings_of(ctx).catalog) != CATALOG:
            tell(
                f"The demo's people and their usage are those of {CATALOG}, not of {configured}, which is configured. "
                "To try that one: subscription-mcp serve"
            )
    folder = (directory or platformdirs.user_data_path(DEFAULT_NAME, appauthor=False) / "demo").absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Two demos started at once make one set of data.
    with closing(FileLock(folder / "lock")) as lock, lock:
        settings = prepare(folder, reset=reset)
    tokens = {persona.name: token_of(settings, persona) for persona in PERSONAS}
    if no_serve:
        print_guide(folder, f"http://127.0.0.1:{port}", tokens)
        return
    listening = first_free(port)
    asyncio.run(run_http(settings, listening, "127.0.0.1", lambda url: print_guide(folder, url, tokens)))


def prepare(folder: Path, *, reset: bool) -> Settings:
    """The demo's folder: a secret made once, a configuration file with nothing of the environment in it, and
    a ledger with data. Called under the folder's lock.

    A reset begins another file: a demo that still runs goes on in the old one and loses nothing.
    """
    secret = folder / "secret"
    if not secret.exists():
        _write_private(secret, secrets.token_urlsafe(48))
    ledgers = sorted(folder.glob("demo-*.db"), key=lambda path: path.stat().st_mtime_ns)
    database = ledgers[-1] if ledgers and not reset else folder / f"demo-{uuid.uuid4().hex[:8]}.db"
    configuration = folder / "subscription.toml"
    # Strings of TOML and JSON are written alike.
    lines = [
        "# Written by `subscription-mcp demo`; delete this folder to start over.",
        f"database_url = {json.dumps(f'sqlite:///{database}')}",
        f"catalog = {json.dumps(CATALOG)}",
        "",
        "[auth]",
        f"secret = {json.dumps(secret.read_text())}",
    ]
    if not database.exists():
        make_data(database, secret.read_text())
    _write_private(configuration, "\n".join(lines) + "\n")
    return load_settings({"config": str(configuration)}, environ={})


def make_data(database: Path, secret: str) -> None:
    """Fill a ledger with the demo's past. It is made aside and moved into place, so that an interrupted
    start leaves nothing half made."""
    from subscription_mcp.cli.demo_data import seed

    tell("making demo data: two tenants, 90 days of usage …")
    started = time.monotonic()
    for old in database.parent.glob("being-made.db*"):
        old.unlink()
    aside = database.with_name("being-made.db")
    settings = load_settings({"database_url": f"sqlite:///{aside}", "auth": {"secret": secret}}, environ={})
    events = asyncio.run(seed(settings))
    aside.rename(database)
    aside.with_name(f"{aside.name}.lock").unlink(missing_ok=True)
    tell(f"{events:,} events in {time.monotonic() - started:.0f} s")


def token_of(settings: Settings, persona: Persona) -> str:
    return mint(
        verification_key(settings),
        user=persona.user,
        tenant=persona.tenant,
        group=None,
        tier=persona.tier,
        roles=(persona.role,) if persona.role else (),
        ttl_seconds=TOKEN_DAYS * 86_400,
        issuer=settings.issuer,
        audience=settings.audiences[0],
        now_seconds=int(time.time()),
        token_id=str(uuid.uuid4()),
        claims=settings.auth.claims,
    )


def first_free(port: int) -> Any:
    """A socket on the port, or on the next free one."""
    for candidate in range(port, port + PORTS_TRIED):
        try:
            return listen("127.0.0.1", candidate)
        except SettingsError:
            continue
    raise SettingsError(
        f"None of the ports {port} to {port + PORTS_TRIED - 1} is free; choose another --port."
    )


def print_guide(folder: Path, base_url: str, tokens: dict[str, str]) -> None:
    """Everything needed to try it, on stdout."""
    service, basic = tokens["service"], tokens["basic"]
    bin_folder, configuration = str(Path(sys.executable).parent), str(folder / "subscription.toml")
    lines = [
        "",
        f"subscription-mcp demo: tenants acme and globex, catalog {CATALOG}",
        "",
        f"  MCP        {base_url}/mcp",
        f"  HTTP API   {base_url}/api/mcp/tools      plans {base_url}/api/plans, prices {base_url}/api/pricing",
        f"  health     {base_url}/readyz",
        "",
        f"Access tokens, valid for {TOKEN_DAYS} days:",
    ]
    for persona in PERSONAS:
        lines += ["", f"  {persona.name} ({persona.user} of {persona.tenant})", f"  {tokens[persona.name]}"]
    body = json.dumps({"arguments": {"user_id": "bella", "event": "message"}})
    lines += [
        "",
        "Record a message for the basic user, as the application's back end would:",
        "",
        f"  curl -s {base_url}/api/mcp/tools/record_usage -H 'Content-Type: application/json' \\",
        f"    -H 'Authorization: Bearer {service}' -d '{body}'",
        "",
        "What is left for her, in another terminal (the export makes the command short and points it here):",
        "",
        f"  export PATH={shlex.quote(bin_folder)}:$PATH SUBSCRIPTION_MCP_CONFIG={shlex.quote(configuration)}",
        "  subscription-mcp usage --tenant acme --user bella",
        "",
        "Claude Desktop (claude_desktop_config.json), over stdio on the same data:",
        "",
        *_indented(stdio_configuration(folder, basic)),
        "",
        "Claude Code (.mcp.json), over HTTP:",
        "",
        *_indented(http_configuration(base_url, basic)),
        "",
        f"Stop with Ctrl-C. Start over: {shlex.join([*OURSELVES, 'demo', '--reset', '--dir', str(folder)])}",
    ]
    click.echo("\n".join(lines))
    sys.stdout.flush()


def stdio_configuration(folder: Path, access_token: str) -> dict[str, Any]:
    """The block for a client that starts us: absolute paths, because hosts start with a bare PATH and no
    working directory of ours."""
    return {
        "mcpServers": {
            "subscription": {
                "command": OURSELVES[0],
                "args": [*OURSELVES[1:], "stdio"],
                "env": {
                    "SUBSCRIPTION_MCP_CONFIG": str(folder / "subscription.toml"),
                    "SUBSCRIPTION_MCP_TOKEN": access_token,
                },
            }
        }
    }


def http_configuration(base_url: str, access_token: str) -> dict[str, Any]:
    return {
        "mcpServers": {
            "subscription": {
                "type": "http",
                "url": f"{base_url}/mcp",
                "headers": {"Authorization": f"Bearer {access_token}"},
            }
        }
    }


def _indented(document: dict[str, Any]) -> Sequence[str]:
    return [f"  {line}" for line in json.dumps(document, indent=2).splitlines()]


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    aside.replace(path)
