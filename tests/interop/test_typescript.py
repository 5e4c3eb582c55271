"""The main job and what belongs to it, played by both lines of the TypeScript SDK over both transports."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import COMMAND, TODAY, Place, Server
from tests.interop.conftest import Report
from tests.interop.node import HERE, run_node

# The module that connects, the mode it is given, and the era that comes of it.
CLIENTS = {
    "sdk 1.32": ("v1", "legacy", "legacy"),
    "client 2.4 legacy": ("v2", "legacy", "legacy"),
    "client 2.4 auto": ("v2", "auto", "modern"),
    "client 2.4 pinned": ("v2", "pin", "modern"),
}
PLANS = ["get_tier_info", "check_quota", "upgrade_tier", "manage_subscription", "list_plans", "has_feature"]
ACCOUNT = ["get_billing_history", "list_alerts"]
OFFERED = [*PLANS, *ACCOUNT]
SESSIONS = ["open_session", "renew_session", "close_session"]
WITHHELD = ["get_usage_analytics", "list_usage_events", "export_usage"]
REFUSED = "Basic plan: 50 of 50 messages used today. Resets 2026-11-21 00:00 UTC. Advanced has 200 a day."
QUESTION = "Change the plan to Advanced, at once? It costs 29.00 USD now and 29.00 USD at each renewal."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("typescript"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def access_of(place: Place, server: Server, transport: str, access_token: str | None) -> dict[str, Any]:
    """How a client connects: to the server that runs, or to one of its own on the same ledger."""
    if transport == "http":
        return {"url": f"{server.base_url}/mcp", "token": access_token}
    program, *arguments = COMMAND
    environment = place.environment(TOKEN=access_token)
    return {"command": program, "args": [*arguments, "stdio"], "env": environment, "cwd": str(place.folder)}


def played(place: Place, server: Server, transport: str, client: str, answer: str) -> dict[str, Any]:
    """What the client saw, by step."""
    adapter, mode, _ = CLIENTS[client]
    user = f"{client}.{transport}.{answer}".replace(" ", "-")
    play = {
        "user": user,
        "userAccess": access_of(place, server, transport, place.token(user, tier="basic")),
        "serviceAccess": access_of(place, server, transport, place.token("app", role="service")),
        "mode": mode,
        "answer": answer,
    }
    done = run_node(place.folder, HERE / "clients" / "story.mjs", adapter, json.dumps(play))
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    return {step.pop("step"): step for step in steps}


def refusal_of(seen: dict[str, Any]) -> dict[str, Any]:
    """The error object of a refused call: readable, and no data that would have to match a schema."""
    assert (seen["isError"], seen["data"]) == (True, None)
    error: dict[str, Any] = seen["error"]
    assert seen["text"] == error["message"]
    return error


@pytest.mark.parametrize("answer", ["none", "accept", "decline"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("client", CLIENTS)
def test_the_story(
    place: Place, server: Server, client: str, transport: str, answer: str, report: Report
) -> None:
    with report(f"TypeScript {client}", CLIENTS[client][2], transport) as tally:
        saw = played(place, server, transport, client, answer)
        check(saw, answer)
        tally.passed = len(saw)


def check(saw: dict[str, Any], answer: str) -> None:
    """The whole story, as it goes for who cannot be asked, says yes, or says no."""
    # What is there
    assert saw["lists"] == {
        "tools": OFFERED + SESSIONS,
        "resources": [
            *("subscription://plans", "subscription://me", "quota://me", "alerts://me", "pricing://models"),
        ],
        "prompts": ["quota", "compare_plans", "explain_denial"],
    }
    assert saw["left"] == {"plan": "basic", "remaining": 50}
    assert [limit["remaining"] for limit in saw["resource"]["quota"]["limits"]] == [50, 1_000]
    assert "Messages: 0 of 50 used today, 50 left" in saw["resource"]["prompt"]

    # What is not
    assert saw["hidden"]["code"] == -32602
    assert saw["hidden"]["message"].endswith("Unknown tool: record_usage")
    withheld = refusal_of(saw["withheld"])
    assert (withheld["code"], withheld["unlocks"]) == (
        "feature_not_in_plan",
        [{"action": "upgrade_tier", "plan": "advanced"}],
    )
    assert refusal_of(saw["wrong"])["code"] == "invalid_request"

    # Hold and settle, sessions
    assert saw["held"] == {"allowed": True, "held": 10}
    assert saw["settled"] == {"used": 3, "held": 0}
    assert saw["sessions"] == {"opened": True, "second": "session_limit", "same": True}

    # Fifty, and one more
    assert saw["refused"] == {
        "recorded": 50,
        "allowed": False,
        "code": "quota_exceeded",
        "message": REFUSED,
    }

    # The way out
    status = {"none": "confirmation_required", "accept": "applied", "decline": "declined"}[answer]
    assert (saw["asked"]["status"], saw["asked"]["hasHandle"]) == (status, answer == "none")
    assert [question.startswith(QUESTION) for question in saw["asked"]["questions"]] == (
        [] if answer == "none" else [True]
    )
    if answer == "decline":
        assert saw["changed"] == {"status": "declined", "plan": "basic"}
        assert saw["next"] == {"allowed": False, "plan": "basic", "used": 50}
    else:
        assert saw["changed"] == {"status": "applied", "plan": "advanced"}
        assert saw["next"] == {"allowed": True, "plan": "advanced", "used": 51}
        assert saw["heard"] == {
            "what": ["quota://me", "subscription://me", "tools"],
            "tools": [*PLANS, *WITHHELD, *ACCOUNT, *SESSIONS, "manage_limits", "manage_members"],
        }
        assert refusal_of(saw["again"])["code"] == "conflict"


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("client", CLIENTS)
def test_who_has_no_token_is_told_how_to_get_one(
    place: Place, server: Server, client: str, transport: str, report: Report
) -> None:
    """Over stdio by every answer; over HTTP nothing is answered, and the client says why."""
    adapter, mode, era = CLIENTS[client]
    with report(f"TypeScript {client}", era, transport) as tally:
        access = json.dumps(access_of(place, server, transport, None))
        done = run_node(place.folder, HERE / "clients" / "stranger.mjs", adapter, mode, access)
        assert done.returncode == 0, done.stdout + done.stderr
        saw = json.loads(done.stdout)
        if transport == "http":
            assert "401" in saw["refused"]["message"]
        else:
            assert saw["tools"] == OFFERED + SESSIONS
            assert (saw["called"]["isError"], saw["called"]["data"]) == (True, None)
            assert saw["called"]["error"]["code"] == "unauthenticated"
            assert "token mint" in saw["called"]["error"]["message"]
            assert saw["read"]["code"] == 401
            assert saw["read"]["message"].endswith(saw["called"]["error"]["message"])
        tally.passed = len(saw)
