"""The fifth system as its users meet it: one subscription for a group, bought by its admin, plans edited at run time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("groups"), clock=TODAY, CATALOG="group-tokens")


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def tokens(document: dict[str, Any], meter: str = "llm_tokens") -> tuple[int, int | None]:
    (limit,) = [limit for limit in document["limits"] if limit["meter"] == meter]
    return limit["used"], limit["limit"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_story_of_a_group(place: Place, server: Server, transport: str, era: str) -> None:
    group, mode = f"clinic.{transport}.{era}", ERAS[era]
    greta, hugo = f"greta.{transport}.{era}", f"hugo.{transport}.{era}"
    async with (
        talking(place, server, transport, place.token(greta, group=group, role="admin"), mode) as admin,
        talking(place, server, transport, place.token(hugo, group=group), mode) as member,
        talking(place, server, transport, place.token("app", role="service"), mode) as app,
    ):
        # There is no free default
        info = await member.call("get_tier_info")
        assert (info["account_id"], info["account_kind"], info["plan"], info["status"]) == (
            group,
            "group",
            None,
            None,
        )
        assert info["next_plans"] == ["basic", "standard", "professional"]
        refused = await app.call("record_usage", user_id=hugo, event="llm", quantity=10)
        assert (refused["code"], refused["unlocks"]) == (
            "payment_required",
            [{"action": "upgrade_tier", "plan": "basic"}],
        )
        assert refused["text"] == "There is no subscription for this account yet. Choose a plan first."
        # A member cannot buy, the admin can: one subscription for all
        assert (await member.rpc_error("upgrade_tier", plan="basic"))[0] == -32602
        await admin.call("get_tier_info")
        applied = await admin.buy("basic")
        assert (applied["status"], applied["from_plan"], applied["price_now"]["amount"]) == (
            "applied",
            None,
            "29.99",
        )
        again = await admin.refusal("upgrade_tier", plan="basic")
        assert (again["code"], again["message"]) == (
            "conflict",
            "The Basic plan is already held; nothing was changed.",
        )
        assert (await member.call("get_tier_info"))["plan"] == "basic"
        # All users share its limits
        await app.call("record_usage", user_id=hugo, event="llm", quantity=40_000)
        decision = await app.call("record_usage", user_id=greta, event="llm", quantity=39_999)
        assert tokens(decision) == (79_999, 100_000)
        assert "Approaching" not in decision["text"]
        # From 80 % it says so, with the next plan by price
        decision = await app.call("record_usage", user_id=hugo, event="llm", quantity=1)
        assert (decision["allowed"], decision["unlocks"]) == (
            True,
            [{"action": "upgrade_tier", "plan": "standard"}],
        )
        assert decision["text"].endswith("Approaching the limit. Standard has 500,000 a billing period.")
        assert (await admin.call("get_tier_info"))["usage_status"] == "warning"
        # Checked after each use, and before the next: what happened is recorded, also beyond
        over = await app.call("record_usage", user_id=hugo, event="llm", quantity=25_000, enforce=False)
        assert (over["allowed"], over["event_id"] is not None, tokens(over)) == (
            False,
            True,
            (105_000, 100_000),
        )
        before = await app.call("check_quota", user_id=greta, event="llm")
        assert (before["allowed"], before["code"]) == (False, "quota_exceeded")
        assert before["text"] == (
            "Basic plan: 105,000 of 100,000 LLM tokens used this billing period by the whole account. "
            "Resets 2026-12-20 14:03 UTC. Standard has 500,000 a billing period."
        )
        assert (await app.call("record_usage", user_id=greta, event="voice", quantity=50_000))["allowed"]
        assert (await admin.call("get_tier_info"))["usage_status"] == "exceeded"
        # Every consumption with user, group, kind and tokens; the month's summary by kind and user
        events = (await admin.call("list_usage_events", account_id=group))["events"]
        assert [(one["user_id"], one["account_id"], one["event"], one["quantity"]) for one in events] == [
            (greta, group, "voice", 50_000),
            (hugo, group, "llm", 25_000),
            (hugo, group, "llm", 1),
            (greta, group, "llm", 39_999),
            (hugo, group, "llm", 40_000),
        ]
        report = await admin.call("get_usage_analytics", account_id=group, group_by=["user"])
        assert {(line["user"], line["meter"]): line["quantity"] for line in report["breakdown"]} == {
            (hugo, "llm_tokens"): 65_001,
            (greta, "llm_tokens"): 39_999,
            (greta, "voice_tokens"): 50_000,
        }
        assert {one["meter"]: one["percent"] for one in report["limits"]} == {
            "llm_tokens": 105.0,
            "voice_tokens": 100.0,
        }
        # Upgraded: on it goes, and what was used stays used
        await admin.buy("standard")
        decision = await app.call("record_usage", user_id=hugo, event="llm", quantity=1)
        assert (decision["allowed"], tokens(decision)) == (True, (105_001, 500_000))
        # Members come and go
        added = await admin.call("manage_members", action="add", user_id=f"ida.{transport}.{era}")
        assert added["seats"] == {"used": 3, "max": 50}
        await admin.call("manage_members", action="remove", user_id=f"ida.{transport}.{era}")
        assert (await member.refusal("get_tier_info", user_id=greta))["code"] == "forbidden"


async def test_usage_restarts_with_the_new_period_and_a_cancelled_one_is_inactive(tmp_path: Path) -> None:
    place = Place(tmp_path, clock="2026-11-20T10:00:00Z", CATALOG="group-tokens")
    admin_token = place.token("greta", group="clinic", role="admin")
    service, asked = place.token("app", role="service"), {"user_id": "greta", "event": "llm"}
    async with place.over_stdio(admin_token) as admin, place.over_stdio(service) as app:
        await admin.call("get_tier_info")
        await admin.buy("basic")
        assert (await app.call("record_usage", quantity=100_000, **asked))["allowed"]
        assert not (await app.call("check_quota", **asked))["allowed"]
    async with place.over_stdio(service, CLOCK="2026-12-20T10:00:00Z") as app:
        decision = await app.call("record_usage", quantity=10, **asked)
        assert (decision["allowed"], tokens(decision)) == (True, (10, 100_000))
        assert decision["limits"][0]["window_start"] == "2026-12-20T10:00:00Z"
    async with place.over_stdio(admin_token, CLOCK="2026-12-20T10:00:00Z") as admin:
        offer = await admin.call("manage_subscription", action="cancel")
        assert (offer["to_plan"], offer["effective_at"]) == (None, "2027-01-20T10:00:00Z")
        await admin.call("manage_subscription", action="cancel", confirmation=offer["confirmation"])
        assert (await admin.call("get_tier_info"))["scheduled"]["reason"] == "cancel"
    async with place.over_stdio(service, CLOCK="2027-01-20T09:59:59Z") as app:
        assert (await app.call("check_quota", **asked))["allowed"]
    async with place.over_stdio(service, CLOCK="2027-01-20T10:00:00Z") as app:
        assert (await app.call("check_quota", **asked))["code"] == "subscription_inactive"
    async with place.over_stdio(admin_token, CLOCK="2027-01-20T10:00:00Z") as admin:
        assert (await admin.call("get_tier_info"))["status"] == "canceled"
        assert (await admin.buy("basic"))["status"] == "applied"


async def test_no_more_users_than_a_plan_has_seats(place: Place, server: Server) -> None:
    async with (
        server.client(place.token("gus", group="crowd", role="admin")) as admin,
        server.api(place.token("app", role="service")) as app,
    ):
        await admin.call("get_tier_info")
        await admin.buy("basic")
        for number in range(9):
            await admin.call("manage_members", action="add", user_id=f"crowd-{number}")
        refused = await admin.refusal("manage_members", action="add", user_id="crowd-9")
        assert refused["code"] == "conflict" and "All 10 seats" in refused["message"]
        async with server.client(place.token("eleventh", group="crowd")) as eleventh:
            assert (await eleventh.refusal("get_tier_info"))["code"] == "conflict"
        response = await app.call("record_usage", user_id="crowd-3", event="llm")
        assert response.status_code == 200


@pytest.mark.parametrize("era", ERAS)
async def test_the_story_of_the_super_admin(place: Place, server: Server, era: str) -> None:
    key, group, mode = f"starter_{era}", f"bureau.{era}", ERAS[era]
    plan = {
        "plan": key,
        "title": "Starter",
        "price": {"monthly": "19.99"},
        "seats": {"max": 3},
        "limits": [
            {"meter": "llm_tokens", "window": "billing_period", "limit": 1_000, "scope": "account"},
            {"meter": "voice_tokens", "window": "billing_period", "limit": 500, "scope": "account"},
        ],
        "provider_price_ids": {"monthly": "price_starter"},
    }
    async with (
        server.client(place.token("root", role="superadmin"), mode) as root,
        server.client(place.token(f"boss.{era}", group=group, role="admin"), mode) as admin,
        server.client(place.token("app", role="service"), mode) as app,
        server.api() as anybody,
    ):
        # Creates a plan, at run time: on offer at once
        created = await root.call("manage_plans", action="create", plan=plan)
        assert created["audit_id"]
        assert key in [one["plan"] for one in (await anybody.get("/api/plans")).json()["plans"]]
        twice = await root.refusal("manage_plans", action="create", plan=plan)
        assert twice["code"] == "conflict"
        wrong = {**plan, "plan": f"other_{era}", "limits": [{**plan["limits"][0], "meter": "llm_token"}]}  # type: ignore[index, dict-item]
        refused = await root.refusal("manage_plans", action="create", plan=wrong)
        assert refused["code"] == "invalid_request" and "llm_tokens" in refused["message"]
        assert (await admin.rpc_error("manage_plans", action="list"))[0] == -32602
        # Sold, used up, edited: who has it keeps the old version until migrated
        await admin.call("get_tier_info")
        await admin.buy(key)
        asked = {"user_id": f"boss.{era}", "event": "llm"}
        await app.call("record_usage", quantity=1_000, **asked)
        edited = {"plan": key, "limits": [{**plan["limits"][0], "limit": 2_000}, plan["limits"][1]]}  # type: ignore[index, dict-item]
        preview = await root.call("manage_plans", action="update", plan=edited, dry_run=True)
        assert [(one["version"], one["accounts"]) for one in preview["affected"]] == [(1, 1)]
        await root.call("manage_plans", action="update", plan=edited)
        assert not (await app.call("check_quota", **asked))["allowed"]
        moved = await root.call("manage_plans", action="migrate", plan=key, reason="a gift")
        assert moved["audit_id"]
        decision = await app.call("check_quota", **asked)
        assert (decision["allowed"], tokens(decision)) == (True, (1_000, 2_000))
        # Sees every group
        found = await root.call("manage_accounts", action="search", query=f"kind:group plan:{key}")
        assert [(one["account_id"], one["status"]) for one in found["accounts"]] == [(group, "active")]
        told = await root.call("manage_accounts", action="statistics")
        assert key in [one["plan"] for one in told["statistics"]["plans"]]
        # No longer sold: who has it goes on
        await root.call("manage_plans", action="archive", plan=key, reason="season over")
        assert key not in [one["plan"] for one in (await anybody.get("/api/plans")).json()["plans"]]
        assert (await app.call("check_quota", **asked))["allowed"]
        # A payment that failed makes it past due, and after seven days it stops
        await root.call("manage_accounts", action="payment_failed", account_id=group, reason="card declined")
        assert (await admin.call("get_tier_info"))["status"] == "past_due"
        assert (await app.call("check_quota", **asked))["allowed"]
    async with place.over_stdio(
        place.token("app", role="service"), mode, CLOCK="2026-11-28T00:00:00Z"
    ) as app:
        assert (await app.call("check_quota", **asked))["code"] == "payment_required"


@pytest.mark.parametrize(
    ("event", "estimate_from", "tokens_used"),
    [
        ("llm", {"text": "Hello, group! " * 100}, 350),
        ("voice", {"audio_bytes": 480_000}, 30),
        ("voice", {"audio_bytes": 900}, 1),
        ("voice", {"spoken_text": "Hello!"}, 12),
        ("voice", {"spoken_text": 6}, 12),
    ],
)
async def test_tokens_nobody_counted_are_estimated(
    place: Place, server: Server, event: str, estimate_from: dict[str, Any], tokens_used: int
) -> None:
    group = f"radio.{event}.{tokens_used}.{len(str(estimate_from))}"
    async with (
        server.client(place.token(f"rita.{group}", group=group, role="admin")) as admin,
        server.client(place.token("app", role="service")) as app,
    ):
        await admin.call("get_tier_info")
        await admin.buy("basic")
        asked = {"user_id": f"rita.{group}", "event": event, "estimate_from": estimate_from}
        held = await app.call("reserve_usage", **asked)
        assert held["limits"][0]["held"] == tokens_used
        settled = await app.call("settle_usage", reservation_id=held["reservation_id"])
        assert tokens(settled, f"{event}_tokens")[0] == tokens_used
        counted = await app.call("record_usage", **asked, quantity=5)  # what was counted is not estimated
        assert tokens(counted, f"{event}_tokens")[0] == tokens_used + 5
        events = (await admin.call("list_usage_events"))["events"]
        assert [(one["quantity"], one["estimated"]) for one in events] == [(5, False), (tokens_used, True)]


async def test_no_subscription_is_402_over_http(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        refused = await app.call("record_usage", user_id="nobody-yet", event="llm")
        problem = problem_of(refused, 402, "payment_required")
        assert problem["decision"]["unlocks"] == [{"action": "upgrade_tier", "plan": "basic"}]


async def test_only_an_admin_marks_what_the_whole_group_reads(place: Place, server: Server) -> None:
    admin = place.token("alice", group="alerted", role="admin")
    member, app = place.token("max", group="alerted"), place.token("app", role="service")
    async with server.api(admin) as alice, server.api(member) as max_, server.api(app) as service:
        async with talking(place, server, "http", admin, ERAS["modern"]) as talk:
            await talk.buy("basic")
        await max_.call("get_tier_info")
        await service.call("record_usage", user_id="max", event="llm", quantity=80_000)
        (alert,) = (await max_.call("list_alerts")).json()["result"]["alerts"]
        assert (alert["user_id"], alert["account_id"]) == (None, "alerted")
        denied = problem_of(await max_.call("list_alerts", mark_read=[alert["alert_id"]]), 403, "forbidden")
        assert "an admin of the group marks it as read" in denied["detail"]
        assert len((await alice.call("list_alerts", unread_only=True)).json()["result"]["alerts"]) == 1
        marked = await alice.call("list_alerts", mark_read=[alert["alert_id"]], unread_only=True)
        assert marked.json()["result"]["alerts"] == []
        assert (await max_.call("list_alerts", unread_only=True)).json()["result"]["alerts"] == []
