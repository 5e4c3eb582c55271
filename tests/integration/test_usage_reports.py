"""Reports as people and agents get them: over stdio in both eras and over HTTP, from one file."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, Place, talking

CATALOG = """
name = "reports"
title = "Reports"
currency = "USD"
timezone = "UTC"
default_plan = "free"

[events.call]
attributes = { response_ms = "integer", status = "integer" }

[meters.calls]
unit = "call"
event = "call"

[plans.free]
title = "Free"
price = { monthly = "0" }
limits = [{ meter = "calls", window = "month", limit = 100 }, { meter = "calls", window = "day", limit = 30 }]
sessions = { max_concurrent = 1, max_duration = "PT30M" }

[plans.pro]
title = "Pro"
price = { monthly = "10.00" }
limits = [{ meter = "calls", window = "month", limit = 10_000 }]
sessions = { max_concurrent = 5, max_duration = "PT30M" }
"""
ANSWER_BYTES_MAX = 256 * 1024


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "catalog.toml").write_text(CATALOG, "utf-8")
    return Place(tmp_path, clock="2026-11-20T12:00:00Z", CATALOG=str(tmp_path / "catalog.toml"))


def calls_at_noon(days: list[int]) -> list[dict[str, Any]]:
    """So many calls of bella at noon of each day, the last of them today; the first of each day is slow and fails."""
    return [
        {
            "user_id": "bella",
            "event": "call",
            "occurred_at": f"2026-11-{day:02d}T12:00:00Z",
            "attributes": {"response_ms": 1000, "status": 500}
            if number == 0
            else {"response_ms": 100, "status": 200},
        }
        for day, quantity in enumerate(days, start=21 - len(days))
        for number in range(quantity)
    ]


async def test_a_report_says_what_is_usual_whether_it_lasts_how_long_it_took_and_what_was_refused(
    place: Place,
) -> None:
    answers = []
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            await app.call("record_usage_batch", events=calls_at_noon([4, 4, 4, 6]))
            await app.call("record_usage", user_id="bella", event="call", quantity=50)
            for _ in range(2):
                await app.call("open_session", user_id="bella")
        for transport in ("stdio", "http"):
            for mode in ERAS.values():
                async with talking(place, server, transport, place.token("bella"), mode) as bella:
                    answers.append(await bella.call("get_usage_analytics", period="this_month"))
        async with server.api(place.token("bella")) as api:
            answer = (await api.call("get_usage_analytics", period="this_month")).json()
            answers.append({**answer["result"], "text": answer["text"]})
    assert all(answer == answers[0] for answer in answers)
    report = answers[0]
    assert report["totals"] == [{"meter": "calls", "unit": "call", "quantity": 18, "events": 18}]
    (month,) = [one for one in report["projection"]["limits"] if one["window"] == "month"]
    assert (month["basis_days"], month["projected"], month["percent"]) == (3, 60, 60)
    (trend,) = report["trend"]["meters"]
    assert (trend["current"], trend["usual"], trend["change_percent"]) == (6, 4, 50)
    (performance,) = report["performance"]["events"]
    assert (performance["count"], performance["failed"], performance["timed"]) == (18, 4, 18)
    assert abs(performance["p50_ms"] - 100) <= 5
    assert abs(performance["p95_ms"] - 1000) <= 50
    assert report["sessions"]["count"] == report["sessions"]["peak_concurrent"] == 1
    assert sorted((one["code"], one["meter"], one["count"]) for one in report["denials"]) == [
        ("quota_exceeded", "calls", 1),
        ("session_limit", "sessions", 1),
    ]
    assert "6 calls today so far, 50 % more than usual" in report["text"]
    assert "1 quota_exceeded (calls), 1 session_limit (sessions)" in report["text"]


async def test_a_report_of_very_many_groups_is_cut_at_256_kib_and_goes_on_with_its_cursor(
    place: Place,
) -> None:
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            for start in range(0, 1200, 200):
                events = [
                    {
                        "user_id": "bella",
                        "event": "call",
                        "enforce": False,
                        "attributes": dict.fromkeys(
                            ("model", "tool", "client"), f"😀{number:06d}{'é' * 240}"
                        ),
                    }
                    for number in range(start, start + 200)
                ]
                await app.call("record_usage_batch", events=events)
        asked = {"period": "today", "group_by": ["model", "tool", "client"]}
        async with server.api(place.token("bella")) as bella:
            steps, lines, pages, cursor = 0, 0, 0, {}
            while True:
                response = await bella.call("get_usage_analytics", **asked, **cursor)
                report = response.json()["result"]
                assert len(response.content) < ANSWER_BYTES_MAX
                assert len(json.dumps(report)) < ANSWER_BYTES_MAX
                steps, lines, pages = (
                    steps + len(report["series"]),
                    lines + len(report["breakdown"]),
                    pages + 1,
                )
                assert report["totals"][0]["quantity"] == 1200
                assert report["truncated"] is (report["next_cursor"] is not None)
                if not report["truncated"]:
                    break
                cursor = {"cursor": report["next_cursor"]}
            assert (steps, lines) == (1200, 1200)
            assert pages > 2
            other = await bella.call("get_usage_analytics", period="this_month", **cursor)
            assert other.status_code == 422


async def test_a_tenants_summary_says_who_began_to_pay(place: Place) -> None:
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            for user in ("bella", "carl"):
                await app.call("record_usage", user_id=user, event="call", attributes={"tool": "search"})
        async with server.api(place.token("bella")) as bella:
            offered = (await bella.call("upgrade_tier", plan="pro")).json()["result"]
            await bella.call("upgrade_tier", plan="pro", confirmation=offered["confirmation"])
        async with server.api(place.token("tara", role="tenant_admin")) as tara:
            response = await tara.get("/api/tenants/acme/subscription")
            tenant = response.json()["tenant"]
    assert tenant["conversions"] == {"trial_to_paid": 0, "free_to_paid": 1}
    assert {plan["plan"]: plan["accounts"] for plan in tenant["plans"]} == {"free": 2, "pro": 1}
    assert tenant["truncated"] is False
