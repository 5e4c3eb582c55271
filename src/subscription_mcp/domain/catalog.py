"""The catalog: meters, plans, limits, features, prices and tool rules, as values that never change.

A plan is versioned: once subscribed to, a version stays what it was. `catalog_file.py` reads the TOML form.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from subscription_mcp.domain.windows import BillingPeriod, Level, Window

if TYPE_CHECKING:
    from subscription_mcp.domain.pricing import UnitPrice

QUANTITY_MAX = 10**12
"""The largest quantity of one event, in the meter's unit."""
TOTAL_MAX = 2**53 - 1
"""The largest total of a counter: the largest integer every JSON reader keeps exact."""


class Unlimited(Enum):
    """No maximum: a value of its own, not a big number."""

    UNLIMITED = "unlimited"


UNLIMITED = Unlimited.UNLIMITED
Maximum = int | Unlimited
Scope = Literal["user", "account"]
Aggregate = Literal["sum", "count", "sum_of", "level", "cost"]
AttributeType = Literal["text", "integer"]
Attributes = Mapping[str, str | int]
FeatureValue = bool | int | str
LEVEL = Level()


ALERT_THRESHOLDS = (80, 90, 100)
"""At how many percent of a limit a plan alerts that says nothing about it."""
THRESHOLDS_MAX = 10
THRESHOLD_PERCENT_MAX = 1000
"""Beyond 100: of what is recorded anyway."""

DIMENSIONS = ("provider", "model", "tool", "client")
"""Attributes every event may carry and usage can be grouped by."""
QUANTITY = "quantity"
"""What an estimate that is no attribute's is one of."""


@dataclass(frozen=True)
class EventType:
    """A kind of event and the attributes it may carry. `estimate` is what of it may be estimated: the attribute, or
    the quantity, by what it is estimated from (`estimation.RULES`)."""

    name: str
    attributes: Mapping[str, AttributeType] = field(default_factory=dict)
    estimate: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def attributes_known(self) -> Mapping[str, AttributeType]:
        """Its own attributes and those every event may carry."""
        return {**dict.fromkeys(DIMENSIONS, "text"), **self.attributes}


@dataclass(frozen=True, slots=True)
class Meter:
    """How events become a number: the sum of their quantity, how many there were, the sum of integer
    attributes, a level their quantity moves up and down, or what they cost in micro-units of the catalog's currency;
    only events that pass the filter count."""

    name: str
    unit: str
    event: str
    aggregate: Aggregate = "sum"
    attributes: tuple[str, ...] = ()
    where: tuple[tuple[str, tuple[str | int, ...]], ...] = ()

    def gain(
        self, event: str, quantity: int, attributes: Attributes, price: "UnitPrice | None" = None
    ) -> int | None:
        """What one event of that price adds, or None where it does not concern this meter."""
        if event != self.event:
            return None
        for name, accepted in self.where:
            if attributes.get(name) not in accepted:
                return None
        if self.aggregate == "count":
            return 1
        if self.aggregate == "sum_of":
            values = (attributes.get(name, 0) for name in self.attributes)
            return sum(value for value in values if isinstance(value, int))
        if self.aggregate == "cost":
            return 0 if price is None else price.cost_micros(quantity, attributes)
        return quantity

    def is_said(self, attributes: Attributes, price: "UnitPrice | None") -> bool:
        """Whether an event says how much it adds, be it 0. Where nobody knows its price, no attribute would say what it
        costs."""
        if self.aggregate == "sum_of":
            if any(name in attributes for name in self.attributes):
                return True
            return price is not None and price.rules_out(self.attributes)
        return not self.is_cost or price is None or price.is_said(attributes)

    @property
    def is_level(self) -> bool:
        return self.aggregate == "level"

    @property
    def is_cost(self) -> bool:
        return self.aggregate == "cost"

    def as_dict(self) -> dict[str, Any]:
        """All that says how it counts, as plain JSON."""
        return {
            "unit": self.unit,
            "event": self.event,
            "aggregate": self.aggregate,
            "attribute": list(self.attributes),
            "where": {name: list(accepted) for name, accepted in self.where},
        }


