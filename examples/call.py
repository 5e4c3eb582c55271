"""Call one tool as an MCP client and print what it says.

    .venv/bin/python examples/call.py [--url URL] TOOL [NAME=VALUE …]

The access token comes from SUBSCRIPTION_MCP_TOKEN. A value is JSON where it reads as JSON (2, true, {"pages": 3}), else
text. What the server asks a person, like whether to go ahead with an upgrade, is asked here: answer y.
"""
# ruff: noqa: T201

import argparse
import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult


def argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


async def ask(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    print(f"{params.message} [y/N]")
    if (await asyncio.to_thread(sys.stdin.readline)).strip().lower() not in ("y", "yes"):
        return ElicitResult(action="decline")
    return ElicitResult(action="accept", content={"confirm": True})


async def call(url: str, tool: str, arguments: dict[str, Any]) -> int:
    headers = {"Authorization": f"Bearer {os.environ.get('SUBSCRIPTION_MCP_TOKEN', '')}"}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers))
        transport = streamable_http_client(url, http_client=http)
        try:
            client = await stack.enter_async_context(Client(transport, elicitation_callback=ask))
        except Exception:
            print(f"{url} does not let us in: does it run, and is the token one of its own?", file=sys.stderr)
            return 1
        try:
            result = await client.call_tool(tool, arguments)
        except MCPError as error:
            print(error, file=sys.stderr)
            return 1
    try:
        print(result.content[0].text, flush=True)
    except BrokenPipeError:  # `… | head -1` has enough; nothing is left to be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(result.is_error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Call one tool and print what it says.")
    parser.add_argument("--url", default="http://127.0.0.1:8765/mcp")
    parser.add_argument("tool")
    parser.add_argument("arguments", nargs="*", type=argument, metavar="NAME=VALUE")
    given = parser.parse_args()
    sys.exit(asyncio.run(call(given.url, given.tool, dict(given.arguments))))
