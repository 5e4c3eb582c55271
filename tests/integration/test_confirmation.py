"""A change of plan is confirmed by a person where the client can ask one, and applied once."""

from collections.abc import Iterator
from typing import Any

import pytest
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult, ErrorData
from tests.harness import ERAS, TODAY, Place, Server, Talk, refusal_of, talking

FORMS: dict[str, Any] = {"elicitation": {"form": {}}}
YES = {"confirm": {"action": "accept", "content": {"confirm": True}}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("confirmation"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


class Person:
    """Somebody behind a client, who always answers the same and remembers what they were asked."""

    def __init__(self, answer: ElicitResult | ErrorData) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult | ErrorData:
        assert isinstance(params, ElicitRequestFormParams)
        assert params.requested_schema["required"] == ["confirm"]
        self.asked.append(params.message)
        return self.answer


def says(action: Any, content: dict[str, Any] | None = None) -> Person:
    return Person(ElicitResult(action=action, content=content))


async def plan_of(talk: Talk) -> str:
    plan: str = (await talk.call("get_tier_info"))["plan"]
    return plan


def changes(place: Place) -> int:
    return len(place.select("SELECT 1 FROM audit WHERE action LIKE 'subscription.%'"))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_client_that_can_ask_is_asked_and_a_yes_applies(
    place: Place, server: Server, transport: str, era: str
) -> None:
    person = says("accept", {"confirm": True})
    token = place.token(f"asked.{transport}.{era}")
    async with talking(place, server, transport, token, ERAS[era], person) as talk:
        applied = await talk.call("upgrade_tier", plan="advanced")
        assert (applied["status"], applied["from_plan"], applied["confirmation"]) == (
            "applied",
            "basic",
            None,
        )
        assert await plan_of(talk) == "advanced"
        scheduled = await talk.call("upgrade_tier", plan="basic")
        assert scheduled["status"] == "scheduled"
        up, down = person.asked
        assert up.startswith("Change the plan to Advanced, at once? It costs 29.00 USD now and 29.00 USD")
        assert "0 of 200 used today" in up
        assert "Basic, from 2026-12-20 14:03 UTC, when the paid period ends?" in down


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize(
    "person",
    [
        says("decline"),
        says("cancel"),
        says("accept", {"confirm": False}),
        says("accept", {}),
        says("accept"),
        says("accept", {"confirm": "true"}),
    ],
    ids=["declined", "canceled", "no", "empty", "nothing", "text"],
)
async def test_anything_but_a_yes_changes_nothing(
    place: Place, server: Server, transport: str, era: str, person: Person
) -> None:
    async with talking(place, server, transport, place.token("dora"), ERAS[era], person) as talk:
        assert await plan_of(talk) == "basic"
        before = changes(place)
        declined = await talk.call("upgrade_tier", plan="advanced")
        assert (declined["status"], declined["confirmation"]) == ("declined", None)
        assert declined["text"] == "Declined: nothing was changed."
        assert await plan_of(talk) == "basic"
        assert (declined["from_plan"], declined["to_plan"]) == ("basic", "advanced")
        assert changes(place) == before


@pytest.mark.parametrize("era", ERAS)
async def test_only_what_would_change_something_is_asked(place: Place, server: Server, era: str) -> None:
    person = says("accept", {"confirm": True})
    async with server.client(place.token(f"quiet.{era}"), ERAS[era], person) as talk:
        assert (await talk.call("upgrade_tier", plan="advanced", dry_run=True))["status"] == "preview"
        assert (await talk.refusal("upgrade_tier", plan="basic"))["code"] == "conflict"
        assert (await talk.refusal("upgrade_tier", plan="gold"))["code"] == "invalid_request"
        assert (await talk.refusal("upgrade_tier", plan="advanced", user_id="eve"))["code"] == "forbidden"
        for wrong in ({"confirmation": None}, {"dry_run": "false"}, {"force": True}, {"seats": None}):
            refused = await talk.refusal("upgrade_tier", plan="advanced", **wrong)
            assert refused["code"] == "invalid_request"
        assert person.asked == []
        # A handle is a confirmation already.
        async with server.client(place.token(f"quiet.{era}"), ERAS[era]) as mute:
            offered = await mute.call("upgrade_tier", plan="advanced")
            assert offered["status"] == "confirmation_required"
        applied = await talk.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        assert applied["status"] == "applied"
        assert person.asked == []


async def test_a_legacy_client_that_cannot_answer_after_all_gets_the_handle(
    place: Place, server: Server
) -> None:
    person = Person(ErrorData(code=-32603, message="no screen"))
    async with server.client(place.token("blank"), "legacy", person) as talk:
        offered = await talk.call("upgrade_tier", plan="advanced")
        assert offered["status"] == "confirmation_required"
        assert await plan_of(talk) == "basic"
        applied = await talk.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        assert applied["status"] == "applied"


@pytest.mark.parametrize(
    ("declared", "asked"),
    [
        ({}, False),
        ({"elicitation": {"url": {}}}, False),
        ({"elicitation": {}}, True),
        (FORMS, True),
        ({"elicitation": {"form": {}, "url": {}}}, True),
    ],
)
async def test_only_a_client_that_declares_forms_is_asked(
    place: Place, server: Server, declared: dict[str, Any], asked: bool
) -> None:
    result = await called(server, place.token("declared"), {"plan": "advanced"}, capabilities=declared)
    assert result["resultType"] == ("input_required" if asked else "complete")
    if not asked:
        assert result["structuredContent"]["status"] == "confirmation_required"


async def test_over_http_tools_it_is_always_the_handle(place: Place, server: Server) -> None:
    async with server.api(place.token("plain")) as api:
        offered = (await api.call("upgrade_tier", plan="advanced")).json()["result"]
    assert offered["status"] == "confirmation_required"
    assert offered["confirmation"]


async def called(
    server: Server,
    access_token: str,
    arguments: dict[str, Any],
    *,
    capabilities: dict[str, Any] | None = None,
    tool: str = "upgrade_tier",
    **round_trip: Any,
) -> dict[str, Any]:
    """A modern tool call on the wire; errors of JSON-RPC under `error`."""
    params = {"name": tool, "arguments": arguments, **round_trip}
    answer = await server.modern(
        access_token, "tools/call", params, FORMS if capabilities is None else capabilities
    )
    return answer.get("result") or {"error": answer["error"]}


async def test_an_answer_applies_once_however_often_it_is_sent(place: Place, server: Server) -> None:
    token = place.token("replayer")
    arguments = {"plan": "advanced"}
    question = await called(server, token, arguments)
    assert question["resultType"] == "input_required"
    state = question["requestState"]
    answer = {"requestState": state, "inputResponses": YES}
    before = changes(place)
    assert (await called(server, token, arguments, **answer))["structuredContent"]["status"] == "applied"
    assert changes(place) == before + 1

    again = await called(server, token, arguments, **answer)
    assert again["isError"]
    # Back where the same change would be possible: the answer is used up all the same.
    async with server.client(place.token("root", role="superadmin")) as root:
        await root.buy("premium", user_id="replayer")
    count = changes(place)
    for _ in range(2):
        used = await called(server, token, arguments, **answer)
        assert used["isError"]
        assert used["_meta"]["io.github.subscription-mcp/error"]["code"] == "invalid_request"
    assert changes(place) == count
    async with server.client(token) as talk:
        assert await plan_of(talk) == "premium"


async def test_answers_sent_at_once_apply_once(place: Place, server: Server) -> None:
    import asyncio

    token = place.token("hasty")
    question = await called(server, token, {"plan": "advanced"})
    answer = {"requestState": question["requestState"], "inputResponses": YES}
    before = changes(place)
    results = await asyncio.gather(*(called(server, token, {"plan": "advanced"}, **answer) for _ in range(8)))
    assert sum(not result.get("isError", False) for result in results) == 1
    assert changes(place) == before + 1


async def test_an_answer_is_bound_to_its_question(place: Place, server: Server) -> None:
    token = place.token("bound")
    state = (await called(server, token, {"plan": "advanced"}))["requestState"]
    answer = {"requestState": state, "inputResponses": YES}
    before = changes(place)
    for stranger, arguments, tool in (
        (token, {"plan": "premium"}, "upgrade_tier"),
        (token, {"plan": "advanced", "interval": "monthly"}, "upgrade_tier"),
        (token, {"plan": "advanced"}, "get_tier_info"),
        (place.token("other"), {"plan": "advanced"}, "upgrade_tier"),
        (place.token("bound", tenant="globex"), {"plan": "advanced"}, "upgrade_tier"),
    ):
        refused = await called(server, stranger, arguments, tool=tool, **answer)
        assert refused["error"]["code"] == -32602, refused
    forged = await called(server, token, {"plan": "advanced"}, requestState="made-up", inputResponses=YES)
    assert forged["error"]["code"] == -32602
    # An answer nobody asked for is no answer.
    asked = await called(server, token, {"plan": "advanced"}, inputResponses=YES)
    assert asked["resultType"] == "input_required"
    other = await called(
        server, token, {"plan": "advanced"}, requestState=state, inputResponses={"other": YES["confirm"]}
    )
    assert other["resultType"] == "input_required"
    assert changes(place) == before


async def test_what_carries_the_question_along_is_no_handle(place: Place, server: Server) -> None:
    token = place.token("undecided")
    state = (await called(server, token, {"plan": "advanced"}))["requestState"]
    declined = await called(
        server,
        token,
        {"plan": "advanced"},
        requestState=state,
        inputResponses={"confirm": {"action": "decline"}},
    )
    assert declined["structuredContent"]["status"] == "declined"
    async with server.client(token) as talk:
        assert await plan_of(talk) == "basic"
        refused = refusal_of(
            await talk.result("upgrade_tier", {"plan": "advanced", "confirmation": state[:64]})
        )
        assert refused["code"] == "invalid_request"
