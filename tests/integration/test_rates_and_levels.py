"""`jobs-platform` through the real server: rates that grow with the plan and are cleared, a level that only what is
stored moves; and a catalog whose features have values."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Api, Place, Server, Talk, problem_of, talking
from tests.integration.test_live_updates import listening

# A client of the legacy era calls what the SDK's client calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:resources/:mcp.MCPDeprecationWarning")

NEXT_MONTH, NEXT_YEAR = "2026-12-24T09:00:00Z", "2027-11-21T09:00:00Z"
OK, CONFIGURATION = 0, 2
combinations = pytest.mark.parametrize(
    ("transport", "era"), [(transport, era) for transport in ("stdio", "http") for era in ERAS]
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("jobs"), clock=TODAY, CATALOG="jobs-platform")


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def limit_of(document: dict[str, Any] | list[dict[str, Any]], window: str, scope: str = "user") -> Any:
    limits = document if isinstance(document, list) else document["limits"]
    (found,) = [one for one in limits if (one["window"], one["scope"]) == (window, scope)]
    return found


async def calls(app: Api, user: str, count: int) -> list[str]:
    """The code of each of so many API calls."""
    events = [{"user_id": user, "event": "api_call"}] * count
    return [
        one["code"]
        for one in (await app.call("record_usage_batch", events=events)).json()["result"]["results"]
    ]


# Rates


@pytest.mark.parametrize(("plan", "rate"), [("free", 60), ("pro", 300), ("enterprise", 600)])
@combinations
async def test_who_was_too_fast_is_let_go_on_by_an_operator(
    place: Place, server: Server, transport: str, era: str, plan: str, rate: int
) -> None:
    user = f"fast.{plan}.{transport}.{era}"
    async with server.client(place.token(user, tier=plan)) as fast:
        await fast.call("get_tier_info")
    async with server.api(place.token("app", role="service")) as app:
        assert await calls(app, user, rate + 2) == ["ok"] * rate + ["rate_limited"] * 2
        refused = await app.call("record_usage", user_id=user, event="api_call")
        problem = problem_of(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "60"
        assert f"{rate} of {rate} API calls used in the last minute" in problem["message"]
        assert problem["decision"]["retryable"] is True
        operator = place.token("olivia", role="tenant_admin")
        async with talking(place, server, transport, operator, ERAS[era]) as olivia:
            done = await olivia.call("manage_limits", action="clear_rate", user_id=user, reason="a loop")
        before, after = limit_of(done["limits_before"], "minute"), limit_of(done["limits_after"], "minute")
        assert (before["used"], after["used"], after["limit"]) == (rate, 0, rate)
        assert done["limits"] == done["limits_after"]
        assert f"limit.clear_rate api_calls per minute: {rate} used -> 0. a loop" in done["text"]
        (entry,) = done["history"]
        assert (entry["audit_id"], entry["actor"], entry["actor_role"], entry["reason"]) == (
            done["audit_id"],
            "olivia",
            "tenant_admin",
            "a loop",
        )
        assert await calls(app, user, 41) == ["ok"] * 40 + ["quota_exceeded" if plan == "free" else "ok"]


async def test_a_whole_account_and_oneself_are_cleared_by_who_may(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        await calls(app, "whole", 60)
    async with server.client(place.token("root", role="superadmin", tenant="globex")) as root:
        elsewhere = {"action": "clear_rate", "tenant_id": "acme", "reason": "asked"}
        done = await root.call(
            "manage_limits", **elsewhere, account_id="whole", meter="api_calls", window="minute"
        )
        assert limit_of(done, "minute")["used"] == 0
        own = await root.call("manage_limits", action="clear_rate", reason="a try")
        assert own["history"][0]["actor_role"] == "superadmin"
        unknown = await root.refusal("manage_limits", **elsewhere, user_id="never-seen")
        assert unknown["code"] == "not_found"
        nothing = await root.refusal("manage_limits", **elsewhere, account_id="whole", meter="jobs")
        assert nothing["message"] == (
            "There is no such rate to clear. The Free plan limits per minute: api_calls for each user."
        )
    history = place.run("limits", "history", "--tenant", "acme", "--user", "whole").stdout
    assert "root (superadmin) limit.clear_rate api_calls per minute: 60 used -> 0." in history


@pytest.mark.parametrize("era", ERAS)
async def test_nobody_but_operators_may_clear(place: Place, server: Server, era: str) -> None:
    asked = {"action": "clear_rate", "reason": "please"}
    async with server.client(place.token("holder"), ERAS[era]) as holder:
        assert (await holder.refusal("manage_limits", **asked))["code"] == "forbidden"
    boss = place.token("boss", group="crew", role="admin")
    async with (
        server.client(boss, ERAS[era]) as admin,
        server.client(place.token("mate", group="crew")) as mate,
    ):
        await mate.call("get_tier_info")
        for whom in ({}, {"user_id": "mate"}, {"account_id": "crew"}):
            assert (await admin.refusal("manage_limits", **asked, **whom))["code"] == "forbidden"
        assert (await admin.call("manage_limits", action="history"))["history"] == []
        assert await mate.rpc_error("manage_limits", **asked) == (-32602, "Unknown tool: manage_limits", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"reason": ""},
        {"reason": "x", "window": "day"},
        {"reason": "x", "limit": 7},
        {"reason": "x", "expires_at": "2027-01-01T00:00:00Z"},
    ],
    ids=["no reason", "an empty reason", "another window", "a limit", "an end"],
)
async def test_what_cannot_be_meant_is_refused(place: Place, server: Server, wrong: dict[str, Any]) -> None:
    async with server.api(place.token("olivia", role="tenant_admin")) as olivia:
        refused = await olivia.call("manage_limits", action="clear_rate", **wrong)
        problem_of(refused, 422, "invalid_request")


@combinations
async def test_a_listener_hears_that_its_rate_was_cleared(
    place: Place, server: Server, transport: str, era: str
) -> None:
    """Over stdio another process than the listener's clears it."""
    user = f"listener.{transport}.{era}"
    async with server.api(place.token("app", role="service")) as app:
        await calls(app, user, 60)
    async with listening(place, server, transport, era, place.token(user), "quota://me") as ear:
        async with server.api(place.token("olivia", role="tenant_admin")) as olivia:
            await olivia.call("manage_limits", action="clear_rate", user_id=user, reason="a loop")
        assert await ear.next() == "quota://me"
        assert ear.heard.empty()


