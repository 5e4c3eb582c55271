"""Everything that can be asked of the ledger, and every way it can come out: two closed unions of values.

A command that changes state is given to the writer; the same command may be *rehearsed* on committed facts
and leaves nothing behind, which is what a check and a preview are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from subscription_mcp.domain.alerts import Severity
from subscription_mcp.domain.catalog import Attributes, Maximum, Plan, Scope
from subscription_mcp.domain.decisions import Decision, LimitState
from subscription_mcp.domain.errors import Code, FieldProblem, Refusal
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.invoices import Invoice
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    Action,
    Change,
    MemberRole,
    Origin,
    Subscription,
)
from subscription_mcp.domain.windows import Interval


class Subject(NamedTuple):
    """Whom a command is about, as far as the caller could say; the machine finds the account.

    `user` None means the whole account. `account_kind` says which id space `account` is from, where the
    caller may only mean one: a group can have the id of a person. `group`, `tier` and `group_admin` are the claims of the user's own
    token and only set where the caller is the user; somebody else's token says nothing about them.
    With `tier_decides` the tier is the issuer's word on the plan, as of `claimed_at` (seconds since 1970, when
    the token was issued; None where it does not say).
    """

    tenant: str
    user: str | None
    account: str | None = None
    account_kind: AccountKind | None = None
    group: str | None = None
    tier: str | None = None
    group_admin: bool = False
    tier_decides: bool = False
    claimed_at: int | None = None


AnswerKey = tuple[str, str, str]
"""Where the answer to a request with an idempotency key is kept: tenant, source and key."""


class _WithKey:
    """A command that may carry an idempotency key, and so knows where its answer is kept."""

    __slots__ = ("answer_key",)
    subject: Subject
    source: str
    idempotency_key: str | None
    answer_key: AnswerKey | None

    def __post_init__(self) -> None:
        key = self.idempotency_key
        self.answer_key = None if key is None else (self.subject.tenant, self.source, key)


@dataclass(slots=True)
class Actor:
    """Who did it, for the audit trail: the caller's user id and the role that allowed it."""

    user: str
    role: str


@dataclass(slots=True)
class Arrive:
    """Look at an account, as its user does on an authenticated call: on first sight user and subscription
    are made, a default plan is replaced by the token's, a claimed group is joined."""

    subject: Subject


@dataclass(slots=True)
class RecordUsage(_WithKey):
    """Count one event, or say why not. `digest` identifies the request behind an idempotency key;
    `source` is who sent it. With `enforce` False it already happened and is always recorded. `price` is what it costs,
    None where nobody knows; `estimated` names the attributes, or the quantity, that were only estimated."""

    subject: Subject
    event: str
    source: str
    quantity: int = 1
    attributes: Attributes = field(default_factory=dict)
    idempotency_key: str | None = None
    digest: bytes = b""
    occurred_at: Instant | None = None
    enforce: bool = True
    price: UnitPrice | None = None
    estimated: tuple[str, ...] = ()


@dataclass(slots=True)
class Reserve(_WithKey):
    """Hold quantity for an event that is about to happen, for `ttl_seconds`; else say why not. `price` and
    `estimated` are as for an event that is recorded."""

    subject: Subject
    event: str
    source: str
    quantity: int = 1
    attributes: Attributes = field(default_factory=dict)
    ttl_seconds: int = 120
    idempotency_key: str | None = None
    digest: bytes = b""
    price: UnitPrice | None = None
    estimated: tuple[str, ...] = ()


CALLED = ("provider", "model")
"""The attributes that say who was called."""


@dataclass(slots=True)
class Settle:
    """Replace a reservation by what really happened: less, more, or (quantity 0) nothing at all. `user`
    narrows it to that user's own reservations. `price` is that of the attributes; where these name neither provider nor
    model, what was reserved was called, and it costs what was reserved (`keeps_price`)."""

    tenant: str
    reservation_id: str
    source: str
    digest: bytes
    user: str | None = None
    quantity: int | None = None
    attributes: Attributes | None = None
    price: UnitPrice | None = None

    @property
    def keeps_price(self) -> bool:
        return self.attributes is None or not any(name in self.attributes for name in CALLED)

    def attributes_of(self, reserved: Attributes) -> Attributes:
        """What is recorded of what was reserved: all that is said, and who was called unless that is said."""
        if self.attributes is None or not self.keeps_price:
            return reserved if self.attributes is None else self.attributes
        return {**{name: reserved[name] for name in CALLED if name in reserved}, **self.attributes}


