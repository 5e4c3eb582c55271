"""Outgoing webhooks: what is sent, when it is tried again, and when nobody tries any more."""

from collections.abc import Mapping
from typing import Any

from subscription_mcp.domain.instants import HOUR, SECOND, Instant, format_instant

WEBHOOK_EVENTS: Mapping[str, str] = {
    "alert.created": "A threshold of a limit was reached, or the service needs somebody.",
    "subscription.changed": "A plan, its end, its seats or its status became another, or will at a time it says.",
    "webhook.test": "Sent by `subscription-mcp webhook send --test`; nothing has happened.",
}
"""Every kind of message there is. What sends a new one adds its line."""

ATTEMPTS_MAX = 12
"""After so many a message is dead: some twenty hours after the first. `webhook send` tries again."""
FIRST_RETRY_AFTER: Instant = 1 * SECOND
RETRY_FACTOR = 4
LONGEST_RETRY: Instant = 6 * HOUR
JITTER_PERMILLE = 200
"""By how much a retry comes earlier or later than it would, so that not all come at once."""


def payload_of(event: str, data: Mapping[str, Any], at: Instant) -> dict[str, Any]:
    """The body of a message, as Standard Webhooks has it. Raises KeyError for an event that is in no list."""
    WEBHOOK_EVENTS[event]
    return {"type": event, "timestamp": format_instant(at), "data": dict(data)}


def retry_after(attempts: int, dice_permille: int) -> Instant:
    """How long to wait after so many attempts; `dice_permille` from 0 to 999 spreads them."""
    wait: Instant = min(FIRST_RETRY_AFTER * RETRY_FACTOR ** (attempts - 1), LONGEST_RETRY)
    return wait + wait * JITTER_PERMILLE * (2 * dice_permille - 1000) // 1_000_000
