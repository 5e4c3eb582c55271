"""Where one person, account or tenant ends and the next begins, through the real server."""

from collections.abc import Iterator

import pytest
from tests.harness import TODAY, Place, Server, problem_of

MESSAGE = {"event": "message"}
# Every tool that can be about somebody, with what it needs beside a target.
ABOUT_SOMEBODY = {
    "get_tier_info": {},
    "check_quota": MESSAGE,
    "has_feature": {"feature": "mcp_access"},
    "upgrade_tier": {"plan": "basic"},
    "get_usage_analytics": {},
    "list_usage_events": {},
    "export_usage": {"format": "csv", "start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z"},
    "manage_limits": {"action": "list"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("boundaries"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


@pytest.mark.parametrize("target", [{"account_id": "bella"}, {"user_id": "bella"}], ids=["account", "user"])
@pytest.mark.parametrize("joined", [False, True], ids=["before-joining", "after-joining"])
@pytest.mark.parametrize("tool", ABOUT_SOMEBODY)
async def test_the_admin_of_a_group_with_a_persons_id_never_reaches_the_person(
    place: Place, server: Server, tool: str, joined: bool, target: dict[str, str]
) -> None:
    # Another tenant each time, so that every case is the first.
    tenant = f"{tool}-{joined}-{next(iter(target))}"
    person = place.token("bella", tenant=tenant, tier="premium")
    admin = place.token("mallory", tenant=tenant, group="bella", role="admin", tier="premium")
    async with server.api(person) as bella, server.api(admin) as mallory:
        before = (await bella.call("get_tier_info")).json()["result"]
        if joined:
            assert (await mallory.call("get_tier_info")).status_code == 200
        answer = await mallory.call(tool, **ABOUT_SOMEBODY[tool], **target)
        if answer.status_code == 200:
            shown = answer.json()["result"]
            assert "account_id" in target and shown.get("account_kind", "group") == "group"
            assert shown.get("status") in (None, "active", "confirmation_required")
        else:
            assert problem_of(answer, answer.status_code, answer.json()["code"])["code"] in (
                "forbidden",
                "conflict",
            )
        after = (await bella.call("get_tier_info")).json()["result"]
        assert before == after
        assert (after["account_kind"], after["plan"]) == ("personal", "premium")


@pytest.mark.parametrize("tool", ABOUT_SOMEBODY)
async def test_the_admin_of_a_group_reaches_nobody_outside_it(
    place: Place, server: Server, tool: str
) -> None:
    tenant = f"outside-{tool}"
    admin = place.token("ada", tenant=tenant, group="red", role="admin", tier="premium")
    async with server.api(admin) as ada, server.api(place.token("otto", tenant=tenant)) as otto:
        await ada.call("get_tier_info")
        await otto.call("get_tier_info")
        known = await ada.call(tool, **ABOUT_SOMEBODY[tool], user_id="otto")
        unknown = await ada.call(tool, **ABOUT_SOMEBODY[tool], user_id="nobody")
    assert problem_of(known, 403, "forbidden") == problem_of(unknown, 403, "forbidden")


async def test_a_batch_counts_in_the_tenant_beside_it_or_not_at_all(place: Place, server: Server) -> None:
    rows = place.rows()
    async with server.api(place.token("app", role="service")) as service:
        body = {"tenant_id": "globex", "arguments": {"events": [{"user_id": "gina", **MESSAGE}]}}
        answer = await service.send("POST", "/api/mcp/tools/record_usage_batch", json=body)
        assert [result["code"] for result in answer.json()["result"]["results"]] == ["forbidden"]
        body = {
            "tenant_id": "acme",
            "arguments": {"events": [{"tenant_id": "globex", "user_id": "gina", **MESSAGE}]},
        }
        problem_of(
            await service.send("POST", "/api/mcp/tools/record_usage_batch", json=body), 422, "invalid_request"
        )
    assert place.rows() == rows


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(["record_usage"], {}), ({}, {}), (5, {}), (None, {})],
    ids=["list", "object", "number", "null"],
)
async def test_a_tool_name_that_is_no_text_is_a_fault_of_the_request(
    place: Place, server: Server, name: object, arguments: object
) -> None:
    code = await _error_code(place, server, {"name": name, "arguments": arguments})
    assert code in (-32602, -32020)  # the second where no header could repeat such a name


@pytest.mark.parametrize("arguments", ["null", [1], 5, True], ids=["text", "list", "number", "boolean"])
async def test_arguments_that_are_no_object_are_invalid_params(
    place: Place, server: Server, arguments: object
) -> None:
    code = await _error_code(place, server, {"name": "get_tier_info", "arguments": arguments})
    assert code == -32602


async def _error_code(place: Place, server: Server, params: dict[str, object]) -> int:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "_meta": meta}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": params["name"] if isinstance(params["name"], str) else "?",
    }
    async with server.api(place.token("bella")) as api:
        answer = await api.send("POST", "/mcp", json=request, headers=headers)
    code: int = answer.json()["error"]["code"] if "error" in answer.json() else 0
    return code
