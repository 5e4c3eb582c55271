"""What each event cost, worked out again from the price that is kept with it."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from subscription_mcp.domain.catalog import UNPRICED, derived, is_derived
from subscription_mcp.domain.pricing import INPUT_TOKENS, MILLION, OUTPUT_TOKENS, PARTS_OF_TOKENS
from subscription_mcp.ledger.commands import UsageEvent


class _Price(NamedTuple):
    input_per_million_tokens: int
    output_per_million_tokens: int
    per_unit: int
    per_million: Mapping[str, int]


class Costs:
    """What costs and corrections must be. The meters of costs are those the ledger has by now; what an event says of one
    that it knew nothing of then is not missed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._prices = {
            number: _Price(tokens_in or 0, tokens_out or 0, per_unit or 0, json.loads(rates or "{}"))
            for number, tokens_in, tokens_out, per_unit, rates in connection.execute(
                "SELECT id, input_per_million_tokens, output_per_million_tokens, per_unit, per_million FROM price"
            )
        }
        self._meters: dict[str, Mapping[str, Any]] = {
            name: json.loads(definition)
            for name, definition in connection.execute("SELECT name, definition FROM ledger_meter")
        }
        self._costs = {name for name, one in self._meters.items() if one["aggregate"] == "cost"}
        self._levels = {name for name, one in self._meters.items() if one["aggregate"] == "level"}
        self._always_cost = self._events_that_always_cost()

    def _events_that_always_cost(self) -> frozenset[str]:
        """Events that have a meter of costs, and none that only counts some of them."""
        found: dict[str, bool] = {}
        for name in self._costs:
            meter = self._meters[name]
            found[meter["event"]] = found.get(meter["event"], True) and not meter["where"]
        return frozenset(event for event, always in found.items() if always)

    def differences(
        self,
        id_: bytes,
        event: str,
        quantity: int,
        attributes: str | None,
        gains: Mapping[str, int],
        price: int | None,
        number: int,
    ) -> Iterator[str]:
        """How the costs an event says differ from its price; `number` is -1 where it takes one back."""
        if self._costs.isdisjoint(gains):
            if price is not None and event in self._always_cost:
                yield f"Event {UUID(bytes=id_)} has a price and says no cost."
            return
        cost = 0
        if price is not None:
            cost = number * _cost(self._prices[price], number * quantity, attributes)
        for meter in sorted(self._costs & gains.keys()):
            if gains[meter] != cost:
                yield (
                    f"Event {UUID(bytes=id_)} says {gains[meter]:,} of {meter}; its price and its quantities say "
                    f"{cost:,}."
                )
            if gains.get(derived(meter, UNPRICED)) != (number if price is None else None):
                yield f"Event {UUID(bytes=id_)} is not counted as {meter} without a price exactly where it has none."

    def taken_back(self, id_: bytes, gains: Mapping[str, int], corrected: UsageEvent) -> Iterator[str]:
        """How a correction differs from what it takes back. A level falls to nothing and no further, and what was
        beyond a limit goes back by how full the limit is then."""
        for meter, gain in corrected.gains.items():
            if is_derived(meter) or meter in self._levels:
                continue
            if gains.get(meter, 0) != -gain:
                yield (
                    f"Event {UUID(bytes=id_)} takes {-gains.get(meter, 0):,} of {meter} back; event {corrected.id} had "
                    f"{gain:,}."
                )


def _cost(price: _Price, quantity: int, attributes: str | None) -> int:
    """Whole micro-units, rounded up. Told here a second time, apart from how it is counted: what has a price of its own is
    taken out of all tokens first."""
    given = json.loads(attributes) if attributes else {}
    millionths: int = quantity * price.per_unit * MILLION
    for whole, rate in (
        (INPUT_TOKENS, price.input_per_million_tokens),
        (OUTPUT_TOKENS, price.output_per_million_tokens),
    ):
        apart = sum(given.get(part, 0) for part in PARTS_OF_TOKENS[whole] if part in price.per_million)
        millionths += (given.get(whole, 0) - apart) * rate
    millionths += sum(given.get(name, 0) * rate for name, rate in price.per_million.items())
    return max(0, -(-millionths // MILLION))
