"""Whatever a handler raises: the answer is `internal` without its text, and session and process go on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp.shared.exceptions import MCPError
from tests.harness import ERAS, TODAY, Place, Server, discreet, problem_of, talking

SERVER = (sys.executable, str(Path(__file__).with_name("breaking_server.py")))
KINDS = ("SystemExit", "KeyboardInterrupt", "CancelledError", "RuntimeError")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("containment"), clock=TODAY, command=SERVER)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server
        assert server.process.poll() is None, server.log
        assert server.stop() == 0, server.log


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_what_a_tool_raises_is_internal_and_the_same_session_goes_on(
    place: Place, server: Server, transport: str, era: str, kind: str
) -> None:
    async with talking(place, server, transport, place.token("bella"), ERAS[era]) as bella:
        for _ in range(2):
            refusal = await bella.refusal("check_quota", event="message", attributes={"raise": kind})
            assert (refusal["code"], refusal["retryable"]) == ("internal", False)
            assert (await bella.call("get_tier_info"))["plan"] == "basic"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_what_a_resource_raises_is_an_error_and_the_same_session_goes_on(
    place: Place, server: Server, transport: str, era: str
) -> None:
    async with talking(place, server, transport, place.token("bella"), ERAS[era]) as bella:
        with pytest.raises(MCPError) as raised:
            await bella.resource("subscription://plans")
        discreet(f"{raised.value.error.message} {raised.value.error.data}")
        assert "password" not in str(raised.value)
        assert (await bella.resource("subscription://me"))["plan"] == "basic"


@pytest.mark.parametrize("kind", KINDS)
async def test_over_the_api_it_is_a_problem_document_and_the_connection_goes_on(
    place: Place, server: Server, kind: str
) -> None:
    async with server.api(place.token("bella")) as bella:
        broken = await bella.call("check_quota", event="message", attributes={"raise": kind})
        server.wait_for_log("Traceback")  # which the answer does not show
        problem_of(broken, 500, "internal")
        problem_of(await bella.get("/api/plans"), 500, "internal")
        assert (await bella.call("get_tier_info")).status_code == 200
