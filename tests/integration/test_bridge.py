"""`bridge` between a host on stdio and a server on HTTP: everything goes through, in both protocol eras, and
whatever happens at the other end is told in words and got over."""

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    ElicitResult,
    PromptReference,
    ResourceTemplateReference,
    ResourceUpdatedNotification,
)
from tests import forked
from tests.harness import ERAS, TODAY, Place, first_failure, refusal_of, text_of

TOKEN = "a-token-of-the-other-server"
EVERYTHING = Path(__file__).with_name("everything_server.py")
WITHIN_SECONDS = 60
both_eras = pytest.mark.parametrize("era", ERAS)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, clock=TODAY)


@asynccontextmanager
async def bridged(
    place: Place, url: str, era: str, *options: str, token: str | None = None, **callbacks: Any
) -> AsyncIterator[Client]:
    program, *arguments = place.startable()
    parameters = StdioServerParameters(
        command=program,
        args=[*arguments, "bridge", url, *options],
        env=place.environment(TOKEN=token),
        cwd=place.folder,
    )
    with (place.folder / "bridge.log").open("a") as log, first_failure():
        async with Client(stdio_client(parameters, errlog=log), mode=ERAS[era], **callbacks) as client:
            yield client
    assert "Traceback" not in (place.folder / "bridge.log").read_text()


