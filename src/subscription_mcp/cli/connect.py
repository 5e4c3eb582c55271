"""`connect`: enter this server, or a remote one, in the configuration file of an MCP host."""

import getpass
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from subscription_mcp.auth.keys import verification_key
from subscription_mcp.auth.tokens import DEFAULT_TENANT, TokenVerifier, mint
from subscription_mcp.cli import hosts
from subscription_mcp.cli.common import settings_of, tell
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.identifiers import ID_RULE, is_id
from subscription_mcp.domain.instants import SECOND, format_instant
from subscription_mcp.settings import PREFIX, TEST_PREFIX, Settings, SettingsError

TOKEN_DAYS = 365
RENEWED_WITHIN_DAYS = 30
"""A token that is valid for less than this is made anew by the next `connect`."""
NAME = "subscription"
# -P: whatever lies in the folder that the host starts us in is not imported in place of a module of ours.
OURSELVES = ("-P", "-m", "subscription_mcp")
_NOT_HANDED_ON = frozenset({"TOKEN", "TOKEN_FILE", "CLOCK"})
_SECRET = frozenset({"AUTH__SECRET"})


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a local token is for."""

    tenant: str
    user: str
    tier: str | None


@click.command()
@click.argument("host", type=click.Choice(list(hosts.HOSTS)))
@click.option("--print", "only_print", is_flag=True, help="Print the block; leave the host's file alone.")
@click.option("--remove", is_flag=True, help="Take our entry out again, and the token that was made for it.")
@click.option("--name", default=NAME, show_default=True, help="What the host calls the server.")
@click.option(
    "--scope",
    type=click.Choice(hosts.SCOPES),
    help="This project's file, or the user's; project unless the host has no such file.",
)
@click.option("--url", help="A server that runs elsewhere, reached through `bridge`; needs --token-file.")
@click.option("--token-file", help="A file with the access token; without it one is made here.")
@click.option("--tenant", help="The tenant of the token that is made; 'default' unless given.")
@click.option("--user", help="Whose token is made; your login name unless given.")
@click.option("--tier", help="The plan that user starts on.")
@click.pass_context
def connect(
    ctx: click.Context,
    host: str,
    only_print: bool,
    remove: bool,
    name: str,
    scope: str | None,
    url: str | None,
    token_file: str | None,
    tenant: str | None,
    user: str | None,
    tier: str | None,
) -> None:
    """Enter this server in the configuration of an MCP host, with a token of its own that is valid for 365 days. Keeps a backup."""
    if not is_id(name):
        raise click.BadParameter(f"must be {ID_RULE}", param_hint="--name")
    place = hosts.place_of(host, scope)
    if remove:
        if only_print or url or token_file or tenant or user or tier:
            raise click.UsageError("--remove takes only --name and --scope.")
        _take_out(place, name, settings_of(ctx))
        return
    if url is not None:
        if token_file is None:
            raise click.UsageError("--url needs --token-file: the file with that server's access token.")
        if tenant or user or tier:
            raise click.UsageError("--tenant, --user and --tier are for a token made here, not for --url.")
        entry = remote_entry(place.host, url, _existing_file(token_file))
    elif token_file is not None:
        if tenant or user or tier:
            raise click.UsageError(
                "--tenant, --user and --tier are for a token made here; leave out --token-file."
            )
        entry = local_entry(place.host, settings_of(ctx), _existing_file(token_file))
    else:
        settings = settings_of(ctx)
        if not only_print:
            place.document()  # a file that cannot be changed is said before a token is made
        made = _token_file(settings, place, name)
        holder = Holder(tenant or DEFAULT_TENANT, user or _login_name(), tier)
        entry = local_entry(place.host, settings, made)
        tell(keep_token(settings, made, holder))
    if only_print:
        click.echo(json.dumps({place.host.wrapper: {name: entry}}, indent=2, ensure_ascii=False))
        tell(f"Nothing was written to {place.path}; paste the block there.")
        return
    _enter(place, name, entry)


def local_entry(host: hosts.Host, settings: Settings, token_file: Path) -> dict[str, Any]:
    """How a host starts this server: absolute paths, the settings of now, the token in a file of its own.
    Raises SettingsError where a secret would have to be written into the host's file."""
    variables = handed_on(settings) | {f"{PREFIX}TOKEN_FILE": str(token_file)}
    return _entry(host, ["stdio"], variables)


def remote_entry(host: hosts.Host, url: str, token_file: Path) -> dict[str, Any]:
    """How a host starts the bridge to a server that runs elsewhere."""
    return _entry(host, ["bridge", endpoint_of(url), "--token-file", str(token_file)], {})


def _entry(host: hosts.Host, words: Sequence[str], variables: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "stdio"} if host.names_type else {}
    entry |= {"command": str(Path(sys.executable).absolute()), "args": [*OURSELVES, *words]}
    if variables:
        entry["env"] = variables
    return entry


