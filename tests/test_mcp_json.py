"""Both entries of mcp.json lead a real client to a working server, in both protocol eras."""

import json
import re
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from tests.harness import ERAS, ROOT, Place

ENTRIES = json.loads((ROOT / "mcp.json").read_text("utf-8"))["mcpServers"]
ADDRESS = "http://127.0.0.1:8765"


def expanded(entry: Any, variables: dict[str, str]) -> Any:
    """The entry with `${NAME}` replaced, as a client does it."""
    return json.loads(re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], json.dumps(entry)))


def command_line(entry: dict[str, Any]) -> list[str]:
    """The console script of this very environment, else the module it calls."""
    assert entry["command"] == "subscription-mcp"
    script = shutil.which(entry["command"], path=str(Path(sys.executable).parent))
    return [*([script] if script else [sys.executable, "-m", "subscription_mcp"]), *entry["args"]]


async def what_is_left(client: Client) -> str:
    assert "get_tier_info" in [tool.name for tool in (await client.list_tools()).tools]
    answer = await client.call_tool("get_tier_info", {})
    assert not answer.is_error and answer.structured_content is not None
    return str(answer.structured_content["user_id"])


@pytest.mark.parametrize("mode", ERAS.values(), ids=ERAS)
async def test_the_stdio_entry_starts_a_server(tmp_path: Path, mode: str) -> None:
    place = Place(tmp_path)
    entry = expanded(ENTRIES["subscription"], {"SUBSCRIPTION_MCP_TOKEN": place.token("bella")})
    command, *arguments = command_line(entry)
    parameters = StdioServerParameters(
        command=command, args=arguments, env={**place.environment(), **entry["env"]}, cwd=tmp_path
    )
    async with Client(stdio_client(parameters), mode=mode) as client:
        assert await what_is_left(client) == "bella"


@pytest.mark.parametrize("mode", ERAS.values(), ids=ERAS)
async def test_the_http_entry_reaches_a_server(tmp_path: Path, mode: str) -> None:
    place = Place(tmp_path)
    entry = expanded(ENTRIES["subscription-http"], {"SUBSCRIPTION_MCP_TOKEN": place.token("bella")})
    assert entry["type"] == "http" and entry["url"].startswith(ADDRESS)
    with place.serving() as server:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=entry["headers"]))
            url = entry["url"].replace(ADDRESS, server.base_url)
            client = await stack.enter_async_context(
                Client(streamable_http_client(url, http_client=http), mode=mode)
            )
            assert await what_is_left(client) == "bella"
