"""What goes beyond a plan at a price and what is taken back, told through tools over every transport and era."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, talking

CATALOG = """
name = "studio"
title = "Studio"
currency = "USD"
default_plan = "free"

[events.image]

[meters.images]
unit = "image"
event = "image"

[plans.free]
title = "Free"
price = { monthly = "0" }
limits = [{ meter = "images", window = "month", limit = 5 }]

[plans.pro]
title = "Pro"
price = { monthly = "10.00" }
limits = [{ meter = "images", window = "month", limit = 10, overage = "0.005", overage_max = 20 }]

[plans.max]
title = "Max"
price = { monthly = "30.00", yearly = "300.00" }
limits = [{ meter = "images", window = "billing_period", limit = 1_000 }]
"""
combinations = pytest.mark.parametrize(
    ("transport", "era"), [(transport, era) for transport in ("stdio", "http") for era in ERAS]
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("studio")
    (folder / "studio.toml").write_text(CATALOG, "utf-8")
    return Place(folder, clock=TODAY, CATALOG=str(folder / "studio.toml"))


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


async def used(place: Place, server: Server, user: str, *quantities: int) -> list[dict[str, Any]]:
    """Record images of somebody; the decisions."""
    events = [{"user_id": user, "event": "image", "quantity": quantity} for quantity in quantities]
    async with server.api(place.token("app", role="service")) as app:
        answer = (await app.call("record_usage_batch", events=events)).json()["result"]["results"]
    return list(answer)


@combinations
async def test_what_is_beyond_a_plan_is_told_with_its_price(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"pia.{transport}.{era}"
    async with talking(place, server, transport, place.token(user), ERAS[era]) as pia:
        await pia.buy("pro")
        (plan,) = [one for one in (await pia.call("list_plans"))["plans"] if one["plan"] == "pro"]
        assert plan["limits"][0]["overage"] == {"price": "0.005", "currency": "USD", "max": 20}
        await pia.call("get_tier_info")
        (decision,) = await used(place, server, user, 14)
        assert decision["allowed"]
        assert (
            "14 of 10 images used this month; 4 of at most 20 beyond the plan at 0.005 USD each"
            in decision["message"]
        )
        info = await pia.call("get_tier_info")
        assert info["limits"][0]["overage"] == {"used": 4, "max": 20, "price": "0.005", "currency": "USD"}
        asked = await pia.call("check_quota", event="image", quantity=3)
        assert asked["message"].endswith("3 of this would be beyond the plan, for 0.015 USD.")
        totals = {
            one["meter"]: (one["unit"], one["quantity"])
            for one in (await pia.call("get_usage_analytics"))["totals"]
        }
        assert totals == {
            "images": ("image", 14),
            "images:overage": ("image", 4),
            "images:overage_charge": ("micro_usd", 20_000),
        }
        beyond = await pia.call("get_usage_analytics", meters=["images:overage"])
        assert [(one["meter"], one["quantity"]) for one in beyond["totals"]] == [("images:overage", 4)]
        refused = await pia.refusal("get_usage_analytics", meters=["images:underage"])
        assert refused["code"] == "invalid_request"


@combinations
async def test_who_would_pay_by_the_year_is_told_that_a_billing_period_is_one(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"yara.{transport}.{era}"
    async with talking(place, server, transport, place.token(user), ERAS[era]) as yara:
        offered = (await yara.call("list_plans"))["text"]
        assert "1,000 images a billing period (a year when billed yearly)" in offered
        assert offered.count("a year when billed yearly") == 1
        month = (await yara.call("upgrade_tier", plan="max", dry_run=True))["text"]
        assert "A billing period is a year" not in month
        year = (await yara.call("upgrade_tier", plan="max", interval="yearly", dry_run=True))["text"]
        assert "A billing period is a year then, and so is what may be used in it." in year
        await yara.buy("max")
        scheduled = (await yara.call("upgrade_tier", plan="max", interval="yearly", dry_run=True))["text"]
        assert "A billing period is a year then" in scheduled


@combinations
async def test_an_event_is_taken_back_once_and_both_are_listed(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"cora.{transport}.{era}"
    async with server.client(place.token(user, tier="pro")) as cora:
        await cora.call("get_tier_info")
        first, second = await used(place, server, user, 9, 4)
        refused = await cora.refusal(
            "manage_limits", action="correct", event_id=first["event_id"], reason="mine"
        )
        assert refused["code"] == "forbidden"
    olivia = place.token("olivia", role="tenant_admin")
    async with talking(place, server, transport, olivia, ERAS[era]) as operator:
        asked = {
            "action": "correct",
            "user_id": user,
            "event_id": first["event_id"],
            "reason": "counted twice",
        }
        done = await operator.call("manage_limits", **asked)
        assert [done["limits_before"][0]["used"], done["limits_after"][0]["used"]] == [13, 4]
        assert (await operator.refusal("manage_limits", **asked))["code"] == "conflict"
        gone = await operator.refusal("manage_limits", **{**asked, "user_id": "app"})
        never = await operator.refusal("manage_limits", **{**asked, "event_id": "never"})
        assert (
            (gone["code"], gone["message"])
            == (never["code"], never["message"])
            == ("not_found", never["message"])
        )
        listed = (await operator.call("list_usage_events", user_id=user))["events"]
        assert [event["quantity"] for event in listed] == [-9, 4, 9]
        assert listed[0]["corrects"] == listed[2]["event_id"] == first["event_id"]
        assert listed[2]["corrected_by"] == listed[0]["event_id"]
        assert {"corrects", "corrected_by"}.isdisjoint(listed[1])
        assert second["event_id"] == listed[1]["event_id"]
        history = await operator.call("manage_limits", action="history", user_id=user)
        assert history["history"][0]["after"]["corrects"] == first["event_id"]


@combinations
async def test_what_is_granted_is_a_larger_maximum_until_it_is_used_or_ends(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"gus.{transport}.{era}"
    asked = {
        "action": "grant",
        "user_id": user,
        "meter": "images",
        "window": "month",
        "reason": "a conference",
    }
    async with server.client(place.token(user)) as gus:
        await gus.call("get_tier_info")
        refused = await gus.refusal(
            "manage_limits", action="grant", meter="images", window="month", quantity=5, reason="me"
        )
        assert refused["code"] == "forbidden"
    olivia = place.token("olivia", role="tenant_admin")
    async with talking(place, server, transport, olivia, ERAS[era]) as operator:
        done = await operator.call("manage_limits", **asked, quantity=4, expires_at="2026-12-24T00:00:00Z")
        assert [done["limits_before"][0]["limit"], done["limits_after"][0]["limit"]] == [5, 9]
        first, second, third = await used(place, server, user, 7, 2, 1)
        assert [first["allowed"], second["allowed"], third["allowed"]] == [True, True, False]
        assert third["message"].startswith("Free plan: 9 of 9 images used this month.")
        listed = await operator.call("manage_limits", action="list", user_id=user)
        (given,) = listed["grants"]
        assert (given["quantity"], given["left"], given["expires_at"]) == (4, 0, "2026-12-24T00:00:00Z")
        more = await operator.call("manage_limits", **asked, quantity=3)
        (id_,) = {one["grant_id"] for one in more["grants"]} - {given["grant_id"]}
        ended = {"action": "clear", "user_id": user, "grant_id": id_, "reason": "over"}
        after = await operator.call("manage_limits", **ended)
        assert [after["limits_before"][0]["limit"], after["limits_after"][0]["limit"]] == [12, 9]
        assert (await operator.refusal("manage_limits", **ended))["code"] == "not_found"
        wrong = await operator.refusal("manage_limits", **{**asked, "window": "day"}, quantity=3)
        assert wrong["code"] == "invalid_request"
        history = (await operator.call("manage_limits", action="history", user_id=user))["history"]
        assert [entry["action"] for entry in history] == ["limit.end_grant", "limit.grant", "limit.grant"]


def test_the_commands_grant_correct_and_end(place: Place) -> None:
    whom = ("--tenant", "default", "--user", "cleo")
    unknown = place.run("limits", "correct", *whom, "--event-id", "none", "--reason", "why")
    assert unknown.returncode == 1 and "There is no such event" in unknown.stderr
    rate = place.run(
        "limits", "grant", *whom, "--meter", "images", "--window", "month", "--quantity", "0", "--reason", "x"
    )
    assert rate.returncode == 2
