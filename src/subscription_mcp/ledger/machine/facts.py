"""What the machine knows of the ledger, and what it wants to change in it: values, no rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from subscription_mcp.domain.catalog import (
    LEVEL,
    Attributes,
    Catalog,
    Counted,
    Maximum,
    Plan,
    Scope,
)
from subscription_mcp.domain.instants import DAY, MINUTE, Instant
from subscription_mcp.domain.invoices import Billing, HistoryRow, Invoice
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.rolling import Cells, used_within, with_use, without_use
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import (
    AccountKey,
    Membership,
    Subscription,
    Trial,
)
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.domain.windows import Anchor, Interval, Period, Window
from subscription_mcp.ledger.commands import (
    Alert,
    AnswerKey,
    AuditEntry,
    Delivery,
    Grant,
    Revocation,
    Subject,
    UsageEvent,
    UserErased,
)

KEY_RETENTION = 35 * DAY
"""How long an idempotency key is remembered, and how late an event may be reported."""
SESSION_RETENTION = 400 * DAY
"""How long after its end a session is known, which is as far as a report reaches."""
FUTURE_TOLERANCE = 5 * MINUTE
CONFIRMATION_LIFETIME = 10 * MINUTE
NO_CELL = -1
"""In place of a cell of response times, where none was told."""

NO_ANCHOR = Anchor(0)


class CounterKey(NamedTuple):
    """One running total: the tenant first, then the time, then whose it is (`user` is '' for a group as a
    whole; a personal account is its one user)."""

    tenant: str
    start: Instant
    window_key: str
    account_kind: str
    account: str
    user: str
    meter: str


class MarkKey(NamedTuple):
    """A limit in a period of its window, as alerts go: where it is counted and in which scope; with a `subject` a trouble
    of the service."""

    place: CounterKey
    scope: Scope
    subject: str = ""


Dimensions = tuple[str | None, ...]
"""What usage can be grouped by: the event, the plan and the `DIMENSIONS` in order."""


HolderKey = tuple[AccountKey, str]
"""A user of an account, or with '' the account as a whole."""


@dataclass(slots=True, eq=False)
class Holder:
    """Whose usage it is. `place` is what the engine knows it by, for as long as these facts are remembered."""

    key: HolderKey
    place: Any = None


RollupKey = tuple[Holder, Instant, str, Dimensions]
"""One cell of the rollup: whose usage, the quarter of an hour, the meter, and what it is grouped by."""


@dataclass(slots=True)
class StoredAnswer:
    """What an idempotency key did the first time."""

    digest: bytes
    answer: str
    at: Instant


class Hold(NamedTuple):
    """Quantity of one counter kept for a reservation until it expires."""

    quantity: int
    expires_at: Instant


@dataclass(slots=True, eq=False)
class Counter:
    """A running total as it is known: what is used and what reservations hold. That of a rolling window, which
    has a `length`, is in its cells, and nothing that was used before it was cleared by hand (`cleared_at`, 0 if
    never) counts in it. One that is not `kept` is only looked at because of an override: it is
    added up from what is saved each time. `place` is what the engine knows it by."""

    key: CounterKey
    used: int = 0
    holds: dict[str, Hold] = field(default_factory=dict)
    length: Instant | None = None
    cells: Cells = ()
    cleared_at: Instant = 0
    kept: bool = True
    place: Any = None
    meter: str = field(init=False)

    def __post_init__(self) -> None:
        self.meter = self.key.meter

    def used_at(self, now: Instant) -> int:
        return self.used if self.length is None else used_within(self.cells, self.length, now)

    def held(self, now: Instant, *, besides: str | None = None) -> int:
        """What reservations hold; one that has expired gives back by itself."""
        if not self.holds:
            return 0
        return sum(
            hold.quantity for id_, hold in self.holds.items() if now < hold.expires_at and id_ != besides
        )

    def add(self, gain: int, at: Instant, now: Instant) -> None:
        """Count something that happened at `at`."""
        if self.length is None:
            self.used += gain
        elif self.cleared_at <= at:
            self.cells = with_use(self.cells, at, gain, self.length, now)

    def take_back(self, quantity: int, at: Instant, now: Instant) -> None:
        """Have a use that counted in the cells since `at` in them no longer."""
        assert self.length is not None
        if self.cleared_at <= at and now < at + self.length:
            self.cells = without_use(self.cells, at, quantity)


@dataclass(slots=True)
class Reservation:
    """Quantity held now and settled later. `held` is what it holds of which counter: a settle counts in the
    windows it was held in. `answer` is what settling it answered, once."""

    id: str
    account: AccountKey
    user: str
    event: str
    quantity: int
    attributes: Attributes
    plan: str
    plan_version: int
    source: str
    reserved_at: Instant
    expires_at: Instant
    held: Mapping[CounterKey, int]
    price: UnitPrice | None = None
    estimated: tuple[str, ...] = ()
    digest: bytes | None = None
    answer: str | None = None


@dataclass(slots=True)
class Offer:
    """A change of plan somebody may confirm: to the terms that were shown, not to whatever holds later."""

    actor: str
    digest: bytes
    terms: str
    expires_at: Instant
    used_at: Instant | None = None


@dataclass(slots=True)
class Override:
    """A maximum set by hand in place of the plan's."""

    maximum: Maximum
    expires_at: Instant | None


