"""The price book: the same from the catalog's file, over HTTP, as a resource and on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking
from tests.priced import a_priced_catalog

from subscription_mcp.tools.wire import PricingResult


def of_tokens(provider: str, model: str, title: str, tokens_in: str, tokens_out: str) -> dict[str, Any]:
    return {
        "provider": provider,
        "model": model,
        "title": title,
        "input_per_million_tokens": {"amount": tokens_in, "currency": "USD"},
        "output_per_million_tokens": {"amount": tokens_out, "currency": "USD"},
        "per_unit": None,
        "unit": None,
        "per_million": {},
        "tiers": [],
        "source": "catalog",
    }


def of_units(
    provider: str, model: str | None, title: str, amount: str, unit: str, currency: str = "USD"
) -> dict[str, Any]:
    return {
        "provider": provider,
        "model": model,
        "title": title,
        "input_per_million_tokens": None,
        "output_per_million_tokens": None,
        "per_unit": {"amount": amount, "currency": currency},
        "unit": unit,
        "per_million": {},
        "tiers": [],
        "source": "catalog",
    }


PRICED = {
    "prices": [
        of_tokens("gemini", "gemini-2.0-flash-lite", "Gemini 2.0 Flash-Lite", "0.075", "0.30"),
        of_tokens("gemini", "gemini-2.5-flash", "gemini-2.5-flash", "0.125", "0.375"),
        of_tokens("gemini", "gemini-2.5-pro", "Gemini 2.5 Pro", "1.25", "10.00"),
        of_units("tavily", None, "tavily", "0.001", "search"),
        of_units("serper", None, "serper", "0.001", "search"),
        of_units("exa", None, "Exa (Metaphor)", "0.003", "search"),
        of_units("firecrawl", None, "firecrawl", "0.002", "page", "EUR"),
        of_units("stability", "image", "image", "0.04", "image"),
    ],
    "note": "A model that is not listed costs what genai-prices says: ask with pricing://models/MODEL or GET "
    "/api/pricing?model=MODEL. No meter adds up what calls cost.",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("pricing")
    return Place(folder, clock=TODAY, CATALOG=a_priced_catalog(folder))


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


async def test_anybody_reads_the_prices_without_a_token(server: Server) -> None:
    async with server.api() as anybody:
        answer = await anybody.get("/api/pricing")
        plans = await anybody.get("/api/plans")
    assert (answer.status_code, answer.json()) == (200, PRICED)
    PricingResult.model_validate(answer.json())
    kept = ("content-type", "cache-control", "etag")
    assert [answer.headers.get(name) for name in kept] == [plans.headers.get(name) for name in kept]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("role", [None, "service"])
async def test_the_resource_is_the_same_document(
    place: Place, server: Server, transport: str, era: str, role: str | None
) -> None:
    access_token = place.token("reader", role=role)
    async with talking(place, server, transport, access_token, ERAS[era]) as talk:
        assert await talk.resource("pricing://models") == PRICED
        (listed,) = [
            found
            for found in (await talk.client.list_resources()).resources
            if str(found.uri) == "pricing://models"
        ]
        assert (listed.mime_type, bool(listed.title and listed.description)) == ("application/json", True)


def usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize(
    ("written", "provider", "source", "amounts"),
    [
        ("gemini-2.5-pro", "gemini", "catalog", ("1.25", "10.00")),
        ("models/Gemini-2.5-Pro", "gemini", "catalog", ("1.25", "10.00")),
        ("openai/gpt-4o", "openai", "genai-prices", ("2.50", "10.00")),
        ("bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", "bedrock", "genai-prices", ("3.00", "15.00")),
    ],
)
async def test_the_price_of_one_model_is_asked_for_by_any_of_its_names(
    place: Place,
    server: Server,
    transport: str,
    era: str,
    written: str,
    provider: str,
    source: str,
    amounts: Any,
) -> None:
    async with talking(place, server, transport, place.token("reader"), ERAS[era]) as talk:
        document = await talk.resource(f"pricing://models/{written}")
    (price,) = document["prices"]
    assert (price["provider"], price["source"].split()[0]) == (provider, source)
    told = (price["input_per_million_tokens"], price["output_per_million_tokens"])
    assert told == tuple(map(usd, amounts))
    PricingResult.model_validate(document)
    async with server.api() as anybody:
        assert (await anybody.get("/api/pricing", params={"model": written})).json() == document


async def test_a_price_has_its_tiers_and_what_is_priced_apart(server: Server) -> None:
    async with server.api() as anybody:
        answer = await anybody.get("/api/pricing", params={"model": "claude-sonnet-4-5"})
        speech = await anybody.get("/api/pricing?model=whisper-1&provider=OpenAI")
        whole = await anybody.get("/api/pricing?provider=metaphor")
    (price,) = answer.json()["prices"]
    assert (price["title"], price["model"]) == ("Claude Sonnet 4.5", "claude-sonnet-4-5")
    assert price["per_million"]["cache_read_tokens"] == usd("0.30")
    (tier,) = price["tiers"]
    assert (tier["above_input_tokens"], tier["input_per_million_tokens"]) == (200_000, usd("6.00"))
    assert tier["per_million"]["cache_read_tokens"] == usd("0.60")
    (price,) = speech.json()["prices"]
    assert (price["input_per_million_tokens"], price["per_million"]) == (
        None,
        {"audio_seconds": usd("100.00")},
    )
    assert whole.json()["prices"] == [PRICED["prices"][5]]


@pytest.mark.parametrize("era", ERAS)
async def test_a_model_without_a_price_is_said_to_be_unpriced(place: Place, server: Server, era: str) -> None:
    said = "No such price. Calls of what has none add nothing to the cost and are counted as unpriced."
    async with server.client(place.token("reader"), ERAS[era]) as talk:
        _, message, _ = await talk.fault(talk.client.read_resource("pricing://models/gpt-of-tomorrow"))
    assert message == said
    async with server.api() as anybody:
        for query in ("model=gpt-of-tomorrow", "model=openai/", "provider=nobody"):
            problem = problem_of(await anybody.get(f"/api/pricing?{query}"), 404, "not_found")
            assert problem["detail"] == said
        for query in ("modle=gpt-4o", "model=", "model=a&model=b", f"model={'x' * 257}"):
            problem = problem_of(await anybody.get(f"/api/pricing?{query}"), 422, "invalid_request")
            assert problem["detail"] == "The query takes provider and model, each a name and once."


async def test_models_are_completed_those_of_the_book_first(place: Place, server: Server) -> None:
    async with server.client(place.token("reader"), ERAS["modern"]) as talk:
        assert (await talk.completions("pricing://models/{+model}", "model", "gemini-2.5"))[:2] == [
            "gemini-2.5-flash",
            "gemini-2.5-pro",
        ]
        assert "gpt-4o" in await talk.completions("pricing://models/{+model}", "model", "GPT-4o")


async def test_nobody_keeps_or_shares_the_resource(place: Place, server: Server) -> None:
    answer = await server.modern(place.token("reader"), "resources/read", {"uri": "pricing://models"})
    assert (answer["result"]["ttlMs"], answer["result"]["cacheScope"]) == (0, "private")


def test_a_catalog_without_prices_has_an_empty_price_book(tmp_path: Path) -> None:
    with Place(tmp_path, clock=TODAY).serving() as server:
        assert httpx2.get(f"{server.base_url}/api/pricing").json() == {**PRICED, "prices": []}


def test_an_edited_price_is_told_from_the_next_start_and_no_plan_is_another(tmp_path: Path) -> None:
    catalog = Path(a_priced_catalog(tmp_path))
    place = Place(tmp_path, clock=TODAY, CATALOG=str(catalog))

    def told() -> tuple[Any, Any]:
        with place.serving() as server:
            prices = httpx2.get(f"{server.base_url}/api/pricing").json()["prices"]
            plans = httpx2.get(f"{server.base_url}/api/plans").json()["plans"]
        return prices, plans

    before, plans_before = told()
    catalog.write_text(catalog.read_text("utf-8").replace('"0.04"', '"0.035"'), "utf-8")
    after, plans_after = told()
    assert after[-1]["per_unit"] == {"amount": "0.035", "currency": "USD"}
    assert after[:-1] == before[:-1]
    assert plans_after == plans_before
    assert place.select("SELECT count(*) FROM plan_version") == [(len(plans_before),)]


def test_the_command_line_shows_and_counts_the_prices(place: Place) -> None:
    path = place.variables["CATALOG"]
    assert json.loads(place.run("catalog", "show", path, "--json").stdout)["prices"] == PRICED["prices"]
    shown = place.run("catalog", "show", path).stdout.splitlines()
    assert shown[shown.index("Calls of models and providers cost:") + 1 :] == [
        "Gemini 2.0 Flash-Lite (gemini gemini-2.0-flash-lite): "
        "0.075 USD per million input tokens, 0.30 USD per million output tokens.",
        "gemini-2.5-flash (gemini gemini-2.5-flash): "
        "0.125 USD per million input tokens, 0.375 USD per million output tokens.",
        "Gemini 2.5 Pro (gemini gemini-2.5-pro): "
        "1.25 USD per million input tokens, 10.00 USD per million output tokens.",
        "tavily (tavily): 0.001 USD per search.",
        "serper (serper): 0.001 USD per search.",
        "Exa (Metaphor) (exa): 0.003 USD per search.",
        "firecrawl (firecrawl): 0.002 EUR per page.",
        "image (stability image): 0.04 USD per image.",
    ]
    checked = place.run("catalog", "check", path)
    assert checked.stderr == f"{path}: fine, 3 plans, 2 meters, 2 events, 8 prices.\n"
    shipped = place.run("catalog", "show", "bedrock-chat")
    assert "Calls of models" not in shipped.stdout