async def test_on_the_command_line_the_last_minute_is_forgotten(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        assert await calls(app, "cleo", 60) == ["ok"] * 60
        who = ("--tenant", "acme", "--user", "cleo", "--meter", "api_calls")
        assert place.run("limits", "clear-rate", *who).returncode == CONFIGURATION  # no reason
        done = place.run("limits", "clear-rate", *who, "--reason", "a loop", "--json")
        assert done.returncode == OK, done.stderr
        assert limit_of(json.loads(done.stdout)["limits_after"], "minute")["used"] == 0
        assert await calls(app, "cleo", 1) == ["ok"]
    assert place.run("verify").returncode == OK


# Levels


async def store_mb(app: Api, quantity: int, **fields: Any) -> dict[str, Any]:
    answer = await app.call("record_usage", user_id="sam", event="storage", quantity=quantity, **fields)
    document: dict[str, Any] = answer.json()
    return document.get("decision") or document["result"]


@pytest.mark.parametrize("era", ERAS)
async def test_storage_is_a_level_through_months_and_plans(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path, clock=TODAY, CATALOG="jobs-platform")
    app_token, sam_token = place.token("app", role="service"), place.token("sam")

    async def stored(talk: Talk) -> tuple[int, int | None, str | None]:
        state = limit_of(await talk.call("get_tier_info"), "level")
        return state["used"], state["limit"], state["resets_at"]

    with place.serving() as server:
        async with server.api(app_token) as app, server.client(sam_token, ERAS[era]) as sam:
            assert limit_of(await store_mb(app, 80), "level")["used"] == 80
            refused = await store_mb(app, 30)
            assert (refused["code"], refused["message"]) == (
                "quota_exceeded",
                "Free plan: 80 of 100 MB used now, and 30 more would pass the limit. Pro has 10,240 at a time.",
            )
            assert [unlock["action"] for unlock in refused["unlocks"]] == ["upgrade_tier"]
            assert limit_of(await store_mb(app, -30), "level")["used"] == 50
            assert limit_of(await store_mb(app, -70), "level")["used"] == 0  # no lower than nothing
            assert limit_of(await store_mb(app, 90), "level")["used"] == 90
            assert (await sam.buy("pro"))["status"] == "applied"
            assert await stored(sam) == (90, 10_240, None)
            assert (await store_mb(app, 9_910))["allowed"]
    with place.serving(CLOCK=NEXT_MONTH) as server:
        async with server.client(sam_token, ERAS[era]) as sam:
            info = await sam.call("get_tier_info")
            assert limit_of([one for one in info["limits"] if one["meter"] == "jobs"], "month")["used"] == 0
            assert await stored(sam) == (10_000, 10_240, None)
            assert (await sam.buy("free"))["status"] == "scheduled"
    with place.serving(CLOCK=NEXT_YEAR) as server:
        async with server.api(app_token) as app, server.client(sam_token, ERAS[era]) as sam:
            # On the free plan since, far above what it allows.
            assert await stored(sam) == (10_000, 100, None)
            assert (await store_mb(app, 1))["code"] == "quota_exceeded"
            more = await sam.call("check_quota", event="storage", quantity=1)
            less = await sam.call("check_quota", event="storage", quantity=-1)
            assert (more["code"], less["code"], less["quantity"]) == ("quota_exceeded", "ok", -1)
            freed = await store_mb(app, -9_000)
            assert (freed["allowed"], limit_of(freed, "level")["used"]) == (True, 1_000)
            freed = await store_mb(app, -2_000)
            assert (freed["allowed"], limit_of(freed, "level")["used"]) == (True, 0)
            assert (await store_mb(app, 100))["allowed"]
    assert place.run("verify").returncode == OK


@pytest.mark.parametrize(
    ("event", "quantity", "code"),
    [("storage", -1, "ok"), ("storage", 0, "invalid_request"), ("job", -1, "invalid_request")],
)
async def test_what_check_quota_says_of_what_would_be_freed(
    place: Place, server: Server, event: str, quantity: int, code: str
) -> None:
    async with server.client(place.token("asker")) as asker:
        if code == "ok":
            answer = await asker.call("check_quota", event=event, quantity=quantity)
            assert (answer["code"], answer["allowed"], answer["quantity"]) == ("ok", True, quantity)
            assert limit_of(answer, "level")["used"] == 0
        else:
            assert (await asker.refusal("check_quota", event=event, quantity=quantity))["code"] == code


# What a plan comes with


@pytest.mark.parametrize(("plan", "multiplier"), [("free", "1"), ("pro", "5"), ("enterprise", "10")])
async def test_the_multiplier_is_shown_as_a_decimal_string(
    place: Place, server: Server, plan: str, multiplier: str
) -> None:
    async with server.client(place.token(f"multiplied.{plan}", tier=plan)) as talk:
        assert (await talk.call("get_tier_info"))["rate_limit_multiplier"] == multiplier
        offered = {one["plan"]: one for one in (await talk.call("list_plans"))["plans"]}
        assert offered[plan]["rate_limit_multiplier"] == multiplier


UPLOADS = """
name = "uploads"
title = "Uploads"
currency = "USD"
default_plan = "small"

[events.upload]

[meters.uploads]
unit = "upload"
event = "upload"

[features]
max_upload_mb = "Upload size"
support = "Support"
beta = "Beta"

[tools]
manage_limits = "max_upload_mb"

[plans.small]
title = "Small"
price = { monthly = "0" }
limits = []
features = { max_upload_mb = 0, support = "" }

[plans.medium]
title = "Medium"
price = { monthly = "5" }
limits = []
features = { max_upload_mb = 50, support = "by mail" }

[plans.large]
title = "Large"
price = { monthly = "9" }
limits = []
features = { max_upload_mb = 500, support = "by phone, within 4 h", beta = true }
"""


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Server]]:
    folder = tmp_path_factory.mktemp("uploads")
    (folder / "uploads.toml").write_text(UPLOADS, "utf-8")
    place = Place(folder, clock=TODAY, CATALOG=str(folder / "uploads.toml"))
    with place.serving() as server:
        yield place, server


