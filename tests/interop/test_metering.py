"""Metering around another server's tools, through a client: what is counted, what is given back, what is refused."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult
from tests.harness import ERAS, TODAY, Place, Server

HERE = Path(__file__).parent
CALLS_MAX = 1_000
"""After so many further calls what was cancelled must have been settled."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = Place(
        tmp_path_factory.mktemp("metering"),
        clock=TODAY,
        command=(sys.executable, str(HERE / "everything_metered.py")),
        CATALOG=str(HERE / "catalog.toml"),
        METERING__MEMBERS_MAY_RECORD="true",
    )
    # Every client here brings a token of its own; this one would only be added where there is none.
    with place.serving(TOKEN=place.token("nobody")) as server:
        yield server
        server.kill()  # its log holds the traceback of the tool that always breaks


def counted(place: Place, user: str) -> Counter[str]:
    """The events of a user by tool."""
    done = place.run("events", "tail", "--tenant", "acme", "--user", user, "-n", "100", "--json")
    return Counter(json.loads(line)["attributes"]["tool"] for line in done.stdout.splitlines())


def open_reservations(place: Place) -> int:
    found: int = place.select("SELECT count(*) FROM reservation WHERE answer IS NULL")[0][0]
    return found


async def person(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    return ElicitResult(
        action="accept", content={"name": "Ada", "username": "ada", "email": "ada@example.com"}
    )


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_counts_once_and_only_when_it_has_succeeded(server: Server, era: str) -> None:
    place, user = server.place, f"mia.{era}"
    asking, arguments = {
        "modern": ("test_input_required_result_elicitation", {}),
        "legacy": ("test_elicitation", {"message": "Who are you?"}),
    }[era]
    async with server.client(place.token(user), ERAS[era], person) as mia:
        assert not (await mia.client.call_tool("test_simple_text", {})).is_error
        assert (await mia.client.call_tool("test_error_handling", {})).is_error
        answered = await mia.client.call_tool(asking, arguments)
        assert not answered.is_error, answered
        code, *_ = await mia.rpc_error("no_such_tool")
        assert code == -32602
    assert counted(place, user) == {"test_simple_text": 1, asking: 1}
    assert open_reservations(place) == 0


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_is_cancelled_gives_back_what_it_held(server: Server, era: str) -> None:
    place, user = server.place, f"cara.{era}"
    async with server.client(place.token(user), ERAS[era]) as cara:
        with anyio.CancelScope() as scope:

            async def cancel(progress: float, total: float | None, message: str | None) -> None:
                scope.cancel()

            await cara.client.call_tool("test_tool_with_progress", {}, progress_callback=cancel)
        assert scope.cancelled_caught
        calls = 0
        while open_reservations(place) and calls < CALLS_MAX:
            await cara.client.call_tool("test_simple_text", {})
            calls += 1
    assert counted(place, user) == ({"test_simple_text": calls} if calls else {})
    assert open_reservations(place) == 0
    assert place.select("SELECT count(*) FROM hold") == [(0,)]


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_over_the_limit_is_refused_readably_and_never_made(server: Server, era: str) -> None:
    place, user = server.place, f"olga.{era}"
    async with server.client(place.token(user), ERAS[era]) as olga:
        assert not (await olga.client.call_tool("test_simple_text", {})).is_error
        limit = ("--meter", "tool_calls", "--window", "day", "--limit", "1", "--reason", "test")
        changed = place.run("limits", "set", "--tenant", "acme", "--user", user, *limit)
        assert changed.returncode == 0, changed.stderr
        refused = await olga.refusal("test_simple_text")
        assert refused["code"] == "quota_exceeded"
        assert "1 of 1 tool call used today" in refused["message"]
    assert counted(place, user) == {"test_simple_text": 1}
