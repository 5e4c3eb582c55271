"""What a call costs: who provides a model, which price is meant, and whole micro-units that add up."""

import logging
from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import a_catalog

from subscription_mcp.domain.catalog import Catalog, ModelPrice, Money
from subscription_mcp.domain.catalog_file import CatalogError, parse_catalog
from subscription_mcp.domain.instants import parse_instant, to_datetime
from subscription_mcp.domain.pricing import (
    PriceBook,
    Tier,
    UnitPrice,
    named,
    unit_price_of,
)
from subscription_mcp.domain.providers import canonical_provider, provider_of_model
from subscription_mcp.domain.usage import gains_of, token_problems
from subscription_mcp.operations.prices import Library, Prices, converted

NOW = parse_instant("2026-11-20T14:03:11Z")


def usd(text: str) -> Money:
    return Money(int(Decimal(text) * 1_000_000), "USD")


BOOK = (
    ModelPrice("gemini", "gemini-2.5-pro", "Pro", usd("1.25"), usd("10.00")),
    ModelPrice("gemini", "shared", "Shared", usd("1.00"), usd("1.00")),
    ModelPrice("mistral", "shared", "Shared", usd("2.00"), usd("2.00")),
    ModelPrice("tavily", None, "Tavily", per_unit=usd("0.001"), unit="search"),
    ModelPrice("stability", "image", "Image", per_unit=usd("0.04"), unit="image"),
)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("gemini", "gemini"),
        ("google", "gemini"),
        ("Google", "gemini"),
        ("GEMINI", "gemini"),
        ("GEMINI ", "gemini"),
        ("gcp-vertex", "vertex"),
        (" My Own Proxy ", "My Own Proxy"),
        ("metaphor", "exa"),
        ("exa", "exa"),
        ("mistralai", "mistral"),
        ("OpenAI", "openai"),
        ("vertex", "vertex"),
        ("My Own Proxy", "My Own Proxy"),
    ],
)
def test_a_provider_has_one_name(written: str, name: str) -> None:
    assert canonical_provider(written) == name


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gemini-2.5-pro", "gemini"),
        ("models/gemini-2.5-flash", "gemini"),
        ("google/gemini-2.5-flash", "gemini"),
        ("gpt-5", "openai"),
        ("GPT-4o-mini", "openai"),
        ("o1", "openai"),
        ("o3-mini", "openai"),
        ("text-embedding-3-small", "openai"),
        ("claude-sonnet-4", "anthropic"),
        ("mistral-large-latest", "mistral"),
        ("codestral-2501", "mistral"),
        ("stable-diffusion-xl", "stability"),
        ("exa", "exa"),
        ("gpt-oss-120b", None),
        ("o1234", None),
        ("example", None),
        ("together/gpt-4o", "together"),
        ("acme/gpt-4o", None),
        ("acme/gemini-2.5-pro", None),
        ("llama-4", None),
        ("", None),
    ],
)
def test_the_name_of_a_model_says_who_provides_it(model: str, provider: str | None) -> None:
    assert provider_of_model(model) == provider


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("gemini", "gemini-2.5-pro", "Pro"),
        ("gemini", "models/gemini-2.5-pro", "Pro"),
        ("gemini", "Gemini-2.5-PRO", "Pro"),
        (None, "Gemini-2.5-PRO", "Pro"),
        ("gemini", "gemini-2.5-pro-001", "Pro"),
        ("gemini", "models/Gemini-2.5-Pro-002", "Pro"),
        (None, "gemini-2.5-pro-001", "Pro"),
        ("gemini", "gemini-2.5-pro-1", None),
        ("tavily", "advanced-001", "Tavily"),
        ("gemini", "gemini-9", None),
        ("mistral", "gemini-2.5-pro", None),
        ("tavily", None, "Tavily"),
        ("tavily", "advanced", "Tavily"),
        (None, "gemini-2.5-pro", "Pro"),
        (None, "image", "Image"),
        (None, "shared", None),
        (None, None, None),
    ],
)
def test_a_line_of_the_book_is_found(provider: str | None, model: str | None, found: str | None) -> None:
    line = PriceBook(BOOK).find(provider, model)
    assert (None if line is None else line.title) == found


