"""What can be asked of what is committed: a closed union of values. The answers are rows, not verdicts."""

from dataclasses import dataclass

from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import MemberRole


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose usage or history: a whole tenant, one account in it, or one user of that account."""

    tenant: str
    account_kind: AccountKind | None = None
    account: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums of the rollups in `[start, end)`, grouped by meter and the columns named: as `UsageRow`s, where
    what was not asked for is None."""

    whose: Whose
    start: Instant
    end: Instant
    columns: frozenset[str]
    """Of quarter, user, account, dimensions."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events newest first; `before` is the position the last page ended at. A `size` below 0 is all."""

    whose: Whose
    start: Instant
    end: Instant
    size: int
    event: str | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """What was changed, newest first; `action` is a prefix like `limit.`."""

    whose: Whose
    action: str
    size: int


@dataclass(frozen=True, slots=True)
class TenantSummary:
    """Accounts and users per plan of a tenant."""

    tenant: str
    now: Instant


@dataclass(slots=True)
class PlanCount:
    plan: str
    accounts: int
    users: int


@dataclass(frozen=True, slots=True)
class PlanHolders:
    """How many accounts hold which version of each plan, over all tenants."""

    now: Instant


@dataclass(frozen=True, slots=True)
class RevocationsSince:
    """The revocations after a position, in order; must not wait behind reports."""

    seq: int


@dataclass(frozen=True, slots=True)
class AccountIds:
    """The accounts of a tenant whose id begins with `prefix`, in order of their ids, at most `size`: to choose from
    while somebody types, so of very many some may be left out."""

    tenant: str
    prefix: str
    size: int


@dataclass(frozen=True, slots=True)
class MemberPage:
    """The members of a group in a fixed order, from `after` the place the last page ended at: as `MemberRow`s, and
    whether there are more."""

    tenant: str
    account: str
    size: int
    after: int = 0


@dataclass(slots=True)
class MemberRow:
    place: int
    user: str
    role: MemberRole
    joined_at: Instant


Query = (
    UsageTotals
    | EventPage
    | AuditTrail
    | TenantSummary
    | PlanHolders
    | RevocationsSince
    | AccountIds
    | MemberPage
)