@dataclass(slots=True)
class OpenSession(_WithKey):
    """Open a session for a user, if the plan has room for one more."""

    subject: Subject
    source: str
    ttl_seconds: int | None = None
    idempotency_key: str | None = None
    digest: bytes = b""


@dataclass(slots=True)
class RenewSession:
    """Keep an open session open, at most to the plan's duration from its opening."""

    tenant: str
    session_id: str
    user: str | None = None
    ttl_seconds: int | None = None


@dataclass(slots=True)
class CloseSession:
    """End a session; ending it again changes nothing."""

    tenant: str
    session_id: str
    user: str | None = None


@dataclass(slots=True)
class CheckUsage:
    """Ask whether an event would be allowed now; only ever rehearsed."""

    subject: Subject
    event: str
    quantity: int = 1
    attributes: Attributes = field(default_factory=dict)
    price: UnitPrice | None = None


@dataclass(slots=True)
class ChangePlan:
    """Move an account to another plan. Without a `confirmation` the change is only offered: `offer` becomes
    a handle that lets the same actor ask for exactly the same change once, within ten minutes."""

    subject: Subject
    actor: Actor
    plan: str
    digest: bytes
    interval: Interval | None = None
    origin: Origin = "purchase"
    confirmation: str | None = None
    offer: str | None = None
    seats: int | None = None
    duration_days: int | None = None
    reason: str | None = None


@dataclass(slots=True)
class ChangeSubscription:
    """Cancel a subscription at its period's end, take back what is scheduled, or have another number of seats;
    offered and confirmed like a change of plan."""

    subject: Subject
    actor: Actor
    action: Literal["cancel", "resume", "set_seats"]
    digest: bytes
    seats: int | None = None
    confirmation: str | None = None
    offer: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class SetStatus:
    """Suspend an account or let it go on, and say that a payment failed or was received."""

    subject: Subject
    actor: Actor
    action: Literal["suspend", "activate", "payment_failed", "payment_received"]
    reason: str


@dataclass(slots=True)
class EndSessions:
    """End every session a user has open, or everybody in an account."""

    subject: Subject
    actor: Actor
    reason: str


@dataclass(slots=True)
class EraseUser:
    """Put `alias` in place of a user's id wherever it stands in a tenant, and end what is theirs. Totals stay."""

    tenant: str
    user: str
    alias: str
    actor: Actor
    reason: str


@dataclass(slots=True)
class SetLimit:
    """Set or clear (`maximum` None) an override of one limit, for a user or for the whole account."""

    subject: Subject
    actor: Actor
    meter: str
    window: str
    maximum: Maximum | None
    reason: str
    within_plan: bool
    expires_at: Instant | None = None


@dataclass(slots=True)
class ClearRate:
    """Forget what a user, or a whole group, used in the sliding minutes: of one meter, or of all."""

    subject: Subject
    actor: Actor
    reason: str
    meter: str | None = None


@dataclass(slots=True)
class GrantAllowance:
    """Give somebody more of one limit: so much in all, in effect from `starts_at` (now unless given) until
    `expires_at`."""

    subject: Subject
    actor: Actor
    meter: str
    window: str
    quantity: int
    reason: str
    starts_at: Instant | None = None
    expires_at: Instant | None = None


@dataclass(slots=True)
class EndGrant:
    """Have a grant end now. What it gave stays given."""

    subject: Subject
    actor: Actor
    grant_id: str
    reason: str


@dataclass(slots=True)
class CorrectUsage:
    """Take an event back, once: an event of a tenant, or only one of a user or an account in it."""

    tenant: str
    event_id: str
    actor: Actor
    reason: str
    user: str | None = None
    account: str | None = None


@dataclass(slots=True)
class ManageMember:
    """Add a user to a group or to a personal account, which founds a group; remove a member, or have them in
    another role. `subject` is the account. Access tokens issued up to `tokens_before` (real time, not the
    ledger's) bring nobody back who was removed."""

    subject: Subject
    actor: Actor
    action: Literal["add", "remove", "set_role"]
    user: str
    role: MemberRole
    tokens_before: Instant
    reason: str | None = None


