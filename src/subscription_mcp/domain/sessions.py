"""Sessions: leases with a duration. One that is past its end is over, whether or not anybody closed it."""

from dataclasses import dataclass

from subscription_mcp.domain.catalog import UNLIMITED, Maximum, Plan
from subscription_mcp.domain.instants import DAY, SECOND, Instant
from subscription_mcp.domain.subscriptions import AccountKey

UNLIMITED_DURATION: Instant = 1 * DAY
"""How long a session lasts where the plan sets no duration and the caller none: an abandoned one must end."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of a user. Closing it sets `closed_at`; it ends at `expires_at` anyway."""

    id: str
    account: AccountKey
    user: str
    plan: str
    source: str
    opened_at: Instant
    expires_at: Instant
    closed_at: Instant | None = None

    def is_open(self, now: Instant) -> bool:
        return self.closed_at is None and now < self.expires_at

    def ended_at(self, now: Instant) -> Instant:
        """When it ended, or now while it lasts."""
        return min(self.expires_at, self.closed_at if self.closed_at is not None else now)

    @property
    def key(self) -> str:
        """The key applications know a session by."""
        return f"{self.account.tenant}-{self.plan}-{self.user}-{self.id}"


def expiry_of(plan: Plan, opened_at: Instant, now: Instant, ttl_seconds: int | None) -> Instant:
    """When a session opened then, and opened or renewed now, ends: after `ttl_seconds`, by default and at
    most at the plan's duration from its opening."""
    longest = plan.sessions.max_duration_seconds
    if longest is UNLIMITED:
        return now + (ttl_seconds * SECOND if ttl_seconds is not None else UNLIMITED_DURATION)
    end = opened_at + longest * SECOND
    return end if ttl_seconds is None else min(end, now + ttl_seconds * SECOND)


def has_room(maximum: Maximum, active: int) -> bool:
    return maximum is UNLIMITED or active < maximum
