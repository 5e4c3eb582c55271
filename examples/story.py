"""The main job, played by a real MCP client: a user asks, uses up a day, is refused, upgrades, and goes on.

    .venv/bin/python examples/story.py [URL]

Two callers, as in production: the user's own client, and the application's back end, which records what the user
does. It needs a running server (http://127.0.0.1:8765/mcp unless a URL is given) and its settings
(SUBSCRIPTION_MCP_CONFIG) to make their tokens.
"""
# ruff: noqa: T201

import asyncio
import subprocess
import sys
import uuid
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

TENANT = "acme"
USER = f"nadia-{uuid.uuid4().hex[:6]}"  # somebody new each time, with nothing used yet


def token(*arguments: str) -> str:
    command = [sys.executable, "-m", "subscription_mcp", "token", "mint", "--tenant", TENANT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


async def connected(stack: AsyncExitStack, url: str, access_token: str) -> Client:
    headers = {"Authorization": f"Bearer {access_token}"}
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers))
    try:
        return await stack.enter_async_context(Client(streamable_http_client(url, http_client=http)))
    except Exception:
        sys.exit(
            f"{url} does not let us in. Is it running, and does SUBSCRIPTION_MCP_CONFIG name its configuration?"
        )


async def call(client: Client, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """What the tool says in words, and its data."""
    result = await client.call_tool(tool, arguments)
    return result.content[0].text, result.structured_content or {}


async def story(url: str) -> None:
    async with AsyncExitStack() as stack:
        user = await connected(stack, url, token("--user", USER, "--tier", "basic"))
        backend = await connected(stack, url, token("--user", "chat-backend", "--role", "service"))

        words, _ = await call(user, "get_tier_info")
        print(f"user: what is left?\n{words}\n")

        allowed = 0
        for _ in range(50):
            _, decision = await call(backend, "record_usage", user_id=USER, event="message")
            allowed += decision["allowed"]
        print(f"back end: records 50 messages\n{allowed} allowed\n")

        words, _ = await call(backend, "record_usage", user_id=USER, event="message")
        print(f"back end: one more\n{words}\n")

        words, offer = await call(user, "upgrade_tier", plan="advanced")
        print(f"user: upgrade me\n{words}\n")
        words, _ = await call(user, "upgrade_tier", plan="advanced", confirmation=offer["confirmation"])
        print(f"user: yes\n{words}\n")

        words, _ = await call(backend, "record_usage", user_id=USER, event="message")
        print(f"back end: one more\n{words}")


if __name__ == "__main__":
    asyncio.run(story(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8765/mcp"))