@dataclass(slots=True)
class RevokeTokens:
    """Take access tokens back: the one with a `token_id`, else all issued up to `issued_before` (real time,
    not the ledger's) to a subject, in a tenant, or to a subject in a tenant."""

    actor: Actor
    issued_before: Instant
    token_id: str | None = None
    tenant: str | None = None
    subject: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class PublishPlans:
    """Make the plans of a catalog file the current ones. A ledger counts by one catalog, told by its name;
    another one, or meters that count otherwise, only take its place on purpose (`replace_catalog`). A plan whose
    definition changed becomes a new version; subscribers stay on theirs. What was edited or archived at run time stays
    so, but for the plan to `reset`."""

    catalog: str
    plans: Sequence[Plan]
    digests: Mapping[str, str]
    replace_catalog: bool = False
    reset: str | None = None


@dataclass(slots=True)
class EditPlan:
    """Create or update a plan by a `table` as in a catalog file, or archive one: from the answer on that holds for
    everybody, in every process. Subscribers stay on their version."""

    actor: Actor
    action: Literal["create", "update", "archive"]
    plan: str
    table: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@dataclass(slots=True)
class MigratePlan:
    """Move who holds an older version of a plan (all of them, or `from_version`) to its newest: its limits at once,
    its price at the next renewal. At most `size` accounts, those behind `after`: the next command goes on where this
    one ended."""

    actor: Actor
    plan: str
    reason: str
    from_version: int | None = None
    after: AccountKey | None = None
    size: int = 500


@dataclass(slots=True)
class CloseInvoices:
    """Close every invoice of an account that is due: what is on it does not change any more."""

    account: AccountKey


@dataclass(slots=True)
class PayInvoice:
    """Note that a provider was paid for a closed invoice; noting it again changes nothing."""

    account: AccountKey
    number: str
    provider: str
    reference: str


@dataclass(slots=True)
class MarkAlerts:
    """Mark alerts as read: such of a whole tenant, of an account, or of one user of it, and `with_whole` those of the
    account as a whole, which others read, too. `with_service` are those that concern every tenant."""

    tenant: str
    account: AccountKey | None
    user: str | None
    with_service: bool
    alert_ids: Sequence[str]
    with_whole: bool = True


@dataclass(slots=True)
class SetAlertThresholds:
    """Alert an account at other thresholds than its plan's, or (None) at the plan's again."""

    subject: Subject
    actor: Actor
    thresholds: tuple[int, ...] | None


@dataclass(slots=True)
class ReportOutage:
    """Say that the ledger could not be written since an instant, once it can be again."""

    since: Instant


@dataclass(slots=True)
class LeaseDeliveries:
    """Take messages that are due, for so many seconds: nobody else sends them meanwhile. `lease` names who does."""

    lease: str
    seconds: int
    size: int


@dataclass(slots=True)
class SettleDelivery:
    """Note what came of sending a message that was leased; `error` is None where it was received. What another has
    leased since is not touched."""

    delivery_id: str
    lease: str
    error: str | None
    dice_permille: int


RESENT_MAX = 1_000
"""How many messages that are dead are taken at a time."""


@dataclass(slots=True)
class ResendDeliveries:
    """Take messages to send them again, from the first attempt on: those named, or (None) the oldest that are dead. With so
    many sent `at_once` one that waits its turn is taken for as long as that may last."""

    lease: str
    seconds: int
    delivery_ids: tuple[str, ...] | None
    at_once: int


@dataclass(slots=True)
class QueueTestMessage:
    """Make and take a message that means nothing, to see that it arrives."""

    lease: str
    seconds: int


Command = (
    Arrive
    | CheckUsage
    | RecordUsage
    | Reserve
    | Settle
    | OpenSession
    | RenewSession
    | CloseSession
    | ChangePlan
    | ChangeSubscription
    | SetStatus
    | EndSessions
    | EraseUser
    | SetLimit
    | ClearRate
    | CorrectUsage
    | GrantAllowance
    | EndGrant
    | ManageMember
    | RevokeTokens
    | PublishPlans
    | EditPlan
    | MigratePlan
    | CloseInvoices
    | PayInvoice
    | MarkAlerts
    | SetAlertThresholds
    | ReportOutage
    | LeaseDeliveries
    | SettleDelivery
    | ResendDeliveries
    | QueueTestMessage
)

Keyed = RecordUsage | Reserve | OpenSession
"""Commands that may carry an idempotency key."""
KEYED = get_args(Keyed)
SOLITARY = (EraseUser,)
"""Commands that have a batch to themselves: what is remembered of the ledger does not hold after them."""


