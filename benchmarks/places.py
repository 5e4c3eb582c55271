"""The servers that are compared: ours on a ledger in a folder, and the bare ones, started and ended alike."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import MODERN, Place

from benchmarks.load import Request
from subscription_mcp.catalogs import __file__ as catalogs

BARE = Path(__file__).with_name("bare.py")
SERVICE = "app"
JSON = "application/json"


@contextmanager
def our_place() -> Iterator[Place]:
    """A ledger of the shipped catalog, with limits that no benchmark reaches: every call is decided and
    counted in full, and none is refused."""
    with tempfile.TemporaryDirectory() as folder:
        shipped = Path(catalogs).with_name("bedrock-chat.toml").read_text("utf-8")
        catalog = Path(folder) / "catalog.toml"
        catalog.write_text(shipped.replace("limit = ", "limit = 100_000_000_"), "utf-8")
        yield Place(Path(folder), CATALOG=str(catalog))


@contextmanager
def bare_place(kind: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        yield Place(Path(folder), command=(sys.executable, str(BARE), kind))


def over_mcp(access_token: str | None, *, with_key: bool = False) -> Request:
    """`tools/call` of `record_usage` as a client of the modern protocol sends it."""
    headers = {
        "content-type": JSON,
        "accept": f"{JSON}, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "record_usage",
    }
    meta = (
        f'"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}",'
        '"io.modelcontextprotocol/clientInfo":{"name":"load","version":"1"},'
        '"io.modelcontextprotocol/clientCapabilities":{}}'
    )
    body = (
        '{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"record_usage",'
        f'"arguments":{_arguments(with_key)},{meta}}}}}'
    )
    return Request("/mcp", headers | _authorization(access_token), body)


def over_http(access_token: str | None, *, with_key: bool = False) -> Request:
    """The same through the HTTP API."""
    headers = {"content-type": JSON} | _authorization(access_token)
    return Request("/api/mcp/tools/record_usage", headers, f'{{"arguments":{_arguments(with_key)}}}')


def _arguments(with_key: bool) -> str:
    key = ',"idempotency_key":"KEY"' if with_key else ""
    return f'{{"user_id":"USER","event":"message"{key}}}'


def _authorization(access_token: str | None) -> dict[str, str]:
    return {} if access_token is None else {"authorization": f"Bearer {access_token}"}
