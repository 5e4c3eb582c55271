"""What the stories of this folder share: callers with access tokens of their own, and what is said as lines of a play.

Unless it starts its own, a story needs a running server (its first argument is the URL, http://127.0.0.1:8765/mcp unless
given) and that server's settings (SUBSCRIPTION_MCP_CONFIG, or SUBSCRIPTION_MCP_DATABASE_URL and the key), to make the
tokens. Everybody in it is new each time, with nothing used yet.
"""
# ruff: noqa: T201

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

TENANT = "acme"
URL = "http://127.0.0.1:8765/mcp"
RUN = uuid.uuid4().hex[:6]


def new(name: str) -> str:
    """A name nobody had before: `nadia-3f9a1c`."""
    return f"{name}-{RUN}"


@cache
def token(*arguments: str) -> str:
    """An access token as `subscription-mcp token mint` makes it."""
    command = [sys.executable, "-m", "subscription_mcp", "token", "mint", "--tenant", TENANT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


class Caller:
    """An MCP client with a token: calls a tool, gives its words and its data."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
        result = await self._client.call_tool(tool, arguments)
        return result.content[0].text, result.structured_content or {}

    async def say(self, line: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call, and print what was asked and what was answered."""
        words, data = await self(tool, **arguments)
        print(f"{line}\n{words}\n")
        return data

    async def agree(self, line: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Ask for a change, see what it costs, and confirm it."""
        offer = await self.say(line, tool, **arguments)
        if "confirmation" not in offer:  # it was refused, in words
            return offer
        return await self.say("yes", tool, **arguments, confirmation=offer["confirmation"])


class Stage:
    """Where a story is played: it lets callers in."""

    def __init__(self, stack: AsyncExitStack, url: str) -> None:
        self._stack, self._url = stack, url

    async def enter(self, *arguments: str) -> Caller:
        """A caller whose token is made with these arguments of `token mint`."""
        headers = {"Authorization": f"Bearer {token(*arguments)}"}
        http = await self._stack.enter_async_context(httpx2.AsyncClient(headers=headers))
        try:
            transport = streamable_http_client(self._url, http_client=http)
            return Caller(await self._stack.enter_async_context(Client(transport)))
        except Exception:
            sys.exit(
                f"{self._url} does not let us in. Is it running, and does SUBSCRIPTION_MCP_CONFIG name its configuration?"
            )


def play(story: Callable[[Stage], Awaitable[None]]) -> None:
    """Play a story against the server named on the command line."""

    async def played() -> None:
        async with AsyncExitStack() as stack:
            await story(Stage(stack, sys.argv[1] if len(sys.argv) > 1 else URL))

    asyncio.run(played())
