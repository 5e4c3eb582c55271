"""The fourth system as its users meet it: quotas by day and month, storage as a level, features, rates, operations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking

PLANS: dict[str, tuple[str, int | None, int | None, int | None, str, set[str]]] = {
    "free": ("0.00", 10, 100, 100, "1", {"api_access"}),
    "pro": ("19.99", 500, 10_240, 10_000, "5", {"api_access", "priority_support", "webhooks"}),
    "enterprise": (
        "99.99",
        None,
        None,
        None,
        "10",
        {"api_access", "priority_support", "webhooks", "sso", "audit_log", "dedicated_support"},
    ),
}
BASE_RATE = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("jobs"), clock=TODAY, CATALOG="jobs-platform")


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def limits_of(document: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(limit["meter"], limit["window"]): limit["limit"] for limit in document["limits"]}


def used(document: dict[str, Any], meter: str, window: str) -> int:
    (limit,) = [one for one in document["limits"] if (one["meter"], one["window"]) == (meter, window)]
    found: int = limit["used"]
    return found


async def test_listing_plans_needs_no_token_and_unlimited_is_a_value_of_its_own(server: Server) -> None:
    async with server.api() as anybody:
        plans = {plan["plan"]: plan for plan in (await anybody.get("/api/plans")).json()["plans"]}
    assert list(plans) == list(PLANS)
    for key, (price, jobs, storage, calls, multiplier, features) in PLANS.items():
        plan = plans[key]
        assert plan["price"]["monthly"] == {"amount": price, "currency": "USD"}
        assert plan["rate_limit_multiplier"] == multiplier
        assert {name for name, has in plan["features"].items() if has} == features
        assert limits_of(plan) == {
            ("jobs", "month"): jobs,
            ("storage_mb", "level"): storage,
            ("api_calls", "day"): calls,
            ("api_calls", "minute"): BASE_RATE * int(multiplier),
            ("compute_minutes", "month"): None,
        }


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_story_of_a_user(place: Place, server: Server, transport: str, era: str) -> None:
    user, mode = f"ivy.{transport}.{era}", ERAS[era]
    whom = {"user_id": user}
    async with (
        talking(place, server, transport, place.token(user), mode) as ivy,
        talking(place, server, transport, place.token("app", role="service"), mode) as app,
    ):
        # Nobody has assigned anything: an account without a record is on the free plan
        seen = await app.call("get_tier_info", **whom)
        assert (seen["plan"], seen["status"], seen["origin"]) == ("free", "active", "default")
        info = await ivy.call("get_tier_info")
        assert (info["plan"], info["rate_limit_multiplier"], info["next_plans"]) == (
            "free",
            "1",
            ["pro", "enterprise"],
        )
        # Out of quota: refused with current and limit
        assert (await app.call("record_usage", event="job", quantity=10, **whom))["allowed"]
        refused = await app.call("record_usage", event="job", **whom)
        assert (refused["code"], refused["limits"][0]["used"], refused["limits"][0]["limit"]) == (
            "quota_exceeded",
            10,
            10,
        )
        assert refused["text"] == (
            "Free plan: 10 of 10 jobs used this month. Resets 2026-12-01 00:00 UTC. Pro has 500 a month."
        )
        # Minutes are counted and refused to nobody
        minutes = await app.call("record_usage", event="compute", quantity=100_000, **whom)
        assert minutes["text"] == "Free plan: 100,000 minutes used this month, no limit."
        # Features can be asked for
        for plan, feature, granted in (
            ("free", "api_access", True),
            ("free", "priority_support", False),
            ("pro", "priority_support", True),
            ("pro", "sso", False),
        ):
            if (await ivy.call("get_tier_info"))["plan"] != plan:
                offer = await ivy.call("upgrade_tier", plan=plan)
                assert offer["price_now"] == {"amount": "19.99", "currency": "USD"}
                await ivy.call("upgrade_tier", plan=plan, confirmation=offer["confirmation"])
            assert (await app.call("has_feature", feature=feature, **whom))["granted"] is granted
        # Upgraded at once; what was used stays used
        job = await app.call("record_usage", event="job", **whom)
        assert (job["allowed"], used(job, "jobs", "month"), job["limits"][0]["limit"]) == (True, 11, 500)
        assert (await ivy.call("get_tier_info"))["rate_limit_multiplier"] == "5"
        report = await ivy.call("get_usage_analytics", period="this_month")
        assert {total["meter"]: total["quantity"] for total in report["totals"]} == {
            "jobs": 11,
            "compute_minutes": 100_000,
        }


async def test_jobs_come_back_on_the_first_and_calls_at_midnight_and_storage_does_not(tmp_path: Path) -> None:
    place = Place(tmp_path, clock="2026-11-30T23:59:59Z", CATALOG="jobs-platform")
    service, whom = place.token("app", role="service"), {"user_id": "ivy"}
    async with place.over_stdio(service) as app:
        for event, quantity in (("job", 10), ("api_call", 60), ("storage", 80), ("compute", 7)):
            assert (await app.call("record_usage", event=event, quantity=quantity, **whom))["allowed"]
        for event, code in (("job", "quota_exceeded"), ("api_call", "rate_limited")):
            assert (await app.call("check_quota", event=event, **whom))["code"] == code
    async with place.over_stdio(service, CLOCK="2026-12-01T00:01:00Z") as app:
        info = await app.call("get_tier_info", **whom)
        assert {(one["meter"], one["window"]): one["used"] for one in info["limits"]} == {
            ("storage_mb", "level"): 80,
            ("jobs", "month"): 0,
            ("api_calls", "day"): 0,
            ("api_calls", "minute"): 0,
            ("compute_minutes", "month"): 0,
        }
        assert (await app.call("record_usage", event="job", **whom))["allowed"]


async def test_storage_goes_up_and_down(place: Place, server: Server) -> None:
    async with server.client(place.token("app", role="service")) as app:
        levels = []
        for quantity in (90, 20, -50, 60, -1_000):
            decision = await app.call("record_usage", user_id="stacy", event="storage", quantity=quantity)
            levels.append((decision["allowed"], used(decision, "storage_mb", "level")))
    assert levels == [(True, 90), (False, 90), (True, 40), (True, 100), (True, 0)]


@pytest.mark.parametrize("plan", PLANS)
async def test_the_multiplier_scales_the_rate(place: Place, server: Server, plan: str) -> None:
    user, rate = f"racer-{plan}", BASE_RATE * int(PLANS[plan][4])
    async with server.api(place.token("app", role="service")) as app:
        async with server.client(place.token(user, tier=plan)) as racer:
            assert (await racer.call("get_tier_info"))["plan"] == plan
        # All of the free plan's 100 calls a day are more than its 60 a minute.
        full = await app.call("record_usage", user_id=user, event="api_call", quantity=rate)
        assert full.status_code == 200, full.text
        refused = await app.call("record_usage", user_id=user, event="api_call")
        problem = problem_of(refused, 429, "rate_limited")
        assert problem["retryable"] and int(refused.headers["retry-after"]) in range(1, 61)
        first = problem["decision"]["limits"][0]
        assert (first["window"], first["limit"], first["used"]) == ("minute", rate, rate)


@pytest.mark.parametrize("era", ERAS)
async def test_the_story_of_an_operator(place: Place, server: Server, era: str) -> None:
    user, mode = f"oscar.{era}", ERAS[era]
    whom = {"user_id": user}
    async with (
        server.client(place.token("tara", role="tenant_admin"), mode) as tara,
        server.client(place.token("root", role="superadmin"), mode) as root,
        server.client(place.token("app", role="service"), mode) as app,
        server.client(place.token(user), mode) as oscar,
    ):
        await app.call("record_usage", event="api_call", quantity=60, **whom)
        # Clear a rate limit
        assert (await app.call("check_quota", event="api_call", **whom))["code"] == "rate_limited"
        cleared = await tara.call("manage_limits", action="clear_rate", reason="a launch", **whom)
        assert cleared["audit_id"]
        decision = await app.call("record_usage", event="api_call", **whom)
        assert (used(decision, "api_calls", "day"), used(decision, "api_calls", "minute")) == (61, 1)
        # Change the plan for some days
        assert (await oscar.refusal("upgrade_tier", plan="pro", duration_days=14))["code"] == "forbidden"
        done = await tara.buy("enterprise", duration_days=14, **whom)
        assert done["status"] == "applied"
        assert done["price_next"]["amount"] == "0.00"
        info = await oscar.call("get_tier_info")
        assert (info["plan"], info["origin"]) == ("enterprise", "operator")
        scheduled = info["scheduled"]
        assert scheduled.pop("effective_at").startswith("2026-12-04T14:03:11.")
        assert scheduled == {
            "plan": "free",
            "interval": "monthly",
            "seats": None,
            "reason": "end",
        }
        assert (await app.call("record_usage", event="job", quantity=1_000_000, **whom))["allowed"]
        # End the user's sessions
        for _ in range(2):
            await app.call("open_session", **whom)
        await tara.call("manage_accounts", action="end_sessions", reason="stolen laptop", **whom)
        assert (await oscar.call("get_tier_info"))["sessions"]["active"] == 0
        # Search, with subscription and usage
        found = await tara.call("manage_accounts", action="search", query=user)
        (account,) = found["accounts"]
        assert (account["account_id"], account["plan"], account["status"]) == (user, "enterprise", "active")
        assert used(account, "jobs", "month") == 1_000_000
        # Suspend and re-activate: everything but reading is refused
        assert (await tara.refusal("manage_accounts", action="suspend", reason="fraud?", **whom))[
            "code"
        ] == "forbidden"
        await root.call("manage_accounts", action="suspend", reason="fraud?", **whom)
        refused = await app.call("record_usage", event="job", **whom)
        assert refused["code"] == "subscription_inactive"
        assert (await oscar.refusal("upgrade_tier", plan="pro"))["code"] == "subscription_inactive"
        assert (await oscar.call("get_tier_info"))["status"] == "suspended"
        assert (await oscar.call("list_usage_events"))["events"]
        await root.call("manage_accounts", action="activate", reason="no fraud", **whom)
        assert (await app.call("record_usage", event="job", **whom))["allowed"]
        # Who did what, and why
        shown = await root.call("manage_accounts", action="show", **whom)
        reasons = {entry["action"]: (entry["actor"], entry["reason"]) for entry in shown["account"]["audit"]}
        assert reasons["subscription.suspend"] == ("root", "fraud?")
        assert reasons["limit.clear_rate"] == ("tara", "a launch")
        # The platform at a glance
        told = await tara.call("manage_accounts", action="statistics")
        assert {plan["plan"] for plan in told["statistics"]["plans"]} >= {"enterprise"}