class GroupSize(NamedTuple):
    """How many users a group has, and how many of them administer it."""

    users: int = 0
    admins: int = 0


class TenantSize(NamedTuple):
    """How many there are of what `Bounds` bounds."""

    users: int = 0
    dimensions: int = 0


class Payment(NamedTuple):
    """What a provider was paid for an invoice."""

    account: AccountKey
    number: str
    provider: str
    reference: str
    paid_at: Instant


PlanOrigin = Literal["file", "runtime"]


@dataclass(slots=True)
class PlanHead:
    """The newest version of a plan and where it came from."""

    version: int
    digest: str
    origin: PlanOrigin


class NewVersion(NamedTuple):
    """A version of a plan to be kept."""

    plan: Plan
    digest: str
    origin: PlanOrigin
    at: Instant


class Holding(NamedTuple):
    """How many accounts have a version of a plan, or will by what is scheduled, in an interval. Those that have ended
    are not among them."""

    plan: str
    version: int
    interval: Interval
    accounts: int


class ToMigrate(NamedTuple):
    """Which accounts are to be moved to a version: at most `size` of those behind `after`, in their order."""

    plan: str
    version: int
    from_version: int | None
    after: AccountKey | None
    size: int


OverrideKey = tuple[str, str, Scope]
CountedPlace = tuple[str, str, Scope]
"""A meter, the key of a window, and a scope."""


TrialKind = Literal["personal", "group", "founder"]
"""Whose trial: a user's, a group's, or that of a group as it counts for the user who began it."""


