"""Reports as people and agents get them: over stdio in both eras and over HTTP, from one file."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, Api, Place, Server, problem_of, talking

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
    for answer in answers:
        assert answer == answers[0]
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
    assert "4 of 18 recorded failed" in report["text"]
    assert (
        report["performance"]["method"] == "Of everything that was recorded, also what was taken back later."
    )
    assert "6 calls today so far, 50 % more than usual" in report["text"]
    assert "1 quota_exceeded (calls), 1 session_limit (sessions)" in report["text"]


WIDE = "😀" + "é" * 240
USERS, HOURS, KINDS = 700, 600, 120


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tenant of very many users, each with a provider, model, tool and client of their own; among them bella, who called
    in every hour of weeks, and of whom very many kinds of things were refused."""
    folder = tmp_path_factory.mktemp("crowd")
    forbidden = "".join(
        f"[events.kind{n}]\n[meters.meter{n}]\nunit = 'call'\nevent = 'kind{n}'\n" for n in range(KINDS)
    )
    limits = "".join(f', {{ meter = "meter{n}", window = "month", limit = 0 }}' for n in range(KINDS))
    (folder / "catalog.toml").write_text(
        CATALOG.replace("limit = 30 }]", "limit = 30 }" + limits + "]") + forbidden, "utf-8"
    )
    place = Place(folder, clock="2026-11-20T12:00:00Z", CATALOG=str(folder / "catalog.toml"))
    named = [
        {
            "user_id": f"{number:04d}{'u' * 120}",
            "attributes": dict.fromkeys(("provider", "model", "tool", "client"), f"{number:04d}{WIDE}"),
        }
        for number in range(USERS)
    ]
    hourly = [
        {"attributes": {"tool": tool}, "occurred_at": f"2026-11-{1 + at // 24:02d}T{at % 24:02d}:30:00Z"}
        for at in range(19 * 24)
        for tool in ("search", "write", "fetch")
    ]
    # Things that happened at noon today, each beside nothing of its kind.
    wide = [{"attributes": {"tool": f"{number:04d}{WIDE}"}} for number in range(HOURS)]
    events = [
        {"user_id": "bella", "event": "call", "enforce": False} | one for one in (*named, *hourly, *wide)
    ]
    refused = [{"user_id": "bella", "event": f"kind{number}"} for number in range(KINDS)]

    async def fill(server: Server) -> None:
        async with server.api(place.token("app", role="service")) as app:
            for first in range(0, len(events), 500):
                answer = await app.call("record_usage_batch", events=events[first : first + 500])
                assert all(one["event_id"] for one in answer.json()["result"]["results"])
            answer = await app.call("record_usage_batch", events=refused)
            assert not any(one["allowed"] for one in answer.json()["result"]["results"])

    with place.serving() as server:
        asyncio.run(fill(server))
        yield server


async def pages_of(api: Api, tool: str, **asked: Any) -> list[dict[str, Any]]:
    """Every page of an answer, none of which is too large, in whatever way it is asked for."""
    pages: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        response = await api.call(tool, **asked, **cursor)
        assert response.status_code == 200, response.text
        page = response.json()["result"]
        assert len(response.content) < ANSWER_BYTES_MAX
        assert len(json.dumps(page)) < ANSWER_BYTES_MAX
        assert page.get("truncated", page["next_cursor"] is not None) is (page["next_cursor"] is not None)
        # Whoever reads the words only is told, too.
        assert (page["next_cursor"] or "cursor") in response.json()["text"] or page["next_cursor"] is None
        pages.append(page)
        if page["next_cursor"] is None:
            return pages
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("key", ["user", "account", "provider", "model", "tool", "client"])
async def test_a_report_by_very_many_is_cut_at_256_kib_and_goes_on_with_its_cursor(
    crowd: Server, key: str
) -> None:
    asked = {"period": "this_month", "granularity": "month", "group_by": [key], "meters": ["calls"]}
    async with crowd.api(crowd.place.token("tara", role="tenant_admin")) as tara:
        pages = await pages_of(tara, "get_usage_analytics", tenant_id="acme", **asked)
        lines = [line for page in pages for line in page["breakdown"]]
        steps = [step for page in pages for step in page["series"]]
        assert len(pages) > 2
        assert len({line[key] for line in lines}) == len(lines) == len(steps) >= USERS
        total = pages[0]["totals"][0]["quantity"]
        assert sum(line["quantity"] for line in lines) == sum(step["quantity"] for step in steps) == total
        assert all(page["totals"] == pages[0]["totals"] for page in pages)
        cursor = {"cursor": pages[0]["next_cursor"]}
        other = await tara.call(
            "get_usage_analytics", tenant_id="acme", **{**asked, "period": "today"}, **cursor
        )
        assert other.status_code == 422