@dataclass(slots=True)
class Standing:
    """The account a subject was found to have, and the user's role in it (None: nobody in particular)."""

    tenant: str
    account_kind: AccountKind
    account: str
    user: str | None
    role: Literal["holder", "admin", "member"] | None


@dataclass(slots=True)
class AccountView:
    """An account as it stands for a subject."""

    standing: Standing
    subscription: Subscription | None
    plan: Plan | None
    limits: list[LimitState]
    seats_used: int | None
    sessions_active: int
    as_of: Instant
    alert_thresholds: tuple[int, ...] = ()
    """At how many percent of its limits the account is alerted."""
    grants: Sequence["Grant"] = ()


@dataclass(slots=True)
class Decided:
    """The decision on an event; recorded where it has an `event_id`, held where it has a `reservation_id`.
    `late` is a settle that came after its reservation had expired."""

    decision: Decision
    late: bool = False


@dataclass(slots=True)
class SessionDecided:
    """The decision on a session, and how many are open. Without a session it was refused."""

    decision: Decision
    session: Session | None
    active: int
    max_concurrent: Maximum


@dataclass(slots=True)
class SessionClosed:
    """A session that is over, and how long it was open."""

    session_id: str
    duration_seconds: int


@dataclass(slots=True)
class PlanChanged:
    """A change of plan: offered (`handle` to confirm it with) or applied or scheduled."""

    change: Change
    limits_before: list[LimitState]
    limits_after: list[LimitState]
    confirmed: bool
    handle: str | None
    as_of: Instant
    action: Action = "change"


@dataclass(slots=True)
class StatusChanged:
    """The account before and after its status was changed by hand."""

    before: AccountView
    after: AccountView
    audit: "AuditEntry"


@dataclass(slots=True)
class SessionsEnded:
    """How many sessions were open and are not any more, and the account afterwards."""

    closed: int
    after: AccountView
    audit: "AuditEntry"


@dataclass(slots=True)
class UserErased:
    """A user whose id an alias stands for now. The engine fills in, in the transaction that erases: `counts`, the rows
    of each kind that were theirs, `remaining`, in how many places the id was still found afterwards, and whether the
    tenant has a group of the same id: it is another account, and its places are among them."""

    tenant: str
    user: str
    alias: str
    audit: "AuditEntry"
    counts: dict[str, int] = field(default_factory=dict)
    remaining: int | None = None
    is_group_too: bool = False


@dataclass(slots=True)
class LimitsChanged:
    """The account's limits before and after an override changed, a rate was cleared or an event was taken back."""

    before: AccountView
    after: AccountView
    audit: "AuditEntry"


@dataclass(slots=True)
class MembersChanged:
    """A group after somebody was added, removed or given another role; `founded` where that made it."""

    account: AccountKey
    seats_used: int
    seats_max: Maximum | None
    founded: bool
    audit: "AuditEntry"


@dataclass(slots=True)
class TokensRevoked:
    """The entry of the audit trail; every process refuses the tokens within a second."""

    audit: "AuditEntry"


@dataclass(slots=True)
class PlansPublished:
    """The current version of each plan, those that are new, those of the file that are not offered as they are there
    (edited or `archived` at run time), and those that went back to a version that was there before."""

    versions: Mapping[str, int]
    published: Sequence[str]
    held_back: Sequence[str]
    is_first: bool
    archived: Sequence[str] = ()
    brought_back: Sequence[str] = ()


@dataclass(slots=True)
class PlanEdited:
    """The plan as it is now; archived it is no longer offered."""

    plan: Plan
    is_archived: bool
    audit: "AuditEntry"


@dataclass(slots=True)
class PlanMigrated:
    """The version accounts were moved to, and how many. `last` is the account to go on behind; None where all are
    done. The entry of the audit trail is that of the plan, by the first command."""

    plan: Plan
    moved: int
    last: AccountKey | None
    audit: "AuditEntry | None"


@dataclass(slots=True)
class InvoicesClosed:
    """How many invoices were closed, and those that are to be paid now, oldest first: none while a payment is
    overdue."""

    closed: int
    to_pay: list[Invoice]


@dataclass(slots=True)
class InvoicePaid:
    """The invoice as it was paid, now or before."""

    invoice: Invoice


