"""The MCP Inspector's command line against the product: what it lists, calls and reads, and how it exits."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import COMMAND, ERROR_KEY, TODAY, Place, Server
from tests.interop.conftest import Report
from tests.interop.node import PACKAGES, run_node

INSPECTOR = PACKAGES / "inspector" / "clients" / "launcher" / "build" / "index.js"
OK, REFUSED = 0, 5
"""It exits with the latter where a tool answers an error, and where there is no such tool."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("inspector"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


class Inspector:
    """The command line with a server to look at; counts what it was asked."""

    def __init__(self, place: Place, server: Server, transport: str, era: str) -> None:
        self._place = place
        self.asked = 0
        access_token = place.token("inga", tier="basic")
        if transport == "http":
            header = f"Authorization: Bearer {access_token}"
            self._target = [f"{server.base_url}/mcp", "--transport", "http", "--header", header]
        else:
            environment = place.environment(TOKEN=access_token)
            ours = {
                name: value for name, value in environment.items() if name.startswith("SUBSCRIPTION_MCP_")
            }
            pairs = [word for name, value in ours.items() for word in ("-e", f"{name}={value}")]
            self._target = [*COMMAND, "stdio", *pairs]
        self._era = era

    def ask(self, method: str, *arguments: str, exits: int = OK) -> dict[str, Any]:
        """The result, or where there is none the error it prints."""
        self.asked += 1
        words = ["--method", method, *arguments, "--protocol-era", self._era, "--format", "json", "--quiet"]
        done = run_node(self._place.folder, INSPECTOR, "--cli", *self._target, *words)
        assert done.returncode == exits, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout or done.stderr)
        found: dict[str, Any] = document["result"] if done.stdout else document["error"]
        return found

    def call(self, tool: str, *arguments: str, exits: int = OK) -> dict[str, Any]:
        given = [word for argument in arguments for word in ("--tool-arg", argument)]
        return self.ask("tools/call", "--tool-name", tool, *given, exits=exits)


@pytest.mark.parametrize("era", ["legacy", "modern", "auto"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_the_inspector_lists_calls_and_reads(
    place: Place, server: Server, transport: str, era: str, report: Report
) -> None:
    with report("Inspector 2.12", era, transport) as tally:
        inspector = Inspector(place, server, transport, era)

        listed = inspector.ask("tools/list", "--strict")  # exits with 6 where a schema is not portable
        assert {"get_tier_info", "check_quota", "upgrade_tier"} <= {tool["name"] for tool in listed["tools"]}
        info = inspector.call("get_tier_info")
        assert info["structuredContent"]["plan"] == "basic"
        asked = inspector.call("check_quota", "event=message", "quantity=51")
        assert asked["structuredContent"]["allowed"] is False

        refused = inspector.call("upgrade_tier", "plan=gold", exits=REFUSED)
        error = refused["_meta"][ERROR_KEY]
        assert (refused["isError"], error["code"]) == (True, "invalid_request")
        assert refused["content"][0]["text"] == error["message"]
        assert "structuredContent" not in refused
        assert inspector.call("record_usage", "event=message", exits=REFUSED)["code"] == "tool_not_found"

        resources = inspector.ask("resources/list")["resources"]
        assert "quota://me" in {resource["uri"] for resource in resources}
        (content,) = inspector.ask("resources/read", "--uri", "quota://me")["contents"]
        assert json.loads(content["text"])["limits"][0]["remaining"] == 50

        prompts = inspector.ask("prompts/list")["prompts"]
        assert {prompt["name"] for prompt in prompts} == {"quota", "compare_plans", "explain_denial"}
        prompt = inspector.ask("prompts/get", "--prompt-name", "quota")
        assert "Messages: 0 of 50 used today" in prompt["messages"][0]["content"]["text"]
        tally.passed = inspector.asked