@pytest.mark.parametrize(
    ("attributes", "provider"),
    [
        ({"provider": "google", "model": "gemini-2.5-pro"}, "gemini"),
        ({"model": "gemini-2.5-pro"}, "gemini"),
        ({"model": "claude-sonnet-4"}, "anthropic"),
        ({"model": "image"}, "stability"),
        ({"provider": "proxy", "model": "gemini-2.5-pro"}, "proxy"),
        ({"model": "shared"}, None),
        ({"tool": "search"}, None),
    ],
)
def test_attributes_name_the_provider_by_its_one_name(
    attributes: dict[str, Any], provider: str | None
) -> None:
    found = named(attributes, PriceBook(BOOK))
    assert found.get("provider") == provider
    assert {**attributes, "provider": provider} == {"provider": None, **found}


# Costs


@pytest.mark.parametrize(
    ("price", "quantity", "tokens_in", "tokens_out", "micros"),
    [
        (UnitPrice("catalog", "USD", 1_250_000, 10_000_000), 1, 1_000, 500, 6_250),
        (UnitPrice("catalog", "USD", 75_000, 300_000), 1, 1, 0, 1),  # 0.075 micros: never nothing
        (UnitPrice("catalog", "USD", 75_000, 300_000), 1, 0, 0, 0),
        (UnitPrice("catalog", "USD", 1_000_000), 1, 1, 0, 1),  # exactly
        (UnitPrice("catalog", "USD", 250_000, 250_000), 1, 1, 1, 1),  # rounded once, not for each part
        (UnitPrice("catalog", "USD", per_unit=1_000, unit="search"), 3, 5, 5, 3_000),
        (UnitPrice("catalog", "USD", 1_000_000, None, 5_000, "request"), 2, 10, 10, 10_010),
    ],
)
def test_what_a_call_costs(
    price: UnitPrice, quantity: int, tokens_in: int, tokens_out: int, micros: int
) -> None:
    cost = price.cost_micros(quantity, {"input_tokens": tokens_in, "output_tokens": tokens_out})
    assert (cost, type(cost)) == (micros, int)


PARTS = st.none() | st.integers(0, 10**9)
COUNTS = st.integers(0, 10**9)
RATES = st.tuples(st.integers(1, 10**8), st.integers(1, 10**8), st.integers(1, 10**8))
"""Of a token in, out, and read from a cache."""


@given(
    tokens_in=COUNTS, tokens_out=COUNTS, quantity=st.integers(1, 10**6), parts=st.tuples(PARTS, PARTS, PARTS)
)
def test_a_cost_is_the_exact_one_rounded_up_once(
    tokens_in: int, tokens_out: int, quantity: int, parts: tuple[int | None, int | None, int | None]
) -> None:
    price = UnitPrice("catalog", "USD", *parts)
    cost = price.cost_micros(quantity, {"input_tokens": tokens_in, "output_tokens": tokens_out})
    per_in, per_out, per_unit = (part or 0 for part in parts)
    exact = Decimal(tokens_in * per_in + tokens_out * per_out) / 1_000_000 + quantity * per_unit
    assert type(cost) is int
    assert 0 <= Decimal(cost) - exact < 1


@given(seed=st.integers(0, 2**32), most=st.sampled_from([1, 3, 100, 10**6]), rates=RATES)
@settings(max_examples=10, deadline=None)
def test_ten_thousand_calls_cost_what_they_cost_or_less_than_a_micro_more_each(
    seed: int, most: int, rates: tuple[int, int, int]
) -> None:
    """However tiny they are: none costs nothing, and together less than a cent too much."""
    tokens_in, tokens_out, cached = rates
    price = UnitPrice("catalog", "USD", tokens_in, tokens_out, per_million=(("cache_read_tokens", cached),))
    dice, total, millionths = Random(seed), 0, 0
    for _ in range(10_000):
        read, written = dice.randint(1, most), dice.randint(0, most)
        hit = dice.randint(0, read)
        said = {"input_tokens": read, "cache_read_tokens": hit, "output_tokens": written}
        cost = price.cost_micros(1, said)
        assert cost > 0
        total += cost
        millionths += (read - hit) * tokens_in + hit * cached + written * tokens_out
    assert 0 <= total * 1_000_000 - millionths < 10_000 * 1_000_000


# What of the tokens has a price of its own

AUDIO = UnitPrice(
    "library",
    "USD",
    1_000_000,
    4_000_000,
    per_million=(("audio_seconds", 100), ("cache_read_tokens", 250_000), ("input_audio_tokens", 7_000_000)),
)


