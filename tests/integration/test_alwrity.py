"""The third system as its users meet it: calls of AI providers, money first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking

PRO_MODEL = {"provider": "gemini", "model": "gemini-2.5-pro"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("alwrity"), clock=TODAY, CATALOG="alwrity")


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def used(document: dict[str, Any]) -> dict[str, int]:
    return {limit["meter"]: limit["used"] for limit in document["limits"]}


def tokens(tokens_in: int, tokens_out: int, **attributes: Any) -> dict[str, Any]:
    return {**PRO_MODEL, "input_tokens": tokens_in, "output_tokens": tokens_out, **attributes}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_story_of_a_writer(place: Place, server: Server, transport: str, era: str) -> None:
    wren = f"wren.{transport}.{era}"
    async with (
        talking(place, server, transport, place.token(wren), ERAS[era]) as writer,
        talking(place, server, transport, place.token("app", role="service"), ERAS[era]) as app,
    ):
        call = {"user_id": wren, "event": "api_call"}
        # Free by default, the paid plans also by the year: ten months' price
        assert (await writer.call("get_tier_info"))["plan"] == "free"
        plans = {plan["plan"]: plan for plan in (await writer.call("list_plans"))["plans"]}
        assert {
            key: [(plan["price"][i] or {}).get("amount") for i in ("monthly", "yearly")]
            for key, plan in plans.items()
        } == {
            "free": ["0.00", None],
            "basic": ["29.00", "290.00"],
            "pro": ["79.00", "790.00"],
            "enterprise": ["199.00", "1990.00"],
        }
        # Before the call: what is affordable, and what binds
        before = await app.call("check_quota", attributes=tokens(1_000, 500), **call)
        assert before["affordable"] == {
            "calls": 100,
            "output_tokens": 199_875,
            "cost": {"amount": "2.00", "currency": "USD"},
            "binds": {"meter": "gemini_calls", "window": "month"},
            "binds_calls": {"meter": "gemini_calls", "window": "month"},
            "binds_output_tokens": {"meter": "cost", "window": "month"},
            "cheaper": None,
        }
        assert before["text"].endswith(
            "Affordable: 100 calls like this, or 199,875 output tokens in this one; what binds the calls is Gemini calls "
            "a month, and what binds this one is cost a month."
        )
        # The cost after it: called under its alias, counted and kept under its one name
        said = tokens(1_000, 500, provider="google", endpoint="/v1/write", response_ms=820, status="200")
        after = await app.call("record_usage", attributes=said, **call)
        assert used(after) == {"cost": 6_250, "gemini_calls": 1, "gemini_tokens": 1_500}
        assert {limit["unit"] for limit in after["limits"] if limit["meter"] == "cost"} == {"micro_usd"}
        (event,) = (await writer.call("list_usage_events"))["events"]
        assert event["attributes"] == {**said, "provider": "gemini"}
        assert event["price"] == {
            "source": "catalog",
            "cost": {"amount": "0.00625", "currency": "USD"},
            "input_per_million_tokens": {"amount": "1.25", "currency": "USD"},
            "output_per_million_tokens": {"amount": "10.00", "currency": "USD"},
            "per_million": {},
            "per_unit": None,
        }
        # Only the model is named; a price of the library; a search; a page by the piece
        await app.call("record_usage", attributes={"model": "gpt-4o", "output_tokens": 1_000}, **call)
        await app.call("record_usage", attributes={"provider": "metaphor"}, **call)
        pages = await app.call("record_usage", attributes={"provider": "firecrawl"}, quantity=3, **call)
        assert used(pages)["cost"] == 6_250 + 10_000 + 3_000 + 6_000
        events = (await writer.call("list_usage_events"))["events"]
        assert [one["attributes"]["provider"] for one in events] == ["firecrawl", "exa", "openai", "gemini"]
        assert events[2]["price"]["source"].startswith("genai-prices 0.2")
        # Only a text: estimated, and the text is nowhere
        text = "a secret about wrens, " * 100
        guessed = await app.call(
            "record_usage", attributes=PRO_MODEL, estimate_from={"input_text": text}, **call
        )
        assert used(guessed)["gemini_tokens"] == 1_500 + 550
        (event, *_) = (await writer.call("list_usage_events"))["events"]
        assert (event["estimated"], event["attributes"]["input_tokens"]) == (True, 550)
        assert event["gains"]["gemini_tokens:estimated"] == 550
        # A model nobody knows: told, never free without a word
        strange = {"provider": "openai", "model": "gpt-of-tomorrow", "input_tokens": 10}
        unpriced = await app.call("record_usage", attributes=strange, **call)
        assert (unpriced["unpriced"], unpriced["allowed"]) == (True, True)
        assert "What it costs is not known" in unpriced["text"]
        report = await writer.call("get_usage_analytics", group_by=["provider"])
        totals = {total["meter"]: (total["quantity"], total["unit"]) for total in report["totals"]}
        assert totals["cost:unpriced"] == (1, "event")
        assert totals["api_calls"] == (6, "API call")
        # Over the cap: refused before it costs anything, in words, with a cheaper model that would do
        long = tokens(80_000, 290_000)
        checked = await app.call("check_quota", attributes=long, **call)
        assert (checked["allowed"], checked["affordable"]["calls"]) == (False, 0)
        assert checked["affordable"]["cheaper"] == {"provider": "gemini", "model": "gemini-2.5-flash"}
        refused = await app.call("record_usage", attributes=long, **call)
        assert (refused["code"], refused["event_id"]) == ("quota_exceeded", None)
        assert "of 2.00 USD used this month, and 3.00 more would pass the limit." in refused["text"]
        assert "Basic has 50.00 USD a month." in refused["text"]
        # Bought by the year
        applied = await writer.buy("pro", interval="yearly")
        assert applied["price_now"]["amount"] == "790.00"
        limits = {limit["meter"]: limit["limit"] for limit in (await writer.call("get_tier_info"))["limits"]}
        assert (limits["gemini_calls"], limits["cost"]) == (5_000, 150_000_000)
        assert (await app.call("record_usage", attributes=long, **call))["allowed"]


async def test_a_cost_cap_refuses_at_the_micro_with_429(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        asked = {"user_id": "cap", "event": "api_call", "attributes": {"provider": "tavily"}}
        response = await app.call("record_usage", quantity=2_000, **asked)
        assert response.status_code == 200
        problem = problem_of(await app.call("record_usage", **asked), 429, "quota_exceeded")
        assert problem["decision"]["limits"][0]["used"] == 2_000_000
        assert problem["detail"].startswith("Free plan: 2.00 of 2.00 USD used this month.")


async def test_an_answer_is_affordable_by_a_limit_of_tokens_also_where_none_are_said_yet(
    place: Place, server: Server
) -> None:
    async with server.api(place.token("app", role="service")) as app:
        asked = {"user_id": "short", "event": "api_call", "attributes": {"model": "gpt-4o"}}
        checked = (await app.call("check_quota", **asked)).json()
        # 10,000 tokens of OpenAI a month, though the money would be enough for 200,000
        assert checked["result"]["affordable"]["output_tokens"] == 10_000
        affordable = checked["result"]["affordable"]
        assert affordable["binds_calls"] == {"meter": "openai_calls", "window": "month"}
        assert affordable["binds_output_tokens"] == {"meter": "openai_tokens", "window": "month"}
        assert checked["text"].endswith(
            "Affordable: 10 calls like this, or 10,000 output tokens in this one; "
            "what binds the calls is OpenAI calls a month, and what binds this one is OpenAI tokens a month."
        )


@pytest.mark.parametrize(
    ("spent_micros", "tokens_out", "calls", "would"),
    [
        (1_000_000, 80_000, 1, "would cost less"),  # a second one does not fit
        (1_850_000, 100, 99, "would cost less"),  # less than a tenth is left
        (1_000_000, 120_000, 0, "would fit"),
        (1_000_000, 100, 99, None),
    ],
)
async def test_a_cheaper_model_is_named_while_there_is_money_for_it(
    place: Place, server: Server, spent_micros: int, tokens_out: int, calls: int, would: str | None
) -> None:
    async with server.api(place.token("app", role="service")) as app:
        call = {"user_id": f"thrifty.{spent_micros}.{tokens_out}", "event": "api_call"}
        await app.call("record_usage", attributes=tokens(0, spent_micros // 10), enforce=False, **call)
        checked = (await app.call("check_quota", attributes=tokens(0, tokens_out), **call)).json()
        affordable = checked["result"]["affordable"]
        said = {"provider": "gemini", "model": "gemini-2.5-flash"} if would else None
        assert (affordable["calls"], affordable["cheaper"]) == (calls, said)
        assert checked["text"].endswith(f" {would}.") if would else "would" not in checked["text"]


async def test_at_the_cap_no_call_begins_whose_tokens_are_not_known_yet(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        call = {"user_id": "spent", "event": "api_call"}
        await app.call("record_usage", attributes=tokens(0, 200_000), enforce=False, **call)
        unknown = {**call, "attributes": {"model": "gemini-2.5-pro"}}
        checked = (await app.call("check_quota", **unknown)).json()["result"]
        assert (checked["allowed"], checked["code"]) == (False, "quota_exceeded")
        assert (checked["affordable"]["calls"], checked["affordable"]["output_tokens"]) == (0, 0)
        assert checked["affordable"]["binds_calls"] == {"meter": "cost", "window": "month"}
        for tool in ("reserve_usage", "record_usage"):
            problem_of(await app.call(tool, **unknown), 429, "quota_exceeded")


async def test_a_wrong_kind_of_attribute_is_told_as_what_it_must_be(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        asked = {"user_id": "kinds", "event": "api_call", "attributes": {**PRO_MODEL, "input_tokens": True}}
        problem = problem_of(await app.call("record_usage", **asked), 422, "invalid_request")
        assert problem["fields"] == [
            {"field": "attributes.input_tokens", "rule": "must be an integer or a text"}
        ]
        twice = (await app.call("get_usage_analytics", user_id="kinds", group_by=["model", "model"])).json()
        once = (await app.call("get_usage_analytics", user_id="kinds", group_by=["model"])).json()
        assert twice["result"]["series"] == once["result"]["series"]
        assert twice["text"] == once["text"]


CACHED = {"model": "claude-sonnet-4-5", "input_tokens": 1_000, "output_tokens": 10}


@pytest.mark.parametrize(
    ("attributes", "cost"),
    [
        (CACHED, "0.00315"),
        ({**CACHED, "cache_read_tokens": 900}, "0.00072"),
        ({**CACHED, "cache_read_tokens": 800, "cache_write_tokens": 100}, "0.001065"),
        ({"model": "gemini-2.0-flash", "input_tokens": 10_000, "input_audio_tokens": 9_000}, "0.0064"),
        ({"model": "whisper-1", "audio_seconds": 90}, "0.009"),
        ({"model": "gpt-4o-mini", "input_tokens": 1}, "0.000001"),
        ({"model": "whisper-1", "input_tokens": 90}, None),
        ({"model": "text-embedding-3-small", "input_tokens": 9, "output_tokens": 9}, None),
    ],
)
async def test_what_is_cached_or_audio_costs_what_it_costs(
    place: Place, server: Server, attributes: dict[str, Any], cost: str | None
) -> None:
    async with server.api(place.token("app", role="service")) as app:
        asked = {"user_id": "cara", "event": "api_call", "attributes": attributes}
        recorded = (await app.call("record_usage", **asked)).json()["result"]
        assert recorded.get("unpriced", False) is (cost is None)
        events = (await app.call("list_usage_events", user_id="cara")).json()["result"]["events"]
        price = next(one["price"] for one in events if one["event_id"] == recorded["event_id"])
        assert cost == (None if price is None else price["cost"]["amount"])


async def test_a_part_larger_than_the_whole_is_refused(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        said = {"model": "gpt-4o", "input_tokens": 10, "cache_read_tokens": 11}
        asked = {"user_id": "cara", "event": "api_call", "attributes": said, "enforce": False}
        problem = problem_of(await app.call("record_usage", **asked), 422, "invalid_request")
        assert problem["fields"][0]["field"] == "attributes.input_tokens"


async def test_a_batch_says_what_of_it_has_no_price(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:

        async def said(*models: str) -> str:
            calls = [
                {"user_id": "bea", "event": "api_call", "attributes": {"model": model, "input_tokens": 9}}
                for model in models
            ]
            return str((await app.call("record_usage_batch", events=calls)).json()["text"])

        assert await said("gpt-4o", "gemini-2.5-pro") == "2 of 2 events were allowed."
        assert await said("gpt-4o", "of-tomorrow") == (
            "2 of 2 events were allowed. What 1 event cost is not known, so nothing is added to the cost for it."
        )
        assert await said("of-tomorrow", "whisper-1") == (
            "2 of 2 events were allowed. What 2 events cost is not known, so nothing is added to the cost for them."
        )


async def test_a_limit_of_money_is_set_as_money(place: Place, server: Server) -> None:
    async with (
        server.api(place.token("rich")) as api,
        server.api(place.token("tara", role="tenant_admin")) as tara,
    ):
        await api.call("get_tier_info")
        cost = {"user_id": "rich", "meter": "cost", "window": "month", "reason": "a good customer"}

        async def manage(action: str, **given: Any) -> Any:
            return await tara.call("manage_limits", action=action, **{**cost, **given})

        done = (await manage("set", limit="150.00")).json()
        assert "limit.set cost per month: 2.00 USD -> 150.00 USD. a good customer" in done["text"]
        assert "0.00 of 150.00 USD used this month" in done["text"]
        limits = {one["meter"]: one["limit"] for one in done["result"]["limits"]}
        assert limits["cost"] == 150_000_000
        same = (await manage("set", limit="150")).json()
        assert "150.00 USD -> 150.00 USD" in same["text"]
        # Of 5 nobody knows whether it is 5.00 USD or five millionths of one.
        for action, given in (("set", {"limit": 5}), ("grant", {"quantity": 5})):
            problem = problem_of(await manage(action, **given), 422, "invalid_request")
            said = f'{next(iter(given))} must be an amount in quotes, like "5.00": cost is money.'
            assert problem["detail"] == said
        assert "1.50 USD more" in (await manage("grant", quantity="1.5")).json()["text"]
        assert "-> unlimited" in (await manage("set", limit="unlimited")).json()["text"]
        for given, said in (
            ({"limit": "150.0000001"}, "limit must have at most 6 decimals."),
            ({"limit": "1,50"}, 'limit must be a decimal string like "29.00".'),
            ({"limit": "many"}, "limit must be an integer from 0 to"),
            (
                {"limit": "5.00", "meter": "api_calls"},
                "limit must be an integer: api_calls is no amount of money.",
            ),
        ):
            problem = problem_of(await manage("set", **given), 422, "invalid_request")
            assert problem["detail"].startswith(said)


async def test_money_granted_is_told_as_money(place: Place, server: Server) -> None:
    async with (
        server.api(place.token("generous")) as api,
        server.api(place.token("tara", role="tenant_admin")) as tara,
    ):
        await api.call("get_tier_info")
        more = {"meter": "cost", "window": "month", "quantity": "1.50", "reason": "sorry"}
        granted = await tara.call("manage_limits", action="grant", user_id="generous", **more)
        assert "limit.grant cost per month: 1.50 USD more. sorry" in granted.json()["text"]
        stands = (await tara.call("manage_limits", action="list", user_id="generous")).json()["text"]
        assert "Granted 1.50 USD cost per month, 1.50 USD left (" in stands


async def test_what_is_the_same_of_every_limit_is_said_once(place: Place, server: Server) -> None:
    async with (
        server.api(place.token("early")) as api,
        server.api(place.token("app", role="service")) as app,
    ):
        await app.call("record_usage", user_id="early", event="api_call", attributes={"provider": "exa"})
        report = (await api.call("get_usage_analytics")).json()
        limits = report["result"]["projection"]["limits"]
        assert len(limits) == 14
        assert report["text"].count("Too early to say") == 1
        assert all(f"{one['meter'].replace('_', ' ')} per month" in report["text"] for one in limits)


async def test_a_call_limit_of_one_provider_leaves_the_others(place: Place, server: Server) -> None:
    async with server.api(place.token("app", role="service")) as app:
        asked = {"user_id": "many", "event": "api_call"}
        for _ in range(5):
            await app.call("record_usage", attributes={"provider": "stability"}, **asked)
        refused = await app.call("record_usage", attributes={"provider": "stability"}, **asked)
        assert refused.status_code == 429
        assert (await app.call("record_usage", attributes={"provider": "exa"}, **asked)).status_code == 200


async def test_an_edited_price_changes_nothing_that_happened(tmp_path: Path) -> None:
    from subscription_mcp.catalogs import shipped_text

    catalog = tmp_path / "prices.toml"
    catalog.write_text(shipped_text("alwrity"), "utf-8")
    place = Place(tmp_path, clock=TODAY, CATALOG=str(catalog))
    asked = {"user_id": "ida", "event": "api_call", "attributes": tokens(1_000, 0)}
    async with place.over_stdio(place.token("app", role="service")) as app:
        first = await app.call("record_usage", idempotency_key="k", **asked)
    catalog.write_text(catalog.read_text("utf-8").replace('"1.25"', '"2.50"'), "utf-8")
    async with place.over_stdio(place.token("app", role="service")) as app:
        again = await app.call("record_usage", idempotency_key="k", **asked)
        assert (again["replayed"], used(again)["cost"]) == (True, used(first)["cost"])
        assert used(await app.call("record_usage", **asked))["cost"] == 1_250 + 2_500
        events = (await app.call("list_usage_events", user_id="ida"))["events"]
        assert [one["price"]["cost"]["amount"] for one in events] == ["0.0025", "0.00125"]
    assert "All agree" in place.run("verify").stdout + place.run("verify").stderr


@pytest.mark.parametrize(
    ("estimate_from", "said"),
    [
        ({"audio": 5}, "estimate_from.audio is nothing this event is estimated from"),
        ({"input_text": -1}, "estimate_from"),
        ({"input_text": True}, "estimate_from"),
    ],
)
async def test_what_cannot_be_estimated_is_refused(
    place: Place, server: Server, estimate_from: dict[str, Any], said: str
) -> None:
    async with server.api(place.token("app", role="service")) as app:
        response = await app.call(
            "record_usage", user_id="eve", event="api_call", estimate_from=estimate_from
        )
        assert said in problem_of(response, 422, "invalid_request")["detail"]


def test_no_text_that_was_estimated_from_is_kept_anywhere(place: Place, server: Server) -> None:
    kept = b"".join(path.read_bytes() for path in Path(place.folder).glob("ledger.db*"))
    assert b"secret about wrens" not in kept
