"""Reservations and sessions as their users meet them: over both transports, in both eras, and over HTTP."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, Talk, audit, problem_of, talking

from subscription_mcp.tools.toolbox import TOOLS, list_bytes

LATER = "2026-11-20T14:05:11.123456Z"  # two minutes: every reservation below has expired
HALF_AN_HOUR_LATER = "2026-11-20T14:33:11.123456Z"
RECORDING = {"record_usage", "record_usage_batch", "reserve_usage", "settle_usage"}
UNKNOWN_TOOL = -32602


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("leases"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def day_of(document: dict[str, Any]) -> tuple[int, int, int]:
    """What is used, held and left today."""
    (day,) = [limit for limit in document["limits"] if limit["window"] == "day"]
    return day["used"], day["held"], day["remaining"]


combinations = pytest.mark.parametrize(
    ("transport", "era"), [(transport, era) for transport in ("stdio", "http") for era in ERAS]
)


@combinations
async def test_a_member_opens_renews_and_closes_a_session_of_its_own(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"sue.{transport}.{era}"
    async with talking(place, server, transport, place.token(user, tier="basic"), ERAS[era]) as sue:
        opened = await sue.call("open_session", ttl_seconds=600)
        session = opened["session_id"]
        assert (opened["allowed"], opened["code"], opened["active"], opened["max_concurrent"]) == (
            True,
            "ok",
            1,
            1,
        )
        assert opened["session_key"] == f"acme-basic-{user}-{session}"
        assert opened["expires_at"] == "2026-11-20T14:13:11.123456Z"
        assert opened["text"] == (
            f"Session {session} is open until 2026-11-20 14:13 UTC. Basic plan: 1 of 1 session open."
        )
        assert (opened["event_id"], opened["reservation_id"]) == (None, None)

        refused = await sue.call("open_session")
        assert (refused["allowed"], refused["code"], refused["session_id"]) == (False, "session_limit", None)
        assert refused["unlocks"] == [
            {"action": "upgrade_tier", "plan": "advanced"},
            {"action": "wait", "until": opened["expires_at"]},
        ]
        assert refused["text"] == (
            "Basic plan: 1 of 1 session open. The next one ends 2026-11-20 14:13 UTC. Advanced has 3."
        )
        sessions = (await sue.call("get_tier_info"))["sessions"]
        assert sessions == {"active": 1, "max_concurrent": 1, "max_duration_seconds": 1_800}

        renewed = await sue.call("renew_session", session_id=session)
        assert (renewed["session_id"], renewed["expires_at"]) == (session, HALF_AN_HOUR_LATER)
        closed = await sue.call("close_session", session_id=session)
        assert closed.pop("text")
        assert closed == {"session_id": session, "duration_seconds": 0}
        assert (await sue.call("get_tier_info"))["sessions"]["active"] == 0
        assert (await sue.refusal("renew_session", session_id=session))["code"] == "not_found"

        first = await sue.call("open_session", idempotency_key="k")
        again = await sue.call("open_session", idempotency_key="k")
        assert again == {**first, "replayed": True}
        assert not RECORDING & set(await sue.tools())
        for tool in ("reserve_usage", "settle_usage"):
            code, *_ = await sue.rpc_error(tool, event="message")
            assert code == UNKNOWN_TOOL


@combinations
async def test_a_service_holds_settles_and_opens_for_a_user(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"rae.{transport}.{era}"
    service_token = place.token("app", role="service")
    async with (
        talking(place, server, transport, service_token, ERAS[era]) as app,
        talking(place, server, transport, place.token(user, tier="basic"), ERAS[era]) as rae,
    ):
        message = {"user_id": user, "event": "message"}
        held = await app.call("reserve_usage", quantity=40, **message)
        assert held["text"] == (
            "Basic plan: 0 of 50 messages used today (40 more held), 10 left. Resets 2026-11-21 00:00 UTC."
        )
        assert (held["event_id"], day_of(held)) == (None, (0, 40, 10))
        assert day_of(await rae.call("get_tier_info")) == (0, 40, 10)
        refused = await app.call("reserve_usage", quantity=11, **message)
        assert (refused["allowed"], refused["code"], refused["reservation_id"]) == (
            False,
            "quota_exceeded",
            None,
        )
        asked = await rae.call("check_quota", event="message", quantity=11)
        assert asked["allowed"] is False

        settle = {"reservation_id": held["reservation_id"], "quantity": 12}
        settled = await app.call("settle_usage", **settle)
        assert (settled["allowed"], settled["late"], settled["replayed"]) == (True, False, False)
        assert (settled["event_id"] is not None, day_of(settled)) == (True, (12, 0, 38))
        assert await app.call("settle_usage", **settle) == {**settled, "replayed": True}
        other = await app.refusal("settle_usage", reservation_id=held["reservation_id"], release=True)
        assert other["code"] == "conflict"

        given_back = await app.call("reserve_usage", quantity=38, **message)
        released = await app.call("settle_usage", reservation_id=given_back["reservation_id"], release=True)
        assert (released["quantity"], released["event_id"], day_of(released)) == (0, None, (12, 0, 38))

        more = await app.call("reserve_usage", quantity=38, **message)
        over = await app.call("settle_usage", reservation_id=more["reservation_id"], quantity=39)
        assert (over["allowed"], over["code"], day_of(over)) == (False, "quota_exceeded", (51, 0, 0))

        opened = await app.call("open_session", user_id=user)
        assert opened["session_key"] == f"acme-basic-{user}-{opened['session_id']}"
        assert (await rae.call("get_tier_info"))["sessions"]["active"] == 1
        assert (await app.call("renew_session", session_id=opened["session_id"], ttl_seconds=60))["allowed"]
        assert (await rae.call("close_session", session_id=opened["session_id"]))["duration_seconds"] == 0
        nobody = await app.refusal("open_session")
        assert (nobody["code"], nobody["fields"][0]["field"]) == ("invalid_request", "user_id")


async def test_a_session_and_a_reservation_are_nobody_elses(place: Place, server: Server) -> None:
    async with (
        server.api(place.token("app", role="service")) as app,
        server.api(place.token("app", tenant="globex", role="service")) as stranger,
        server.api(place.token("mallory")) as mallory,
        server.api(place.token("tara", role="tenant_admin")) as tara,
    ):
        held = (await app.call("reserve_usage", user_id="owner", event="message")).json()["result"]
        opened = (await app.call("open_session", user_id="owner")).json()["result"]
        session, reservation = opened["session_id"], held["reservation_id"]
        for other in (mallory, tara, stranger):
            for tool in ("renew_session", "close_session"):
                problem_of(await other.call(tool, session_id=session), 404, "not_found")
        problem_of(await stranger.call("settle_usage", reservation_id=reservation), 404, "not_found")
        problem_of(await mallory.call("open_session", user_id="owner"), 403, "forbidden")
        problem_of(await tara.call("open_session", user_id="owner"), 403, "forbidden")
        for odd in (session.upper(), "r1", "0"):
            problem_of(await app.call("settle_usage", reservation_id=odd), 404, "not_found")
            problem_of(await app.call("close_session", session_id=odd), 404, "not_found")
        envelope = {"tenant_id": "globex", "arguments": {"reservation_id": reservation}}
        problem_of(await app.send("POST", "/api/mcp/tools/settle_usage", json=envelope), 403, "forbidden")
        assert (await app.call("settle_usage", reservation_id=reservation)).status_code == 200


async def test_the_statuses_and_headers_of_http(place: Place, server: Server) -> None:
    message = {"user_id": "http", "event": "message"}
    async with server.api(place.token("app", role="service")) as app:
        held = await app.call("reserve_usage", quantity=45, idempotency_key="h", **message)
        assert held.status_code == 200
        assert held.headers["ratelimit"].startswith('"messages-day";r=5;t=')
        refused = await app.call("reserve_usage", quantity=6, **message)
        document = problem_of(refused, 429, "quota_exceeded")
        assert document["decision"]["reservation_id"] is None
        assert day_of(document["decision"]) == (0, 45, 5)
        assert refused.headers["ratelimit"].startswith('"messages-day";r=5;t=')
        assert refused.headers["retry-after"] == str(9 * 3600 + 56 * 60 + 49)
        again = await app.call("reserve_usage", quantity=46, idempotency_key="h", **message)
        problem_of(again, 409, "conflict")

        reservation = held.json()["result"]["reservation_id"]
        both = await app.call("settle_usage", reservation_id=reservation, quantity=1, release=True)
        problem_of(both, 422, "invalid_request")
        over = await app.call("settle_usage", reservation_id=reservation, quantity=60)
        assert over.status_code == 200
        assert (over.json()["result"]["allowed"], day_of(over.json()["result"])) == (False, (60, 0, 0))
        assert over.headers["ratelimit"].startswith('"messages-day";r=0;t=')
        assert "retry-after" not in over.headers

        opened = await app.call("open_session", user_id="http", ttl_seconds=90)
        assert opened.status_code == 200
        assert opened.headers["ratelimit-policy"] == '"sessions-level";q=1'
        full = await app.call("open_session", user_id="http")
        assert problem_of(full, 429, "session_limit")["decision"]["limits"][0]["used"] == 1
        assert full.headers["retry-after"] == "90"
        assert full.headers["ratelimit"] == '"sessions-level";r=0'


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("reserve_usage", {"event": "message", "ttl_seconds": 0}),
        ("reserve_usage", {"event": "message", "ttl_seconds": 86_401}),
        ("reserve_usage", {"event": "message", "quantity": 0}),
        ("reserve_usage", {"event": "message", "enforce": False}),
        ("reserve_usage", {"event": "nonsense"}),
        ("settle_usage", {}),
        ("settle_usage", {"reservation_id": "r", "quantity": -1}),
        ("settle_usage", {"reservation_id": "r", "quantity": "1"}),
        ("settle_usage", {"reservation_id": "r", "release": False}),
        ("settle_usage", {"reservation_id": "r" * 65}),
        ("open_session", {"ttl_seconds": 0}),
        ("open_session", {"ttl_seconds": None}),
        ("open_session", {"idempotency_key": "with space"}),
        ("renew_session", {}),
        ("close_session", {"session_id": ""}),
    ],
)
async def test_what_is_wrong_is_refused(
    place: Place, server: Server, tool: str, arguments: dict[str, Any]
) -> None:
    whom = {} if "session_id" in arguments or tool in ("settle_usage", "renew_session") else {"user_id": "w"}
    async with server.api(place.token("app", role="service")) as app:
        before = place.rows()
        problem_of(await app.call(tool, **arguments, **whom), 422, "invalid_request")
        assert place.rows() == before


async def test_members_hold_for_themselves_where_they_may_record(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY, METERING__MEMBERS_MAY_RECORD="true")
    with place.serving() as server:
        async with (
            server.client(place.token("bob")) as bob,
            server.client(place.token("eve"), "legacy") as eve,
        ):
            assert set(await bob.tools()) >= RECORDING
            held = await bob.call("reserve_usage", event="message", quantity=5)
            assert (await eve.refusal("reserve_usage", event="message", user_id="bob"))["code"] == "forbidden"
            mine = {"reservation_id": held["reservation_id"]}
            assert (await eve.refusal("settle_usage", **mine))["code"] == "not_found"
            assert day_of(await bob.call("settle_usage", quantity=2, **mine)) == (2, 0, 48)
    assert audit(place) == 1


async def test_both_end_by_time_whatever_became_of_the_server(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    service_token, user_token = place.token("app", role="service"), place.token("bob", tier="basic")
    with place.serving() as server:
        async with server.api(service_token) as app:
            held = (await app.call("reserve_usage", user_id="bob", event="message", quantity=50)).json()
            opened = (await app.call("open_session", user_id="bob")).json()["result"]
        server.process.kill()
        server.ended()
    reservation = held["result"]["reservation_id"]
    async with place.over_stdio(user_token) as bob:
        info = await bob.call("get_tier_info")
        assert (day_of(info), info["sessions"]["active"]) == ((0, 50, 0), 1)
    async with place.over_stdio(user_token, CLOCK=LATER) as bob:
        info = await bob.call("get_tier_info")
        assert (day_of(info), info["sessions"]["active"]) == ((0, 0, 50), 1)
    async with place.over_stdio(service_token, CLOCK=LATER) as app:
        late = await app.call("settle_usage", reservation_id=reservation, quantity=3)
        assert (late["late"], late["allowed"], day_of(late)) == (True, True, (3, 0, 47))
        assert late["text"].endswith("It came after the reservation had expired.")
    async with place.over_stdio(user_token, CLOCK=HALF_AN_HOUR_LATER) as bob:
        assert (await bob.call("get_tier_info"))["sessions"]["active"] == 0
        assert (await bob.call("open_session"))["allowed"]
        closed = await bob.call("close_session", session_id=opened["session_id"])
        assert closed["duration_seconds"] == 1_800
    assert audit(place) == 1


async def test_exactly_10_of_100_sessions_opened_at_once_are_open(place: Place, server: Server) -> None:
    async with server.api(place.token("prue", tier="premium")) as prue:
        responses = await asyncio.gather(*[prue.call("open_session") for _ in range(100)])
    statuses = [response.status_code for response in responses]
    assert (statuses.count(200), statuses.count(429)) == (10, 90)


async def test_the_list_of_tools_stays_small(place: Place, server: Server, tmp_path: Path) -> None:
    """Of who holds an account, and of a member of a group who may record: what a model reads, and all of the answer."""
    by_name = {tool.name: tool for tool in TOOLS}

    async def listed(talk: Talk) -> tuple[set[str], int, int]:
        tools = (await talk.client.list_tools()).tools
        documents = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
        read = list_bytes([by_name[tool.name] for tool in tools])
        return {tool.name for tool in tools}, read, len(json.dumps(documents, separators=(",", ":")))

    async with server.client(place.token("lister", tier="premium")) as holder:
        _, read, whole = await listed(holder)
        assert read <= 12_000 and whole <= 32_000
    recording = Place(tmp_path, clock=TODAY, METERING__MEMBERS_MAY_RECORD="true")
    with recording.serving() as other:
        async with other.client(recording.token("lister", tier="premium")) as holder:
            names, read, _ = await listed(holder)
            assert names >= RECORDING and read <= 12_000
        admin = recording.token("boss", group="crew", role="admin", tier="premium")
        async with other.client(admin) as boss:
            await boss.call("get_tier_info")
        async with other.client(recording.token("lara", group="crew")) as member:
            names, read, whole = await listed(member)
            assert names >= RECORDING and read <= 12_000 and whole <= 32_000
