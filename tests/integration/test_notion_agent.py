"""The second system as its users meet it: a free trial, then plans for one person and for teams."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, Place, Server, problem_of, talking

REGISTERED = "2026-11-20T14:03:11Z"
LAST_SECOND = "2026-11-27T14:03:10Z"
OVER = "2026-11-27T14:03:11Z"
LONG_OVER = "2026-11-29T15:10:00Z"
PLANS: dict[str, tuple[str, str | None, int, int, set[str]]] = {
    "trial": ("0.00", None, 120, 50_000, {"basic_functionality"}),
    "pro": ("10.00", None, 1_000, 1_000_000, {"basic_functionality", "full_features"}),
    "plus": ("19.00", None, 2_500, 2_500_000, {"basic_functionality", "full_features", "advanced_features"}),
    "teams": (
        "49.00",
        "12.00",
        5_000,
        5_000_000,
        {
            "basic_functionality",
            "full_features",
            "advanced_features",
            "team_members",
            "shared_pool",
            "admin_view",
        },
    ),
}
PATHS = {"trial": ["pro", "plus", "teams"], "pro": ["plus", "teams"], "plus": ["teams"], "teams": []}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("notion"), clock=REGISTERED, CATALOG="notion-agent")


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def used(document: dict[str, Any], meter: str) -> tuple[int, int | None]:
    (limit,) = [limit for limit in document["limits"] if limit["meter"] == meter]
    return limit["used"], limit["limit"]


async def test_the_plans_are_what_is_sold(server: Server) -> None:
    async with server.api() as anybody:
        plans = {plan["plan"]: plan for plan in (await anybody.get("/api/plans")).json()["plans"]}
    assert list(plans) == list(PLANS)
    for key, (monthly, per_seat, requests, tokens, features) in PLANS.items():
        plan = plans[key]
        assert plan["price"]["monthly"] == {"amount": monthly, "currency": "USD"}
        seat = plan["price"]["per_seat"]
        assert (seat and seat["amount"]) == per_seat
        limits = {limit["meter"]: (limit["window"], limit["limit"]) for limit in plan["limits"]}
        assert limits == {
            "requests": ("billing_period", requests),
            "tokens": ("billing_period", tokens),
        }
        assert {name for name, has in plan["features"].items() if has} == features
        assert plan["trial"] == ({"days": 7} if key == "trial" else None)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_story_of_one_user(place: Place, server: Server, transport: str, era: str) -> None:
    user, mode = f"mira.{transport}.{era}", ERAS[era]
    whom = {"user_id": user}
    async with (
        talking(place, server, transport, place.token(user), mode) as mira,
        talking(place, server, transport, place.token("app", role="service"), mode) as app,
    ):
        # A new user is on trial automatically
        info = await mira.call("get_tier_info")
        assert (info["plan"], info["status"], info["origin"]) == ("trial", "trialing", "default")
        assert info["trial"] == {
            "started_at": REGISTERED,
            "ends_at": OVER,
            "remaining_seconds": 7 * 86_400,
        }
        assert info["next_plans"] == PATHS["trial"]
        assert "Trial: 7 days left, until 2026-11-27 14:03 UTC." in info["text"]

        # Requests are counted, and the tokens they bring
        decision = await app.call("record_usage", event="request", attributes={"tokens": 49_000}, **whom)
        assert (used(decision, "requests"), used(decision, "tokens")) == ((1, 120), (49_000, 50_000))
        assert decision["text"].endswith("Approaching the limit. Pro has 1,000,000 a billing period.")
        refused = await app.call("record_usage", event="request", attributes={"tokens": 1_001}, **whom)
        assert (refused["code"], refused["limits"][0]["meter"]) == ("quota_exceeded", "tokens")
        assert refused["unlocks"][0] == {"action": "upgrade_tier", "plan": "pro"}
        for _ in range(119):
            assert (await app.call("record_usage", event="request", **whom))["allowed"]
        refused = await app.call("record_usage", event="request", **whom)
        assert refused["text"] == (
            "Trial plan: 120 of 120 requests used this billing period. Resets 2026-12-20 14:03 UTC. "
            "Pro has 1,000 a billing period."
        )

        # Upgraded: a billing period begins, at the full price
        preview = await mira.call("upgrade_tier", plan="pro", dry_run=True)
        assert preview["price_now"] == preview["price_next"] == {"amount": "10.00", "currency": "USD"}
        applied = await mira.buy("pro")
        assert (applied["status"], applied["effective_at"]) == ("applied", REGISTERED)
        decision = await app.call("record_usage", event="request", attributes={"tokens": 5}, **whom)
        assert (used(decision, "requests"), used(decision, "tokens")) == ((1, 1_000), (5, 1_000_000))
        info = await mira.call("get_tier_info")
        assert (info["plan"], info["status"], info["trial"]) == ("pro", "active", None)

        # Reading: the summary, the single events, the quota, the plans
        report = await mira.call("get_usage_analytics", period="today")
        totals = {total["meter"]: (total["quantity"], total["events"]) for total in report["totals"]}
        assert totals == {"requests": (121, 121), "tokens": (49_005, 121)}
        page = await mira.call("list_usage_events", page_size=100)
        rest = await mira.call("list_usage_events", page_size=100, cursor=page["next_cursor"])
        assert (len(page["events"]), len(rest["events"]), rest["next_cursor"]) == (100, 21, None)
        assert [event["plan"] for event in page["events"][:2]] == ["pro", "trial"]
        quota = await mira.resource("quota://me/requests")
        assert quota["limits"][0]["remaining"] == 999
        assert [plan["plan"] for plan in (await mira.call("list_plans"))["plans"]] == list(PLANS)


@pytest.mark.parametrize("era", ERAS)
async def test_after_the_trial_everything_is_blocked_until_an_upgrade(tmp_path: Path, era: str) -> None:
    place, mode = Place(tmp_path, clock=REGISTERED, CATALOG="notion-agent"), ERAS[era]
    user, service = place.token("mira"), place.token("app", role="service")
    async with place.over_stdio(user, mode) as mira:
        await mira.call("get_tier_info")
    asked = {"user_id": "mira", "event": "request"}
    async with place.over_stdio(service, mode, CLOCK=LAST_SECOND) as app:
        last = await app.call("record_usage", **asked)
        assert last["allowed"] and "Trial: 1 second left, until 2026-11-27 14:03 UTC." in last["text"]
    async with place.over_stdio(service, mode, CLOCK=OVER) as app:
        assert (await app.call("check_quota", **asked))["code"] == "trial_expired"
    with place.serving(CLOCK=LONG_OVER) as server:
        async with (
            server.client(service, mode) as app,
            server.client(user, mode) as mira,
            server.api(service) as api,
        ):
            said = (
                "The trial ended 2 days 1 hour ago, 2026-11-27 14:03 UTC. Until an upgrade everything but reading is "
                "blocked. To go on, call upgrade_tier: Pro costs 10.00 USD a month."
            )
            for tool, arguments in (
                ("check_quota", asked),
                ("record_usage", asked),
                ("reserve_usage", asked),
                ("open_session", {"user_id": "mira"}),
            ):
                refused = await app.call(tool, **arguments)
                assert (refused["allowed"], refused["code"], refused["text"]) == (
                    False,
                    "trial_expired",
                    said,
                )
                assert refused["unlocks"] == [{"action": "upgrade_tier", "plan": "pro"}]
                assert not refused["retryable"]
            problem = problem_of(await api.call("record_usage", **asked), 402, "trial_expired")
            assert problem["decision"]["message"] == said
            # What happened all the same is counted, and said to be over.
            anyway = await app.call("record_usage", enforce=False, **asked)
            assert (anyway["code"], anyway["event_id"] is not None) == ("trial_expired", True)
            # Reading goes on, features do not
            info = await mira.call("get_tier_info")
            assert (info["status"], info["trial"]["remaining_seconds"]) == ("expired", 0)
            assert info["text"].endswith(
                said.replace(": Pro costs 10.00 USD a month", " with a plan of list_plans")
            )
            assert not (await mira.call("has_feature", feature="basic_functionality"))["granted"]
            assert (await mira.call("list_usage_events"))["events"]
            again = await mira.refusal("upgrade_tier", plan="trial")
            assert again["code"] == "conflict"
            await mira.buy("plus")
            assert (await app.call("record_usage", **asked))["allowed"]


@pytest.mark.parametrize("held", PLANS)
async def test_only_the_upgrade_paths_are_open(place: Place, server: Server, held: str) -> None:
    async with server.client(place.token(f"pat-{held}")) as user:
        if held != "trial":
            await user.buy(held)
        assert (await user.call("get_tier_info"))["next_plans"] == PATHS[held]
        for wanted in PLANS:
            if wanted in PATHS[held]:
                assert (await user.call("upgrade_tier", plan=wanted, dry_run=True))["status"] == "preview"
                continue
            refusal = await user.refusal("upgrade_tier", plan=wanted, dry_run=True)
            assert refusal["code"] == "conflict"
            if wanted not in (held, "trial"):
                titles = [title.capitalize() for title in PATHS[held]]
                assert all(title in refusal["message"] for title in titles), refusal


@pytest.mark.parametrize("era", ERAS)
async def test_the_story_of_a_team(place: Place, server: Server, era: str) -> None:
    team, mode = f"studio.{era}", ERAS[era]
    noah, ada, ben = (f"{name}.{era}" for name in ("noah", "ada", "ben"))
    async with (
        server.client(place.token(noah, group=team, role="admin"), mode) as lead,
        server.client(place.token("app", role="service"), mode) as app,
    ):
        # The admin view is for teams only
        assert "manage_members" not in await lead.tools()
        assert (await lead.refusal("manage_members", action="list"))["code"] == "feature_not_in_plan"
        # Every seat is priced, on top of the base price
        offer = await lead.call("upgrade_tier", plan="teams", seats=2)
        assert offer["price_now"] == offer["price_next"] == {"amount": "73.00", "currency": "USD"}
        await lead.call("upgrade_tier", plan="teams", seats=2, confirmation=offer["confirmation"])
        assert (await lead.call("get_tier_info"))["seats"] == {"used": 1, "max": 2}
        # Members and roles, as many as seats
        added = await lead.call("manage_members", action="add", user_id=ada)
        assert {(one["user_id"], one["role"]) for one in added["members"]} == {
            (noah, "admin"),
            (ada, "member"),
        }
        full = await lead.refusal("manage_members", action="add", user_id=ben)
        assert full["code"] == "conflict" and "All 2 seats" in full["message"]
        more = await lead.call("manage_subscription", action="set_seats", seats=3)
        assert (more["price_now"]["amount"], more["price_next"]["amount"]) == ("12.00", "85.00")
        await lead.call("manage_subscription", action="set_seats", seats=3, confirmation=more["confirmation"])
        await lead.call("manage_members", action="add", user_id=ben)
        # One pool for all, and a cap for one of them inside it
        for user, tokens in ((noah, 10), (ada, 20), (ben, 30)):
            decision = await app.call(
                "record_usage", user_id=user, event="request", attributes={"tokens": tokens}
            )
        assert (used(decision, "requests"), used(decision, "tokens")) == ((3, 5_000), (60, 5_000_000))
        await lead.call(
            "manage_limits",
            action="set",
            user_id=ben,
            meter="requests",
            window="billing_period",
            limit=1,
            reason="an intern",
        )
        refused = await app.call("record_usage", user_id=ben, event="request")
        assert refused["code"] == "quota_exceeded"
        first = refused["limits"][0]
        assert (first["meter"], first["scope"], first["refused"]) == ("requests", "user", True)
        assert (await app.call("record_usage", user_id=ada, event="request"))["allowed"]
        # Who used what
        report = await lead.call("get_usage_analytics", account_id=team, group_by=["user"], meters=["tokens"])
        assert {line["user"]: line["quantity"] for line in report["breakdown"]} == {
            noah: 10,
            ada: 20,
            ben: 30,
        }
        # Ada is a member like any other, then an admin, then gone
        async with server.client(place.token(ada), mode) as talk:
            assert (await talk.call("get_tier_info"))["account_id"] == team
            assert "manage_members" not in await talk.tools()
            await lead.call("manage_members", action="set_role", user_id=ada, role="admin")
            assert "manage_members" in await talk.tools()
            await lead.call("manage_members", action="remove", user_id=ada)
            info = await talk.call("get_tier_info")
            assert (info["account_id"], info["account_kind"], info["plan"]) == (ada, "personal", "trial")


async def test_nobody_sees_somebody_elses_data(place: Place, server: Server) -> None:
    async with (
        server.client(place.token("alba")) as alba,
        server.client(place.token("app", role="service")) as app,
    ):
        await app.call("record_usage", user_id="bruno", event="request", attributes={"tokens": 7})
        for tool, arguments in (
            ("get_tier_info", {}),
            ("list_usage_events", {}),
            ("get_usage_analytics", {}),
            ("check_quota", {"event": "request"}),
            ("upgrade_tier", {"plan": "pro"}),
        ):
            known = await alba.refusal(tool, user_id="bruno", **arguments)
            unknown = await alba.refusal(tool, user_id="nobody-at-all", **arguments)
            assert known == unknown and known["code"] == "forbidden"
        assert (await alba.call("list_usage_events"))["events"] == []
