"""`bridge`: stdio in, HTTP out, for hosts that only start programs.

Messages are passed on as they are, in both directions and both protocol eras: whatever host and server can
say to each other goes through, also what this program does not know. Only the HTTP headers that the protocol
wants are made here, out of the messages.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

import anyio
import click
from mcp.client.streamable_http import streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import JSONRPCRequest, JSONRPCResponse

from subscription_mcp.auth.tokens import TokenSource
from subscription_mcp.cli.common import log_to_stderr, settings_of
from subscription_mcp.cli.connect import endpoint_of
from subscription_mcp.cli.upstream import Upstream, version_named

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 64 * 1024 * 1024


@click.command()
@click.argument("url")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="A file with the access token; else TOKEN or TOKEN_FILE.",
)
@click.pass_context
def bridge(ctx: click.Context, url: str, token_file: Path | None) -> None:
    """Serve one MCP client over stdin and stdout from a server that runs elsewhere; the token is read again when its file changes."""
    log_to_stderr(logging.WARNING)
    endpoint = endpoint_of(url)
    source = TokenSource(token_file=token_file) if token_file else TokenSource.of(settings_of(ctx))
    asyncio.run(_relay(endpoint, source))


async def _relay(endpoint: str, source: TokenSource) -> None:
    """Pass messages on until stdin ends."""
    async with (
        stdio_server() as (from_host, to_host),
        Upstream(endpoint, source.read) as http,
        streamable_http_client(endpoint, http_client=http, max_sse_event_size=MESSAGE_BYTES_MAX) as (
            from_server,
            to_server,
        ),
        anyio.create_task_group() as tasks,
    ):
        headers = Headers()

        async def downwards() -> None:
            async for message in from_server:
                if isinstance(message, Exception):
                    log.warning("a message of the server cannot be read")
                    continue
                headers.learn(message)
                await to_host.send(message)

        tasks.start_soon(downwards)
        async for message in from_host:
            if isinstance(message, Exception):
                log.warning("a line of the host is no message")
                continue
            message.metadata = ClientMessageMetadata(headers=headers.of(message))
            await to_server.send(message)
        tasks.cancel_scope.cancel()
        await to_host.aclose()  # what writes to stdout waits for it


class Headers:
    """What the protocol repeats of a message in HTTP headers, and what must be known for it."""

    def __init__(self) -> None:
        self._version: str | None = None
        self._asked: dict[Any, str] = {}
        self._parameters: dict[str, dict[tuple[str, ...], str]] = {}

    def of(self, session_message: SessionMessage) -> dict[str, str]:
        """The headers of a message to the server."""
        message = session_message.message
        if not isinstance(message, JSONRPCRequest):
            return {} if self._version is None else {MCP_PROTOCOL_VERSION_HEADER: self._version}
        if message.method in ("initialize", "tools/list"):
            self._asked[message.id] = message.method
        params = message.params or {}
        modern = version_named({"params": params})
        if modern is None:
            is_first = message.method == "initialize" or self._version is None
            return {} if is_first else {MCP_PROTOCOL_VERSION_HEADER: str(self._version)}
        headers = {MCP_PROTOCOL_VERSION_HEADER: modern, MCP_METHOD_HEADER: message.method}
        name = params.get(NAME_BEARING_METHODS.get(message.method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
            if message.method == "tools/call":
                headers |= mcp_param_headers(self._parameters.get(name, {}), params.get("arguments") or {})
        return headers

    def learn(self, session_message: SessionMessage) -> None:
        """What an answer of the server says about the headers of later messages."""
        message = session_message.message
        if not isinstance(message, JSONRPCResponse):
            return
        match self._asked.pop(message.id, None):
            case "initialize":
                version = message.result.get("protocolVersion")
                self._version = version if isinstance(version, str) else None
            case "tools/list":
                for tool in message.result.get("tools", []):
                    schema = tool.get("inputSchema")
                    if find_invalid_x_mcp_header(schema) is None:
                        self._parameters[tool["name"]] = x_mcp_header_map(schema)
