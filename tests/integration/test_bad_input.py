"""What is wrong is refused in the words of the contract, in the same way everywhere, and nothing is counted."""

import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from tests.harness import (
    ERAS,
    TODAY,
    Place,
    Server,
    Talk,
    discreet,
    problem_of,
    refusal_of,
    talking,
    text_of,
)

from subscription_mcp.auth.keys import VerificationKey
from subscription_mcp.tools.toolbox import TOOLS

UNEXPANDED = "${SUBSCRIPTION_MCP_TOKEN}"
REQUIRED = {
    "check_quota": {"event": "message"},
    "upgrade_tier": {"plan": "advanced", "dry_run": True},
    "manage_subscription": {"action": "cancel"},
    "record_usage": {"event": "message", "user_id": "bella"},
    "record_usage_batch": {"events": [{"event": "message", "user_id": "bella"}]},
    "reserve_usage": {"event": "message", "user_id": "bella"},
    "settle_usage": {"reservation_id": "r1"},
    "renew_session": {"session_id": "s1"},
    "close_session": {"session_id": "s1"},
    "has_feature": {"feature": "mcp_access"},
    "export_usage": {"format": "csv", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
    "manage_limits": {"action": "list"},
    "manage_accounts": {"action": "statistics"},
    "manage_members": {"action": "list"},
    "manage_plans": {"action": "create"},
}
BAD_QUANTITIES = [0, -1, 10**12 + 1, 1.5, "5", True, "null", None, [], {}]
RAW_QUANTITIES = ["1e999", "NaN", "Infinity", "-0", "1e3", "10" * 200, '"5"', "1.0", "true", "null"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("bad-input"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


@asynccontextmanager
async def nothing_counted(place: Place) -> AsyncIterator[None]:
    """No row of the ledger comes or goes meanwhile."""
    before = place.rows()
    yield
    assert place.rows() == before


@asynccontextmanager
async def settled(place: Place, server: Server, *people: tuple[str, str | None]) -> AsyncIterator[None]:
    """Everybody concerned is known already; nothing is counted after that."""
    for user, tier in people:
        async with server.api(place.token(user, tier=tier)) as api:
            assert (await api.call("get_tier_info")).status_code == 200
    async with nothing_counted(place):
        yield


def token_for(tool: str, place: Place) -> str:
    """A token of somebody who has the tool."""
    if tool.startswith(("record_usage", "reserve_", "settle_")):
        return place.token("app", role="service")
    if tool == "manage_accounts":
        return place.token("tara", role="tenant_admin")
    if tool == "manage_plans":
        return place.token("susan", role="superadmin")
    return place.token("prudence", tier="premium")


# Who is calling


def unsigned(place: Place) -> str:
    _, payload, signature = place.token("bella").split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{header}.{payload}.{signature}"


def forged_tier(place: Place) -> str:
    header, _, signature = place.token("bella").split(".")
    claims = {
        "sub": "bella",
        "iss": "subscription-mcp",
        "aud": "subscription-mcp",
        "exp": int(time.time()) + 600,
    }
    payload = base64.urlsafe_b64encode(json.dumps(claims | {"tier": "premium"}).encode()).decode().rstrip("=")
    return f"{header}.{payload}.{signature}"


BAD_TOKENS = {
    "expired": (lambda place: place.token("bella", ttl_seconds=60, issued_ago_seconds=600), "expired at"),
    "unsigned": (unsigned, "not signed"),
    "foreign": (
        lambda place: place.token("bella", key=VerificationKey(b"x" * 40, ("HS256",), "secret", True)),
        "not signed with the key of this server",
    ),
    "forged": (forged_tier, "not signed with the key of this server"),
    "unexpanded": (lambda place: UNEXPANDED, "did not expand the variable"),
    "no token at all": (lambda place: "abc", "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_over_http_is_401_with_a_challenge_and_help(
    place: Place, server: Server, kind: str
) -> None:
    make, words = BAD_TOKENS[kind]
    async with nothing_counted(place), server.api(make(place)) as api:
        for response in (
            await api.get("/api/mcp/tools"),
            await api.call("record_usage", user_id="bella", event="message"),
            await api.send("POST", "/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        ):
            document = problem_of(response, 401, "unauthenticated")
            assert words in document["detail"]
            assert response.headers["www-authenticate"] == (
                'Bearer error="invalid_token", '
                f'resource_metadata="{server.base_url}/.well-known/oauth-protected-resource/mcp"'
            )


async def test_no_token_over_http_is_401_without_an_error_in_the_challenge(
    place: Place, server: Server
) -> None:
    async with server.api() as api:
        response = await api.get("/api/mcp/tools")
    assert "Authorization: Bearer" in problem_of(response, 401, "unauthenticated")["detail"]
    assert "error=" not in response.headers["www-authenticate"]


async def test_two_authorizations_are_none(place: Place, server: Server) -> None:
    good = f"Bearer {place.token('bella')}"
    both: list[list[tuple[str, str]]] = [
        [("authorization", good), ("authorization", good)],
        [("authorization", f"{good}, {good}")],
        [("authorization", f"{good},")],
        [("authorization", good.replace("Bearer", "Basic"))],
        [("authorization", "Bearer")],
    ]
    async with httpx2.AsyncClient(base_url=server.base_url) as http:
        for headers in both:
            response = await http.get("/api/mcp/tools", headers=headers)
            discreet(response.text, good)
            problem_of(response, 401, "unauthenticated")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "subscription-mcp token mint"),
        (UNEXPANDED, "did not expand the variable"),
        ("expired", "expired at"),
    ],
)
async def test_without_a_token_stdio_starts_and_every_call_says_how_to_get_one(
    place: Place, server: Server, era: str, given: str | None, words: str
) -> None:
    token = BAD_TOKENS["expired"][0](place) if given == "expired" else given
    async with nothing_counted(place), place.over_stdio(token, ERAS[era]) as nobody:
        tools = await nobody.tools()
        assert "get_tier_info" in tools
        for tool in tools:
            refusal = await nobody.refusal(tool, **REQUIRED.get(tool, {}))
            assert refusal["code"] == "unauthenticated"
            assert words in refusal["message"]
            assert not refusal["retryable"]


# What does not exist, and what is nobody's business


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_tool_hidden_by_role_is_the_same_as_an_unknown_one(
    place: Place, server: Server, transport: str, era: str
) -> None:
    async with (
        settled(place, server, ("bella", "basic")),
        talking(place, server, transport, place.token("bella"), ERAS[era]) as bella,
    ):
        hidden = await bella.rpc_error("record_usage", user_id="bella", event="message")
        unknown = await bella.rpc_error("no_such_tool", user_id="bella", event="message")
    assert hidden[0] == unknown[0] == -32602
    assert hidden[1].replace("record_usage", "TOOL") == unknown[1].replace("no_such_tool", "TOOL")
    assert hidden[2] == unknown[2]


async def test_over_http_a_hidden_tool_and_an_unknown_one_are_the_same_404(
    place: Place, server: Server
) -> None:
    async with settled(place, server, ("bella", "basic")), server.api(place.token("bella")) as bella:
        hidden = await bella.call("record_usage", user_id="bella", event="message")
        unknown = await bella.call("no_such_tool", user_id="bella", event="message")
        problem_of(hidden, 404, "not_found")
        assert hidden.content == unknown.content


@pytest.mark.parametrize("era", ERAS)
async def test_other_people_are_forbidden_whether_or_not_they_exist(
    place: Place, server: Server, era: str
) -> None:
    async with server.api(place.token("gus", tenant="globex")) as gus:
        await gus.call("get_tier_info")
    targets: list[dict[str, str]] = [
        {"tenant_id": "globex", "user_id": "gus"},
        {"tenant_id": "globex", "user_id": "nobody"},
        {"tenant_id": "nowhere", "user_id": "gus"},
        {"tenant_id": "globex"},
        {"user_id": "petra"},
        {"user_id": "nobody"},
        {"account_id": "petra"},
    ]
    people = (("bella", "basic"), ("petra", "premium"))
    async with settled(place, server, *people), server.client(place.token("bella"), ERAS[era]) as bella:
        answers = []
        for target in targets:
            answers.append(await bella.refusal("get_tier_info", **target))
            answers.append(await bella.refusal("check_quota", event="message", **target))
            answers.append(await bella.refusal("upgrade_tier", plan="advanced", **target))
        assert {answer["code"] for answer in answers} == {"forbidden"}
        assert len({json.dumps(answer) for answer in answers}) == 1


async def test_a_service_of_one_tenant_does_not_reach_another(place: Place, server: Server) -> None:
    async with nothing_counted(place), server.api(place.token("app", role="service")) as app:
        for user in ("gus", "nobody"):
            response = await app.call("record_usage", tenant_id="globex", user_id=user, event="message")
            problem_of(response, 403, "forbidden")
        response = await app.send(
            "POST",
            "/api/mcp/tools/record_usage",
            json={"tenant_id": "globex", "arguments": {"user_id": "gus", "event": "message"}},
        )
        problem_of(response, 403, "forbidden")


async def test_a_service_names_the_user(place: Place, server: Server) -> None:
    async with nothing_counted(place), server.api(place.token("app", role="service")) as app:
        document = problem_of(await app.call("record_usage", event="message"), 422, "invalid_request")
        assert [field["field"] for field in document["fields"]] == ["user_id"]
        unheld = await app.call("record_usage", event="message", user_id="bella", account_id="somebody-else")
        problem_of(unheld, 422, "invalid_request")


# Arguments


@pytest.mark.parametrize("era", ERAS)
async def test_every_tool_refuses_an_argument_it_does_not_have(
    place: Place, server: Server, era: str
) -> None:
    async with settled(place, server, ("prudence", "premium"), ("bella", "basic")):
        for tool in TOOLS:
            async with server.client(token_for(tool.name, place), ERAS[era]) as caller:
                arguments = REQUIRED.get(tool.name, {}) | {"nonsense": 1}
                refusal = await caller.refusal(tool.name, **arguments)
                assert refusal["code"] == "invalid_request"
                assert [field["field"] for field in refusal["fields"]] == ["nonsense"]


async def test_every_tool_refuses_an_argument_it_does_not_have_over_http(
    place: Place, server: Server
) -> None:
    async with settled(place, server, ("prudence", "premium"), ("bella", "basic")):
        for tool in TOOLS:
            async with server.api(token_for(tool.name, place)) as caller:
                response = await caller.call(tool.name, **REQUIRED.get(tool.name, {}), nonsense=1)
                problem_of(response, 422, "invalid_request")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", sorted(REQUIRED))
async def test_what_is_required_is_missed(place: Place, server: Server, era: str, tool: str) -> None:
    async with (
        settled(place, server, ("prudence", "premium"), ("bella", "basic")),
        server.client(token_for(tool, place), ERAS[era]) as caller,
    ):
        refusal = await caller.refusal(tool)
        assert refusal["code"] == "invalid_request"
        required = next(found for found in TOOLS if found.name == tool).input_schema["required"]
        assert {field["field"] for field in refusal["fields"]} >= set(required)


@pytest.mark.parametrize("era", ERAS)
async def test_every_argument_of_every_tool_is_refused_with_a_wrong_type(
    place: Place, server: Server, era: str
) -> None:
    async with settled(place, server, ("prudence", "premium"), ("bella", "basic")):
        for tool in TOOLS:
            async with server.client(token_for(tool.name, place), ERAS[era]) as caller:
                for name in tool.input_schema.get("properties", {}):
                    for wrong in (None, [[]], {"a": {"b": 1}}):
                        arguments = REQUIRED.get(tool.name, {}) | {name: wrong}
                        refusal = await caller.refusal(tool.name, **arguments)
                        assert refusal["code"] == "invalid_request", (tool.name, name, wrong, refusal)
                        assert any(field["field"].startswith(name) for field in refusal["fields"]), refusal


@pytest.mark.parametrize("era", ERAS)
async def test_a_quantity_is_an_integer_from_1_to_10_to_the_12(
    place: Place, server: Server, era: str
) -> None:
    service = place.token("app", role="service")
    async with settled(place, server, ("bella", "basic")), server.client(service, ERAS[era]) as app:
        for quantity in BAD_QUANTITIES:
            arguments = {"user_id": "bella", "event": "message", "quantity": quantity}
            for tool in ("record_usage", "check_quota"):
                refusal = await app.refusal(tool, **arguments)
                assert refusal["code"] == "invalid_request", quantity
                assert [field["field"] for field in refusal["fields"]] == ["quantity"]
            batch = await app.call("record_usage_batch", events=[arguments])
            assert [result["code"] for result in batch["results"]] == ["invalid_request"]


@pytest.mark.parametrize("raw", RAW_QUANTITIES, ids=[raw[:10] for raw in RAW_QUANTITIES])
async def test_numbers_json_knows_only_by_accident_are_refused(
    place: Place, server: Server, raw: str
) -> None:
    body = f'{{"arguments": {{"user_id": "bella", "event": "message", "quantity": {raw}}}}}'
    async with (
        settled(place, server, ("bella", "basic")),
        server.api(place.token("app", role="service")) as app,
    ):
        response = await app.raw("record_usage", body)
        assert response.status_code in (400, 422), response.text
        assert response.json()["code"] == "invalid_request"


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_word_comes_with_the_right_ones(place: Place, server: Server, era: str) -> None:
    service, premium = place.token("app", role="service"), place.token("prudence", tier="premium")
    async with (
        settled(place, server, ("bella", "basic"), ("prudence", "premium")),
        server.client(service, ERAS[era]) as app,
        server.client(premium, ERAS[era]) as prudence,
    ):
        event = await app.refusal("record_usage", user_id="bella", event="mesage")
        assert event["code"] == "invalid_request"
        assert "message" in event["message"]
        attribute = await app.refusal(
            "record_usage", user_id="bella", event="tool_call", attributes={"tol": "x"}
        )
        assert attribute["code"] == "invalid_request"
        assert "tool" in json.dumps(attribute["fields"])
        plan = await prudence.refusal("upgrade_tier", plan="platinum")
        assert plan["code"] in ("invalid_request", "not_found")
        assert all(word in plan["message"] for word in ("basic", "advanced", "premium")), plan
        feature = await prudence.refusal("has_feature", feature="mcp")
        assert "mcp_access" in feature["message"]
        meter = await prudence.refusal("get_usage_analytics", meters=["mesages"])
        assert "messages" in meter["message"]
        listed = await prudence.refusal("list_usage_events", event="mesage")
        assert "message" in listed["message"]
        cursor = await prudence.refusal("list_usage_events", cursor="bm90IG1pbmU")
        assert [field["field"] for field in cursor["fields"]] == ["cursor"]


async def test_instants_out_of_reach_are_refused(place: Place, server: Server) -> None:
    instants = [
        "yesterday",
        "2026-10-16",
        "2026-11-31",
        "2026-11-20T14:00:00",
        "2026-10-16T14:03:11Z",
        "2026-11-20T14:08:12Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ]
    async with (
        settled(place, server, ("bella", "basic")),
        server.api(place.token("app", role="service")) as app,
    ):
        for instant in instants:
            response = await app.call("record_usage", user_id="bella", event="message", occurred_at=instant)
            document = problem_of(response, 422, "invalid_request")
            assert document["fields"][0]["field"] == "occurred_at", (instant, document)


async def test_ids_outside_the_alphabet_are_refused(place: Place, server: Server) -> None:
    async with nothing_counted(place), server.api(place.token("app", role="service")) as app:
        for user in ("", "a b", "a/b", "ä", "a\n", "x" * 129, "\x00", "a,b"):
            response = await app.call("record_usage", user_id=user, event="message")
            document = problem_of(response, 422, "invalid_request")
            assert document["fields"][0]["field"] == "user_id", (user, document)
        body = r'{"arguments": {"user_id": "\ud800", "event": "message"}}'
        assert (await app.raw("record_usage", body)).status_code == 422
        body = r'{"arguments": {"user_id": "bella", "event": "tool_call", "attributes": {"tool": "\ud800"}}}'
        assert (await app.raw("record_usage", body)).status_code == 422


# HTTP itself


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("{", 400),
        ("arguments", 400),
        (b"\xff\xfe{}", 400),
        ("[]", 400),
        ("null", 400),
        ('"text"', 400),
        ("[" * 100_000, 400),
        ('{"arguments": {}, "arguments": {"user_id": "bella", "event": "message"}}', 400),
        ('{"arguments": {"user_id": "bella", "user_id": "gus", "event": "message"}}', 400),
        ('{"arguments": []}', 422),
        ('{"arguments": null}', 422),
        ('{"arguments": {"user_id": "bella", "event": "message"}, "more": 1}', 422),
        ('{"tenant_id": null, "arguments": {"user_id": "bella", "event": "message"}}', 422),
        ('{"tenant_id": "a b", "arguments": {"user_id": "bella", "event": "message"}}', 422),
        (
            '{"tenant_id": "acme", "arguments": {"tenant_id": "globex", "user_id": "bella", "event": "message"}}',
            422,
        ),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_a_body_that_is_no_call_is_refused(
    place: Place, server: Server, body: str | bytes, status: int
) -> None:
    async with nothing_counted(place), server.api(place.token("app", role="service")) as app:
        problem_of(await app.raw("record_usage", body), status, "invalid_request")


async def test_faults_of_http_are_problem_documents(place: Place, server: Server) -> None:
    call = json.dumps({"arguments": {"user_id": "bella", "event": "message"}})
    async with nothing_counted(place), server.api(place.token("app", role="service")) as app:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
            problem_of(await app.raw("record_usage", call, kind), 415, "invalid_request")
        too_large = b'{"arguments": {"event": "' + b"x" * (4 * 1024 * 1024) + b'"}}'
        problem_of(await app.raw("record_usage", too_large), 413, "invalid_request")

        async def in_pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b" " * 1024 * 1024

        kind = {"content-type": "application/json"}
        unannounced = await app.send("POST", "/api/mcp/tools/record_usage", content=in_pieces(), headers=kind)
        problem_of(unannounced, 413, "invalid_request")
        on_mcp = await app.send("POST", "/mcp", content=in_pieces(), headers=kind)
        problem_of(on_mcp, 413, "invalid_request")
        wrong_method = await app.get("/api/mcp/tools/record_usage")
        problem_of(wrong_method, 405, "invalid_request")
        assert wrong_method.headers["allow"] == "POST"
        for path in ("/", "/api", "/nothing", "/mcp/", "/api/mcp/tools/", "/docs", "/../etc/passwd"):
            problem_of(await app.get(path), 404, "not_found")
        foreign = {"host": "evil.example"}
        problem_of(await app.get("/api/plans", headers=foreign), 421, "invalid_request")
        for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
            for path in ("/api/plans", "/api/mcp/tools", "/mcp"):
                response = await app.get(path, headers={"origin": origin})
                problem_of(response, 403, "invalid_request")
        own = await app.get("/api/plans", headers={"origin": server.base_url})
        assert own.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '{"jsonrpc": "2.0"}',
        '{"jsonrpc": "2.0", "id": null, "method": "tools/list"}',
        "\ud83d",
    ],
)
async def test_on_mcp_there_is_never_an_error_without_an_id(place: Place, server: Server, body: str) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    async with nothing_counted(place), server.api(place.token("bella")) as api:
        for era in ({}, {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}):
            response = await api.send(
                "POST", "/mcp", content=body.encode(errors="surrogatepass"), headers=headers | era
            )
            if era and '"id"' in response.text:  # the modern era can name the request it refuses
                assert response.json()["id"] is not None
            else:
                problem_of(response, response.status_code, "invalid_request")
            assert 400 <= response.status_code < 500


@pytest.mark.parametrize("era", ERAS)
async def test_an_error_and_a_refused_decision_look_different(place: Place, server: Server, era: str) -> None:
    """A refused decision is an answer with data; an error has the object in `_meta` and no data."""
    service = place.token("app", role="service")
    async with server.client(service, ERAS[era]) as app:
        arguments: dict[str, Any] = {"user_id": "bella", "event": "message", "quantity": 51}
        decision = await app.result("record_usage", arguments)
        assert not decision.is_error
        assert decision.structured_content is not None
        assert decision.structured_content["allowed"] is False
        assert text_of(decision) == decision.structured_content["message"]
        error = refusal_of(await app.result("record_usage", arguments | {"quantity": 0}))
        assert set(error) == {"code", "message", "retryable", "fields"}


async def test_a_flood_of_bad_calls_leaves_the_server_well(place: Place, server: Server) -> None:
    async def bad(talk: Talk) -> None:
        for index in range(50):
            await talk.refusal("check_quota", event="message", quantity=-index)

    async with settled(place, server, ("bella", "basic")), server.client(place.token("bella")) as bella:
        await bad(bella)
        assert (await bella.call("get_tier_info"))["plan"] == "basic"
