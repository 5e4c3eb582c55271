"""What a call costs: who provides a model, which price is meant, and whole micro-units that add up."""

import logging
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_catalog

from subscription_mcp.domain.catalog import Catalog, ModelPrice, Money
from subscription_mcp.domain.catalog_file import CatalogError, parse_catalog
from subscription_mcp.domain.instants import parse_instant
from subscription_mcp.domain.pricing import (
    PriceBook,
    Tier,
    UnitPrice,
    canonical_provider,
    named,
    provider_of_model,
    unit_price_of,
)
from subscription_mcp.domain.usage import gains_of
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
        ("together/gpt-4o", None),
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
        (UnitPrice("catalog", "USD", 75_000, 300_000), 1, 1, 0, 0),  # 0.075 micros
        (UnitPrice("catalog", "USD", 500_000), 1, 1, 0, 1),  # half a micro rounds up
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


@given(
    tokens_in=COUNTS, tokens_out=COUNTS, quantity=st.integers(1, 10**6), parts=st.tuples(PARTS, PARTS, PARTS)
)
def test_a_cost_is_the_exact_one_rounded_half_up_once(
    tokens_in: int, tokens_out: int, quantity: int, parts: tuple[int | None, int | None, int | None]
) -> None:
    price = UnitPrice("catalog", "USD", *parts)
    cost = price.cost_micros(quantity, {"input_tokens": tokens_in, "output_tokens": tokens_out})
    per_in, per_out, per_unit = (part or 0 for part in parts)
    exact = Decimal(tokens_in * per_in + tokens_out * per_out) / 1_000_000 + quantity * per_unit
    assert type(cost) is int
    assert Decimal("-0.5") < Decimal(cost) - exact <= Decimal("0.5")


@given(calls=st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=20))
def test_costs_add_up_to_within_half_a_micro_a_call(calls: list[tuple[int, int]]) -> None:
    price = UnitPrice("catalog", "USD", 75_000, 300_000)
    each = [price.cost_micros(1, {"input_tokens": i, "output_tokens": o}) for i, o in calls]
    together = price.cost_micros(
        1, {"input_tokens": sum(i for i, _ in calls), "output_tokens": sum(o for _, o in calls)}
    )
    assert 2 * abs(sum(each) - together) <= len(calls) + 1


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
    assert found > 2_000


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
    prices_of = Library().prices_of("gemini", model)
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
