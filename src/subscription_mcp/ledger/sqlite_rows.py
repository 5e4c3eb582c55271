"""How values of the domain stand in the columns of a row."""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from subscription_mcp.domain.identifiers import AccountKind
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

# Made once: `json.dumps` would make an encoder for every row.
json_text = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=dict).encode


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
