"""How values of the domain stand in the columns of a row."""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.pricing import UnitPrice
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

PRICE_COLUMNS = tuple(one.name for one in fields(UnitPrice) if one.name != "tiers")
"""A price that was applied has no tiers any more."""

# Made once: `json.dumps` would make an encoder for every row.
json_text = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=dict).encode


def price_of_row(row: Sequence[Any]) -> UnitPrice:
    """A price from the values of `PRICE_COLUMNS`."""
    stored = dict(zip(PRICE_COLUMNS, row, strict=True))
    rates = {} if stored["per_million"] is None else json.loads(stored["per_million"])
    return UnitPrice(**{**stored, "per_million": tuple(rates.items())})


def price_values(value: UnitPrice) -> tuple[Any, ...]:
    """The values of `PRICE_COLUMNS`."""
    rates = json_text(dict(value.per_million)) if value.per_million else None
    return tuple(rates if name == "per_million" else getattr(value, name) for name in PRICE_COLUMNS)


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
