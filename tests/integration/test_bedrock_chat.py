"""The first system as its users meet it: a chat of three tiers, over both transports and both eras."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking

REFUSED = "Basic plan: 50 of 50 messages used today. Resets 2026-11-21 00:00 UTC. Advanced has 200 a day."
TIERS = {
    "basic": ("0.00", 50, 1_000, 1_800, 1, False),
    "advanced": ("29.00", 200, 5_000, 7_200, 3, True),
    "premium": ("99.00", 1_000, 25_000, 28_800, 10, True),
}
WITHHELD = {"get_usage_analytics", "list_usage_events", "export_usage", "manage_limits", "manage_members"}
SESSIONS = {"open_session", "renew_session", "close_session"}
CHANGES = {"upgrade_tier", "manage_subscription"}
READS = {"get_tier_info", "check_quota", "list_plans", "has_feature", "get_billing_history", "list_alerts"}
KEPT = READS | CHANGES | SESSIONS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("bedrock"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def limit_of(document: dict[str, Any], window: str) -> dict[str, Any]:
    (found,) = [limit for limit in document["limits"] if limit["window"] == window]
    return found


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_story(place: Place, server: Server, transport: str, era: str) -> None:
    user, mode = f"bella.{transport}.{era}", ERAS[era]
    service_token = place.token("app", role="service")
    user_token = place.token(user, tier="basic")
    async with (
        talking(place, server, transport, user_token, mode) as bella,
        talking(place, server, transport, service_token, mode) as app,
    ):
        # What is left?
        info = await bella.call("get_tier_info")
        assert (info["plan"], info["status"], info["usage_status"]) == ("basic", "active", "ok")
        assert limit_of(info, "day")["remaining"] == 50
        assert set(await bella.tools()) == KEPT

        # Fifty messages
        for number in range(1, 51):
            decision = await app.call("record_usage", user_id=user, event="message")
            assert decision["allowed"], decision
            assert limit_of(decision, "day")["used"] == number
        assert (await bella.call("get_tier_info"))["usage_status"] == "exceeded"

        # The fifty-first
        refused = await app.call("record_usage", user_id=user, event="message")
        assert refused.pop("text") == REFUSED
        day, month = refused.pop("limits")
        assert refused == {
            "allowed": False,
            "code": "quota_exceeded",
            "message": REFUSED,
            "retryable": False,
            "plan": "basic",
            "event": "message",
            "quantity": 1,
            "unlocks": [
                {"action": "upgrade_tier", "plan": "advanced"},
                {"action": "wait", "until": "2026-11-21T00:00:00Z"},
            ],
            "event_id": None,
            "reservation_id": None,
            "replayed": False,
            "as_of": TODAY,
        }
        assert day == {
            "meter": "messages",
            "window": "day",
            "scope": "user",
            "unit": "message",
            "limit": 50,
            "used": 50,
            "held": 0,
            "remaining": 0,
            "percent": 100.0,
            "window_start": "2026-11-20T00:00:00Z",
            "resets_at": "2026-11-21T00:00:00Z",
            "timezone": "UTC",
            "refused": True,
        }
        assert (month["window"], month["used"], month["percent"], month["refused"]) == (
            "month",
            50,
            5.0,
            False,
        )
        asked = await bella.call("check_quota", event="message")
        assert asked["text"] == REFUSED

        # The upgrade: preview, confirmation, done
        preview = await bella.call("upgrade_tier", plan="advanced", dry_run=True)
        assert (preview["status"], preview["from_plan"], preview["to_plan"]) == (
            "preview",
            "basic",
            "advanced",
        )
        assert preview["price_now"] == preview["price_next"] == {"amount": "29.00", "currency": "USD"}
        assert preview["confirmation"] is None
        assert (await bella.call("get_tier_info"))["plan"] == "basic"
        offered = await bella.call("upgrade_tier", plan="advanced")
        assert offered["status"] == "confirmation_required"
        assert offered["confirmation"] in offered["text"]
        assert (await bella.call("get_tier_info"))["plan"] == "basic"
        applied = await bella.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        assert (applied["status"], applied["effective_at"]) == ("applied", TODAY)
        assert limit_of({"limits": applied["limits_before"]}, "day")["limit"] == 50
        assert limit_of({"limits": applied["limits_after"]}, "day")["limit"] == 200
        used_twice = await bella.refusal("upgrade_tier", plan="premium", confirmation=offered["confirmation"])
        assert used_twice["code"] in ("conflict", "invalid_request")

        # At once, with the same tokens, which do not bring the old tier back
        decision = await app.call("record_usage", user_id=user, event="message")
        assert decision["allowed"]
        assert (limit_of(decision, "day")["used"], limit_of(decision, "day")["limit"]) == (51, 200)
        info = await bella.call("get_tier_info")
        assert (info["plan"], info["origin"]) == ("advanced", "purchase")
        assert set(await bella.tools()) == KEPT | WITHHELD

        # What was used under which plan
        report = await bella.call("get_usage_analytics", period="today", group_by=["plan"])
        of_plan = {line["plan"]: line["quantity"] for line in report["breakdown"]}
        assert of_plan == {"basic": 50, "advanced": 1}
        seen: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next_cursor": None}
        while not seen or page["next_cursor"]:
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
            page = await bella.call("list_usage_events", page_size=20, **cursor)
            assert len(page["events"]) <= 20
            seen += page["events"]
        assert len({event["event_id"] for event in seen}) == len(seen) == 51
        assert [event["plan"] for event in seen] == ["advanced", *["basic"] * 50]
    async with server.client(place.token(user, tier="basic"), mode) as again:
        assert (await again.call("get_tier_info"))["plan"] == "advanced"


@pytest.mark.parametrize("tier", TIERS)
async def test_every_tier_has_its_price_limits_sessions_and_feature(
    place: Place, server: Server, tier: str
) -> None:
    price, day, month, seconds, sessions, mcp_access = TIERS[tier]
    async with server.client(place.token(f"newcomer-{tier}", tier=tier)) as user:
        info = await user.call("get_tier_info")
        listed = {plan["plan"]: plan for plan in (await user.call("list_plans"))["plans"]}
        feature = await user.call("has_feature", feature="mcp_access")
        tools = set(await user.tools())
    assert (info["plan"], info["origin"]) == (tier, "token")
    assert info["price"]["monthly"] == {"amount": price, "currency": "USD"}
    assert limit_of(info, "day")["limit"] == day
    assert limit_of(info, "month")["limit"] == month
    assert info["sessions"] == {"active": 0, "max_concurrent": sessions, "max_duration_seconds": seconds}
    assert info["features"] == {"mcp_access": mcp_access}
    assert list(listed) == list(TIERS)
    assert listed[tier]["price"] == info["price"]
    assert [limit["limit"] for limit in listed[tier]["limits"]] == [day, month]
    assert (feature["granted"], feature["plans"]) == (mcp_access, ["advanced", "premium"])
    assert tools == (KEPT | WITHHELD if mcp_access else KEPT)


@pytest.mark.parametrize(
    ("claims", "plan"),
    [
        ({"tier": "premium"}, "premium"),
        ({}, "basic"),
        ({"tier": "platinum"}, "basic"),
    ],
)
async def test_the_tier_comes_from_the_claim_and_without_one_it_is_basic(
    place: Place, server: Server, claims: dict[str, str], plan: str
) -> None:
    async with server.client(
        place.token(f"claims-{plan}-{len(claims)}-{claims.get('tier')}", **claims)
    ) as user:
        assert (await user.call("get_tier_info"))["plan"] == plan


async def test_a_first_valid_claim_replaces_the_default_once(place: Place, server: Server) -> None:
    async with server.client(place.token("late")) as user:
        assert (await user.call("get_tier_info"))["plan"] == "basic"
    async with server.client(place.token("late", tier="advanced")) as user:
        assert (await user.call("get_tier_info"))["plan"] == "advanced"
    async with server.client(place.token("late", tier="premium")) as user:
        assert (await user.call("get_tier_info"))["plan"] == "advanced"


@pytest.mark.parametrize("era", ERAS)
async def test_a_withheld_tool_says_what_would_unlock_it(place: Place, server: Server, era: str) -> None:
    async with server.client(place.token("wanda"), ERAS[era]) as user:
        for tool in sorted(WITHHELD):
            refusal = await user.refusal(tool, **({"action": "list"} if tool.startswith("manage_") else {}))
            assert refusal["code"] == "feature_not_in_plan"
            assert refusal["unlocks"] == [{"action": "upgrade_tier", "plan": "advanced"}]


async def test_a_message_is_held_against_both_limits(place: Place, server: Server) -> None:
    """The month refuses where the day would not: 25 of a day's 50, but nothing left of 1,000 in the month."""
    async with server.api(place.token("app", role="service")) as app:
        for day in range(1, 20):
            spent = await app.call(
                "record_usage",
                user_id="month-end",
                event="message",
                quantity=50,
                occurred_at=f"2026-11-{day:02}T12:00:00Z",
            )
            assert spent.status_code == 200, spent.text
        assert (
            await app.call("record_usage", user_id="month-end", event="message", quantity=25)
        ).status_code == 200
        assert (
            await app.call(
                "record_usage",
                user_id="month-end",
                event="message",
                quantity=25,
                occurred_at="2026-11-19T23:59:59Z",
                enforce=False,
            )
        ).status_code == 200
        refused = problem_of(
            await app.call("record_usage", user_id="month-end", event="message"), 429, "quota_exceeded"
        )
    month, day_ = refused["decision"]["limits"]
    assert (month["window"], month["used"], month["refused"]) == ("month", 1_000, True)
    assert (day_["window"], day_["used"], day_["refused"]) == ("day", 25, False)
    assert month["resets_at"] == "2026-12-01T00:00:00Z"


