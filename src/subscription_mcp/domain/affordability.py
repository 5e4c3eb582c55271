"""What is still affordable: how many calls like one, how long an answer, for how much money, and what binds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from subscription_mcp.domain.catalog import UNLIMITED, Attributes, Catalog, Limit, ModelPrice
from subscription_mcp.domain.decisions import Affordable, LimitState
from subscription_mcp.domain.pricing import OUTPUT_TOKENS, UnitPrice, unit_price_of
from subscription_mcp.domain.usage import gains_of, unsaid_of


@dataclass(frozen=True, slots=True)
class Call:
    """An event as it is asked for."""

    event: str
    quantity: int
    attributes: Attributes
    price: UnitPrice


Fits = Callable[[Mapping[str, int]], bool]
"""Whether the limits leave so much room for meters."""


def affordable(catalog: Catalog, call: Call, states: Sequence[LimitState], fits: Fits) -> Affordable:
    """What is affordable as the limits stand before the call."""
    limited = [state for state in states if state.maximum is not UNLIMITED]
    calls = {id(state): state.room // state.gain for state in limited if state.gain > 0}
    # How many more that say nothing would fit nobody knows, unless there is no room at all.
    calls |= {id(state): 0 for state in limited if state.is_unsaid and state.room == 0}
    fewest = min(calls.values(), default=None)
    lengths = {
        id(state): tokens for state in limited if (tokens := _output_tokens(catalog, call, state)) is not None
    }
    longest = None
    if call.price.for_call(call.attributes).output_per_million_tokens is not None:
        longest = 0 if fewest == 0 else min(lengths.values(), default=None)
    binds_length = None
    if longest is not None:
        binds_length = _least(limited, calls if fewest == 0 else lengths)
    costs = [state for state in limited if _is_cost(catalog, state.limit)]
    is_short = fewest == 0 or any(_is_nearly_spent(state) for state in costs)
    return Affordable(
        calls=fewest,
        output_tokens=longest,
        cost_micros=min((state.room for state in costs), default=None),
        currency=call.price.currency,
        binds_calls=_least(limited, calls),
        binds_output_tokens=binds_length,
        cheaper=_cheaper(catalog, call, fits) if is_short else None,
    )


def _least(states: Sequence[LimitState], numbers: Mapping[int, int]) -> Limit | None:
    """The limit of which the least is left, by one number for each state."""
    told = [state for state in states if id(state) in numbers]
    return min(told, key=lambda state: numbers[id(state)]).limit if told else None


def _is_nearly_spent(state: LimitState) -> bool:
    """Whether a second call would not fit, or less than a tenth is left."""
    return state.gain > 0 and (state.room < 2 * state.gain or state.room * 10 < state.limit.ceiling)


def _output_tokens(catalog: Catalog, call: Call, state: LimitState) -> int | None:
    """How many output tokens the call may have under a limit; None where that does not depend on them."""
    meter, left = catalog.meters.get(state.meter), state.room
    if meter is None:
        return None
    said = call.attributes.get(OUTPUT_TOKENS, 0)
    if meter.aggregate == "sum_of" and OUTPUT_TOKENS in meter.attributes:
        return max(0, left - state.gain + (said if isinstance(said, int) else 0))
    if not meter.is_cost:
        return None
    price = call.price.for_call(call.attributes)
    if not price.output_per_million_tokens:
        return None
    return price.output_tokens_for(left, call.quantity, call.attributes)


def _cheaper(catalog: Catalog, call: Call, fits: Fits) -> ModelPrice | None:
    """The dearest model of the book that costs less for the same tokens, and fits."""
    asked = call.price.cost_micros(call.quantity, call.attributes)
    for cost, line in sorted(_others(catalog, call), key=lambda other: -other[0]):
        if cost >= asked:
            continue
        attributes = {**call.attributes, "provider": line.provider, "model": line.model or ""}
        price = unit_price_of(line)
        gains = gains_of(catalog, call.event, call.quantity, attributes, price)
        unsaid = unsaid_of(catalog, call.event, gains, attributes, price)
        if fits({**gains, **dict.fromkeys(unsaid, 1)}):
            return line
    return None


def _others(catalog: Catalog, call: Call) -> Iterable[tuple[int, ModelPrice]]:
    """Models that are priced by tokens, with what the call would cost."""
    if call.price.per_unit is not None:
        return
    for line in catalog.prices:
        price = unit_price_of(line)
        is_alike = line.model is not None and line.per_unit is None and line.currency == call.price.currency
        if is_alike and price.covers(call.attributes):
            yield price.cost_micros(call.quantity, call.attributes), line


def _is_cost(catalog: Catalog, limit: Limit) -> bool:
    meter = catalog.meters.get(limit.meter)
    return meter is not None and meter.is_cost
