"""What several commands share: settings, output, logging, acting as the operator of this machine."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from subscription_mcp.auth.keys import LOCAL_KEY
from subscription_mcp.auth.principal import Principal
from subscription_mcp.settings import DEFAULT_NAME, Settings, load_settings

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_of(ctx: click.Context, **overrides: Any) -> Settings:
    """The settings with the flags of this command. Raises SettingsError."""
    given: Mapping[str, Any] = {**(ctx.obj or {}), **overrides}
    return load_settings(given)


def lacks_key(settings: Settings) -> bool:
    """Whether the first use would make the local key."""
    return settings.key_kind == "local" and not (settings.data_dir / LOCAL_KEY).exists()


def print_json(document: Any) -> None:
    """Data for programs: JSON on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object a text is, if it is one."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def tell(text: str) -> None:
    """Words for people: stderr."""
    click.echo(text, err=True)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether a record says something. A client that ends its session while the SDK still writes to it is no
    defect of anybody's, and the SDK logs it with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return not (error is not None and _is_somebody_gone(error) and record.name.startswith("mcp."))


def _is_somebody_gone(error: BaseException) -> bool:
    """Whether an error, also in the groups that tasks wrap it in, only says that the other side has closed."""
    from anyio import BrokenResourceError, ClosedResourceError

    if isinstance(error, BaseExceptionGroup):
        return all(_is_somebody_gone(one) for one in error.exceptions)
    return isinstance(error, BrokenResourceError | ClosedResourceError)


def log_to_stderr(level: int = logging.INFO) -> None:
    """JSON lines on stderr. Before an MCP server is made: that would set up the root logger its own way."""
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(_is_worth_a_line)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("mcp", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def local_operator(tenant: str) -> Principal:
    """Whoever can open the ledger's file may do everything in it; the audit trail says it was done here."""
    return Principal(
        tenant=tenant,
        user="local-operator",
        group=None,
        tier=None,
        roles=frozenset({"member", "superadmin"}),
        issuer=DEFAULT_NAME,
        expires_at=int(time.time()) + 3600,
        token_id=None,
    )