async def test_the_tenant_sees_accounts_and_usage_by_tier_and_its_tools(place: Place, server: Server) -> None:
    tenant = "initech"
    people = {"peter": "basic", "milton": "advanced", "bill": "premium"}
    for user, tier in people.items():
        async with server.api(place.token(user, tenant=tenant, tier=tier)) as person:
            assert (await person.call("get_tier_info")).json()["result"]["plan"] == tier
    async with server.api(place.token("app", tenant=tenant, role="service")) as app:
        for user, count in (("peter", 2), ("milton", 3), ("bill", 4)):
            for _ in range(count):
                assert (await app.call("record_usage", user_id=user, event="message")).status_code == 200
        for tool in ("search", "search", "calculator"):
            recorded = await app.call(
                "record_usage", user_id="bill", event="tool_call", attributes={"tool": tool}
            )
            assert recorded.status_code == 200
    async with server.api(place.token("tara", tenant=tenant, role="tenant_admin")) as tara:
        summary = (await tara.get(f"/api/tenants/{tenant}/subscription")).json()["tenant"]
        report = (await tara.call("get_usage_analytics", tenant_id=tenant, group_by=["plan", "tool"])).json()
    of_plan = {plan["plan"]: plan for plan in summary["plans"]}
    used = {
        plan: {line["meter"]: line["quantity"] for line in found["usage"]} for plan, found in of_plan.items()
    }
    assert used["basic"] == {"messages": 2}
    assert used["advanced"] == {"messages": 3}
    assert used["premium"] == {"messages": 4, "tool_calls": 3}
    # The administrator's own call made an account as well.
    assert [of_plan[plan]["accounts"] for plan in TIERS] == [2, 1, 1]
    assert {line["tool"]: line["quantity"] for line in of_plan["premium"]["tools"]} == {
        "search": 2,
        "calculator": 1,
    }
    assert of_plan["advanced"]["tools"] == []
    lines = {
        (line["plan"], line["tool"], line["meter"]): line["quantity"]
        for line in report["result"]["breakdown"]
    }
    assert lines[("premium", "search", "tool_calls")] == 2


