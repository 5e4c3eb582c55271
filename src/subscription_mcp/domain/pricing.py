"""What a call costs: which price of the book is meant, and the cost in whole micro-units.

Prices are dated facts: the price an event was counted with is stored with it, so that no later price changes what
happened. Tokens are priced by the million and everything else by the piece; a cost is rounded up, once, so that what
costs something never costs nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from subscription_mcp.domain.catalog import Attributes, ModelPrice, Money
from subscription_mcp.domain.providers import (
    canonical_provider,
    names_of_model,
    provider_of_model,
    unversioned,
)

CATALOG_SOURCE = "catalog"
"""The source of a price of the catalog's own book."""
INPUT_TOKENS = "input_tokens"
OUTPUT_TOKENS = "output_tokens"
"""The attributes all tokens of a call are counted in."""
PARTS_OF_TOKENS: Mapping[str, tuple[str, ...]] = {
    INPUT_TOKENS: (
        *("cache_read_tokens", "cache_write_tokens"),
        *("input_audio_tokens", "input_image_tokens", "input_video_tokens"),
    ),
    OUTPUT_TOKENS: (
        *("output_audio_tokens", "output_image_tokens", "output_video_tokens"),
        *("output_reasoning_tokens", "output_citation_tokens"),
    ),
}
"""Attributes that say which of these tokens have a price of their own. They do not overlap."""
COUNTED_BESIDE_TOKENS = ("audio_seconds", "input_characters", "input_document_pages", "web_searches")
"""Attributes of calls that cost something besides their tokens, or instead of them."""
WHOLE_OF = {part: whole for whole, parts in PARTS_OF_TOKENS.items() for part in parts}
PRICED_BY_MILLION = (*WHOLE_OF, *COUNTED_BESIDE_TOKENS)
"""Attributes that may have a price for a million of them, besides all tokens."""
PRICED_BY = (INPUT_TOKENS, OUTPUT_TOKENS, *PRICED_BY_MILLION)
"""All attributes that a cost may follow from."""
_PRICED_BY = frozenset(PRICED_BY)
MILLION = 1_000_000

Rates = tuple[tuple[str, int], ...]
"""Micro-units for a million of each of some attributes of `PRICED_BY_MILLION`, by name."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What a call costs by the million whose input is longer than so many tokens."""

    above_input_tokens: int
    input_per_million_tokens: int | None
    output_per_million_tokens: int | None
    per_million: Rates = ()


