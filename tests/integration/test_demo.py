"""The demonstration as a newcomer meets it: everything it prints works when it is copied."""

import json
import queue
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from tests.harness import ERAS, STOP_WITHIN_SECONDS, Place, Talk

READY_WITHIN_SECONDS = 60
PERSONAS = {
    "basic": ("bella", "basic", 11),
    "advanced": ("adam", "advanced", 16),
    "premium": ("petra", "premium", 16),
    "service": ("chat-backend", None, 16),
    "tenant admin": ("tara", None, 17),
    "super-admin": ("root", None, 18),
}


class Guide:
    """What the demonstration printed."""

    def __init__(self, text: str, place: Place, process: "subprocess.Popen[str]") -> None:
        self.text = text
        self.process = process
        self.place = place

    @property
    def base_url(self) -> str:
        found = re.search(r"MCP +(http://127\.0\.0\.1:\d+)/mcp", self.text)
        assert found
        return found[1]

    @property
    def tokens(self) -> dict[str, str]:
        return dict(re.findall(r"^  ([a-z -]+) \(\S+ of \S+\)\n  (\S+)$", self.text, re.MULTILINE))

    def block(self, title: str) -> dict[str, Any]:
        """The configuration printed below a line that begins so."""
        after = self.text[self.text.index(title) :]
        document, _ = json.JSONDecoder().raw_decode(after, after.index("{"))
        servers: dict[str, Any] = document["mcpServers"]
        (entry,) = servers.values()
        return dict(entry)

    def command(self, beginning: str) -> str:
        after = self.text[self.text.index(f"  {beginning}") :]
        return after.partition("\n\n")[0].strip()


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    place = Place(tmp_path_factory.mktemp("demo"))
    environment = place.environment(DATABASE_URL=None, AUTH__SECRET=None)
    with socket.socket() as taken:
        # The port it wants is taken, as the usual one may be: it takes the next free one.
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(min(taken.getsockname()[1], 65_000))
        process = subprocess.Popen(
            [*place.startable(), "demo", "--dir", str(place.folder / "demo"), "--port", port],
            env=environment,
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            text = ""
            while "Stop with Ctrl-C" not in text:
                line = lines.get(timeout=READY_WITHIN_SECONDS)
                assert line is not None, text
                text += line
            yield Guide(text, place, process)
            process.terminate()
            assert process.wait(STOP_WITHIN_SECONDS) == 0
        finally:
            process.kill()
            process.wait()
            reader.join()
            assert process.stdout is not None
            process.stdout.close()


def test_the_printed_curl_line_records_a_message(guide: Guide) -> None:
    done = subprocess.run(
        ["sh", "-c", guide.command("curl")], capture_output=True, text=True, env=guide.place.environment()
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert (result["allowed"], result["plan"]) == (True, "basic")
    assert {limit["window"]: limit["limit"] for limit in result["limits"]} == {"day": 50, "month": 1_000}


def test_the_printed_usage_command_shows_what_is_left(guide: Guide) -> None:
    environment = guide.place.environment(DATABASE_URL=None, AUTH__SECRET=None)
    lines = [line for line in guide.text.splitlines() if " usage --tenant " in line or "export PATH" in line]
    done = subprocess.run(["sh", "-c", "\n".join(lines)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "bella in acme: Basic plan" in done.stdout


@pytest.mark.parametrize("era", ERAS)
async def test_the_block_for_claude_desktop_starts_a_server_that_answers(guide: Guide, era: str) -> None:
    entry = guide.block("Claude Desktop")
    assert Path(entry["command"]).is_absolute()
    # Whatever an installation has on its path already is all that a test adds.
    environment = {**guide.place.environment(DATABASE_URL=None, AUTH__SECRET=None), **entry["env"]}
    parameters = StdioServerParameters(command=entry["command"], args=entry["args"], env=environment, cwd="/")
    with (guide.place.folder / "stdio.log").open("a") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=ERAS[era]) as client:
            info = await Talk(client, entry["env"]["SUBSCRIPTION_MCP_TOKEN"]).call("get_tier_info")
    assert (info["tenant_id"], info["user_id"], info["plan"]) == ("acme", "bella", "basic")


@pytest.mark.parametrize("era", ERAS)
async def test_the_block_for_claude_code_reaches_the_server(guide: Guide, era: str) -> None:
    entry = guide.block("Claude Code")
    assert entry["type"] == "http"
    async with (
        httpx2.AsyncClient(headers=entry["headers"], timeout=30) as http,
        Client(streamable_http_client(entry["url"], http_client=http), mode=ERAS[era]) as client,
    ):
        info = await Talk(client, None).call("get_tier_info")
    assert info["user_id"] == "bella"


def test_there_is_a_working_token_for_every_persona(guide: Guide) -> None:
    assert set(guide.tokens) == set(PERSONAS)
    with httpx2.Client(base_url=guide.base_url) as http:
        for persona, (user, plan, tools) in PERSONAS.items():
            headers = {"authorization": f"Bearer {guide.tokens[persona]}"}
            listed = http.get("/api/mcp/tools", headers=headers).json()["tools"]
            assert len(listed) == tools, persona
            if plan is not None:
                info = http.get("/api/tenants/acme/subscription", headers=headers).json()
                assert (info["user_id"], info["plan"]) == (user, plan)


async def test_ninety_days_of_both_tenants_can_be_seen(guide: Guide) -> None:
    headers = {"authorization": f"Bearer {guide.tokens['super-admin']}"}
    async with httpx2.AsyncClient(base_url=guide.base_url, headers=headers) as http:
        for tenant in ("acme", "globex"):
            arguments = {
                "tenant_id": tenant,
                "period": "last_6_months",
                "granularity": "day",
                "group_by": ["plan"],
                "meters": ["messages"],
            }
            response = await http.post("/api/mcp/tools/get_usage_analytics", json={"arguments": arguments})
            result = response.json()["result"]
            days = {step["start"] for step in result["series"]}
            assert 90 <= len(days) <= 91
            assert {line["plan"] for line in result["breakdown"]} == {"basic", "advanced", "premium"}
            assert result["totals"][0]["quantity"] > 1_000
    headers = {"authorization": f"Bearer {guide.tokens['tenant admin']}"}
    async with httpx2.AsyncClient(base_url=guide.base_url, headers=headers) as http:
        arguments = {"tenant_id": "acme", "period": "last_6_months", "granularity": "month"}
        response = await http.post("/api/mcp/tools/get_usage_analytics", json={"arguments": arguments})
        assert len(response.json()["result"]["series"]) >= 3
        response = await http.get("/api/tenants/globex/subscription")
        assert response.status_code == 403


async def test_both_servers_of_the_guide_work_on_the_same_data(guide: Guide) -> None:
    """What the service records over HTTP is what the stdio server of Claude Desktop shows next."""
    desktop = guide.block("Claude Desktop")
    environment = {**guide.place.environment(DATABASE_URL=None, AUTH__SECRET=None), **desktop["env"]}
    parameters = StdioServerParameters(command=desktop["command"], args=desktop["args"], env=environment)
    headers = {"authorization": f"Bearer {guide.tokens['service']}"}
    arguments = {"user_id": "bella", "event": "message"}
    with (guide.place.folder / "stdio.log").open("a") as log:
        async with (
            Client(stdio_client(parameters, errlog=log)) as client,
            httpx2.AsyncClient(base_url=guide.base_url, headers=headers) as http,
        ):
            bella = Talk(client, None)
            before = {
                limit["window"]: limit["used"] for limit in (await bella.call("get_tier_info"))["limits"]
            }
            response = await http.post("/api/mcp/tools/record_usage", json={"arguments": arguments})
            assert response.status_code == 200
            after = {
                limit["window"]: limit["used"] for limit in (await bella.call("get_tier_info"))["limits"]
            }
    assert after == {window: used + 1 for window, used in before.items()}