async def test_a_report_that_changes_between_its_pages_says_so_and_adds_up_when_asked_again(
    place: Place,
) -> None:
    asked = {"tenant_id": "acme", "period": "this_month", "granularity": "month", "group_by": ["user"]}
    events = [{"user_id": f"{number:03d}{'u' * 125}", "event": "call"} for number in range(700)]
    with place.serving() as server:
        async with (
            server.api(place.token("app", role="service")) as app,
            server.api(place.token("tara", role="tenant_admin")) as tara,
        ):
            await app.call("record_usage_batch", events=events)
            first = (await tara.call("get_usage_analytics", **asked)).json()["result"]
            # One moves up in the order of groups, and one comes before all the others.
            more = [{**events[-1], "quantity": 2}, {"user_id": "000", "event": "call"}]
            await app.call("record_usage_batch", events=more)
            cursor = first["next_cursor"]
            gone = problem_of(
                await tara.call("get_usage_analytics", **asked, cursor=cursor), 422, "invalid_request"
            )
            assert gone["detail"].startswith("What this list shows has changed since its first page.")
            pages = await pages_of(tara, "get_usage_analytics", **asked)
            lines = [line for page in pages for line in page["breakdown"]]
            assert len({line["user"] for line in lines}) == len(lines) == 701
            assert sum(line["quantity"] for line in lines) == pages[0]["totals"][0]["quantity"] == 703
            assert len(pages) == 3


async def test_a_series_of_very_many_steps_is_cut_with_the_newest_first(crowd: Server) -> None:
    asked = {"period": "this_month", "granularity": "hour", "group_by": ["tool"]}
    async with crowd.api(crowd.place.token("bella")) as bella:
        pages = await pages_of(bella, "get_usage_analytics", **asked)
    steps = [step for page in reversed(pages) for step in page["series"]]
    assert len(pages) > 2 and len(steps) == 19 * 24 * 3 + HOURS
    assert [step["start"] for step in steps] == sorted(step["start"] for step in steps)
    assert sum(step["quantity"] for step in steps) == pages[0]["totals"][0]["quantity"]


async def test_very_many_single_events_come_in_pages_that_are_not_too_large(crowd: Server) -> None:
    async with crowd.api(crowd.place.token("bella")) as bella:
        pages = await pages_of(bella, "list_usage_events", page_size=200, start="2026-11-20")
    ids = [event["event_id"] for page in pages for event in page["events"]]
    assert len(ids) == len(set(ids)) == HOURS
    assert any(len(page["events"]) < 200 for page in pages[:-1])


async def test_very_many_kinds_of_refusals_end_with_the_number_of_all_others(crowd: Server) -> None:
    async with crowd.api(crowd.place.token("bella")) as bella:
        (report,) = await pages_of(bella, "get_usage_analytics", period="today", meters=["calls"])
        assert report["denials"] == []
        (report, *_) = await pages_of(bella, "get_usage_analytics", period="today")
    assert sum(one["count"] for one in report["denials"]) == KINDS
    *kinds, rest = report["denials"]
    assert rest == {"code": "other", "meter": None, "count": KINDS - len(kinds)}
    assert len(report["limits"]) == KINDS + 2


async def test_who_has_no_name_is_told_so_and_who_used_little_did_not_use_nothing(crowd: Server) -> None:
    asked = {"period": "this_month", "granularity": "month", "meters": ["calls"]}
    async with crowd.api(crowd.place.token("bella")) as bella:
        text = (await bella.call("get_usage_analytics", **asked, group_by=["model", "client"])).json()["text"]
        assert f"\nno model, no client: {19 * 24 * 3 + HOURS:,} calls (100.0 %)" in text
        text = (await bella.call("get_usage_analytics", **asked, group_by=["tool"])).json()["text"]
    assert f"\ntool search: {19 * 24} calls (23.1 %)" in text
    assert f"\ntool 0000{WIDE}: 1 call (<0.1 %)" in text
    assert "more groups in the structured result." in text


async def test_of_one_meter_asked_for_only_that_is_told(crowd: Server) -> None:
    async with crowd.api(crowd.place.token("bella")) as bella:
        answer = (await bella.call("get_usage_analytics", period="this_month", meters=["calls"])).json()
    report = answer["result"]
    told = (report["limits"], report["projection"]["limits"], report["trend"]["meters"], report["totals"])
    assert [{one["meter"] for one in part} for part in told] == [{"calls"}] * 4
    assert "meter" not in answer["text"]


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