@dataclass(frozen=True, slots=True)
class Overage:
    """What one unit beyond a limit costs, and how many there may be; None is as many as are used."""

    price_micros: int
    currency: str
    units_max: int | None = None


@dataclass(frozen=True)
class Limit:
    """A maximum for one meter in one window, for each user or for the whole account. With `overage` it is what the
    price of the plan includes: more is allowed, and costs extra."""

    meter: str
    window: Window
    maximum: Maximum
    scope: Scope = "user"
    overage: Overage | None = None
    granted: int = 0
    """How much of the maximum was granted on top of the plan's own."""

    @cached_property
    def key(self) -> tuple[str, str, Scope]:
        return self.meter, self.window.name, self.scope

    @cached_property
    def place(self) -> tuple[str, str, Scope]:
        """Where it is counted: the meter, the window with its time zone, the scope."""
        return self.meter, self.window.key, self.scope

    @cached_property
    def included(self) -> int:
        """The largest total that costs nothing extra."""
        return TOTAL_MAX if self.maximum is UNLIMITED else self.maximum

    @cached_property
    def ceiling(self) -> int:
        """The largest total it allows."""
        if self.overage is None:
            return self.included
        most = self.overage.units_max
        return TOTAL_MAX if most is None else min(self.included + most, TOTAL_MAX)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in integer micro-units of an ISO 4217 currency: 29.00 USD is 29_000_000."""

    micros: int
    currency: str


@dataclass(frozen=True, slots=True)
class Price:
    """What a plan costs per interval; None where it is not sold that way."""

    monthly: Money | None = None
    yearly: Money | None = None
    per_seat: Money | None = None

    @property
    def is_free(self) -> bool:
        return all(part is None or part.micros == 0 for part in (self.monthly, self.yearly, self.per_seat))

    def of(self, interval: str) -> Money | None:
        return self.yearly if interval == "yearly" else self.monthly


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What calls of one model, or of a provider as a whole, cost; None where it has no such price.

    Tokens are priced by the million, so that whole micro-units lose nothing: 0.00000015 USD for one token is
    150_000 micros for a million. `per_unit` is the price of one of what `unit` names, like one search; `per_million` are
    those of attributes that have one of their own (`pricing.PRICED_BY_MILLION`), by name.
    """

    provider: str
    model: str | None
    title: str
    input_per_million_tokens: Money | None = None
    output_per_million_tokens: Money | None = None
    per_unit: Money | None = None
    unit: str | None = None
    per_million: tuple[tuple[str, Money], ...] = ()

    @property
    def currency(self) -> str:
        """That of all its parts, of which there is at least one."""
        parts = (self.input_per_million_tokens, self.output_per_million_tokens, self.per_unit)
        return next(
            part.currency for part in (*parts, *(each for _, each in self.per_million)) if part is not None
        )