@pytest.mark.parametrize(
    ("said", "micros"),
    [
        ({"input_tokens": 1_000}, 1_000),
        ({"input_tokens": 1_000, "cache_read_tokens": 1_000}, 250),
        ({"input_tokens": 1_000, "cache_read_tokens": 400}, 700),
        ({"input_tokens": 1_000, "input_audio_tokens": 100}, 1_600),
        ({"input_tokens": 1_000, "cache_read_tokens": 400, "input_audio_tokens": 100}, 1_300),
        ({"input_tokens": 1_000, "cache_write_tokens": 500}, 1_000),  # no price of its own: as all others
        ({"output_tokens": 100, "output_audio_tokens": 100}, 400),
        ({"audio_seconds": 1_000_000}, 100),  # beside the tokens
    ],
)
def test_a_part_of_the_tokens_costs_what_it_costs(said: dict[str, str | int], micros: int) -> None:
    assert AUDIO.cost_micros(1, said) == micros
    assert AUDIO.covers(said)


def test_an_answer_is_as_long_as_is_affordable_whatever_of_the_input_is_cached() -> None:
    said = {"input_tokens": 1_000, "cache_read_tokens": 400, "output_tokens": 9, "output_audio_tokens": 9}
    assert AUDIO.output_tokens_for(1_100, 1, said) == 100


@pytest.mark.parametrize(
    ("price", "said", "is_covered"),
    [
        (UnitPrice("l", "USD", 20_000), {"input_tokens": 9}, True),
        (UnitPrice("l", "USD", 20_000), {"input_tokens": 9, "output_tokens": 1}, False),
        (UnitPrice("l", "USD", 20_000, 0), {"input_tokens": 9, "output_tokens": 1}, True),
        (UnitPrice("l", "USD", 20_000), {"output_tokens": 0}, True),
        (UnitPrice("l", "USD", 20_000), {}, False),
        (UnitPrice("l", "USD", 20_000), {"audio_seconds": 9}, False),
        (UnitPrice("l", "USD", 20_000, per_unit=0), {}, False),
        (UnitPrice("l", "USD", 20_000, per_unit=9), {}, True),
        (UnitPrice("l", "USD", 0, 0), {}, True),
        (UnitPrice("l", "USD", 0, 0, tiers=(Tier(100, 5, 5),)), {}, False),
        (UnitPrice("l", "USD", 20_000, 30_000), {"input_tokens": 0}, True),
        (UnitPrice("l", "USD", per_unit=9, unit="search"), {"output_tokens": 9}, True),
        (UnitPrice("l", "USD", per_million=(("audio_seconds", 100),)), {"audio_seconds": 60}, True),
        (UnitPrice("l", "USD", per_million=(("audio_seconds", 100),)), {"input_tokens": 60}, False),
        (UnitPrice("l", "USD", per_million=(("audio_seconds", 100),)), {}, False),
        (
            UnitPrice("l", "USD", 5, per_million=(("output_image_tokens", 30),)),
            {"output_tokens": 9, "output_image_tokens": 9},
            True,
        ),
        (
            UnitPrice("l", "USD", 5, per_million=(("output_image_tokens", 30),)),
            {"output_tokens": 9, "output_image_tokens": 8},
            False,
        ),
    ],
)
def test_a_call_is_priced_in_full_or_not_at_all(
    price: UnitPrice, said: dict[str, str | int], is_covered: bool
) -> None:
    assert price.covers(said) is is_covered
    gains = gains_of(with_costs(a_catalog()), "llm_call", 1, said, price)
    assert ("cost:unpriced" in gains) is not is_covered
    assert is_covered or gains["cost"] == 0


def test_more_cached_tokens_than_tokens_are_refused() -> None:
    assert token_problems({"input_tokens": 9, "cache_read_tokens": 5, "cache_write_tokens": 4}) == []
    (problem,) = token_problems({"input_tokens": 9, "cache_read_tokens": 5, "cache_write_tokens": 5})
    assert (problem.field, problem.rule) == (
        "attributes.input_tokens",
        "must be all of them, but is less than cache_read_tokens + cache_write_tokens",
    )
    assert [one.field for one in token_problems({"output_audio_tokens": 1})] == ["attributes.output_tokens"]


