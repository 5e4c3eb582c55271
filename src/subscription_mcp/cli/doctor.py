"""`doctor`: is everything in place? Changes nothing, and says what to do about each fault."""

import asyncio
import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click

from subscription_mcp import __version__
from subscription_mcp.cli.common import json_option, print_json, settings_of
from subscription_mcp.cli.main import error_text
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.settings import Settings, SettingsError

FIRST_SAFE_SQLITE = (3, 51, 3)


@dataclass(slots=True)
class Finding:
    """One check: how it went, what was seen, and what to do where it failed."""

    check: str
    state: str
    seen: str
    fix: str | None = None


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check settings, key, catalog, database and token; says how to mend what is wrong."""
    findings = [_versions()]
    try:
        settings = settings_of(ctx)
    except SettingsError as error:
        findings.append(Finding("settings", "FAIL", str(error), "correct the setting named above"))
    else:
        seen = f"from {settings.config}" if settings.config else "from the environment and defaults"
        findings.append(Finding("settings", "ok", seen))
        findings += [_judged(check, settings) for check in (_key, _catalog, _database, _token)]
    failed = any(finding.state == "FAIL" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [_as_dict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.state:5} {finding.check:10} {finding.seen}")
            if finding.fix:
                click.echo(f"{'':16} {'note' if finding.state == 'ok' else 'fix'}: {finding.fix}")
    ctx.exit(1 if failed else 0)


def _as_dict(finding: Finding) -> dict[str, str | None]:
    return {"check": finding.check, "state": finding.state, "seen": finding.seen, "fix": finding.fix}


def _judged(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except Exception as error:
        name = check.__name__.lstrip("_")
        return Finding(name, "FAIL", error_text(error), "see the sentence above")


def _versions() -> Finding:
    found = (
        f"subscription-mcp {__version__}, mcp {version('mcp')}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}"
    )
    # The lock file makes older versions safe among our own processes; anybody else's need the newer one.
    safe = sqlite3.sqlite_version_info >= FIRST_SAFE_SQLITE
    note = (
        None
        if safe
        else "let no other program write or checkpoint the ledger's file; back it up with SQLite's API"
    )
    return Finding("versions", "ok", f"{found} ({sys.executable})", note)


def _key(settings: Settings) -> Finding:
    from subscription_mcp.auth.jwks import KeySet
    from subscription_mcp.auth.keys import verification_key
    from subscription_mcp.domain.errors import Refusal

    if settings.key_kind == "local" and not (settings.data_dir / "local-key").exists():
        return Finding("key", "ok", "a local key will be made at the first use")
    key = verification_key(settings)
    if isinstance(key.key, KeySet):
        try:
            asyncio.run(key.key.look_again())
        except Refusal:
            seen = f"the key set at {settings.auth.jwks_url} cannot be had"
            fix = "is AUTH__JWKS_URL the jwks_uri of your provider, and reachable from this machine?"
            return Finding("key", "FAIL", seen, fix)
    return Finding("key", "ok", f"{key.kind}, {', '.join(key.algorithms)}, issuer {settings.issuer}")


def _catalog(settings: Settings) -> Finding:
    from subscription_mcp.catalogs import load_catalog

    found = load_catalog(settings.catalog)
    return Finding("catalog", "ok", f"{found.name}: {', '.join(found.plans)}")


def _database(settings: Settings) -> Finding:
    from subscription_mcp.ledger.sqlite_schema import schema_of_file

    path = settings.database_path
    if not path.exists():
        parent = _existing_parent(path)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            return Finding("database", "FAIL", f"{path} cannot be made", f"make {parent} a writable folder")
        return Finding("database", "ok", f"{path} will be made at the first start")
    found, newest = schema_of_file(path)
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return Finding("database", "FAIL", f"{path} is read-only", "make the file and its folder writable")
    if path.stat().st_mode & 0o077 and os.name == "posix":
        return Finding("database", "warn", f"{path} can be read by others", f"chmod 600 {path}")
    state = "ok" if found == newest else "warn"
    return Finding("database", state, f"{path}, schema {found} of {newest}")


def _token(settings: Settings) -> Finding:
    from subscription_mcp.assembly import verifier_without_ledger
    from subscription_mcp.auth.tokens import TokenSource

    if settings.token is None and settings.token_file is None:
        fix = "only stdio needs one: subscription-mcp token mint --user YOU, then set SUBSCRIPTION_MCP_TOKEN"
        return Finding("token", "warn", "none", fix)
    principal = asyncio.run(verifier_without_ledger(settings).admit(TokenSource.of(settings).read()))
    until = format_instant(principal.expires_at * 1_000_000)
    return Finding("token", "ok", f"{principal.user} of {principal.tenant}, valid until {until}")


def _existing_parent(path: Path) -> Path:
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    return parent