@dataclass
class Facts:
    """What is known of the ledger. A key that is absent is not loaded; None or 0 means there is none."""

    catalog: Catalog
    catalog_name: str | None = None
    """The catalog the ledger counts by; None before the first was published."""
    plan_heads: dict[str, PlanHead] = field(default_factory=dict)
    plan_versions: dict[tuple[str, str], int] = field(default_factory=dict)
    """The version of a plan that has a digest."""
    plans: dict[tuple[str, int], Plan] = field(default_factory=dict)
    plans_archived: dict[str, Instant] = field(default_factory=dict)
    meters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """How each meter counts or counted, also those that are gone from the catalog."""
    holdings: dict[None, list["Holding"]] = field(default_factory=dict)
    """Who holds what, over all accounts: true for one command only, like those that follow."""
    meters_used: dict[str, bool] = field(default_factory=dict)
    to_migrate: dict["ToMigrate", list[AccountKey]] = field(default_factory=dict)
    billing: dict[AccountKey, Billing] = field(default_factory=dict)
    """All that was ever charged to an account; true for one command only, too."""
    members: dict[tuple[str, str], Membership | None] = field(default_factory=dict)
    removed: dict[tuple[str, str, str], Instant | None] = field(default_factory=dict)
    """Who was removed from which group, by tenant, user and group: access tokens issued up to then, in real time, do
    not bring them back."""
    groups: dict[tuple[str, str], GroupSize] = field(default_factory=dict)
    named: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Whether anything of a tenant is a user's or was done by them; true for one batch."""
    subscriptions: dict[AccountKey, Subscription | None] = field(default_factory=dict)
    last_rows: dict[AccountKey, HistoryRow | None] = field(default_factory=dict)
    """The last row of an account's history."""
    histories: dict[AccountKey, list[HistoryRow]] = field(default_factory=dict)
    """What each account held as long ago as something may be told late, and what it held before that."""
    trials: dict[tuple[str, str], Trial | None] = field(default_factory=dict)
    """Trials had before, by tenant and `trial_of`."""
    overrides: dict[HolderKey, dict[OverrideKey, Override]] = field(default_factory=dict)
    grants: dict[HolderKey, list[Grant]] = field(default_factory=dict)
    """Those that an event may still need."""
    grants_of_old: dict[HolderKey, list[Grant]] = field(default_factory=dict)
    """All that have an end, for one batch: only a correction asks for them."""
    counters: dict[CounterKey, Counter] = field(default_factory=dict)
    answers: dict[AnswerKey, StoredAnswer | None] = field(default_factory=dict)
    events: dict[tuple[str, str], UsageEvent | None] = field(default_factory=dict)
    """Events by tenant and id, and like the next one only for the batch that asks."""
    anchors: dict[tuple[AccountKey, Instant, Instant], frozenset[Anchor]] = field(default_factory=dict)
    """From where the billing periods of an account may have been counted for what occurred and was recorded then."""
    offers: dict[tuple[str, bytes], Offer | None] = field(default_factory=dict)
    pending_offers: dict[tuple[str, str], dict[bytes, Instant]] = field(default_factory=dict)
    """The offers of a tenant's caller that may still be confirmed, and until when."""
    tenants: dict[str, TenantSize] = field(default_factory=dict)
    dimensions: dict[tuple[str, Dimensions], bool] = field(default_factory=dict)
    """Whether usage of a tenant was ever grouped by these."""
    reservations: dict[tuple[str, str], Reservation | None] = field(default_factory=dict)
    sessions: dict[tuple[str, str], Session | None] = field(default_factory=dict)
    open_sessions: dict[HolderKey, dict[str, Session]] = field(default_factory=dict)
    alert_marks: dict[MarkKey, Mapping[int, Instant]] = field(default_factory=dict)
    """Which thresholds have alerted, and until when usage is, or was, at or above them."""
    alert_settings: dict[AccountKey, tuple[int, ...] | None] = field(default_factory=dict)
    """Thresholds of an account in place of its plan's."""
    alerts: dict[tuple[str, str], Alert | None] = field(default_factory=dict)
    """By tenant and id and for one batch, like the messages of `deliveries`."""
    deliveries: dict[str, Delivery | None] = field(default_factory=dict)
    deliveries_due: dict[int, list[Delivery]] = field(default_factory=dict)
    """True for one command only, like those that are dead or named."""
    deliveries_dead: dict[tuple[str, ...] | None, list[Delivery]] = field(default_factory=dict)
    now: Instant = 0
    """The instant of the batch: what had expired before it need not be loaded."""
    missing: dict[str, set[Any]] = field(default_factory=dict)
    periods: dict[tuple[Window, Anchor], Period] = field(default_factory=dict)
    places: Mapping[str, tuple[Counted, ...]] = field(default_factory=dict)
    """Where each meter is counted for everybody."""
    counted_since: dict[CountedPlace, Instant] = field(default_factory=dict)
    """Since when: since the first plan that limits it there."""
    caps: dict[tuple[str, str, str, str], set[str]] = field(default_factory=dict)
    """Windows in which totals that are not kept were looked at, by tenant, group, user and meter."""
    bounds: Bounds = field(default_factory=Bounds)
    located: dict[Subject, Any] = field(default_factory=dict)
    """Worked out before, and true until the account's plan, members or overrides change."""
    located_in: dict[tuple[str, str], list[Subject]] = field(default_factory=dict)
    """Who was located in the accounts of a tenant and id."""

    def read(self, table: str, key: Any) -> Any:
        """The fact, or None after noting that it is missing."""
        try:
            return getattr(self, table)[key]
        except KeyError:
            self.missing.setdefault(table, set()).add(key)
            return None

    def keep_located(self, subject: Subject, account: AccountKey, located: Any) -> None:
        self.located[subject] = located
        self.located_in.setdefault((account.tenant, account.account), []).append(subject)

    def forget_located(self, tenant: str, *accounts: str | None) -> None:
        """What decides about accounts changes: all that was worked out from it is worked out again."""
        for account in accounts:
            if account is not None:
                for subject in self.located_in.pop((tenant, account), ()):
                    self.located.pop(subject, None)

    def forget_all_located(self) -> None:
        self.located.clear()
        self.located_in.clear()

    def forget_what_is_asked_once(self) -> None:
        """Hardly any idempotency key comes again; kept here they would be most of what is kept."""
        self.answers.clear()
        self.events.clear()
        self.anchors.clear()
        self.named.clear()
        self.alerts.clear()
        self.deliveries.clear()
        self.grants_of_old.clear()

    def counter(self, key: CounterKey) -> Counter | None:
        """The running total, or None after noting that it is missing."""
        counter = self.counters.get(key)
        if counter is None:
            self.missing.setdefault("counters", set()).add(key)
            if self.kept_since(key) is None:
                self._remember_cap(key)
        return counter

    def _remember_cap(self, key: CounterKey) -> None:
        """What is remembered has to stay true, also while no cap looks at it."""
        caps = self.caps.setdefault((key.tenant, key.account, key.user, key.meter), set())
        if key.window_key not in caps:
            caps.add(key.window_key)
            self.forget_located(key.tenant, key.account)

    def forget_asked(self) -> None:
        """What was asked of all there is is another answer after the next command."""
        self.holdings.clear()
        self.meters_used.clear()
        self.to_migrate.clear()
        self.billing.clear()
        self.deliveries_due.clear()
        self.deliveries_dead.clear()

    @property
    def size(self) -> int:
        """How many facts are remembered."""
        tables = (self.members, self.subscriptions, self.overrides, self.counters, self.answers, self.periods)
        others = (
            self.grants,
            self.last_rows,
            self.histories,
            self.located,
            self.offers,
            self.pending_offers,
            self.dimensions,
            self.reservations,
            self.sessions,
            self.open_sessions,
            self.alert_marks,
            self.alert_settings,
        )
        return sum(len(table) for table in (*tables, *others))

    def kept_since(self, key: CounterKey) -> Instant | None:
        """Since when a running total is kept for everybody; None where it is not."""
        if key.window_key == LEVEL.key and key.user:
            return 0
        scopes: tuple[Scope, ...] = ("user", "account")
        if key.account_kind == "group":
            scopes = ("user",) if key.user else ("account",)
        known = (self.counted_since.get((key.meter, key.window_key, scope)) for scope in scopes)
        return min((since for since in known if since is not None), default=None)

    def period(self, window: Window, anchor: Anchor, at: Instant) -> Period:
        """The window's period at an instant; calendars are slow and most events fall into the last one."""
        key = (window, anchor if window.name == "billing_period" else NO_ANCHOR)
        period = self.periods.get(key)
        if period is None or not period.holds(at - anchor.nudge if window.name == "billing_period" else at):
            period = self.periods[key] = window.period_at(at, anchor)
        return period


