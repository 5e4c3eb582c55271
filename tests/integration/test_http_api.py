"""The HTTP API: the same tools with the statuses, headers and problem documents of HTTP."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of

from subscription_mcp.cli.serving import listen

SESSIONS = ["open_session", "renew_session", "close_session"]
INVOICES = "get_billing_history"
PLANS = ["upgrade_tier", "manage_subscription", "list_plans", "has_feature"]
BASIC = ["get_tier_info", "check_quota", INVOICES, "list_alerts", *PLANS, *SESSIONS]
REPORTS = ["get_usage_analytics", "list_usage_events", "export_usage"]
WITH_ACCESS = [*BASIC, *REPORTS, "manage_limits", "manage_members"]
SERVICE = [
    "get_tier_info",
    "check_quota",
    "list_plans",
    "has_feature",
    *REPORTS,
    INVOICES,
    "list_alerts",
    "record_usage",
    "record_usage_batch",
    "reserve_usage",
    "settle_usage",
    *SESSIONS,
]
LISTED = {
    "basic": ({"user": "bella"}, BASIC),
    "advanced": ({"user": "adam", "tier": "advanced"}, WITH_ACCESS),
    "service": ({"user": "app", "role": "service"}, SERVICE),
    "tenant admin": ({"user": "tara", "role": "tenant_admin"}, [*WITH_ACCESS, "manage_accounts"]),
    "super-admin": (
        {"user": "root", "role": "superadmin"},
        [*WITH_ACCESS, "manage_accounts", "manage_plans"],
    ),
}
UNTIL_MIDNIGHT = 9 * 3600 + 56 * 60 + 49  # from 14:03:11.123456, rounded up


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("http"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def items(header: str) -> dict[str, dict[str, int]]:
    """A structured field list of quoted names with integer parameters, read strictly (RFC 9651)."""
    found: dict[str, dict[str, int]] = {}
    for member in header.split(", "):
        match = re.fullmatch(r'"([a-z0-9_.:-]+)"((?:;[a-z]+=\d+)*)', member, re.IGNORECASE)
        assert match, header
        assert match[1] not in found
        found[match[1]] = {
            name: int(number) for name, number in (part.split("=") for part in match[2].split(";")[1:])
        }
    return found


@pytest.mark.parametrize("who", LISTED)
async def test_tools_are_listed_as_the_caller_sees_them(place: Place, server: Server, who: str) -> None:
    identity, expected = LISTED[who]
    identity = dict(identity)
    token = place.token(identity.pop("user"), **identity)
    async with server.api(token) as api, server.client(token) as over_mcp:
        tools = (await api.get("/api/mcp/tools")).json()["tools"]
        listed = (await over_mcp.client.list_tools()).tools
    assert sorted(tool["name"] for tool in tools) == sorted(expected)
    shown = {tool.name: tool for tool in listed}
    assert list(shown) == [tool["name"] for tool in tools]
    for tool in tools:
        assert tool["inputSchema"] == shown[tool["name"]].input_schema
        assert tool["outputSchema"] == shown[tool["name"]].output_schema
        assert tool["description"] == shown[tool["name"]].description
    size = len(
        json.dumps(
            [[tool["name"], tool["title"], tool["description"], tool["inputSchema"]] for tool in tools]
        )
    )
    assert size <= 12_000


async def test_a_result_comes_with_its_words_and_its_headers(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        response = await app.call("record_usage", user_id="worded", event="message", quantity=2)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert set(body) == {"result", "text"}
    assert body["text"] == body["result"]["message"]
    assert items(response.headers["ratelimit-policy"]) == {
        "messages-day": {"q": 50, "w": 86_400},
        "messages-month": {"q": 1_000, "w": 30 * 86_400},
    }
    assert items(response.headers["ratelimit"]) == {
        "messages-day": {"r": 48, "t": UNTIL_MIDNIGHT},
        "messages-month": {"r": 998, "t": UNTIL_MIDNIGHT + 10 * 86_400},
    }


async def test_a_refused_recording_is_429_with_the_whole_decision(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        full = {"user_id": "full", "event": "message"}
        assert (await app.call("record_usage", quantity=50, **full)).status_code == 200
        refused = await app.call("record_usage", **full)
        document = problem_of(refused, 429, "quota_exceeded")
        assert document["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
        assert document["title"] == "Too Many Requests"
        assert document["decision"]["message"] == document["detail"]
        assert document["decision"]["unlocks"][0] == {"action": "upgrade_tier", "plan": "advanced"}
        assert refused.headers["retry-after"] == str(UNTIL_MIDNIGHT)
        assert items(refused.headers["ratelimit"])["messages-day"]["r"] == 0

        asked = await app.call("check_quota", **full)
        assert asked.status_code == 200
        assert asked.json()["result"]["allowed"] is False
        assert "retry-after" not in asked.headers

        # It already happened: recorded, and only told that it was over.
        over = await app.call("record_usage", enforce=False, **full)
        assert over.status_code == 200
        result = over.json()["result"]
        assert (result["allowed"], result["code"]) == (False, "quota_exceeded")
        assert result["event_id"] is not None
        assert result["limits"][0]["used"] == 51
        assert result["limits"][0]["remaining"] == 0


async def test_what_can_never_fit_says_so_and_waiting_does_not_help(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        document = problem_of(
            await app.call("record_usage", user_id="huge", event="message", quantity=10**12),
            429,
            "quota_exceeded",
        )
    assert document["decision"]["unlocks"] == []
    assert document["retryable"] is False


async def test_a_batch_is_answered_one_by_one_in_order(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        events: list[Any] = [
            {"user_id": "batch", "event": "message", "quantity": 49},
            {"user_id": "batch", "event": "mesage"},
            {"user_id": "batch", "event": "message", "idempotency_key": "b1"},
            {"user_id": "batch", "event": "message"},
            {"user_id": "batch", "event": "message", "enforce": False},
            {"user_id": "batch", "event": "message", "idempotency_key": "b1"},
            {"user_id": "batch", "event": "message", "idempotency_key": "b1", "quantity": 2},
            {"event": "message"},
            {"user_id": "gus", "tenant_id": "globex", "event": "message"},
            {"user_id": "batch", "event": "message", "quantity": 0},
            {"user_id": "batch-two", "event": "message", "nonsense": 1},
            {"user_id": "batch-two", "event": "message"},
        ]
        response = await app.call("record_usage_batch", events=events)
        assert response.status_code == 200
        results = response.json()["result"]["results"]
        assert [result["code"] for result in results] == [
            "ok",
            "invalid_request",
            "ok",
            "quota_exceeded",
            "quota_exceeded",
            "ok",
            "conflict",
            "invalid_request",
            "forbidden",
            "invalid_request",
            "invalid_request",
            "ok",
        ]
        assert results[4]["event_id"] is not None
        assert (results[5]["replayed"], results[5]["event_id"]) == (True, results[2]["event_id"])
        for wrong in ([], [{}] * 1_001, {}, ["message"]):
            problem_of(await app.call("record_usage_batch", events=wrong), 422, "invalid_request")


async def test_a_key_is_the_same_over_http_and_mcp(place: Place, server: Server) -> None:
    token = place.token("app", role="service")
    arguments = {"user_id": "keyed", "event": "message", "idempotency_key": "one-key"}
    async with server.api(token) as app:
        first = (await app.call("record_usage", **arguments)).json()["result"]
        for mode in ERAS.values():
            async with server.client(token, mode) as over_mcp:
                again = await over_mcp.call("record_usage", **arguments)
                assert (again["event_id"], again["replayed"]) == (first["event_id"], True)
                other = await over_mcp.refusal("record_usage", **arguments | {"quantity": 2})
                assert other["code"] == "conflict"
        async with place.over_stdio(token) as over_stdio:
            assert (await over_stdio.call("record_usage", **arguments))["replayed"]
        problem_of(await app.call("record_usage", **arguments | {"event": "tool_call"}), 409, "conflict")
    # Another caller's key of the same name is another key.
    async with server.api(place.token("app-two", role="service")) as other_app:
        fresh = (await other_app.call("record_usage", **arguments)).json()["result"]
        assert fresh["replayed"] is False


async def test_a_refused_key_may_succeed_after_an_upgrade(place: Place, server: Server) -> None:
    arguments = {"user_id": "retry", "event": "message", "quantity": 60, "idempotency_key": "again"}
    async with (
        server.api(place.token("app", role="service")) as app,
        server.api(place.token("retry")) as user,
    ):
        await user.call("get_tier_info")
        problem_of(await app.call("record_usage", **arguments), 429, "quota_exceeded")
        offered = (await user.call("upgrade_tier", plan="advanced")).json()["result"]
        assert offered["status"] == "confirmation_required"
        applied = await user.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        assert applied.json()["result"]["status"] == "applied"
        assert (await app.call("record_usage", **arguments)).json()["result"]["allowed"]
        held = await user.call("upgrade_tier", plan="advanced")
        problem_of(held, 409, "conflict")


async def test_a_confirmation_is_bound_to_caller_and_arguments(place: Place, server: Server) -> None:
    async with (
        server.api(place.token("mallory")) as mallory,
        server.api(place.token("victim")) as victim,
    ):
        await mallory.call("get_tier_info")
        offered = (await victim.call("upgrade_tier", plan="advanced")).json()["result"]["confirmation"]
        for api, plan in ((mallory, "advanced"), (victim, "premium")):
            refused = await api.call("upgrade_tier", plan=plan, confirmation=offered)
            assert refused.status_code in (409, 422), refused.text
        made_up = await victim.call("upgrade_tier", plan="advanced", confirmation="made-up")
        assert made_up.status_code in (409, 422)
        assert (await victim.call("get_tier_info")).json()["result"]["plan"] == "basic"


# Accounts


async def test_a_subscription_is_shown_to_whom_it_concerns(place: Place, server: Server) -> None:
    path = "/api/tenants/acme/subscription"
    async with server.api(place.token("bella")) as bella:
        mine = (await bella.get(path)).json()
        assert (mine["user_id"], mine["plan"]) == ("bella", "basic")
        assert "tenant" not in mine
        assert (await bella.get(f"{path}?user_id=bella")).json()["user_id"] == "bella"
        for other in (f"{path}?user_id=adam", f"{path}?user_id=nobody", "/api/tenants/globex/subscription"):
            problem_of(await bella.get(other), 403, "forbidden")
        for wrong in (f"{path}?who=bella", f"{path}?user_id=a%20b"):
            problem_of(await bella.get(wrong), 422, "invalid_request")
    async with server.api(place.token("app", role="service")) as app:
        assert (await app.get(f"{path}?user_id=bella")).json()["user_id"] == "bella"
        problem_of(await app.get(path), 422, "invalid_request")
    async with server.api(place.token("tara", role="tenant_admin")) as tara:
        own = (await tara.get(path)).json()
        assert own["user_id"] == "tara"
        assert set(own["tenant"]) >= {"accounts", "users", "plans"}
        assert own["tenant"]["accounts"] >= 2
        problem_of(await tara.get("/api/tenants/globex/subscription"), 403, "forbidden")


async def test_a_super_admin_sees_another_tenant(place: Place, server: Server) -> None:
    async with server.api(place.token("gus", tenant="globex", tier="premium")) as gus:
        await gus.call("get_tier_info")
    async with server.api(place.token("root", role="superadmin")) as root:
        await root.call("get_tier_info")
        before = place.rows()
        seen = (await root.get("/api/tenants/globex/subscription")).json()
        assert seen["tenant"]["users"] == 1
        one = (await root.get("/api/tenants/globex/subscription?user_id=gus")).json()
        assert (one["tenant_id"], one["plan"]) == ("globex", "premium")
        over_mcp = await root.call("get_tier_info", tenant_id="globex", user_id="gus")
        assert over_mcp.json()["result"]["plan"] == "premium"
        # Somebody never seen is shown as the newcomer they would be, and looking does not make them one.
        stranger = (await root.get("/api/tenants/globex/subscription?user_id=nobody")).json()
        assert (stranger["plan"], stranger["origin"]) == ("basic", "default")
        assert place.rows() == before


# Without a token


async def test_what_needs_no_token(place: Place, server: Server) -> None:
    async with server.api() as anybody:
        plans = (await anybody.get("/api/plans")).json()["plans"]
        assert [plan["plan"] for plan in plans] == ["basic", "advanced", "premium"]
        async with server.api(place.token("bella")) as bella:
            assert (await bella.call("list_plans")).json()["result"]["plans"] == plans
        assert (await anybody.get("/healthz")).json() == {"status": "ok"}
        assert (await anybody.get("/readyz")).json() == {"status": "ok"}
        metadata = (await anybody.get("/.well-known/oauth-protected-resource/mcp")).json()
        assert metadata == {
            "resource": f"{server.base_url}/mcp",
            "resource_name": "subscription-mcp",
            "bearer_methods_supported": ["header"],
        }
        for path in ("/api/mcp/tools", "/api/tenants/acme/subscription", "/mcp", "/anything"):
            problem_of(await anybody.get(path), 401, "unauthenticated")


def test_the_metadata_names_the_issuer_where_it_is_an_https_url(tmp_path: Any) -> None:
    issuer = "https://login.example.com"
    place = Place(tmp_path, AUTH__ISSUER=issuer)
    with place.serving() as server:
        metadata = httpx2.get(f"{server.base_url}/.well-known/oauth-protected-resource/mcp").json()
        assert metadata["authorization_servers"] == [issuer]


async def test_an_mcp_session_that_is_no_more_is_404(place: Place, server: Server) -> None:
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-session-id": "0" * 32,
    }
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    async with server.api(place.token("bella")) as bella:
        response = await bella.send("POST", "/mcp", json=message, headers=headers)
        problem_of(response, 404, "invalid_request")


async def test_an_mcp_session_belongs_to_who_began_it(place: Place, server: Server) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    async with server.api(place.token("bella")) as bella:
        session = (await bella.send("POST", "/mcp", json=hello, headers=headers)).headers["mcp-session-id"]
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    async with server.api(place.token("mallory")) as mallory:
        stolen = await mallory.send(
            "POST", "/mcp", json=message, headers=headers | {"mcp-session-id": session}
        )
        assert stolen.status_code in (403, 404), stolen.text


def test_small_answers_leave_at_once() -> None:
    """asyncio switches Nagle's algorithm off only where the socket says it is TCP: 40 ms on every MCP call."""
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


async def test_one_connection_that_never_ends_its_request_disturbs_nobody(
    place: Place, server: Server
) -> None:
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half_open:
        half_open.sendall(b"POST /api/mcp/tools/check_quota HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        async with server.api(place.token("bella")) as bella:
            assert (await bella.call("get_tier_info")).status_code == 200
