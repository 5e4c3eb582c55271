"""What a call costs: who provides a model, which price of the book is meant, and the cost in whole micro-units.

Prices are dated facts: the price an event was counted with is stored with it, so that no later price changes what
happened. Tokens are priced by the million and everything else by the piece; a cost is rounded half up, once.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from subscription_mcp.domain.catalog import Attributes, ModelPrice, Money

CATALOG_SOURCE = "catalog"
"""The source of a price of the catalog's own book."""
INPUT_TOKENS = "input_tokens"
OUTPUT_TOKENS = "output_tokens"
"""The attributes tokens are priced by."""
MILLION = 1_000_000

PROVIDER_ALIASES = {
    **dict.fromkeys(
        ("google", "googleai", "google-ai", "google-genai", "google-gla"),
        "gemini",
    ),
    "claude": "anthropic",
    "metaphor": "exa",
    "mistralai": "mistral",
    "mistral-ai": "mistral",
    "open-ai": "openai",
    "stability-ai": "stability",
    "stabilityai": "stability",
}
PROVIDERS = frozenset(
    ("gemini", "openai", "anthropic", "mistral", "tavily", "serper", "exa", "firecrawl", "stability")
)
"""Providers that are known by one name, however it is written."""

_PROVIDER_OF_MODEL = tuple(
    (provider, re.compile(pattern))
    for provider, pattern in (
        ("gemini", r"gemini-"),
        ("openai", r"gpt-(?!oss)|chatgpt-|o[1-9](-|$)|text-embedding-(3|ada)|dall-e-|whisper-1|tts-1"),
        ("anthropic", r"claude-"),
        (
            "mistral",
            r"(mistral|ministral|mixtral|open-mistral|open-mixtral|codestral|devstral|magistral|pixtral)-",
        ),
        ("stability", r"stable-(diffusion|image)|sd3"),
        *((name, rf"{name}(-|$)") for name in ("tavily", "serper", "exa", "firecrawl")),
    )
)


@lru_cache(4096)
def canonical_provider(provider: str) -> str:
    """The one name of a provider: `Google` is gemini; one that is not known stays as it is written."""
    lower = provider.lower()
    name = PROVIDER_ALIASES.get(lower, lower)
    return name if name in PROVIDERS else provider


@lru_cache(4096)
def provider_of_model(model: str) -> str | None:
    """Who provides a model, by its name: `gemini-2.5-pro`, `openai/gpt-5`; None where the name does not say."""
    owner, _, name = model.lower().rpartition("/")
    if owner:
        said = canonical_provider(owner.rpartition("/")[2])
        if said in PROVIDERS:
            return said
        if owner.rpartition("/")[2] != "models":  # how Google writes them; anything else is somebody's own
            return None
    return next((provider for provider, pattern in _PROVIDER_OF_MODEL if pattern.match(name)), None)


