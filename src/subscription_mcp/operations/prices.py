"""What a call costs, as it is asked before the ledger: the catalog's price book first, then the price library.

The library brings its prices along and asks no network. It is loaded with the first model the book does not have,
and each model is looked for in it once.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from subscription_mcp.domain.catalog import Attributes, Catalog
from subscription_mcp.domain.instants import Instant, to_datetime
from subscription_mcp.domain.pricing import (
    MILLION,
    WHOLE_OF,
    PriceBook,
    Rates,
    Tier,
    UnitPrice,
    named,
    unit_price_of,
)
from subscription_mcp.domain.providers import canonical_provider, names_of_model

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

log = logging.getLogger(__name__)

RateT = TypeVar("RateT", int, int | None)

REMEMBERED_MAX = 4096
LIBRARY_CURRENCY = "USD"
LIBRARY_NAMES = {"gemini": "google", "vertex": "google", "bedrock": "aws"}
"""What the library calls a provider, where that is not its name here."""

_COUNTED_BY_LIBRARY = {
    "audio_seconds": ("audio_hours", 3_600),
    "input_characters": ("input_mchars", MILLION),
    "input_document_pages": ("input_document_kpages", 1_000),
    "web_searches": ("web_searches_kcount", 1_000),
}
"""What the library calls the price of an attribute, and for how many it is."""
_RATES_OF_LIBRARY = {
    **{part: (f"{part.removesuffix('_tokens')}_mtok", MILLION) for part in WHOLE_OF},
    **_COUNTED_BY_LIBRARY,
}


@dataclass(frozen=True, slots=True)
class KnownPrice:
    """The price of a model, or of a provider as a whole, with who it is."""

    provider: str
    model: str | None
    title: str
    price_at: Callable[[Instant], UnitPrice | None]
    """Some have one from a day on, or by the hour."""


class Prices:
    """The prices of one catalog's calls, in its currency."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._book = PriceBook(catalog.prices)
        self._library = Library()
        self._remembered: OrderedDict[tuple[str | None, str | None], Callable[[Instant], UnitPrice | None]]
        self._remembered = OrderedDict()
        self._told: OrderedDict[tuple[str | None, str | None], None] = OrderedDict()

    def named(self, attributes: Attributes) -> Attributes:
        """Attributes under the one name of their provider."""
        if "provider" not in attributes and "model" not in attributes:
            return attributes
        return named(attributes, self._book)

    def of_event(self, event: str | None, attributes: Attributes, at: Instant) -> UnitPrice | None:
        """The price of an event (None where it is not known which), as of an instant; None where nothing adds up what
        it costs, or nobody knows."""
        costs = self.catalog.cost_meters_of_event
        if not costs or (event is not None and event not in costs):
            return None
        provider, model = _text(attributes, "provider"), _text(attributes, "model")
        price = self.find(provider, model, at)
        if event is not None and (
            price is None or (price.is_said(attributes) and not price.covers(attributes))
        ):
            self._tell_unpriced(provider, model)
        return price

    def find(self, provider: str | None, model: str | None, at: Instant) -> UnitPrice | None:
        """The price of a model of a provider, or of a provider as a whole, as of an instant."""
        key = (provider, model)
        price_at = self._remembered.get(key)
        if price_at is None:
            known = self._look_up(provider, model)
            price_at = known.price_at if known is not None else _no_price
            _keep(self._remembered, key, price_at)
        return price_at(at)

    def known(
        self, provider: str | None, model: str | None, at: Instant
    ) -> tuple[KnownPrice, UnitPrice] | None:
        """The price somebody asks for by name, and whose it is. It is not remembered: nobody shall make it forget what
        is recorded."""
        asked = self.named(
            {name: said for name, said in (("provider", provider), ("model", model)) if said is not None}
        )
        known = self._look_up(_text(asked, "provider"), model)
        price = known.price_at(at) if known is not None else None
        return None if known is None or price is None else (known, price)

    def models(self) -> list[str]:
        """The models that have a price, those of the book first; of the library by name."""
        listed = [line.model for line in self.catalog.prices if line.model is not None]
        others = self._library.models() if self.catalog.currency == LIBRARY_CURRENCY else []
        return list(dict.fromkeys([*listed, *others]))

    def _look_up(self, provider: str | None, model: str | None) -> KnownPrice | None:
        line = self._book.find(provider, model)
        if line is not None:
            price = unit_price_of(line)
            return KnownPrice(line.provider, line.model, line.title, lambda _: price)
        if model is None or self.catalog.currency != LIBRARY_CURRENCY:
            return None
        return self._library.find(provider, model)

    def _tell_unpriced(self, provider: str | None, model: str | None) -> None:
        """Once for each: an unpriced call is counted beside the cost each time."""
        key = (provider, model)
        if key not in self._told:
            _keep(self._told, key, None)
            log.warning(
                "the price of model %r of provider %r is not known, or not for all a call used: such calls add nothing "
                "to the cost; give it a price in the catalog's [[prices]]",
                model,
                provider,
            )