@dataclass(slots=True)
class AlertsMarked:
    """How many alerts were unread until then."""

    marked: int


@dataclass(slots=True)
class ThresholdsSet:
    """The thresholds an account is alerted at from now on."""

    thresholds: tuple[int, ...]
    audit: "AuditEntry"


@dataclass(slots=True)
class OutageReported:
    """The alert there is now; None where one of the same hour tells of it already."""

    alert: "Alert | None"


@dataclass(slots=True)
class Deliveries:
    """The messages a command was about, as they are afterwards."""

    deliveries: "list[Delivery]"


Outcome = (
    AccountView
    | Decided
    | SessionDecided
    | SessionClosed
    | PlanChanged
    | StatusChanged
    | SessionsEnded
    | UserErased
    | LimitsChanged
    | MembersChanged
    | TokensRevoked
    | PlansPublished
    | PlanEdited
    | PlanMigrated
    | InvoicesClosed
    | InvoicePaid
    | AlertsMarked
    | ThresholdsSet
    | OutageReported
    | Deliveries
    | Refusal
)
"""A `Refusal` is returned, not raised: it is one command's outcome in a batch of many."""


@dataclass(slots=True, eq=False)
class Grant:
    """Extra allowance of one limit: `quantity` in all, in effect from `starts_at` until `ends_at`. `uses` is what it
    gave in each period of the window, by the period's start; of a level nothing is used up."""

    id: str
    meter: str
    window: str
    scope: Scope
    quantity: int
    starts_at: Instant
    ends_at: Instant | None
    uses: dict[Instant, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.quantity - sum(self.uses.values())

    def is_in_effect(self, at: Instant) -> bool:
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)


GrantUse = tuple[str, Instant, int]
"""What an event took of a grant, in the period that began then; below 0 it gave it back."""


@dataclass(slots=True)
class UsageEvent:
    """One event as recorded; never edited. One that `corrects` another takes it back, and gains what that one lost.
    `price` is the one it was counted with."""

    id: str
    tenant: str
    account_kind: AccountKind
    account: str
    user: str
    event: str
    plan: str
    plan_version: int
    quantity: int
    attributes: Attributes
    gains: Mapping[str, int]
    source: str
    occurred_at: Instant
    recorded_at: Instant
    corrects: str | None = None
    corrected_by: str | None = None
    price: UnitPrice | None = None
    grants: Sequence[GrantUse] = ()

    @property
    def number(self) -> int:
        """How many events it is: one less where it takes one back."""
        return 1 if self.corrects is None else -1


@dataclass(slots=True)
class AuditEntry:
    """Who changed what and why, with the state before and after; never edited."""

    id: str
    tenant: str
    account_kind: AccountKind
    account: str
    user: str
    action: str
    actor: Actor
    reason: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    at: Instant


@dataclass(slots=True)
class Revocation:
    """Access tokens that are no longer accepted; never edited. `seq` is its place in the ledger, once saved."""

    id: str
    tenant: str | None
    subject: str | None
    token_id: str | None
    issued_before: Instant
    at: Instant
    seq: int = 0


@dataclass(slots=True)
class Alert:
    """That a threshold of a limit was reached, or (without one) that the service needs somebody. Only `read_at` ever
    changes. Whose it is: a user's, an account's as a whole (`user` ''), a tenant's (`account` ''), or (`tenant` '')
    everybody's."""

    id: str
    tenant: str
    account_kind: AccountKind
    account: str
    user: str
    meter: str
    window_key: str
    window_start: Instant
    scope: Scope
    threshold_percent: int | None
    severity: Severity
    message: str
    recommendation: str
    suggested_plan: str | None
    used: int | None
    maximum: int | None
    created_at: Instant
    read_at: Instant | None = None

    @property
    def window(self) -> str:
        return self.window_key.partition("@")[0]


DeliveryState = Literal["pending", "delivered", "dead"]


@dataclass(slots=True)
class Delivery:
    """One message to the webhook: its body as it is sent each time, and what became of it. `last_error` is a code of
    ours; nothing of an answer is kept."""

    id: str
    tenant: str
    event: str
    payload: str
    created_at: Instant
    state: DeliveryState
    attempts: int
    next_attempt_at: Instant
    lease: str | None = None
    last_error: str | None = None
    ended_at: Instant | None = None


def refused(code: Code, message: str, *problems: FieldProblem) -> Refusal:
    return Refusal(code, message, fields=list(problems))
