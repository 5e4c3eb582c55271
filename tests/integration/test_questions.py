"""What somebody from finance asks at the end of a month, answered by tools and nothing else: what March cost by model,
who used it, why an invoice is 61.20, and what the single events say to that."""

import asyncio
import csv
from collections import Counter
from collections.abc import Iterable
from io import StringIO
from typing import Any

import pytest
from tests.harness import ERAS, Place, Talk

CATALOG = """
name = "writers"
title = "Writing with models"
currency = "USD"
default_plan = "free"

[events.api_call]
attributes = { input_tokens = "integer", output_tokens = "integer" }

[meters.calls]
unit = "call"
event = "api_call"
aggregate = "count"

[meters.cost]
event = "api_call"
aggregate = "cost"

[plans.free]
title = "Free"
price = { monthly = "0" }
limits = [{ meter = "cost", window = "month", limit = "1.00", scope = "account" }]

[plans.pro]
title = "Pro"
price = { monthly = "36.80", per_seat = "12.20" }
seats = { max = 10 }
limits = [{ meter = "cost", window = "month", limit = "150.00", scope = "account" }]

[[prices]]
provider = "gemini"
model = "gemini-2.5-pro"
input_per_million_tokens = "1.25"
output_per_million_tokens = "10.00"

[[prices]]
provider = "gemini"
model = "gemini-2.5-flash"
input_per_million_tokens = "0.125"
output_per_million_tokens = "0.375"
"""
BEGIN, TENTH, APRIL = "2026-03-01T00:00:00Z", "2026-03-10T12:00:00Z", "2026-04-01T09:00:00Z"
MARCH = {"start": BEGIN, "end": "2026-04-01T00:00:00Z"}
STUDIO = {"account_id": "studio"}
PRO, FLASH = "gemini-2.5-pro", "gemini-2.5-flash"
CALLS = {("ann", PRO): 3, ("bob", PRO): 1, ("bob", FLASH): 4}
"""Who called which model how often, each time with a million tokens in and a million out."""
MICROS_A_CALL = {PRO: 11_250_000, FLASH: 500_000}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A group that bought Pro for two on the first of March and called models on the tenth."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "catalog.toml").write_text(CATALOG, "utf-8")
    place = Place(folder, clock=APRIL, CATALOG=str(folder / "catalog.toml"))
    asyncio.run(_live_through_march(place))
    return place


def finance(place: Place) -> str:
    return place.token("ann", group="studio", role="admin")


async def _live_through_march(place: Place) -> None:
    async with place.over_stdio(finance(place), CLOCK=BEGIN) as ann:
        assert (await ann.buy("pro", seats=2))["status"] == "applied"
    async with place.over_stdio(place.token("bob", group="studio"), CLOCK=BEGIN) as bob:
        await bob.call("get_tier_info")
    async with place.over_stdio(place.token("app", role="service"), CLOCK=TENTH) as app:
        events = [
            {
                "user_id": user,
                "event": "api_call",
                "attributes": {"model": model, "input_tokens": 10**6, "output_tokens": 10**6},
            }
            for (user, model), calls in CALLS.items()
            for _ in range(calls)
        ]
        answer = await app.call("record_usage_batch", events=events)
        assert all(result["allowed"] for result in answer["results"]), answer


def micros_by(place_in_key: int) -> dict[str, int]:
    """What was spent, added up from the story."""
    sums: Counter[str] = Counter()
    for key, calls in CALLS.items():
        sums[key[place_in_key]] += calls * MICROS_A_CALL[key[1]]
    return dict(sums)


async def spent_by(talk: Talk, key: str) -> dict[str, int]:
    report = await talk.call("get_usage_analytics", **MARCH, **STUDIO, group_by=[key], meters=["cost"])
    return {line[key]: line["quantity"] for line in report["breakdown"]}


