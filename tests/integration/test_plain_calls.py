"""Plain modern calls are answered before the SDK gets to its tools: nobody may be able to tell.

Each call is made twice on one ledger whose clock stands still, once as it is, and once with a member of the
parameters that says nothing but sends it the SDK's own way. Status, headers and body have to be the same.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.harness import MODERN, TODAY, Place, Server

from subscription_mcp.server.calls import PLAIN_MEMBERS

NOT_PLAIN: dict[str, Any] = {"inputResponses": {}}
MEMBER: dict[str, Any] = {"user": "bella"}
SERVICE: dict[str, Any] = {"user": "app", "role": "service"}
PREMIUM: dict[str, Any] = {"user": "paula", "tier": "premium"}
OPERATOR: dict[str, Any] = {"user": "olga", "role": "superadmin"}
USAGE = {"user_id": "bella", "event": "message"}

CALLS: list[tuple[dict[str, Any], str, Any]] = [
    (MEMBER, "get_tier_info", {}),
    (MEMBER, "list_plans", {}),
    (MEMBER, "check_quota", {"event": "message"}),
    (MEMBER, "check_quota", {"event": "message", "quantity": 51}),
    (MEMBER, "check_quota", {"event": "nothing of the kind"}),
    (MEMBER, "check_quota", {"event": "message", "quantity": "1"}),
    (MEMBER, "check_quota", {"event": "message", "surprise": 1}),
    (MEMBER, "check_quota", {}),
    (MEMBER, "check_quota", {"event": "message", "user_id": "somebody else"}),
    (MEMBER, "has_feature", {"feature": "mcp_access"}),
    (MEMBER, "get_usage_analytics", {}),
    (MEMBER, "record_usage", {"event": "message"}),
    (MEMBER, "no_such_tool", {}),
    (PREMIUM, "get_usage_analytics", {"period": "today", "group_by": ["event"]}),
    (PREMIUM, "list_usage_events", {}),
    (PREMIUM, "manage_limits", {"action": "list"}),
    (SERVICE, "record_usage", {**USAGE, "idempotency_key": "k1"}),
    (SERVICE, "record_usage", {**USAGE, "idempotency_key": "k1", "quantity": 2}),
    (SERVICE, "record_usage", {**USAGE, "quantity": 51}),
    (SERVICE, "record_usage", {"event": "message"}),
    (SERVICE, "record_usage_batch", {"events": [{**USAGE, "idempotency_key": "k1"}, {"event": 1}]}),
    (SERVICE, "reserve_usage", {**USAGE, "idempotency_key": "k2"}),
    (SERVICE, "settle_usage", {"reservation_id": "unheard-of"}),
    (SERVICE, "close_session", {"session_id": "unheard-of"}),
    (OPERATOR, "get_tier_info", {"tenant_id": "acme", "user_id": "bella"}),
    (MEMBER, "list_plans", None),
    (MEMBER, "list_plans", []),
    (MEMBER, "list_plans", "nothing"),
]
ENVELOPES: list[dict[str, Any]] = [
    {"progressToken": "p1"},
    {"progressToken": {}},
    {"io.modelcontextprotocol/clientCapabilities": 5},
    {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}},
    {"io.modelcontextprotocol/clientCapabilities": {"elicitation": 1}},
    {"io.modelcontextprotocol/clientInfo": {"name": "n", "version": "1"}},
    {"io.modelcontextprotocol/clientInfo": {"name": 1}},
    {"io.modelcontextprotocol/clientInfo": None},
    {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"traceparent": 7},
    {"anybody.example/thing": [1]},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(Path(tmp_path_factory.mktemp("plain")), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


async def answers(
    server: Server, who: dict[str, Any], params: dict[str, Any], meta: dict[str, Any], **headers: str
) -> list[tuple[int, dict[str, str], Any]]:
    """What is said to the call: the plain one once more after the first, so that both find the same ledger."""
    identity = dict(who)
    token = server.place.token(identity.pop("user"), **identity)
    known = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    said = []
    async with httpx2.AsyncClient(timeout=30) as http:
        for extra in ({}, {}, NOT_PLAIN):
            message = {
                "jsonrpc": "2.0",
                "id": "one",
                "method": "tools/call",
                "params": {**params, **extra, "_meta": known | meta},
            }
            response = await http.post(
                f"{server.base_url}/mcp",
                content=json.dumps(message),
                headers={
                    "authorization": f"Bearer {token}",
                    "accept": "application/json, text/event-stream",
                    "content-type": "application/json",
                    "mcp-protocol-version": MODERN,
                    "mcp-method": "tools/call",
                    "mcp-name": str(params.get("name")),
                    **headers,
                },
            )
            told = {name: value for name, value in response.headers.items() if name != "date"}
            said.append((response.status_code, told, response.json()))
    return said[1:]


@pytest.mark.parametrize(("who", "tool", "arguments"), CALLS)
async def test_a_plain_call_is_answered_as_the_sdk_would(
    server: Server, who: dict[str, Any], tool: str, arguments: Any
) -> None:
    params = {"name": tool} if arguments is None else {"name": tool, "arguments": arguments}
    plain, through_the_sdk = await answers(server, who, params, {})
    assert plain == through_the_sdk


@pytest.mark.parametrize("meta", ENVELOPES)
async def test_an_odd_envelope_is_judged_as_the_sdk_would(server: Server, meta: dict[str, Any]) -> None:
    params = {"name": "check_quota", "arguments": {"event": "message"}}
    plain, through_the_sdk = await answers(server, MEMBER, params, meta)
    assert plain == through_the_sdk


@pytest.mark.parametrize(
    "headers", [{"mcp-name": "list_plans"}, {"mcp-method": "tools/list"}, {"mcp-param-event": "other"}]
)
async def test_headers_that_say_something_else_are_judged_as_the_sdk_would(
    server: Server, headers: dict[str, str]
) -> None:
    params = {"name": "check_quota", "arguments": {"event": "message"}}
    plain, through_the_sdk = await answers(server, MEMBER, params, {}, **headers)
    assert plain == through_the_sdk


def test_the_other_way_is_really_another() -> None:
    assert PLAIN_MEMBERS.isdisjoint(NOT_PLAIN)


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/event-stream", "*/*"])
async def test_a_modern_answer_is_one_document(server: Server, place: Place, accept: str) -> None:
    (_, headers, body), _ = await answers(server, MEMBER, {"name": "list_plans"}, {}, accept=accept)
    assert headers["content-type"] == "application/json"
    assert body["result"]["structuredContent"]["plans"]
