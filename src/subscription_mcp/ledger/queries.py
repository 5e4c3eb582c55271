"""What can be asked of what is committed: a closed union of values. The answers are rows, not verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import AccountKey, MemberRole, Status


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
    steps: tuple[Instant, ...] | None = None
    """Where the steps of a series begin: `quarter` is then the beginning of what lies within one. With None it is
    the quarter of an hour."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events newest first; `before` is the position the last page ended at. A `size` below 0 is all. With
    `oldest_first` they come in the order they were recorded, `after` where the last page ended, up to the position
    `last`."""

    whose: Whose
    start: Instant
    end: Instant
    size: int
    event: str | None = None
    before: int | None = None
    oldest_first: bool = False
    after: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class NewestEvent:
    """The position of the event that was recorded last, of whichever tenant; 0 before the first."""


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """What was changed, newest first; `action` is a prefix like `limit.`."""

    whose: Whose
    action: str
    size: int


@dataclass(frozen=True, slots=True)
class TenantSummary:
    """How many accounts and users of a tenant there are of each plan and status, as `AccountCount`s, and how many of
    the accounts began at or after `since`."""

    tenant: str
    now: Instant
    since: Instant = 0


@dataclass(slots=True)
class AccountCount:
    plan: str
    status: Status
    accounts: int
    users: int
    began: int

    @property
    def is_inactive(self) -> bool:
        """Whether the subscriptions have ended: then no plan is held."""
        return self.status in ("canceled", "expired")


@dataclass(frozen=True, slots=True)
class TenantActivity:
    """How many trials of a tenant were started, run and were converted, and how many sessions are open."""

    tenant: str
    now: Instant


@dataclass(frozen=True, slots=True)
class AccountPage:
    """Accounts of a tenant that have a subscription, `after` the position the last page ended at. Each of `parts` is
    in the id of the account or of one of its users, in whatever case."""

    tenant: str
    now: Instant
    size: int
    after: tuple[int, int] | None = None
    parts: tuple[str, ...] = ()
    plan: str | None = None
    status: str | None = None
    account_kind: AccountKind | None = None


@dataclass(frozen=True, slots=True)
class OpenSessions:
    """Sessions that are open now, those that end first first."""

    whose: Whose
    now: Instant
    size: int


@dataclass(frozen=True, slots=True)
class FullestHolders:
    """Accounts and their users (`user` '' is a group as a whole) that may have used `permille` of a limit or more, the
    fullest first; and such whose limits were set by hand. Some of each, at most `size`. Nobody whose subscription has
    ended, or who is in the group no more."""

    tenant: str
    now: Instant
    permille: int
    size: int


@dataclass(frozen=True, slots=True)
class PlanHolders:
    """How many accounts hold which version of each plan, over all tenants."""

    now: Instant


@dataclass(frozen=True, slots=True)
class PlanRecords:
    """Every plan there is, or just one: those on offer in their order, then the others. With it up to so many
    `accounts` that hold another version than the `newest`."""

    now: Instant
    plan: str | None = None
    accounts: int = 0
    newest: int = 0


@dataclass(slots=True)
class PlanRecord:
    """A plan in the version that new subscribers get (or got last), where that came from, and how many accounts hold
    which version."""

    plan: Plan
    origin: Literal["file", "runtime"]
    is_offered: bool
    is_archived: bool
    holders: Mapping[int, int]
    some_on_older: list[tuple[AccountKey, int]]


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


@dataclass(frozen=True, slots=True)
class Denials:
    """How often what was refused in the hours of `[start, end)`: code, meter ('' is none) and count."""

    whose: Whose
    start: Instant
    end: Instant


@dataclass(frozen=True, slots=True)
class Conversions:
    """How many accounts of a tenant began to pay in `[start, end)`: after a trial, and after one of the plans that are
    `free`."""

    tenant: str
    start: Instant
    end: Instant
    free: frozenset[str]


@dataclass(frozen=True, slots=True)
class Responses:
    """How long what took in the hours of `[start, end)`: event, whether it failed, cell (`histogram`) and count."""

    whose: Whose
    start: Instant
    end: Instant


@dataclass(frozen=True, slots=True)
class SessionSpans:
    """When the sessions that were open in `[start, end)` were opened and ended (None while they last): the newest, at
    most `size`."""

    whose: Whose
    start: Instant
    end: Instant
    now: Instant
    size: int


@dataclass(slots=True)
class MemberRow:
    place: int
    user: str
    role: MemberRole
    joined_at: Instant


@dataclass(frozen=True, slots=True)
class BillingOf:
    """All that was ever charged to an account, as `Billing`, with the versions of the plans it names."""

    account: AccountKey


@dataclass(frozen=True, slots=True)
class StatementOf:
    """What an account was charged and will be, as a `Statement` of an instant, with the titles of the plans in it by
    their keys. What was closed is read, and only the rest worked out."""

    account: AccountKey
    now: Instant


@dataclass(frozen=True, slots=True)
class OverridesOf:
    """The limits set by hand for a user of an account, or with '' for the account as a whole: by meter, window and
    scope, as `Override`s."""

    account: AccountKey
    user: str


@dataclass(frozen=True, slots=True)
class GrantsOf:
    """The grants a user of an account ever had, or with '' the account as a whole, as `Grant`s."""

    account: AccountKey
    user: str


@dataclass(frozen=True, slots=True)
class AccountsToBill:
    """Accounts with an invoice to be closed or paid now, at most `size`, those that wait longest first."""

    now: Instant
    size: int


@dataclass(frozen=True, slots=True)
class AlertPage:
    """Alerts newest first, at most `size`, each with its place, and those `before` a place: of a tenant, an account, or one user of it, who reads those of the account as
    a whole, too. `with_service` are those that concern every tenant."""

    whose: Whose
    size: int
    unread_only: bool = False
    with_service: bool = False
    before: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveriesDue:
    """How many messages are due, at most `size`, and when the next one is; None where none waits."""

    now: Instant
    size: int


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Messages that were not received yet, those that are dead first, then the oldest first."""

    size: int


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """How many messages there are of each state."""


Query = (
    UsageTotals
    | EventPage
    | NewestEvent
    | AuditTrail
    | TenantSummary
    | MemberPage
    | Denials
    | Conversions
    | Responses
    | SessionSpans
    | TenantActivity
    | AccountPage
    | OpenSessions
    | FullestHolders
    | PlanHolders
    | PlanRecords
    | RevocationsSince
    | AccountIds
    | BillingOf
    | StatementOf
    | AccountsToBill
    | OverridesOf
    | GrantsOf
    | AlertPage
    | DeliveriesDue
    | DeliveryPage
    | DeliveryCounts
)