@dataclass(frozen=True, slots=True)
class Sessions:
    """How many sessions may be open at once and how long one lasts."""

    max_concurrent: Maximum = UNLIMITED
    max_duration_seconds: Maximum = UNLIMITED


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a plan. `definition` is the table it was read from: what is stored and compared."""

    key: str
    title: str
    price: Price
    limits: tuple[Limit, ...]
    features: Mapping[str, FeatureValue]
    sessions: Sessions
    timezone: str
    definition: Mapping[str, Any]
    version: int = 0
    seats_max: Maximum | None = None
    rate_limit_multiplier: str = "1"
    trial_days: int | None = None
    """It is a trial that lasts so long; None where it is none."""
    changes_to: tuple[str, ...] | None = None
    """The plans its holder may move to; None is all of them."""
    provider_price_ids: Mapping[str, str] = field(default_factory=dict)
    """What the payment provider calls the price: by `monthly`, `yearly`, `per_seat`."""
    alert_thresholds: tuple[int, ...] = ALERT_THRESHOLDS
    """At how many percent of its limits it alerts, smallest first."""

    @property
    def may_charge(self) -> bool:
        """Whether it can come to cost something by itself: a price, or what is used beyond a limit."""
        return not self.price.is_free or any(limit.overage is not None for limit in self.limits)

    def limit_for(self, meter: str, window: str, scope: Scope | None = None) -> Limit | None:
        return next(
            (
                limit
                for limit in self.limits
                if limit.meter == meter and limit.window.name == window and scope in (None, limit.scope)
            ),
            None,
        )

    def with_version(self, version: int) -> "Plan":
        return replace(self, version=version)


def thresholds_problem(thresholds: Sequence[int]) -> str | None:
    """What is wrong with a list of thresholds, as a rule; None where nothing is."""
    if len(thresholds) > THRESHOLDS_MAX or sorted({*thresholds}) != list(thresholds):
        return f"must be at most {THRESHOLDS_MAX} different percents, smallest first"
    if any(not 1 <= threshold <= THRESHOLD_PERCENT_MAX for threshold in thresholds):
        return f"must be whole percents from 1 to {THRESHOLD_PERCENT_MAX}"
    return None


TOOL_NAMES = (
    *("get_tier_info", "upgrade_tier", "manage_subscription", "get_usage_analytics", "list_usage_events"),
    *("check_quota", "record_usage", "record_usage_batch", "reserve_usage", "settle_usage", "open_session"),
    *("renew_session", "close_session", "has_feature", "list_plans", "list_alerts", "get_billing_history"),
    *("manage_limits", "manage_members", "manage_plans", "manage_accounts", "export_usage"),
)
"""The tools a rule may withhold; those of other servers are written `gate:NAME`."""
GATE_PREFIX = "gate:"
ALWAYS_OFFERED = ("get_tier_info", "check_quota", "list_plans", "list_alerts", "upgrade_tier")
"""Tools no plan can be without, else nobody could ever upgrade."""


@dataclass(frozen=True, slots=True)
class ToolRule:
    """Tools whose name matches the pattern are withheld from plans without the feature."""

    pattern: str
    feature: str


@dataclass(frozen=True)
class Catalog:
    """One server's catalog. `plans` holds the newest version of each plan, in the order of the file; `prices` is
    the price book, as the file has it."""

    name: str
    title: str
    currency: str
    timezone: str
    default_plan: str | None
    events: Mapping[str, EventType]
    meters: Mapping[str, Meter]
    features: Mapping[str, str]
    plans: Mapping[str, Plan]
    tool_rules: tuple[ToolRule, ...] = ()
    prices: tuple[ModelPrice, ...] = ()
    source: str = field(default="", compare=False)
    """What errors call the file."""
    alert_thresholds: tuple[int, ...] | None = None
    """Of the plans that have none of their own; None is `ALERT_THRESHOLDS`."""

    def with_plans(self, plans: Mapping[str, Plan]) -> "Catalog":
        return replace(self, plans=plans)

    @cached_property
    def plans_by_price(self) -> tuple[Plan, ...]:
        """Cheapest first by monthly price (a yearly-only plan by a twelfth); the file's order breaks ties."""
        return tuple(sorted(self.plans.values(), key=monthly_micros))

    @cached_property
    def plans_to_buy(self) -> tuple[Plan, ...]:
        """The plans somebody can move to, cheapest first: a trial only begins by itself, or is given."""
        return tuple(plan for plan in self.plans_by_price if plan.trial_days is None)

    @cached_property
    def meters_of_event(self) -> Mapping[str, tuple[Meter, ...]]:
        return {name: tuple(m for m in self.meters.values() if m.event == name) for name in self.events}

    @cached_property
    def cost_meters_of_event(self) -> Mapping[str, tuple[Meter, ...]]:
        """The meters of an event's cost, of the events that have one."""
        costs = {name: tuple(m for m in meters if m.is_cost) for name, meters in self.meters_of_event.items()}
        return {name: meters for name, meters in costs.items() if meters}

    @cached_property
    def meters_of_quantity(self) -> Mapping[str, tuple[str, ...]]:
        """The names of an event's meters, where each always gains the quantity of the event."""
        return {
            name: tuple(m.name for m in meters)
            for name, meters in self.meters_of_event.items()
            if all(m.aggregate in ("sum", "level") and not m.where for m in meters)
        }

    @cached_property
    def events_that_fall(self) -> frozenset[str]:
        """The events whose quantity may be negative: every meter they move is a level."""
        return frozenset(
            name
            for name, meters in self.meters_of_event.items()
            if meters and all(m.is_level for m in meters)
        )

    def feature_of_tool(self, tool: str) -> str | None:
        """The feature a plan needs for a tool, or None where every plan has it."""
        return next((rule.feature for rule in self.tool_rules if fnmatchcase(tool, rule.pattern)), None)

    def plans_with_feature(self, feature: str) -> tuple[Plan, ...]:
        return tuple(plan for plan in self.plans_by_price if plan.features.get(feature))


