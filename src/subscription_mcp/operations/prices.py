"""What a call costs, as it is asked before the ledger: the catalog's price book first, then the price library.

The library brings its prices along and asks no network. It is loaded with the first model the book does not have,
and each model is looked for in it once.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from subscription_mcp.domain.catalog import Attributes, Catalog
from subscription_mcp.domain.instants import Instant, to_datetime
from subscription_mcp.domain.pricing import PriceBook, Tier, UnitPrice, named, unit_price_of

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

log = logging.getLogger(__name__)

REMEMBERED_MAX = 4096
LIBRARY_CURRENCY = "USD"
LIBRARY_NAMES = {"gemini": "google"}
"""What the library calls a provider, where that is not its name here."""
_NOISE = Decimal("1e-9")
"""Prices of the library that once were floats are off by less."""


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
        if price is None and event is not None:
            self._tell_unpriced(provider, model)
        return price

    def find(self, provider: str | None, model: str | None, at: Instant) -> UnitPrice | None:
        """The price of a model of a provider, or of a provider as a whole, as of an instant."""
        key = (provider, model)
        remembered = self._remembered.get(key)
        if remembered is None:
            remembered = self._look_up(provider, model)
            _keep(self._remembered, key, remembered)
        return remembered(at)

    def _look_up(self, provider: str | None, model: str | None) -> Callable[[Instant], UnitPrice | None]:
        line = self._book.find(provider, model)
        if line is not None:
            price = unit_price_of(line)
            return lambda _: price
        if model is None or self.catalog.currency != LIBRARY_CURRENCY:
            return lambda _: None
        return self._library.prices_of(provider, model)

    def _tell_unpriced(self, provider: str | None, model: str | None) -> None:
        """Once for each: an unpriced call is counted beside the cost each time."""
        key = (provider, model)
        if key not in self._told:
            _keep(self._told, key, None)
            log.warning(
                "the price of model %r of provider %r is not known: calls of it add nothing to the cost; "
                "give it a price in the catalog's [[prices]]",
                model,
                provider,
            )


class Library:
    """The bundled prices of `genai-prices`, in whole micro-units for a million tokens."""

    def __init__(self) -> None:
        self._converted: dict[int, UnitPrice | None] = {}

    @cached_property
    def source(self) -> str:
        """The name and version of the library: its prices are of the day of its release."""
        import genai_prices

        return f"genai-prices {genai_prices.__version__}"

    def prices_of(self, provider: str | None, model: str) -> Callable[[Instant], UnitPrice | None]:
        """The price of a model as of an instant: some have one from a day on, or by the hour."""
        found = self._model(provider, model)
        if found is None:
            return lambda _: None
        if not isinstance(found.prices, list):
            price = self._of(found.prices)
            return lambda _: price
        return lambda at: self._of(found.get_prices(to_datetime(at)))

    def _model(self, provider: str | None, model: str) -> "ModelInfo | None":
        # Its own look-up remembers every name it was ever asked for.
        from genai_prices.data_snapshot import get_snapshot

        providers = get_snapshot().providers
        if provider is not None:
            name = LIBRARY_NAMES.get(provider, provider)
            candidates = [one for one in providers if one.id == name]
        else:
            lower = model.lower()
            candidates = [one for one in providers if one.model_match and one.model_match.is_match(lower)]
        for one in candidates:
            for name in (model, model.rpartition("/")[2]):
                found = one.find_model(name, all_providers=providers)
                if found is not None:
                    return found
        return None

    def _of(self, prices: Any) -> UnitPrice | None:
        key = id(prices)  # they live as long as the library
        if key not in self._converted:
            self._converted[key] = converted(prices, self.source)
        return self._converted[key]


def converted(prices: Any, source: str) -> UnitPrice | None:
    """A price of the library in integers; None where it has none of tokens or requests, or one that is finer than
    micro-units."""
    try:
        tokens_in, tiers_in = _per_million(prices.input_mtok)
        tokens_out, tiers_out = _per_million(prices.output_mtok)
        requests = prices.requests_kcount
        per_request = None if requests is None else _whole(requests * 1000)
    except ValueError:
        return None
    if tokens_in is None and tokens_out is None and per_request is None:
        return None
    tiers = []
    for above in sorted(tiers_in.keys() | tiers_out.keys()):
        tier = Tier(above, _at(tiers_in, above, tokens_in), _at(tiers_out, above, tokens_out))
        tiers.append(tier)
    unit = None if per_request is None else "request"
    return UnitPrice(source, LIBRARY_CURRENCY, tokens_in, tokens_out, per_request, unit, tuple(tiers))


def _per_million(price: Any) -> tuple[int | None, dict[int, int]]:
    """The micros for a million tokens, and those of calls with more input tokens than so many."""
    if price is None:
        return None, {}
    if isinstance(price, Decimal):
        return _whole(price * 1_000_000), {}
    return _whole(price.base * 1_000_000), {
        tier.start: _whole(tier.price * 1_000_000) for tier in price.tiers
    }


def _at(tiers: dict[int, int], tokens: int, base: int | None) -> int | None:
    below = [above for above in tiers if above <= tokens]
    return tiers[max(below)] if below else base


def _whole(micros: Decimal) -> int:
    """The integer a number is. Raises ValueError where it is none."""
    whole = micros.to_integral_value()
    if abs(micros - whole) > _NOISE * max(Decimal(1), abs(whole)):
        raise ValueError("finer than micro-units")
    return int(whole)


def _text(attributes: Attributes, name: str) -> str | None:
    value = attributes.get(name)
    return value if isinstance(value, str) else None


def _keep(remembered: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    remembered[key] = value
    if len(remembered) > REMEMBERED_MAX:
        remembered.popitem(last=False)