def test_a_long_call_is_charged_by_its_tier_on_both_sides_of_the_edge() -> None:
    price = UnitPrice("library", "USD", 1_250_000, 10_000_000, tiers=(Tier(200_000, 2_500_000, 15_000_000),))
    for tokens, applied in ((200_000, (1_250_000, 10_000_000)), (200_001, (2_500_000, 15_000_000))):
        found = price.for_call({"input_tokens": tokens})
        assert (found.input_per_million_tokens, found.output_per_million_tokens) == applied
        assert found.tiers == ()
    assert price.cost_micros(1, {"input_tokens": 400_000}) == 1_000_000


# Prices: the book wins, the library knows the rest


def with_costs(catalog: Catalog) -> Catalog:
    meters = {**catalog.meters, "cost": replace(catalog.meters["llm_calls"], name="cost", aggregate="cost")}
    return replace(catalog, meters=meters, prices=BOOK)


def test_the_book_wins_and_the_library_knows_the_rest() -> None:
    prices = Prices(with_costs(a_catalog()))
    assert prices.find("gemini", "gemini-2.5-pro", NOW) == unit_price_of(BOOK[0])
    found = prices.find("openai", "gpt-4o", NOW)
    assert found is not None
    assert (found.input_per_million_tokens, found.output_per_million_tokens) == (2_500_000, 10_000_000)
    assert found.source.startswith("genai-prices 0.2")
    assert prices.find("openai", "gpt-4o", NOW) is found
    assert prices.find("anthropic", "claude-sonnet-4", NOW) is not None
    assert prices.find("mistral", "mistral-large-latest", NOW) is not None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("proxy", "gpt-4o"),
        (None, "nothing-like-it"),
        ("serper", None),
        (None, None),
    ],
)
def test_what_nobody_knows_has_no_price(provider: str | None, model: str | None) -> None:
    assert Prices(with_costs(a_catalog())).find(provider, model, NOW) is None


def test_the_library_is_in_dollars_and_prices_no_catalog_of_another_currency() -> None:
    prices = Prices(replace(with_costs(a_catalog()), currency="EUR"))
    assert prices.find("openai", "gpt-4o", NOW) is None


def test_an_unpriced_model_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    prices = Prices(with_costs(a_catalog()))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert prices.of_event("llm_call", {"provider": "openai", "model": "gpt-none"}, NOW) is None
            assert prices.of_event("message", {"model": "gpt-none"}, NOW) is None
    assert len([record for record in caplog.records if "gpt-none" in record.getMessage()]) == 1


def test_every_price_of_the_library_is_whole_micros_or_none_at_all() -> None:
    from genai_prices.data_snapshot import get_snapshot

    found = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            several = model.prices if isinstance(model.prices, list) else [model]
            for one in several:
                price = converted(one.prices, "library")
                if price is None:
                    continue
                found += 1
                parts = (price.input_per_million_tokens, price.output_per_million_tokens, price.per_unit)
                assert all(type(part) in (int, type(None)) for part in parts), model.id
                assert all(type(rate) is int and rate > 0 for _, rate in price.per_million if rate), model.id
    assert found > 2_000


# The tokens of a call, here and as the library takes them: a token that is cached or audio is one of all tokens too.
USED = {
    "input_tokens": 300_000,
    "cache_read_tokens": 40_000,
    "cache_write_tokens": 10_000,
    "output_tokens": 7_000,
}


@pytest.mark.parametrize("input_tokens", [60_000, 300_000])
def test_a_call_costs_what_the_library_itself_says(input_tokens: int) -> None:
    """All that is sold by the token: with what is cached, in the tier of the call, to the micro-unit."""
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    used = {**USED, "input_tokens": input_tokens}
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            if isinstance(model.prices, list):
                continue
            price = converted(model.prices, "library")
            if price is None or price.per_unit is not None or not price.covers(used):
                continue
            dollars = model.prices.calc_price(genai_prices.Usage(**used))["total_price"]
            exact = dollars * 1_000_000
            assert abs(price.cost_micros(1, used) - exact) <= 1, (provider.id, model.id)
            compared += 1
    assert compared > 1_500