class Library:
    """The bundled prices of `genai-prices`, in whole micro-units for a million."""

    def __init__(self) -> None:
        self._converted: dict[int, UnitPrice | None] = {}

    @cached_property
    def source(self) -> str:
        """The name and version of the library: its prices are of the day of its release."""
        import genai_prices

        return f"genai-prices {genai_prices.__version__}"

    def models(self) -> list[str]:
        """What models are called by who makes them and by who passes them on."""
        from genai_prices.data_snapshot import get_snapshot

        return sorted({model.id for provider in get_snapshot().providers for model in provider.models})

    def find(self, provider: str | None, model: str) -> KnownPrice | None:
        """A model, as what it is known by in the library."""
        found = self._model(provider, model)
        if found is None:
            return None
        owner, info = found
        prices = info.prices
        if isinstance(prices, list):
            return KnownPrice(
                owner, info.id, info.name or info.id, lambda at: self._of(info.get_prices(to_datetime(at)))
            )
        price = self._of(prices)
        return KnownPrice(owner, info.id, info.name or info.id, lambda _: price)

    def _model(self, provider: str | None, model: str) -> "tuple[str, ModelInfo] | None":
        # Its own look-up remembers every name it was ever asked for.
        from genai_prices.data_snapshot import get_snapshot

        providers, names = get_snapshot().providers, names_of_model(model)
        if provider is not None:
            id_ = LIBRARY_NAMES.get(provider, provider)
            candidates = [one for one in providers if one.id == id_]
        else:
            # A name of which nobody knows who stands first is somebody's own, unless the library knows all of it.
            names = names[:1]
            candidates = [one for one in providers if one.model_match and one.model_match.is_match(names[0])]
        for one in candidates:
            for name in names:
                found = one.find_model(name, all_providers=providers)
                if found is not None:
                    return provider or canonical_provider(one.id), found
        return None

    def _of(self, prices: Any) -> UnitPrice | None:
        key = id(prices)  # they live as long as the library
        if key not in self._converted:
            self._converted[key] = converted(prices, self.source)
        return self._converted[key]


def converted(prices: Any, source: str) -> UnitPrice | None:
    """A price of the library in integers, each rounded to a micro-unit for a million; None where it has none of what is
    priced here, or one that is finer than that."""
    try:
        tokens_in, tiers_in = _rates(prices.input_mtok, MILLION)
        tokens_out, tiers_out = _rates(prices.output_mtok, MILLION)
        requests = prices.requests_kcount
        per_request = None if requests is None else _whole(requests * 1_000)
        others = {
            name: _rates(getattr(prices, key), per) for name, (key, per) in sorted(_RATES_OF_LIBRARY.items())
        }
    except ValueError:
        return None
    per_million: Rates = tuple((name, rate) for name, (rate, _) in others.items() if rate is not None)
    if tokens_in is None and tokens_out is None and per_request is None and not per_million:
        return None
    tiers = tuple(
        Tier(
            above,
            _at(tiers_in, above, tokens_in),
            _at(tiers_out, above, tokens_out),
            tuple((name, _at(others[name][1], above, rate)) for name, rate in per_million),
        )
        for above in sorted({*tiers_in, *tiers_out, *(start for _, of in others.values() for start in of)})
    )
    unit = None if per_request is None else "request"
    return UnitPrice(source, LIBRARY_CURRENCY, tokens_in, tokens_out, per_request, unit, per_million, tiers)


def _rates(price: Any, per: int) -> tuple[int | None, dict[int, int]]:
    """The micros for a million of what has that price for `per` of it, and those of calls with more input tokens than so
    many."""
    if price is None:
        return None, {}
    factor = Decimal(MILLION * MILLION) / per
    if isinstance(price, Decimal):
        return _whole(price * factor), {}
    return _whole(price.base * factor), {tier.start: _whole(tier.price * factor) for tier in price.tiers}


def _at(tiers: dict[int, int], tokens: int, base: RateT) -> int | RateT:
    below = [above for above in tiers if above <= tokens]
    return tiers[max(below)] if below else base


def _whole(micros: Decimal) -> int:
    """The nearest integer. Raises ValueError where that is none of something."""
    whole = int(micros.to_integral_value(ROUND_HALF_UP))
    if micros and not whole:
        raise ValueError("finer than micro-units")
    return whole


def _no_price(_: Instant) -> None:
    return None


def _text(attributes: Attributes, name: str) -> str | None:
    value = attributes.get(name)
    return value if isinstance(value, str) else None


def _keep(remembered: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    remembered[key] = value
    if len(remembered) > REMEMBERED_MAX:
        remembered.popitem(last=False)