async def test_limits_of_a_user_are_set_listed_cleared_and_remembered(place: Place, server: Server) -> None:
    async with server.client(place.token("tara", role="tenant_admin")) as tara:
        whom = {"user_id": "limited"}
        async with server.api(place.token("limited")) as limited:
            assert (await limited.call("get_tier_info")).status_code == 200
        changed = await tara.call(
            "manage_limits", action="set", meter="messages", window="day", limit=2, reason="abuse", **whom
        )
        assert limit_of({"limits": changed["limits_before"]}, "day")["limit"] == 50
        assert limit_of({"limits": changed["limits_after"]}, "day")["limit"] == 2
        assert changed["audit_id"]
        async with server.api(place.token("app", role="service")) as app:
            statuses = [
                (await app.call("record_usage", event="message", **whom)).status_code for _ in range(3)
            ]
        assert statuses == [200, 200, 429]
        assert limit_of(await tara.call("manage_limits", action="list", **whom), "day")["remaining"] == 0
        await tara.call(
            "manage_limits", action="clear", meter="messages", window="day", reason="settled", **whom
        )
        history = (await tara.call("manage_limits", action="history", **whom))["history"]
        assert [entry["reason"] for entry in history] in (["settled", "abuse"], ["abuse", "settled"])
        assert {entry["actor"] for entry in history} == {"tara"}
        assert limit_of(await tara.call("manage_limits", action="list", **whom), "day")["limit"] == 50


@pytest.mark.parametrize("era", ERAS)
async def test_resources_show_the_same_as_the_tools(place: Place, server: Server, era: str) -> None:
    async with server.client(place.token("reader", tier="advanced"), ERAS[era]) as user:
        info = await user.call("get_tier_info")
        me = await user.resource("subscription://me")
        assert me == {key: value for key, value in info.items() if key != "text"}
        assert (await user.resource("quota://me"))["limits"] == info["limits"]
        assert (await user.resource("quota://me/messages"))["meter"] == "messages"
        plans = await user.resource("subscription://plans")
        assert [plan["plan"] for plan in plans["plans"]] == list(TIERS)
        listed = await user.client.list_tools()
        assert all(tool.title and tool.description and tool.output_schema for tool in listed.tools)
        assert all(tool.annotations is not None for tool in listed.tools)


async def test_usage_over_the_day_and_the_month(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        for when in (
            "2026-11-18T10:00:00Z",
            "2026-11-18T11:00:00Z",
            "2026-11-20T09:00:00Z",
            "2026-10-31T23:59:59Z",
        ):
            recorded = await app.call("record_usage", user_id="series", event="message", occurred_at=when)
            assert recorded.status_code == 200, recorded.text
    async with server.client(place.token("series", tier="advanced")) as user:
        month = await user.call("get_usage_analytics", period="this_month", granularity="day")
        months = await user.call("get_usage_analytics", period="last_6_months", granularity="month")
    assert [(step["start"], step["quantity"]) for step in month["series"]] == [
        ("2026-11-18T00:00:00Z", 2),
        ("2026-11-20T00:00:00Z", 1),
    ]
    assert month["totals"] == [{"meter": "messages", "unit": "message", "quantity": 3, "events": 3}]
    assert [step["quantity"] for step in months["series"]] == [1, 3]


def test_the_ledger_is_private_to_its_owner(place: Place, server: Server) -> None:
    assert Path(place.database).stat().st_mode & 0o077 == 0