def handed_on(settings: Settings) -> dict[str, str]:
    """The variables of now that the server needs again when a host starts it with an environment of its own."""
    absolute = {
        "CONFIG": settings.config and str(Path(settings.config).expanduser().absolute()),
        "DATABASE_URL": settings.database_url,
        "CATALOG": settings.catalog,
        "AUTH__PUBLIC_KEY": settings.auth.public_key,
    }
    given = {
        name.removeprefix(PREFIX): value
        for name, value in sorted(os.environ.items())
        if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and value
    }
    secret = sorted(_SECRET & given.keys())
    if secret:
        raise SettingsError(
            f"{PREFIX}{secret[0]} is in the environment, which a host does not have, and a secret is not written "
            "into its file. Put it into a subscription.toml and name that with --config."
        )
    if settings.config:
        given["CONFIG"] = settings.config
    variables = {
        f"{PREFIX}{name}": absolute.get(name) or value
        for name, value in given.items()
        if name not in _NOT_HANDED_ON
    }
    if sys.platform == "linux" and os.environ.get("XDG_DATA_HOME"):
        variables["XDG_DATA_HOME"] = os.environ["XDG_DATA_HOME"]  # where the key and the ledger are
    return dict(sorted(variables.items()))


def endpoint_of(url: str) -> str:
    """The URL of a server's MCP endpoint; `/mcp` where only the server is named. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or any(not mark.isprintable() or mark.isspace() for mark in url):
        raise SettingsError("The URL must be one with a host, like https://quota.example.com/mcp.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError("The URL must be scheme, host and path only; the token belongs into a file.")
    local = parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local:
        raise SettingsError(
            "The URL must begin with https:// (http:// only for localhost): the token must not be overheard."
        )
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/mcp"


def keep_token(settings: Settings, path: Path, holder: Holder) -> str:
    """Make sure the file holds a token for this holder that is valid for a while; says what it did."""
    now_seconds = int(time.time())
    verifier = TokenVerifier.of(settings)
    try:
        found = verifier.verify(path.read_text("utf-8").strip(), now_seconds)
    except (OSError, ValueError, Refusal):
        found = None
    if found is not None:
        same = Holder(found.tenant, found.user, found.tier) == holder and found.group is None
        if same and found.expires_at > now_seconds + RENEWED_WITHIN_DAYS * 86_400:
            until = format_instant(found.expires_at * SECOND)
            return (
                f"token     the one of {holder.user} in {holder.tenant} is kept, valid until {until}: {path}"
            )
    access_token = mint(
        verification_key(settings),
        user=holder.user,
        tenant=holder.tenant,
        tier=holder.tier,
        ttl_seconds=TOKEN_DAYS * 86_400,
        issuer=settings.issuer,
        audience=settings.audiences[0],
        now_seconds=now_seconds,
        token_id=str(uuid.uuid4()),
        claims=settings.auth.claims,
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hosts.write_whole(path, access_token + "\n", mode=0o600)
    until = format_instant((now_seconds + TOKEN_DAYS * 86_400) * SECOND)
    return f"token     made for {holder.user} in {holder.tenant}, valid for {TOKEN_DAYS} days until {until}: {path}"


def is_ours(entry: Any) -> bool:
    """Whether an entry starts this package; any other is somebody else's and left alone."""
    if not isinstance(entry, dict):
        return False
    arguments = entry.get("args")
    words = arguments if isinstance(arguments, list) else []
    command = entry.get("command")
    program = Path(command).stem if isinstance(command, str) else ""
    return program == "subscription-mcp" or ("-m" in words and "subscription_mcp" in words)


def _enter(place: hosts.Place, name: str, entry: dict[str, Any]) -> None:
    document = place.document()
    servers = place.servers(document)
    if name in servers and not is_ours(servers[name]):
        raise SettingsError(
            f"{place.path} has another server of the name {name!r}; choose a --name for this one."
        )
    if servers.get(name) == entry:
        tell(f"{place.host.title}  {place.path} has it already; nothing to do.")
        return
    servers[name] = entry
    document[place.host.wrapper] = servers
    _told(place, place.write(document), f"{name!r} is entered")


def _take_out(place: hosts.Place, name: str, settings: Settings) -> None:
    document = place.document()
    servers = place.servers(document)
    if name in servers and not is_ours(servers[name]):
        raise SettingsError(f"{name!r} in {place.path} is another server; nothing was removed.")
    if name in servers:
        del servers[name]
        _told(place, place.write(document), f"{name!r} is removed")
    else:
        tell(f"{place.host.title}  {place.path} has no {name!r}; nothing to do.")
    _token_file(settings, place, name).unlink(missing_ok=True)


def _told(place: hosts.Place, backup: Path | None, what: str) -> None:
    tell(f"{place.host.title}  {what}: {place.path}")
    if backup is not None:
        tell(f"backup    {backup}")
    tell(f"next      {place.host.next_step}")


def _token_file(settings: Settings, place: hosts.Place, name: str) -> Path:
    """Where the token of one entry lives: beside the local key, one for each entry of each file."""
    which = uuid.uuid5(uuid.NAMESPACE_URL, f"{place.path}\n{name}").hex[:12]
    return settings.data_dir / "tokens" / f"{place.host.name}-{which}.token"


def _existing_file(token_file: str) -> Path:
    path = Path(token_file).expanduser().absolute()
    if not path.is_file():
        raise SettingsError(f"--token-file names {path}, which is no file.")
    return path


def _login_name() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return name if is_id(name) else "me"