def micros(amounts: Iterable[str]) -> int:
    """Amounts in decimal strings, added up exactly."""
    parts = (amount.partition(".") for amount in amounts)
    return sum(int(units) * 10**6 + int(decimals.ljust(6, "0")) for units, _, decimals in parts)


@pytest.mark.parametrize("era", ERAS)
async def test_what_march_cost_by_model_and_who_used_it(place: Place, era: str) -> None:
    async with place.over_stdio(finance(place), ERAS[era]) as ann:
        assert await spent_by(ann, "model") == micros_by(1) == {PRO: 45_000_000, FLASH: 2_000_000}
        assert await spent_by(ann, "user") == micros_by(0) == {"ann": 33_750_000, "bob": 13_250_000}
        assert await spent_by(ann, "provider") == {"gemini": 47_000_000}


async def test_why_the_invoice_is_61_20(place: Place) -> None:
    async with place.over_stdio(finance(place)) as ann:
        history = await ann.call("get_billing_history", **STUDIO, period="2026-03")
        (invoice,) = history["invoices"]
        assert invoice["total"] == "61.20"
        assert [(line["kind"], line["amount"]) for line in invoice["lines"]] == [
            ("base", "36.80"),
            ("seats", "24.40"),
        ]
        assert micros(line["amount"] for line in invoice["lines"]) == micros([invoice["total"]])
        text = (await ann.result("get_billing_history", STUDIO)).content[0].text  # type: ignore[union-attr]
        assert "61.20 USD" in text and "2 seats" in text


async def test_the_single_events_add_up_to_what_the_report_says(place: Place) -> None:
    async with place.over_stdio(finance(place)) as ann:
        page = await ann.call("export_usage", format="csv", **MARCH, **STUDIO)
        assert page["next_cursor"] is None
        rows = list(csv.DictReader(StringIO(page["content"], newline="")))
        by_model: Counter[str] = Counter()
        for row in rows:
            by_model[row["model"]] += int(row["gains.cost"])
            assert micros([row["cost"]]) == int(row["gains.cost"])
            assert (row["currency"], row["price_source"]) == ("USD", "catalog")
        assert dict(by_model) == await spent_by(ann, "model")
        assert len(rows) == sum(CALLS.values())


async def test_a_member_is_told_of_its_own_share_only(place: Place) -> None:
    async with place.over_stdio(place.token("bob", group="studio")) as bob:
        own: dict[str, Any] = await bob.call("export_usage", format="csv", **MARCH)
        assert own["events"] == CALLS[("bob", PRO)] + CALLS[("bob", FLASH)]
        for tool, arguments in (("export_usage", {"format": "csv"}), ("get_usage_analytics", {})):
            refused = await bob.refusal(tool, **MARCH, **STUDIO, **arguments)
            assert refused["code"] == "forbidden"


async def test_what_the_next_month_will_cost_so_far_and_with_one_more_seat(place: Place) -> None:
    async with place.over_stdio(finance(place), CLOCK=TENTH) as ann:
        upcoming = (await ann.call("get_billing_history", **STUDIO))["upcoming"]
        assert (upcoming["issued_at"], upcoming["total"]) == ("2026-04-01T00:00:00Z", "61.20")
        asked = await ann.call("manage_subscription", action="set_seats", seats=3, dry_run=True)
        assert (asked["status"], asked["price_next"]["amount"]) == ("preview", "73.40")


async def test_which_plan_is_the_cheapest_that_march_fits_in(place: Place) -> None:
    async with place.over_stdio(finance(place)) as ann:
        report = await ann.call("get_usage_analytics", **MARCH, **STUDIO)
        used = {total["meter"]: total["quantity"] for total in report["totals"]}
        fits = [
            plan["plan"]
            for plan in (await ann.call("list_plans"))["plans"]
            if all(
                limit["limit"] is None or used[limit["meter"]] <= limit["limit"] for limit in plan["limits"]
            )
        ]
        assert fits == ["pro"]