@pytest.mark.parametrize(
    ("model", "used"),
    [
        ("gemini-2.0-flash", {"input_tokens": 5_000, "input_audio_tokens": 4_000, "output_tokens": 10}),
        (
            "gpt-realtime",
            {
                "input_tokens": 5_000,
                "input_audio_tokens": 4_000,
                "output_tokens": 900,
                "output_audio_tokens": 800,
            },
        ),
        ("whisper-1", {"audio_seconds": 90}),
        ("whisper-large-v3", {"audio_seconds": 3_599}),
        ("tts-1", {"input_characters": 1_234}),
        ("mistral-ocr-2512", {"input_document_pages": 7}),
        ("gpt-4o", {"input_tokens": 100, "output_tokens": 100, "web_searches": 2}),
    ],
)
def test_what_is_no_plain_token_costs_what_the_library_itself_says(model: str, used: dict[str, Any]) -> None:
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    found = [(one, model_) for one in get_snapshot().providers for model_ in one.models if model_.id == model]
    provider, info = next((one for one in found if one[0].id in ("openai", "google")), found[0])
    known = Library().find(canonical_provider(provider.id), model)
    assert known is not None
    price = known.price_at(NOW)
    assert price is not None and price.covers(used)
    exact = info.prices.calc_price(genai_prices.Usage(**used))["total_price"] * 1_000_000
    assert 0 <= price.cost_micros(1, used) - exact < 1


@pytest.mark.parametrize(
    ("written", "provider", "library_id", "library_model"),
    [
        ("gpt-4o", "openai", "openai", "gpt-4o"),
        ("GPT-4O", "openai", "openai", "gpt-4o"),
        ("gpt-4o-2024-08-06", "openai", "openai", "gpt-4o-2024-08-06"),
        ("openai/gpt-4o", "openai", "openai", "gpt-4o"),
        ("openai:gpt-4o", "openai", "openai", "gpt-4o"),
        ("azure/gpt-4o", "azure", "azure", "gpt-4o"),
        ("azure:gpt-4o", "azure", "azure", "gpt-4o"),
        ("azure_ai/gpt-4o", "azure", "azure", "gpt-4o"),
        ("claude-sonnet-4-5", "anthropic", "anthropic", "claude-sonnet-4-5"),
        ("anthropic:claude-sonnet-4-5", "anthropic", "anthropic", "claude-sonnet-4-5"),
        ("Anthropic/Claude-Sonnet-4-5", "anthropic", "anthropic", "claude-sonnet-4-5"),
        (
            "bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0",
            "bedrock",
            "aws",
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
        ),
        (
            "bedrock:us.anthropic.claude-sonnet-4-20250514-v1:0",
            "bedrock",
            "aws",
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
        ),
        (
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
            "bedrock",
            "aws",
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
        ),
        ("amazon.nova-pro-v1:0", "bedrock", "aws", "amazon.nova-pro-v1:0"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0",
            "bedrock",
            "aws",
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
        ),
        ("models/gemini-2.0-flash", "gemini", "google", "gemini-2.0-flash"),
        ("google-gla:gemini-2.0-flash", "gemini", "google", "gemini-2.0-flash"),
        ("vertex_ai/gemini-2.0-flash", "vertex", "google", "gemini-2.0-flash"),
        ("openrouter/openai/gpt-4o", "openrouter", "openrouter", "openai/gpt-4o"),
        ("openrouter:openai/gpt-4o", "openrouter", "openrouter", "openai/gpt-4o"),
        ("groq/llama-3.3-70b-versatile", "groq", "groq", "llama-3.3-70b-versatile"),
        ("mistral/mistral-large-latest", "mistral", "mistral", "mistral-large-latest"),
        ("xai/grok-4", "x-ai", "x-ai", "grok-4"),
        ("deepseek-chat", "deepseek", "deepseek", "deepseek-chat"),
        ("o3-mini", "openai", "openai", "o3-mini"),
    ],
)
def test_a_model_is_found_in_the_library_however_it_is_written(
    written: str, provider: str, library_id: str, library_model: str
) -> None:
    from genai_prices.data_snapshot import get_snapshot

    prices = Prices(replace(with_costs(a_catalog()), prices=()))
    attributes = prices.named({"model": written})
    assert attributes["provider"] == provider
    price = prices.find(provider, written, NOW)
    _, model = get_snapshot().find_provider_model(library_model, None, library_id, None)
    assert price is not None
    assert price == converted(model.get_prices(to_datetime(NOW)), price.source)
    asked = prices.known(None, written, NOW)
    assert asked is not None
    assert (asked[0].provider, asked[1]) == (provider, price)


@pytest.mark.parametrize(
    "written", ["gpt-of-tomorrow", "acme/gpt-4o", "acme/gemini-2.5-pro", "acme:gpt-4o", "x", ""]
)
def test_a_model_nobody_knows_has_no_price_by_any_name(written: str) -> None:
    prices = Prices(replace(with_costs(a_catalog()), prices=()))
    assert prices.known(None, written, NOW) is None
    assert prices.of_event("llm_call", prices.named({"model": written}), NOW) is None