def monthly_micros(plan: Plan) -> int:
    """A plan's rank by price."""
    if plan.price.monthly is not None:
        return plan.price.monthly.micros
    return plan.price.yearly.micros // 12 if plan.price.yearly is not None else 0


Counted = tuple[Window, Scope]
"""Where a meter is counted: in which window, for each user or for the account as a whole."""
OVERAGE, OVERAGE_CHARGE = "overage", "overage_charge"
"""What is counted beside a meter: its units beyond a limit, and what they cost, in micro-units."""
UNPRICED, ESTIMATED = "unpriced", "estimated"
"""And how many of its events had no price, and how much of it was only estimated."""
COUNTED_BESIDE = frozenset({OVERAGE, OVERAGE_CHARGE, UNPRICED, ESTIMATED})


def derived(meter: str, what: str) -> str:
    """The name under which something is counted beside a meter; no meter of a catalog can have it."""
    return f"{meter}:{what}"


def is_derived(meter: str) -> bool:
    return ":" in meter


def places_of(limit: Limit) -> Iterator[tuple[str, Window, Scope]]:
    """Which meters are counted where because of a limit. What lies in a billing period cannot be added up afterwards,
    as it may have begun elsewhere when it was used: it is counted in both scopes, for who is given a cap later. What
    is beyond it is counted where it is limited, and with what it costs in the account's billing period: for invoices."""
    scopes: tuple[Scope, ...] = (limit.scope,)
    if limit.window.name == BillingPeriod.name:
        scopes = ("user", "account")
    for scope in scopes:
        yield limit.meter, limit.window, scope
    if limit.overage is not None:
        units = derived(limit.meter, OVERAGE)
        yield units, limit.window, limit.scope
        if (limit.window.name, limit.scope) != (BillingPeriod.name, "account"):
            yield units, BillingPeriod(), "account"
        yield derived(limit.meter, OVERAGE_CHARGE), BillingPeriod(), "account"


def places_counted(meters: Mapping[str, Meter], plans: Iterable[Plan]) -> dict[str, tuple[Counted, ...]]:
    """Where each meter is counted for everybody: wherever some plan limits it, so that a change of plan finds
    what was used before it; and every level."""
    places: dict[str, dict[tuple[str, Scope], Counted]] = {
        meter.name: {(LEVEL.key, "user"): (LEVEL, "user")} if meter.is_level else {}
        for meter in meters.values()
    }
    for plan in plans:
        for limit in plan.limits:
            for meter, window, scope in places_of(limit):
                places.setdefault(meter, {}).setdefault((window.key, scope), (window, scope))
    return {name: tuple(found.values()) for name, found in places.items()}
