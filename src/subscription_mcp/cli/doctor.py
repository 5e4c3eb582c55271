"""`doctor`: is everything in place? Changes nothing, and says what to do about each fault.

What is *configured* is read and judged; what is *live* was tried just now.
"""

import asyncio
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import click

from subscription_mcp import __version__
from subscription_mcp.auth.keys import verification_key
from subscription_mcp.cli.common import json_option, lacks_key, print_json, settings_of
from subscription_mcp.cli.main import error_text
from subscription_mcp.domain.catalog_file import CatalogError
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.wording import counted
from subscription_mcp.settings import Settings, SettingsError

FIRST_SAFE_SQLITE = (3, 51, 3)
Kind = Literal["configured", "live"]
State = Literal["ok", "warn", "FAIL", "skip"]


@dataclass(slots=True)
class Finding:
    """One check: how it went, what was seen, and what to do where it failed."""

    kind: Kind
    check: str
    state: State
    seen: str
    fix: str | None = None


@click.command()
@click.option("--url", help="Check a server that runs, too: its base URL or its /mcp.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, url: str | None, as_json: bool) -> None:
    """Check settings, key, catalog, database and token, start a server on stdio and, with --url, ask one that runs; says how to mend what is wrong. Changes nothing."""
    findings = [_versions()]
    try:
        settings = settings_of(ctx)
    except SettingsError as error:
        fix = "correct the setting named above"
        findings.append(Finding("configured", "settings", "FAIL", str(error), fix))
    else:
        seen = f"from {settings.config}" if settings.config else "from the environment and defaults"
        findings.append(Finding("configured", "settings", "ok", seen))
        configured: list[Callable[[Settings], Finding]] = [_key, _catalog, _token]
        findings += [_judged("configured", check, settings) for check in configured]
        findings.append(_judged("live", _database, settings))
        if settings.webhooks.url is not None:
            findings.append(_judged("live", _webhook, settings))
        findings.append(_stdio_unless_hopeless(settings, findings))
        if url is not None:
            from subscription_mcp.cli.doctor_live import ask_server

            findings += [Finding("live", *found) for found in ask_server(url, settings)]
    failed = any(finding.state == "FAIL" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.state:5} {finding.kind:11} {finding.check:9} {finding.seen}")
            if finding.fix:
                click.echo(f"{'':27} {'note' if finding.state == 'ok' else 'fix'}: {finding.fix}")
    ctx.exit(1 if failed else 0)


def _judged(kind: Kind, check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except Exception as error:
        name = check.__name__.lstrip("_")
        return Finding(kind, name, "FAIL", error_text(error), "see the sentence above")


def _stdio_unless_hopeless(settings: Settings, findings: list[Finding]) -> Finding:
    if any(finding.state == "FAIL" for finding in findings):
        return Finding("live", "stdio", "skip", "not tried", "mend the above first")
    from subscription_mcp.cli.doctor_live import start_stdio

    return Finding("live", *start_stdio(settings))


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
        else "let no other program write or checkpoint the ledger's file; copy it with `subscription-mcp backup` only"
    )
    return Finding("configured", "versions", "ok", f"{found} ({sys.executable})", note)


def _key(settings: Settings) -> Finding:
    from subscription_mcp.auth.jwks import KeySet
    from subscription_mcp.domain.errors import Refusal

    if lacks_key(settings):
        return Finding("configured", "key", "ok", "a local key will be made at the first use")
    key = verification_key(settings)
    if isinstance(key.key, KeySet):
        try:
            asyncio.run(key.key.look_again())
        except Refusal:
            seen = f"the key set at {settings.auth.jwks_url} cannot be had"
            fix = "is AUTH__JWKS_URL the jwks_uri of your provider, and reachable from this machine?"
            return Finding("live", "key", "FAIL", seen, fix)
    return Finding(
        "configured", "key", "ok", f"{key.kind}, {', '.join(key.algorithms)}, issuer {settings.issuer}"
    )


def _catalog(settings: Settings) -> Finding:
    from subscription_mcp.catalogs import load_catalog

    found = load_catalog(settings.catalog)
    return Finding("configured", "catalog", "ok", f"{found.name}: {', '.join(found.plans)}")


def _database(settings: Settings) -> Finding:
    from subscription_mcp.catalogs import load_catalog
    from subscription_mcp.ledger.sqlite.schema import catalog_of_file, schema_of_file

    path = settings.database_path
    if not path.exists():
        parent = _existing_parent(path)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            fix = f"make {parent} a writable folder"
            return Finding("live", "database", "FAIL", f"{path} cannot be made", fix)
        return Finding("live", "database", "ok", f"{path} will be made at the first start")
    started = time.perf_counter()
    found, newest = schema_of_file(path)
    opened_ms = (time.perf_counter() - started) * 1000
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return Finding(
            "live", "database", "FAIL", f"{path} is read-only", "make the file and its folder writable"
        )
    if path.stat().st_mode & 0o077 and os.name == "posix":
        return Finding("live", "database", "warn", f"{path} can be read by others", f"chmod 600 {path}")
    if found > newest:
        fix = "install the version again that wrote it"
        return Finding("live", "database", "FAIL", f"{path} has schema {found}, this knows {newest}", fix)
    seen = f"{path}, opened for reading in {opened_ms:.0f} ms, schema {found} of {newest}"
    if found < newest:
        return Finding(
            "live", "database", "warn", seen, "subscription-mcp migrate; a server does it at its start"
        )
    counts_by = catalog_of_file(path)
    with suppress(CatalogError):  # judged on its own
        if counts_by not in (None, load_catalog(settings.catalog).name):
            fix = (
                "name that catalog, or another DATABASE_URL: a ledger counts by one catalog; "
                "`subscription-mcp catalog publish` changes it on purpose"
            )
            return Finding("live", "database", "FAIL", f"{path} counts by the catalog {counts_by}", fix)
    return Finding("live", "database", "ok", seen)


def _webhook(settings: Settings) -> Finding:
    from subscription_mcp.ledger.sqlite.schema import messages_of_file

    secrets = settings.webhooks.secrets
    counts = messages_of_file(settings.database_path)
    waiting, dead = counts.get("pending", 0), counts.get("dead", 0)
    seen = f"{settings.webhooks.url}, {counted(len(secrets), 'secret')}, {counted(waiting, 'message')} waiting, {dead:,} dead"
    fix = "`subscription-mcp webhook send --list` says why, and `--dead` sends them again" if dead else None
    return Finding("live", "webhook", "warn" if dead else "ok", seen, fix)


def _token(settings: Settings) -> Finding:
    from subscription_mcp.assembly import verifier_without_ledger
    from subscription_mcp.auth.tokens import TokenSource, who_makes_one

    if settings.token is None and settings.token_file is None:
        who = who_makes_one(settings.may_mint, settings.issuer)
        fix = f"only stdio needs one: {who}; set it as SUBSCRIPTION_MCP_TOKEN"
        return Finding("configured", "token", "warn", "none", fix)
    if lacks_key(settings):  # judging it would make one
        fix = "subscription-mcp token mint --user YOU makes the key and a token"
        return Finding("configured", "token", "FAIL", "signed with another key: there is none here yet", fix)
    principal = asyncio.run(verifier_without_ledger(settings).admit(TokenSource.of(settings).read()))
    until = format_instant(principal.expires_at * 1_000_000)
    return Finding(
        "configured", "token", "ok", f"{principal.user} of {principal.tenant}, valid until {until}"
    )


def _existing_parent(path: Path) -> Path:
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    return parent