def test_a_model_the_library_prices_in_other_ways_only_has_no_price() -> None:
    from genai_prices.types import ModelPrice as Listed

    assert converted(Listed(), "library") is None
    assert converted(Listed(input_text_messages_kcount=Decimal(4)), "library") is None
    assert converted(Listed(input_mtok=Decimal("0.0000001")), "library") is None


def test_a_price_that_changes_on_a_day_is_the_one_of_the_day() -> None:
    from genai_prices.data_snapshot import get_snapshot

    def changes() -> Any:
        for provider in get_snapshot().providers:
            for model in provider.models:
                if isinstance(model.prices, list) and len(model.prices) == 2:
                    start = getattr(model.prices[1].constraint, "start_date", None)
                    first, then = (converted(one.prices, "") for one in model.prices)
                    if start is not None and first != then and provider.id == "google":
                        yield model.id, start, first, then

    model, start, first, then = next(changes())
    known = Library().find("gemini", model)
    assert known is not None
    prices_of = known.price_at
    day = parse_instant(f"{start.isoformat()}T00:00:00Z")
    before, after = prices_of(day - 1), prices_of(day)
    assert before is not None and after is not None
    assert (before.input_per_million_tokens, before.output_per_million_tokens) == (
        first.input_per_million_tokens,
        first.output_per_million_tokens,
    )
    assert replace(after, source="") == then


# Gains


def test_an_unpriced_event_is_counted_beside_the_cost() -> None:
    catalog = with_costs(a_catalog())
    price = unit_price_of(BOOK[3])
    assert gains_of(catalog, "llm_call", 2, {"provider": "tavily"}, price)["cost"] == 2_000
    gains = gains_of(catalog, "llm_call", 2, {"provider": "nobody"})
    assert (gains["cost"], gains["cost:unpriced"]) == (0, 1)
    assert "cost:unpriced" not in gains_of(catalog, "message", 1, {})


# The catalog

PRICED = """
name = "t"
title = "T"
currency = "USD"
[events.api_call]
attributes = { provider = "text", model = "text", input_tokens = "integer", output_tokens = "integer" }
[meters.calls]
unit = "call"
event = "api_call"
[meters.cost]
event = "api_call"
aggregate = "cost"
[plans.free]
title = "Free"
price = { monthly = "0" }
limits = [{ meter = "cost", window = "month", limit = "150.00" }]
[[prices]]
provider = "google"
model = "gemini-2.5-pro"
input_per_million_tokens = "1.25"
"""


def test_a_catalog_adds_up_costs_and_limits_them_in_money() -> None:
    catalog = parse_catalog(PRICED, source="t.toml")
    assert (catalog.meters["cost"].unit, catalog.meters["cost"].aggregate) == ("micro_usd", "cost")
    assert catalog.plans["free"].limits[0].maximum == 150_000_000
    assert catalog.prices[0].provider == "gemini"
    micros = parse_catalog(PRICED.replace('"150.00"', "150_000_000"), source="t.toml")
    assert micros.plans["free"].limits == catalog.plans["free"].limits


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('meter = "cost"', 'meter = "calls"', "calls is no amount of money: its limit must be an integer"),
        ('"150.00"', '"150.0000001"', "plans.free.limits[0].limit: must have at most 6 decimals"),
        ('"150.00"', '"-1"', "must be an integer or"),
        ('aggregate = "cost"', 'aggregate = "cost"\nunit = "call"', "meters.cost.unit: must be micro_usd"),
        ('unit = "call"', 'unit = "micro_usd"', "is the unit of a cost"),
        ('unit = "call"\n', "", "meters.calls.unit: is missing"),
        ('input_tokens = "integer"', 'input_tokens = "text"', "cannot price 'input_tokens': it is text"),
        (
            'provider = "google"',
            'provider = "google"\ncurrency = "EUR"',
            "prices[0].currency: must be USD: the meter 'cost' adds up what calls cost",
        ),
        ('aggregate = "cost"', 'aggregate = "cost"\nattribute = "input_tokens"', "only a meter with"),
    ],
)
def test_a_fault_in_costs_is_named(old: str, new: str, said: str) -> None:
    assert old in PRICED
    with pytest.raises(CatalogError) as raised:
        parse_catalog(PRICED.replace(old, new, 1), source="t.toml")
    assert said in str(raised.value)