VALUES = {
    "small": {"max_upload_mb": 0, "support": "", "beta": False},
    "medium": {"max_upload_mb": 50, "support": "by mail", "beta": False},
    "large": {"max_upload_mb": 500, "support": "by phone, within 4 h", "beta": True},
}


@pytest.mark.parametrize("plan", VALUES)
@pytest.mark.parametrize("era", ERAS)
async def test_features_have_their_plan_s_values(uploads: tuple[Place, Server], plan: str, era: str) -> None:
    place, server = uploads
    async with server.client(place.token(f"of.{plan}", tier=plan), ERAS[era]) as talk:
        assert (await talk.call("get_tier_info"))["features"] == VALUES[plan]
        for feature, value in VALUES[plan].items():
            answer = await talk.call("has_feature", feature=feature)
            assert (answer["value"], type(answer["value"])) == (value, type(value))
            assert answer["granted"] is bool(value)
            assert answer["plans"] == [key for key, values in VALUES.items() if values[feature]]


async def test_the_words_say_the_values(uploads: tuple[Place, Server]) -> None:
    place, server = uploads
    async with server.client(place.token("of.medium", tier="medium")) as talk:
        listed = await talk.call("list_plans")
        assert {one["plan"]: one["features"] for one in listed["plans"]} == VALUES
        assert listed["text"].splitlines()[1:] == [
            "Medium (medium): 5.00 USD a month; no limits; with max_upload_mb (50), support (by mail).",
            "Large (large): 9.00 USD a month; no limits; with max_upload_mb (500), support (by phone, within 4 h), beta.",
        ]
        answer = await talk.call("has_feature", feature="max_upload_mb")
        assert answer["text"] == (
            "Yes: max_upload_mb is included, value 50. Plans with it: medium (50), large (500)."
        )
        beta = await talk.call("has_feature", feature="beta")
        assert beta["text"] == "No: beta is not included. Plans with it: large."


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_is_withheld_where_the_value_says_no(uploads: tuple[Place, Server], era: str) -> None:
    place, server = uploads
    async with server.client(place.token("none", tier="small"), ERAS[era]) as talk:
        assert "manage_limits" not in await talk.tools()
        refusal = await talk.refusal("manage_limits", action="list")
        assert (refusal["code"], refusal["unlocks"]) == (
            "feature_not_in_plan",
            [{"action": "upgrade_tier", "plan": "medium"}],
        )
        assert refusal["message"] == (
            "manage_limits is not part of the Small plan (Upload size). It comes with Medium or Large; "
            "upgrade_tier changes the plan."
        )
    async with server.client(place.token("some", tier="medium"), ERAS[era]) as talk:
        assert "manage_limits" in await talk.tools()
