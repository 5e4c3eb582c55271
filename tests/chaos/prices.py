"""A catalog in which calls cost something, and the price of a call as it is looked up before the ledger. The model of it
is `model_costs.py`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.builders import EVENTS, METERS, a_catalog
from tests.chaos.model_costs import BOOKS, CALLED, line_of

from subscription_mcp.domain.catalog import Catalog, EventType, Meter, ModelPrice, Money, Plan
from subscription_mcp.domain.pricing import PriceBook, Tier, UnitPrice, unit_price_of

CALL = EventType(
    "llm_call",
    dict.fromkeys(CALLED, "text") | dict.fromkeys(("tokens", "input_tokens", "output_tokens"), "integer"),
)


def a_priced_catalog(*plans: Plan, default_plan: str | None) -> Catalog:
    catalog = a_catalog(*plans, default_plan=default_plan)
    cost = Meter("cost", "micro_usd", "llm_call", "cost")
    return replace(catalog, events=EVENTS | {"llm_call": CALL}, meters=METERS | {"cost": cost})


def book_of(edition: int) -> PriceBook:
    lines = []
    for (provider, model), (tokens_in, tokens_out, per_unit, _) in BOOKS[edition].items():
        parts = (Money(micros, "USD") for micros in (tokens_in, tokens_out, per_unit))
        lines.append(ModelPrice(provider, model and model.title(), provider, *parts))
    return PriceBook(lines)


PRICE_BOOKS = [book_of(edition) for edition in range(len(BOOKS))]


def price_of(event: str, attributes: Mapping[str, Any] | None, edition: int) -> UnitPrice | None:
    """The price of a call by one edition of the book, which the model has to find as well."""
    if event != "llm_call" or attributes is None:
        return None
    provider, model = (attributes.get(name) for name in CALLED)
    found = PRICE_BOOKS[edition].find(provider, model)
    price = found and unit_price_of(found)
    line = line_of(BOOKS[edition], provider, model)
    assert (price is None) == (line is None)
    if price is None or line is None:
        return None
    return replace(price, tiers=tuple(Tier(*tier) for tier in line[3]))
