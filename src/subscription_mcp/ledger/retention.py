"""What the ledger need not keep for ever, and until when. Events, rollups, audit entries, revocations and plan
versions are kept; pure."""

from subscription_mcp.domain.alerts import is_due_again
from subscription_mcp.domain.catalog import OVERAGE, OVERAGE_CHARGE, derived
from subscription_mcp.domain.instants import DAY, QUARTER, Instant
from subscription_mcp.domain.rolling import Cells
from subscription_mcp.domain.windows import (
    LONGEST_PERIOD,
    BillingPeriod,
    Level,
    Rolling,
    rolling_length,
    window_of_key,
)
from subscription_mcp.ledger.commands import DeliveryState
from subscription_mcp.ledger.machine.facts import FUTURE_TOLERANCE, KEY_RETENTION, SESSION_RETENTION
from subscription_mcp.ledger.recount import latest_end

OFFER_RETENTION = 1 * DAY
"""So that who confirms late is told why it no longer holds."""
_CHARGED = (derived("", OVERAGE), derived("", OVERAGE_CHARGE))
COUNTER_RETENTION = 400 * DAY
"""As far as a report reaches back; late events only come 35 days late."""
ALERT_RETENTION = COUNTER_RETENTION
DELIVERY_RETENTION = 7 * DAY
"""How long a message that was received is remembered, and how long one waits that no server is there to send."""
DEAD_RETENTION = KEY_RETENTION
"""How long a message that could not be sent can be sent again."""
REPORT_RETENTION = 401 * DAY
"""Of what is only kept for reports, by the hour."""


def answer_is_over(at: Instant, now: Instant) -> bool:
    """Whether an idempotency key may be used anew."""
    return now - at >= KEY_RETENTION


def reservation_is_over(reserved_at: Instant, expires_at: Instant, now: Instant) -> bool:
    """Whether it holds nothing any more and can no longer be settled, nor its settling be asked for again."""
    return now - reserved_at > KEY_RETENTION and expires_at <= now


def session_is_over(expires_at: Instant, closed_at: Instant | None, now: Instant) -> bool:
    ended_at = expires_at if closed_at is None else min(closed_at, expires_at)
    return now - ended_at >= SESSION_RETENTION


def offer_is_over(expires_at: Instant, now: Instant) -> bool:
    return now - expires_at > OFFER_RETENTION


def counter_is_over(window_key: str, start: Instant, now: Instant, meter: str) -> bool:
    """Whether nothing can be counted in it any more and no report asks for it, nor an invoice that nobody closed."""
    if window_key == BillingPeriod.name and meter.endswith(_CHARGED):
        return False
    end = latest_end(window_key, start)
    return end is not None and now - end >= COUNTER_RETENTION


def rolling_is_over(window_key: str, cells: Cells, now: Instant) -> bool:
    """Whether nothing of what was used in a rolling window counts any more, also not were it added up again from
    the rollups, which know it by the quarter of an hour."""
    length = rolling_length(window_key)
    return length is not None and all(at + length + QUARTER + FUTURE_TOLERANCE <= now for at, _ in cells)


def alert_is_over(created_at: Instant, now: Instant) -> bool:
    return now - created_at >= ALERT_RETENTION


def mark_is_over(window_key: str, start: Instant, until: Instant, now: Instant) -> bool:
    """Whether a threshold would alert again anyway, or never is asked for again: nothing is alerted of a period that
    is over."""
    window = window_of_key(window_key)
    if isinstance(window, Level | Rolling):
        return is_due_again(window, until, now)
    end = latest_end(window_key, start)
    return end is not None and end <= now


def delivery_is_over(
    state: DeliveryState,
    created_at: Instant,
    next_attempt_at: Instant,
    ended_at: Instant | None,
    now: Instant,
) -> bool:
    """One that waits is over where nobody has tried when it was due, nor since: no server knows an address any more."""
    match state:
        case "delivered":
            return now - (ended_at or created_at) >= DELIVERY_RETENTION
        case "dead":
            return now - (ended_at or created_at) >= DEAD_RETENTION
        case "pending":
            return now - max(created_at, next_attempt_at) >= DELIVERY_RETENTION


def grant_needed_since(window: str, now: Instant) -> Instant:
    """Grants of a window that ended before are asked for no more, but for corrections: what they gave is in no period any
    more that an event may still come for."""
    longest = LONGEST_PERIOD.get(window)
    return 0 if longest is None else now - KEY_RETENTION - longest