@contextmanager
def everything(port: int = 0, token: str = TOKEN) -> Iterator[str]:
    if port == 0:
        port = free_port()
    command = [forked.python(), str(EVERYTHING), str(port), token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()
            assert process.stdout.read() == ""  # which ends with the process itself


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# What goes through


@both_eras
async def test_our_server_is_the_same_through_the_bridge(place: Place, era: str) -> None:
    token = place.token("bella")
    with place.serving() as server:
        async with (
            server.client(token, ERAS[era]) as direct,
            bridged(place, server.base_url, era, token=token) as client,
        ):
            assert client.session.protocol_version == direct.client.session.protocol_version
            assert client.session.server_info == direct.client.session.server_info
            assert client.session.server_capabilities == direct.client.session.server_capabilities
            assert client.session.instructions == direct.client.session.instructions
            for one, other in (
                (await client.list_tools(), await direct.client.list_tools()),
                (await client.list_resources(), await direct.client.list_resources()),
                (await client.list_resource_templates(), await direct.client.list_resource_templates()),
                (await client.read_resource("quota://me"), await direct.client.read_resource("quota://me")),
                (await client.call_tool("get_tier_info", {}), await direct.result("get_tier_info")),
                (
                    await client.call_tool("get_tier_info", {"user_id": "adam"}),
                    await direct.result("get_tier_info", {"user_id": "adam"}),
                ),
            ):
                assert one == other
            with pytest.raises(MCPError) as fault:
                await client.call_tool("nonsense", {})
            assert (fault.value.error.code, fault.value.error.message) == (-32602, "Unknown tool: nonsense")


@both_eras
async def test_resources_templates_prompts_and_completions_go_through(place: Place, era: str) -> None:
    with everything() as url:
        async with bridged(place, url, era, token=TOKEN) as client:
            assert [str(one.uri) for one in (await client.list_resources()).resources] == ["note://one"]
            (template,) = (await client.list_resource_templates()).resource_templates
            assert template.uri_template == "note://of/{name}"
            (content,) = (await client.read_resource("note://of/bella")).contents
            assert content.text == "a note of bella"  # type: ignore[union-attr]
            (prompt,) = (await client.list_prompts()).prompts
            shown = await client.get_prompt(prompt.name, {"name": "bella"})
            assert shown.messages[0].content.text == "Greet bella."  # type: ignore[union-attr]
            for reference in (
                PromptReference(name="greet"),
                ResourceTemplateReference(uri="note://of/{name}"),
            ):
                completed = await client.complete(reference, {"name": "name", "value": "b"})
                assert completed.completion.values == ["ba", "bb"]


@both_eras
async def test_progress_and_the_codes_of_errors_go_through(place: Place, era: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    with everything() as url:
        async with bridged(place, url, era, token=TOKEN) as client:
            await client.call_tool("count", {"steps": 3}, progress_callback=on_progress)
            assert told == [(step, 3, f"step {step}") for step in (1, 2, 3)]
            with pytest.raises(MCPError) as fault:
                await client.call_tool("refuse", {})
            error = fault.value.error
            assert (error.code, error.message, error.data) == (4711, "not today", {"why": "because"})


@both_eras
@pytest.mark.parametrize(
    ("action", "expected"), [("accept", "door is red"), ("decline", "door stays as it is")]
)
async def test_a_question_to_the_user_goes_through_and_so_does_the_answer(
    place: Place, era: str, action: Any, expected: str
) -> None:
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=action, content={"colour": "red"} if action == "accept" else None)

    with everything() as url:
        async with bridged(place, url, era, token=TOKEN, elicitation_callback=answer) as client:
            painted = await client.call_tool("paint", {"thing": "door"})
            assert text_of(painted) == expected  # type: ignore[arg-type]
            assert asked == ["Which colour for the door?"]
        # A host that cannot ask is one that cannot ask on the other side, too.
        async with bridged(place, url, era, token=TOKEN) as client:
            with pytest.raises(MCPError) as fault:
                await client.call_tool("paint", {"thing": "door"})
            assert fault.value.error.code == -32021


@both_eras
async def test_a_call_that_is_cancelled_is_cancelled_at_the_other_end(place: Place, era: str) -> None:
    with everything() as url:
        async with bridged(place, url, era, token=TOKEN) as client:
            with anyio.move_on_after(2):
                await client.call_tool("wait", {})
            with anyio.fail_after(WITHIN_SECONDS):
                while True:
                    answer = await client.call_tool("how_many_were_cancelled", {})
                    if text_of(answer) == "1":  # type: ignore[arg-type]
                        break


async def test_updates_of_a_resource_go_through_on_the_modern_wire(place: Place) -> None:
    with everything() as url:
        async with bridged(place, url, "modern", token=TOKEN) as client:
            with anyio.fail_after(WITHIN_SECONDS):
                async with client.listen(resource_subscriptions=["note://one"]) as updates:
                    await client.call_tool("touch", {"uri": "note://one"})
                    async for event in updates:
                        assert str(event.uri) == "note://one"  # type: ignore[union-attr]
                        break


@pytest.mark.filterwarnings("ignore:resources/subscribe is removed")
async def test_updates_of_a_resource_go_through_on_the_legacy_wire_also_after_a_restart(place: Place) -> None:
    updates = 0

    async def on_message(message: Any) -> None:
        nonlocal updates
        updates += isinstance(message, ResourceUpdatedNotification)

    async def touched_until_told(client: Client) -> None:
        seen = updates
        with anyio.fail_after(WITHIN_SECONDS):
            while updates == seen:
                await client.call_tool("touch", {"uri": "note://one"})

    port = free_port()
    async with AsyncExitStack() as stack:
        with everything(port) as url:
            bridge = bridged(place, url, "legacy", token=TOKEN, message_handler=on_message)
            client = await stack.enter_async_context(bridge)
            await client.session.subscribe_resource("note://one")
            await touched_until_told(client)
        with everything(port):
            await touched_until_told(client)


# What goes wrong


@both_eras
async def test_a_token_that_is_refused_is_told_and_a_new_one_in_the_file_is_taken(
    place: Place, era: str
) -> None:
    file = place.folder / "token"
    file.write_text(place.token("bella") + "\n")
    with place.serving() as server:
        async with bridged(place, server.base_url, era, "--token-file", "token") as client:
            assert not (await client.call_tool("get_tier_info", {})).is_error
            file.write_text(place.token("bella", ttl_seconds=60, issued_ago_seconds=600))
            told = refusal_of(await client.call_tool("get_tier_info", {}))  # type: ignore[arg-type]
            assert told["code"] == "unauthenticated"
            assert "expired" in told["message"] and "token file" in told["message"]
            with pytest.raises(MCPError) as fault:
                await client.read_resource("quota://me")
            assert fault.value.error.code == 401
            file.unlink()
            told = refusal_of(await client.call_tool("get_tier_info", {}))  # type: ignore[arg-type]
            assert told["code"] == "unauthenticated"
            file.write_text(place.token("bella"))
            assert not (await client.call_tool("get_tier_info", {})).is_error


@both_eras
async def test_a_bridge_that_begins_without_a_good_token_says_so(place: Place, era: str) -> None:
    with everything() as url:
        for token in ("another", None):
            with pytest.raises(MCPError) as fault:
                async with bridged(place, url, era, token=token):
                    pass
            assert fault.value.error.code == 401
            assert fault.value.error.data["code"] == "unauthenticated"


@both_eras
async def test_a_server_that_goes_away_is_told_and_used_again_when_it_is_back(place: Place, era: str) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        with everything(port) as url:
            client = await stack.enter_async_context(bridged(place, url, era, token=TOKEN))
            assert text_of(await client.call_tool("count", {"steps": 1})) == "1"  # type: ignore[arg-type]
        for _ in range(2):
            told = refusal_of(await client.call_tool("count", {"steps": 1}))  # type: ignore[arg-type]
            assert told["code"] == "unavailable"
            assert told["retryable"]
            assert url in told["message"]
        with pytest.raises(MCPError) as fault:
            await client.read_resource("note://one")
        assert fault.value.error.code == 503
        with everything(port):
            assert text_of(await client.call_tool("count", {"steps": 1})) == "1"  # type: ignore[arg-type]
            assert (await client.read_resource("note://one")).contents


@both_eras
async def test_a_host_that_begins_before_the_server_is_told(place: Place, era: str) -> None:
    with pytest.raises(MCPError) as fault:
        async with bridged(place, f"http://127.0.0.1:{free_port()}", era, token=TOKEN):
            pass
    assert fault.value.error.code == 503
    assert "cannot be reached" in fault.value.error.message


# As a command


def test_nothing_but_messages_is_on_stdout_and_no_token_is_shown(place: Place) -> None:
    secret = place.token("bella")
    lines = [
        "nonsense",
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
        json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    ]
    with (
        place.serving() as server,
        subprocess.Popen(
            [*place.startable(), "bridge", server.base_url],
            env=place.environment(TOKEN=secret),
            cwd=place.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", 1)
        process.stdin.close()
        assert process.wait(WITHIN_SECONDS) == 0
        assert process.stdout.read() == ""
        said = process.stderr.read()
    assert "Traceback" not in said
    assert secret not in said


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://example.com", "http://example.com/mcp", "https://me:pw@example.com/mcp"]
)
def test_a_url_that_would_not_do_is_2(place: Place, url: str) -> None:
    done = place.run("bridge", url, TOKEN="a-token")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: The URL must" in done.stderr
