"""How values of the domain stand in the columns of a row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.pricing import Tier, UnitPrice
from subscription_mcp.domain.subscriptions import Scheduled, Subscription

KINDS: tuple[AccountKind, AccountKind] = ("personal", "group")
_HELD_COLUMNS = tuple(one.name for one in fields(Subscription) if one.name != "scheduled")
_SCHEDULED_COLUMNS = {
    "scheduled_at": "at",
    "scheduled_reason": "reason",
    "next_plan": "plan",
    "next_version": "version",
    "next_interval": "interval",
    "next_seats": "seats",
}
SUBSCRIPTION_COLUMNS = ", ".join((*_HELD_COLUMNS, *_SCHEDULED_COLUMNS))

PRICE_COLUMNS = tuple(one.name for one in fields(UnitPrice))
PRICE_PARTS = frozenset({"per_million", "tiers"})
"""Columns of a price that are JSON."""

# Made once: `json.dumps` would make an encoder for every row.
json_text = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=dict).encode


def price_of_row(row: Sequence[Any]) -> UnitPrice:
    """A price from the values of `PRICE_COLUMNS`."""
    stored = dict(zip(PRICE_COLUMNS, row, strict=True))
    return price_of_parts(
        {
            name: json.loads(stored[name]) if stored[name] and name in PRICE_PARTS else stored[name]
            for name in stored
        }
    )


def price_of_parts(parts: Mapping[str, Any]) -> UnitPrice:
    """A price from its parts by name, those that have parts themselves as they stand in JSON."""
    rates, tiers = parts["per_million"] or {}, parts["tiers"] or ()
    return UnitPrice(
        **{
            **parts,
            "per_million": _sorted_rates(rates),
            "tiers": tuple(Tier(above, given, made, _sorted_rates(of)) for above, given, made, of in tiers),
        }
    )


def _sorted_rates(rates: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(rates.items()))


def price_values(value: UnitPrice) -> tuple[Any, ...]:
    """The values of `PRICE_COLUMNS`."""
    rates = json_text(dict(value.per_million)) if value.per_million else None
    tiers = [
        (
            one.above_input_tokens,
            one.input_per_million_tokens,
            one.output_per_million_tokens,
            dict(one.per_million),
        )
        for one in value.tiers
    ]
    parts = {"per_million": rates, "tiers": json_text(tiers) if tiers else None}
    return tuple(parts[name] if name in parts else getattr(value, name) for name in PRICE_COLUMNS)


def subscription_of_row(row: Sequence[Any]) -> Subscription:
    """A subscription from the values of `SUBSCRIPTION_COLUMNS`."""
    *held, at, reason, plan, version, interval, seats = row
    scheduled = None if at is None else Scheduled(at, reason, plan, version, interval, seats)
    return Subscription(**dict(zip(_HELD_COLUMNS, held, strict=True)), scheduled=scheduled)


def subscription_values(value: Subscription) -> tuple[Any, ...]:
    """The values of `SUBSCRIPTION_COLUMNS`."""
    return (
        *(getattr(value, name) for name in _HELD_COLUMNS),
        *(getattr(value.scheduled, name, None) for name in _SCHEDULED_COLUMNS.values()),
    )