@dataclass(frozen=True)
class UnitPrice:
    """What a call is charged by, in micro-units of a currency: tokens by the million, `per_million` for what of them, or
    besides them, has a price of its own, and `per_unit` for one of the event's quantity. None is no such price. `source`
    says where the price is from, like `catalog` or `genai-prices 0.2.3`."""

    source: str
    currency: str
    input_per_million_tokens: int | None = None
    output_per_million_tokens: int | None = None
    per_unit: int | None = None
    unit: str | None = None
    per_million: Rates = ()
    tiers: tuple[Tier, ...] = ()
    """Shortest first; none in the price that is kept with an event, which was that of its tier."""

    @cached_property
    def _weights(self) -> Rates:
        """What one of each attribute adds to the cost, in millionths. A part of the tokens is in their sum already: it
        adds what it costs more than they do, or less."""
        wholes = {
            INPUT_TOKENS: self.input_per_million_tokens or 0,
            OUTPUT_TOKENS: self.output_per_million_tokens or 0,
        }
        parts = {name: rate - wholes.get(WHOLE_OF.get(name, ""), 0) for name, rate in self.per_million}
        return tuple((name, rate) for name, rate in {**wholes, **parts}.items() if rate)

    @cached_property
    def _goes_by(self) -> frozenset[str]:
        """The attributes it goes by, in any of its tiers; where it has a price for tokens, those of both directions."""
        names = {name for level in self._levels for name, _ in level.per_million}
        by_tokens = any(
            rate is not None
            for level in self._levels
            for rate in (level.input_per_million_tokens, level.output_per_million_tokens)
        )
        return frozenset({*names, *PARTS_OF_TOKENS} if by_tokens else names)

    @cached_property
    def _costs_without_attributes(self) -> bool:
        """Whether what a call costs is known without any: each piece has a price, or nothing costs anything."""
        return bool(self.per_unit) or not any(
            level.input_per_million_tokens
            or level.output_per_million_tokens
            or any(rate for _, rate in level.per_million)
            for level in self._levels
        )

    @property
    def _levels(self) -> "tuple[UnitPrice | Tier, ...]":
        return self, *self.tiers

    def is_said(self, attributes: Attributes) -> bool:
        """Whether a call says anything of what it is priced by, be it 0."""
        return self._costs_without_attributes or not self._goes_by.isdisjoint(attributes)

    def rules_out(self, names: Collection[str]) -> bool:
        """Whether a call of that price has nothing of some attributes, as it is priced by something else."""
        return _PRICED_BY.issuperset(names) and self._goes_by.isdisjoint(names)

    def for_call(self, attributes: Attributes) -> "UnitPrice":
        """The price as it holds for one call: that of its tier."""
        if not self.tiers:
            return self
        tokens = _count(attributes, INPUT_TOKENS)
        reached = [tier for tier in self.tiers if tokens > tier.above_input_tokens]
        return self.of_tier(reached[-1]) if reached else replace(self, tiers=())

    def of_tier(self, tier: Tier) -> "UnitPrice":
        """The price as it holds in one of its tiers."""
        return replace(
            self,
            input_per_million_tokens=tier.input_per_million_tokens,
            output_per_million_tokens=tier.output_per_million_tokens,
            per_million=tier.per_million,
            tiers=(),
        )

    def covers(self, attributes: Attributes) -> bool:
        """Whether it prices what a call used: where it is by tokens, it must have a price for those of each direction
        that there are; where it is by something else, the call must say how much of that there was. Of a call that says
        nothing it goes by it prices nothing."""
        if not self.is_said(attributes):
            return False
        if self.per_unit is not None:
            return True
        wholes = (
            (INPUT_TOKENS, self.input_per_million_tokens),
            (OUTPUT_TOKENS, self.output_per_million_tokens),
        )
        if all(rate is None for _, rate in wholes):
            return any(_count(attributes, name) for name, _ in self.per_million)
        return all(
            rate is not None or _count(attributes, whole) <= self._priced_apart(whole, attributes)
            for whole, rate in wholes
        )

    def cost_micros(self, quantity: int, attributes: Attributes) -> int:
        """What a call costs, rounded up to whole micro-units."""
        return max(0, -(-self.for_call(attributes)._millionths(quantity, attributes) // MILLION))

    def output_tokens_for(self, micros: int, quantity: int, attributes: Attributes) -> int:
        """The most output tokens a call may have that costs so many micro-units at most; of a price that charges for
        them. 0 where the rest of the call alone costs more."""
        price = self.for_call(attributes)
        assert price.output_per_million_tokens
        input_only = without(attributes, (OUTPUT_TOKENS, *PARTS_OF_TOKENS[OUTPUT_TOKENS]))
        left = micros * MILLION - price._millionths(quantity, input_only)
        return max(0, left // price.output_per_million_tokens)

    def model_price(self, provider: str, model: str | None, title: str) -> ModelPrice:
        """The same as a line of a price book."""
        parts = (self.input_per_million_tokens, self.output_per_million_tokens, self.per_unit)
        tokens_in, tokens_out, per_unit = (
            None if micros is None else Money(micros, self.currency) for micros in parts
        )
        per_million = tuple((name, Money(micros, self.currency)) for name, micros in self.per_million)
        return ModelPrice(provider, model, title, tokens_in, tokens_out, per_unit, self.unit, per_million)

    def _millionths(self, quantity: int, attributes: Attributes) -> int:
        """What a call costs, in millionths of a micro-unit."""
        by_million = sum(_count(attributes, name) * weight for name, weight in self._weights)
        return by_million + quantity * (self.per_unit or 0) * MILLION

    def _priced_apart(self, whole: str, attributes: Attributes) -> int:
        return sum(_count(attributes, name) for name, _ in self.per_million if WHOLE_OF.get(name) == whole)


def unit_price_of(line: ModelPrice) -> UnitPrice:
    """What a line of the catalog's book charges."""
    parts = (line.input_per_million_tokens, line.output_per_million_tokens, line.per_unit)
    rates = tuple((name, money.micros) for name, money in line.per_million)
    tokens_in, tokens_out, per_unit = (None if part is None else part.micros for part in parts)
    return UnitPrice(CATALOG_SOURCE, line.currency, tokens_in, tokens_out, per_unit, line.unit, rates)


def too_many_parts(attributes: Attributes) -> str | None:
    """The attribute of all tokens of a direction whose parts are more than all of them; None where there is none."""
    sums: dict[str, int] = {}
    for name, value in attributes.items():
        whole = WHOLE_OF.get(name)
        if whole is not None and isinstance(value, int):
            sums[whole] = sums.get(whole, 0) + value
    return next((whole for whole, parts in sums.items() if parts > _count(attributes, whole)), None)


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
        name = model.lower()
        found = self._providers.get(name) or self._providers.get(unversioned(name) or "") or ()
        return next(iter(found)) if len(found) == 1 else None

    def find(self, provider: str | None, model: str | None) -> ModelPrice | None:
        """The line of a model of a provider, else that of the provider as a whole; of a model alone where only one
        provider has it."""
        if provider is None:
            provider = None if model is None else self.provider_of(model)
            if provider is None:
                return None
        if model is not None:
            for name in names_of_model(model):
                line = self._lines.get((provider, name))
                if line is not None:
                    return line
            plain = unversioned(names_of_model(model)[-1])
            line = None if plain is None else self._lines.get((provider, plain))
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


def _count(attributes: Attributes, name: str) -> int:
    value = attributes.get(name, 0)
    return value if isinstance(value, int) else 0