@dataclass(frozen=True, slots=True)
class Tier:
    """What all tokens of a call cost whose input is longer than so many tokens."""

    above_input_tokens: int
    input_per_million_tokens: int | None
    output_per_million_tokens: int | None


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """What a call is charged by, in micro-units of a currency: tokens by the million, `per_unit` for one of the
    event's quantity. None is a part that costs nothing. `source` says where the price is from, like `catalog` or
    `genai-prices 0.2.3`."""

    source: str
    currency: str
    input_per_million_tokens: int | None = None
    output_per_million_tokens: int | None = None
    per_unit: int | None = None
    unit: str | None = None
    tiers: tuple[Tier, ...] = ()
    """Shortest first; none in a price that was applied."""

    def for_call(self, attributes: Attributes) -> "UnitPrice":
        """The price as it holds for one call: that of its tier."""
        if not self.tiers:
            return self
        tokens, found = _tokens(attributes, INPUT_TOKENS), replace(self, tiers=())
        for tier in self.tiers:
            if tokens > tier.above_input_tokens:
                found = replace(
                    found,
                    input_per_million_tokens=tier.input_per_million_tokens,
                    output_per_million_tokens=tier.output_per_million_tokens,
                )
        return found

    def cost_micros(self, quantity: int, attributes: Attributes) -> int:
        """What a call costs, rounded half up to whole micro-units."""
        price = self.for_call(attributes)
        millionths = (
            _tokens(attributes, INPUT_TOKENS) * (price.input_per_million_tokens or 0)
            + _tokens(attributes, OUTPUT_TOKENS) * (price.output_per_million_tokens or 0)
            + quantity * (price.per_unit or 0) * MILLION
        )
        return (2 * millionths + MILLION) // (2 * MILLION)

    def output_tokens_for(self, micros: int, quantity: int, attributes: Attributes) -> int:
        """The most output tokens a call may have that costs so many micro-units at most; of a price that charges for
        them. 0 where the rest of the call alone costs more."""
        price = self.for_call(attributes)
        assert price.output_per_million_tokens
        others = (
            _tokens(attributes, INPUT_TOKENS) * (price.input_per_million_tokens or 0)
            + quantity * (price.per_unit or 0) * MILLION
        )
        # The largest sum of millionths that is not rounded to more.
        most = (2 * micros + 1) * MILLION - 1
        return max(0, (most - 2 * others) // (2 * price.output_per_million_tokens))

    def model_price(self, provider: str, model: str | None, title: str) -> ModelPrice:
        """The same as a line of a price book."""
        parts = (self.input_per_million_tokens, self.output_per_million_tokens, self.per_unit)
        tokens_in, tokens_out, per_unit = (
            None if micros is None else Money(micros, self.currency) for micros in parts
        )
        return ModelPrice(provider, model, title, tokens_in, tokens_out, per_unit, self.unit)


def unit_price_of(line: ModelPrice) -> UnitPrice:
    """What a line of the catalog's book charges."""
    parts = (line.input_per_million_tokens, line.output_per_million_tokens, line.per_unit)
    currency = next(part.currency for part in parts if part is not None)
    tokens_in, tokens_out, per_unit = (None if part is None else part.micros for part in parts)
    return UnitPrice(CATALOG_SOURCE, currency, tokens_in, tokens_out, per_unit, line.unit)


class PriceBook:
    """The lines of a catalog's price book, found by provider and model; of a model's name the case does not matter."""

    def __init__(self, lines: Iterable[ModelPrice]) -> None:
        self._lines: dict[tuple[str, str | None], ModelPrice] = {}
        self._providers: dict[str, set[str]] = {}
        for line in lines:
            model = None if line.model is None else line.model.lower()
            self._lines[(line.provider, model)] = line
            if model is not None:
                self._providers.setdefault(model, set()).add(line.provider)

    def provider_of(self, model: str) -> str | None:
        """The only provider that has a model in the book; None where there is none, or more than one."""
        found = self._providers.get(model.lower(), ())
        return next(iter(found)) if len(found) == 1 else None

    def find(self, provider: str | None, model: str | None) -> ModelPrice | None:
        """The line of a model of a provider, else that of the provider as a whole; of a model alone where only one
        provider has it."""
        if provider is None:
            provider = None if model is None else self.provider_of(model)
            if provider is None:
                return None
        if model is not None:
            model = model.lower()
            for name in (model, model.rpartition("/")[2]):
                line = self._lines.get((provider, name))
                if line is not None:
                    return line
        return self._lines.get((provider, None))


def named(attributes: Attributes, book: PriceBook) -> Attributes:
    """Attributes in which the provider has its one name, also where only the model says who it is."""
    provider, model = attributes.get("provider"), attributes.get("model")
    if isinstance(provider, str):
        found: str | None = canonical_provider(provider)
    elif isinstance(model, str) and provider is None:
        found = book.provider_of(model) or provider_of_model(model)
    else:
        return attributes
    return attributes if found is None or found == provider else {**attributes, "provider": found}


def without(attributes: Attributes, names: Iterable[str]) -> Attributes:
    return {name: value for name, value in attributes.items() if name not in names}


def _tokens(attributes: Mapping[str, str | int], name: str) -> int:
    value = attributes.get(name, 0)
    return value if isinstance(value, int) else 0