@dataclass
class Changes:
    """What a batch does to the ledger, to be saved in one transaction."""

    events: list[tuple[Holder, UsageEvent]] = field(default_factory=list)
    counters: set[Counter] = field(default_factory=set)
    rollups: dict[RollupKey, list[int]] = field(default_factory=dict)
    answers: list[tuple[AnswerKey, StoredAnswer]] = field(default_factory=list)
    dimensions: list[tuple[str, Dimensions]] = field(default_factory=list)
    tenants: dict[str, TenantSize] = field(default_factory=dict)
    subscriptions: dict[AccountKey, Subscription] = field(default_factory=dict)
    history: list[tuple[AccountKey, HistoryRow]] = field(default_factory=list)
    history_replaced: list[tuple[AccountKey, str]] = field(default_factory=list)
    """Rows of a history, by id, in whose place there is a newer one."""
    billing_due: dict[AccountKey, Instant | None] = field(default_factory=dict)
    """When somebody has to look at what an account was charged; None is never."""
    invoices: list[tuple[AccountKey, Invoice]] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    trials: dict[tuple[str, str], tuple[TrialKind, Trial]] = field(default_factory=dict)
    members: dict[tuple[str, str], Membership | None] = field(default_factory=dict)
    removed: dict[tuple[str, str, str], Instant | None] = field(default_factory=dict)
    overrides: dict[tuple[HolderKey, OverrideKey], Override | None] = field(default_factory=dict)
    grants: dict[tuple[HolderKey, str], Grant] = field(default_factory=dict)
    """Grants that are new or end otherwise; what they gave is in `grant_uses`."""
    grant_uses: dict[tuple[str, str, Instant], int] = field(default_factory=dict)
    """By tenant, grant and the start of the period."""
    rates_cleared: dict[CounterKey, Instant] = field(default_factory=dict)
    """From when on use counts again in a rolling window."""
    offers: dict[tuple[str, bytes], Offer] = field(default_factory=dict)
    holds: dict[tuple[CounterKey, str], Hold | None] = field(default_factory=dict)
    reservations: dict[tuple[str, str], Reservation] = field(default_factory=dict)
    sessions: dict[tuple[str, str], Session] = field(default_factory=dict)
    plan_versions: list["NewVersion"] = field(default_factory=list)
    plans_archived: dict[str, Instant | None] = field(default_factory=dict)
    """None is offered again."""
    meters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    catalog_name: str | None = None
    published_at: Instant | None = None
    current_plans: list[tuple[str, int]] | None = None
    audits: list[AuditEntry] = field(default_factory=list)
    revocations: list[Revocation] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    alerts_read: dict[tuple[str, str], Alert] = field(default_factory=dict)
    alert_marks: dict[tuple[MarkKey, int], Instant] = field(default_factory=dict)
    alert_settings: dict[AccountKey, tuple[int, ...] | None] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    erased: UserErased | None = None
    denials: dict[tuple[HolderKey, Instant, str, str], int] = field(default_factory=dict)
    """How often more something was refused: whom, in which hour, the code, and the meter or ''."""
    responses: dict[tuple[HolderKey, Instant, str, bool, int], int] = field(default_factory=dict)
    """How many more took so long: whose, in which hour, the event, whether it failed, the cell of its duration."""

    def touched(self) -> frozenset[tuple[str, str]] | None:
        """Whose plan, limits or totals may be others now: tenant and id of accounts and users; None is everybody."""
        if self.current_plans is not None or self.erased is not None:
            return None
        found = {(key.tenant, key.account) for key in self.subscriptions}
        counted = (counter.key for counter in self.counters)
        for key in (*counted, *self.rates_cleared, *(key for key, _ in self.holds)):
            found |= {(key.tenant, key.account), (key.tenant, key.user)}
        for (account, user), _ in (*self.overrides, *self.grants):
            found |= {(account.tenant, account.account), (account.tenant, user)}
        for (tenant, user), membership in self.members.items():
            found |= {(tenant, membership.account), (tenant, user)} if membership else {(tenant, user)}
        found |= {(tenant, account) for tenant, _, account in self.removed}
        for alert in (*self.alerts, *self.alerts_read.values()):
            found |= {(alert.tenant, alert.account), (alert.tenant, alert.user)}
        found |= {(key.tenant, key.account) for key in self.alert_settings}
        return frozenset(found)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(slots=True)
class Turn:
    """What every command of a batch shares: the facts, the changes so far, the instant, and new ids."""

    facts: Facts
    changes: Changes
    now: Instant
    new_id: Callable[[], str]
    probing: bool = False

    @property
    def may_write(self) -> bool:
        """Every fact is there, and this is not only to find out which ones a command needs."""
        return not self.facts.missing and not self.probing
