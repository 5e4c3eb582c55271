"""The TOML form of a catalog, and the stored form of one plan.

A catalog is written by a person, so everything that can be wrong with it has a sentence: which file, which
key, what is wrong, and the nearest word that would be right. The first fault found is the one reported.

A plan leaves this module with its *definition*: the whole plan as plain JSON, resolved against the catalog it
came from. The ledger stores it and rebuilds the plan from it alone, years after the file has changed. A plan that is
edited at run time is a table as in the file, judged by the same code against the catalog the server runs with.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, get_args
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, ValidationError, model_validator

from subscription_mcp.domain.catalog import (
    ALERT_THRESHOLDS,
    ALWAYS_OFFERED,
    DIMENSIONS,
    GATE_PREFIX,
    QUANTITY,
    TOOL_NAMES,
    TOTAL_MAX,
    UNLIMITED,
    Aggregate,
    AttributeType,
    Catalog,
    EventType,
    FeatureValue,
    Limit,
    Maximum,
    Meter,
    ModelPrice,
    Money,
    Overage,
    Plan,
    Price,
    Scope,
    Sessions,
    ToolRule,
    thresholds_problem,
)
from subscription_mcp.domain.estimation import RULES
from subscription_mcp.domain.identifiers import NAME_RULE, is_name
from subscription_mcp.domain.instants import parse_duration
from subscription_mcp.domain.money import (
    MICROS,
    Amount,
    currency_of,
    format_amount,
    format_decimal,
    money_unit,
    parse_amount,
)
from subscription_mcp.domain.pricing import INPUT_TOKENS, OUTPUT_TOKENS, PRICED_BY_MILLION
from subscription_mcp.domain.providers import canonical_provider
from subscription_mcp.domain.usage import TEXT_LENGTH_MAX, is_plain_text
from subscription_mcp.domain.windows import MINUTE_WINDOW, WINDOW_NAMES, Level, Lifetime, parse_window

Path = tuple[str | int, ...]
KEY = "plan"
"""Where a table of a plan edited at run time has its key; in a file that is the table's name."""
PRICE_PARTS = ("monthly", "yearly", "per_seat")
TRIAL_DAYS_MAX = 400


class CatalogError(ValueError):
    """A catalog that cannot be used: where, what is wrong, and the nearest word that would be right.

    `source` names the file, `key` the place in it (empty where the file as a whole is meant). `rule` is the problem
    without the word that was written.
    """

    def __init__(
        self, source: str, key: str, problem: str, nearest: str | None = None, rule: str | None = None
    ) -> None:
        hint = f"; did you mean '{nearest}'?" if nearest else ""
        super().__init__(": ".join(part for part in (source, key, problem) if part) + hint)
        self.source = source
        self.key = key
        self.problem = problem
        self.nearest = nearest
        self.rule = f"{rule or problem}{hint}"


class _Fault(ValueError):
    """What is wrong at a path, before the file it is in is known. `rule` is the same without the word that was
    written, where the problem repeats it."""

    def __init__(
        self, problem: str, *, at: Path = (), nearest: str | None = None, rule: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at
        self.nearest = nearest
        self.rule = rule


def parse_catalog(text: str, *, source: str) -> Catalog:
    """The catalog a TOML text describes; `source` is what errors call it. Raises CatalogError."""
    with _faults_named(source):
        return _catalog(CatalogTable.model_validate(_toml(text)), source)


def plan_of_table(key: str, given: Mapping[str, Any], catalog: Catalog, newest: Plan | None = None) -> Plan:
    """A plan edited at run time: a table as in a catalog file, by the same rules. Over the `newest` version, what is
    given takes the place of what was, and None takes an optional key away. Raises CatalogError, its key relative to
    the plan."""
    with _faults_named(""):
        if not is_name(key):
            raise _Fault(f"must be {NAME_RULE}", at=(KEY,))
        table = {name: value for name, value in given.items() if name != KEY}
        if newest is not None:
            if "price" not in table:  # an amount is nothing without its currency
                catalog = replace(catalog, currency=newest.definition["currency"])
            kept = table_of_plan(newest, catalog)
            table = {name: value for name, value in {**kept, **table}.items() if value is not None}
        plan = plan_from_definition(key, 0, _definition(PlanTable.model_validate(table), catalog, ()))
        for index, other in enumerate(plan.changes_to or ()):
            _declared(other, [*catalog.plans, key], "plan", ("changes_to", index))
        if key == catalog.default_plan:
            _check_default_is_free(plan, ("price",))
        return plan


def table_of_plan(plan: Plan, catalog: Catalog) -> dict[str, Any]:
    """A plan as a table of the file, its key left out: what `plan_of_table` takes. Features the catalog no longer has
    are left out."""
    table = {name: value for name, value in plan.definition.items() if name != "currency"}
    table["features"] = {name: value for name, value in plan.features.items() if name in catalog.features}
    table["limits"] = [_limit_of_file(limit, catalog) for limit in table["limits"]]
    most, seconds = plan.sessions.max_concurrent, plan.sessions.max_duration_seconds
    duration = f"PT{seconds}S" if isinstance(seconds, int) else seconds.value
    table["sessions"] = {"max_concurrent": _stored(most), "max_duration": duration}
    return table


def _limit_of_file(limit: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """A limit as a person writes it: that of a cost is money."""
    meter, maximum = catalog.meters.get(limit["meter"]), limit["limit"]
    if meter is None or not meter.is_cost or not isinstance(maximum, int):
        return dict(limit)
    return {**limit, "limit": format_amount(maximum, catalog.currency)}


def plan_from_definition(key: str, version: int, definition: Mapping[str, Any]) -> Plan:
    """The plan a definition describes, without its catalog. Raises CatalogError."""
    with _faults_named(f"plan {key}, version {version}"):
        stored = PlanDefinition.model_validate(dict(definition))
    price = {
        part: None if micros is None else Money(micros, stored.currency)
        for part, micros in _parts(stored.price).items()
    }
    return Plan(
        key=key,
        title=stored.title,
        price=Price(**price),
        limits=tuple(_limit(limit, stored) for limit in stored.limits),
        features=stored.features,
        sessions=Sessions(stored.sessions.max_concurrent, stored.sessions.max_duration_seconds),
        timezone=stored.timezone,
        definition=definition,
        version=version,
        seats_max=None if stored.seats is None else stored.seats.max,
        rate_limit_multiplier=stored.rate_limit_multiplier,
        trial_days=None if stored.trial is None else stored.trial.days,
        changes_to=None if stored.changes_to is None else tuple(stored.changes_to),
        provider_price_ids=stored.provider_price_ids,
        alert_thresholds=ALERT_THRESHOLDS if stored.alerts is None else tuple(stored.alerts.thresholds),
    )


def _limit(limit: "LimitTable", plan: "PlanDefinition") -> Limit:
    window = parse_window(limit.window, plan.timezone)
    maximum = limit.maximum
    if window.name == MINUTE_WINDOW:
        maximum = _scaled(maximum, plan.rate_limit_multiplier)
    overage = None
    if limit.overage is not None:
        overage = Overage(limit.overage, plan.currency, limit.overage_max)
    return Limit(limit.meter, window, maximum, limit.scope, overage)


def _scaled(maximum: Maximum, multiplier: str) -> Maximum:
    """A rate is written as its base; the plan's multiplier scales it, rounded down to whole events."""
    if maximum is UNLIMITED:
        return maximum
    return min(maximum * parse_amount(multiplier) // MICROS, TOTAL_MAX)


def plan_digest(definition: Mapping[str, Any]) -> str:
    """SHA-256 of a definition's canonical JSON: equal exactly where two definitions say the same."""
    canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


# Single values. Each takes whatever TOML or JSON holds and returns what is stored, or raises a _Fault.


def _name(value: str) -> str:
    if not is_name(value):
        raise _Fault(f"a name must be {NAME_RULE}")
    return value


def _title(value: str) -> str:
    if not value.strip():
        raise _Fault("must not be empty")
    if not is_plain_text(value):
        raise _Fault(f"must be at most {TEXT_LENGTH_MAX} characters on one line, without control characters")
    return value


def _one_of(words: Iterable[str]) -> Callable[[Any], str]:
    accepted = tuple(words)

    def check(value: Any) -> str:
        if value not in accepted:
            raise _Fault(f"must be one of {', '.join(accepted)}", nearest=_nearest(value, accepted))
        return str(value)

    return check


def _window(value: Any) -> str:
    try:
        return parse_window(value if isinstance(value, str) else "", "UTC").name
    except ValueError as error:
        raise _Fault(str(error), nearest=_nearest(value, WINDOW_NAMES)) from None


def _maximum(value: Any) -> Maximum:
    if value == UNLIMITED.value:
        return UNLIMITED
    if type(value) is not int:
        raise _Fault('must be an integer or "unlimited"', nearest=_nearest(value, [UNLIMITED.value]))
    if value < 0:
        raise _Fault('must not be negative; for no maximum write "unlimited"')
    if value > TOTAL_MAX:
        raise _Fault(f'must be at most {TOTAL_MAX} (2**53 - 1); for no maximum write "unlimited"')
    return value


def _limit_value(value: Any) -> "Maximum | Amount":
    if isinstance(value, str) and value != UNLIMITED.value and value[:1].isdigit():
        return Amount(_amount(value))
    return _maximum(value)


def _seats(value: Any) -> Maximum:
    if (seats := _maximum(value)) == 0:
        raise _Fault("must be at least 1; leave seats out where a plan has none")
    return seats


def _thresholds(value: Any) -> list[int]:
    if not isinstance(value, list) or any(type(each) is not int for each in value):
        raise _Fault("must be a list of percents, like [80, 90, 100]")
    if (problem := thresholds_problem(value)) is not None:
        raise _Fault(problem)
    return value


def _days(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= TRIAL_DAYS_MAX:
        raise _Fault(f"must be a number of days from 1 to {TRIAL_DAYS_MAX}")
    return value


def _duration(value: Any) -> Maximum:
    if value == UNLIMITED.value:
        return UNLIMITED
    try:
        return parse_duration(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _Fault(f'{error}, or "unlimited"', nearest=_nearest(value, [UNLIMITED.value])) from None


def _amount(value: Any) -> int:
    if not isinstance(value, str):
        raise _Fault('must be a decimal string in quotes, like "29.00", not a number')
    try:
        micros = parse_amount(value)
    except ValueError as error:
        raise _Fault(str(error)) from None
    if micros < 0:
        raise _Fault("must not be negative")
    return micros


def _positive_amount(value: Any) -> int:
    if not (micros := _amount(value)):
        raise _Fault("must be more than 0")
    return micros


def _multiplier(value: Any) -> str:
    return format_decimal(_positive_amount(value))


def _units(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= TOTAL_MAX:
        raise _Fault(f"must be an integer from 1 to {TOTAL_MAX}; leave it out for no maximum")
    return value


def _currency(value: str) -> str:
    if not _is_currency(value):
        upper = value.upper()
        nearest = upper if _is_currency(upper) else None
        raise _Fault(
            f"unknown currency '{value}': must be three upper-case letters (ISO 4217)",
            nearest=nearest,
            rule="must be three upper-case letters (ISO 4217)",
        )
    return value


def _is_currency(text: str) -> bool:
    return re.fullmatch(r"[A-Z]{3}", text, re.ASCII) is not None


def _timezone(value: str) -> str:
    if value != "UTC" and value not in _timezones():
        raise _Fault(
            f"unknown time zone '{value}'",
            nearest=_nearest(value, _timezones()),
            rule="must be a time zone like Europe/Berlin",
        )
    return value


@cache
def _timezones() -> frozenset[str]:
    # "localtime" is whatever the machine says; a period must not depend on it.
    return frozenset(available_timezones() - {"localtime"})


def _accepted_values(value: Any) -> tuple[str | int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _Fault("must list at least one value")
    if any(type(each) not in (str, int) for each in values):
        raise _Fault("must be a text, an integer, or a list of them")
    return tuple(values)


def _attributes(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(each, str) for each in names) or len({*names}) < len(names):
        raise _Fault("must be the name of an attribute, or a list of different ones")
    return tuple(names)


def _plan_features(value: Any) -> list[str] | dict[str, FeatureValue]:
    if isinstance(value, dict):
        return {name: _feature_value(each, at=(name,)) for name, each in value.items()}
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise _Fault("must be a list of feature names, or a table from name to value")


def _feature_value(value: Any, at: Path = ()) -> FeatureValue:
    if type(value) not in (bool, int, str):
        raise _Fault("must be true, false, an integer or a text", at=at)
    if isinstance(value, str) and value and not is_plain_text(value):
        raise _Fault(
            f"must be at most {TEXT_LENGTH_MAX} characters on one line, without control characters", at=at
        )
    if not isinstance(value, str) and abs(value) > TOTAL_MAX:
        raise _Fault(f"must be at most {TOTAL_MAX} (2**53 - 1)", at=at)
    return value  # type: ignore[no-any-return]


Name = Annotated[str, AfterValidator(_name)]
Title = Annotated[str, AfterValidator(_title)]
Currency = Annotated[str, AfterValidator(_currency)]
Timezone = Annotated[str, AfterValidator(_timezone)]
Micros = Annotated[int, PlainValidator(_amount)]
Multiplier = Annotated[str, PlainValidator(_multiplier)]
ProviderPriceIds = dict[Annotated[str, PlainValidator(_one_of(PRICE_PARTS))], Title]
MaximumValue = Annotated[Maximum, PlainValidator(_maximum)]


# The tables of the file.


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, table: Any) -> Any:
        # `extra="forbid"` refuses as well, but after "missing" errors and without the nearest key.
        for key in table if isinstance(table, dict) else ():
            if key not in cls.model_fields:
                raise _Fault("unknown key", at=(key,), nearest=_nearest(key, cls.model_fields))
        return table


class EventTable(Table):
    attributes: dict[Name, Annotated[AttributeType, PlainValidator(_one_of(get_args(AttributeType)))]] = {}
    estimate: dict[Annotated[str, PlainValidator(_one_of(RULES))], str] = {}


class MeterTable(Table):
    unit: Title | None = None
    event: str
    aggregate: Annotated[Aggregate, PlainValidator(_one_of(get_args(Aggregate)))] = "sum"
    attribute: Annotated[tuple[str, ...], PlainValidator(_attributes)] = ()
    where: dict[str, Annotated[tuple[str | int, ...], PlainValidator(_accepted_values)]] = {}


class LimitTable(Table):
    meter: str
    window: Annotated[str, PlainValidator(_window)]
    limit: Annotated[Maximum | Amount, PlainValidator(_limit_value)]
    scope: Annotated[Scope, PlainValidator(_one_of(get_args(Scope)))] = "user"
    overage: Annotated[int, PlainValidator(_positive_amount)] | None = None
    overage_max: Annotated[int, PlainValidator(_units)] | None = None

    @property
    def maximum(self) -> Maximum:
        return self.limit.micros if isinstance(self.limit, Amount) else self.limit


class PriceTable(Table):
    monthly: Micros | None = None
    yearly: Micros | None = None
    per_seat: Micros | None = None


class SessionsTable(Table):
    max_concurrent: MaximumValue = UNLIMITED
    max_duration: Annotated[Maximum, PlainValidator(_duration)] = UNLIMITED


class SeatsTable(Table):
    max: Annotated[Maximum, PlainValidator(_seats)]


class AlertsTable(Table):
    thresholds: Annotated[list[int], PlainValidator(_thresholds)]


class TrialTable(Table):
    days: Annotated[int, PlainValidator(_days)]


class PlanTable(Table):
    title: Title
    price: PriceTable
    limits: list[LimitTable]
    features: Annotated[list[str] | dict[str, FeatureValue], PlainValidator(_plan_features)] = []
    sessions: SessionsTable = SessionsTable()
    seats: SeatsTable | None = None
    trial: TrialTable | None = None
    changes_to: list[str] | None = None
    rate_limit_multiplier: Multiplier = "1"
    timezone: Timezone | None = None
    provider_price_ids: ProviderPriceIds = {}
    alerts: AlertsTable | None = None


class ModelPriceTable(Table):
    provider: Title
    model: Title | None = None
    title: Title | None = None
    currency: Currency | None = None
    input_per_million_tokens: Micros | None = None
    output_per_million_tokens: Micros | None = None
    per_million: dict[Annotated[str, PlainValidator(_one_of(PRICED_BY_MILLION))], Micros] = {}
    per_unit: Micros | None = None
    unit: Title | None = None


class CatalogTable(Table):
    name: Name
    title: Title
    currency: Currency
    timezone: Timezone = "UTC"
    default_plan: str | None = None
    events: dict[Name, EventTable]
    meters: dict[Name, MeterTable]
    features: dict[Name, Title] = {}
    plans: dict[Name, PlanTable]
    tools: dict[Title, str] = {}
    prices: list[ModelPriceTable] = []
    alerts: AlertsTable | None = None


# The stored form of a plan. A key added later must be optional, so that what was stored before still loads.


class SessionsDefinition(Table):
    max_concurrent: MaximumValue
    max_duration_seconds: MaximumValue


class PlanDefinition(Table):
    title: Title
    currency: Currency
    timezone: Timezone
    price: PriceTable
    limits: list[LimitTable]
    features: dict[Name, Annotated[FeatureValue, PlainValidator(_feature_value)]]
    sessions: SessionsDefinition
    seats: SeatsTable | None = None
    rate_limit_multiplier: Multiplier
    trial: TrialTable | None = None
    changes_to: list[str] | None = None
    provider_price_ids: ProviderPriceIds = {}
    alerts: AlertsTable | None = None


# What one table cannot know: the words another one declares.


def _catalog(table: CatalogTable, source: str) -> Catalog:
    for section, declared in (("events", table.events), ("meters", table.meters), ("plans", table.plans)):
        if not declared:
            raise _Fault("must declare at least one", at=(section,))
    for name, event in table.events.items():
        for attribute in DIMENSIONS:
            if event.attributes.get(attribute, "text") != "text":
                raise _Fault(
                    "usage is grouped by it, so it is text", at=("events", name, "attributes", attribute)
                )
        _check_estimate(event, ("events", name, "estimate"))
    events = {name: EventType(name, event.attributes, event.estimate) for name, event in table.events.items()}
    meters = {name: _meter(name, meter, events, table.currency) for name, meter in table.meters.items()}
    catalog = Catalog(
        name=table.name,
        title=table.title,
        currency=table.currency,
        timezone=table.timezone,
        default_plan=table.default_plan,
        events=events,
        meters=meters,
        features=table.features,
        plans={},
        source=source,
        alert_thresholds=None if table.alerts is None else tuple(table.alerts.thresholds),
    )
    plans = {
        key: plan_from_definition(key, 0, _definition(plan, catalog, ("plans", key)))
        for key, plan in table.plans.items()
    }
    for key, plan in plans.items():
        for index, other in enumerate(plan.changes_to or ()):
            _declared(other, plans, "plan", ("plans", key, "changes_to", index))
    if table.default_plan is not None:
        _declared(table.default_plan, plans, "plan", ("default_plan",))
        _check_default_is_free(plans[table.default_plan], ("default_plan",))
    for pattern, feature in table.tools.items():
        _declared(feature, table.features, "feature", ("tools", pattern))
        _check_tool(pattern)
    return replace(
        catalog,
        plans=plans,
        tool_rules=tuple(ToolRule(pattern, feature) for pattern, feature in table.tools.items()),
        prices=_price_book(table.prices, catalog),
    )


def _check_estimate(event: EventTable, path: Path) -> None:
    for source, target in event.estimate.items():
        if target == QUANTITY:
            continue
        _declared(target, [*event.attributes, QUANTITY], "attribute", (*path, source))
        if event.attributes[target] != "integer":
            raise _Fault(f"cannot estimate '{target}': it is text", at=(*path, source))


def _price_book(tables: list[ModelPriceTable], catalog: Catalog) -> tuple[ModelPrice, ...]:
    currency, seen = catalog.currency, dict[tuple[str, str | None], int]()
    cost = next((meter for meter in catalog.meters.values() if meter.is_cost), None)
    for index, table in enumerate(tables):
        if cost is not None and table.currency not in (None, currency):
            raise _Fault(
                f"must be {currency}: the meter '{cost.name}' adds up what calls cost, and that is one currency",
                at=("prices", index, "currency"),
            )
        model = None if table.model is None else table.model.lower()
        first = seen.setdefault((canonical_provider(table.provider), model), index)
        if first != index:
            what = table.provider if table.model is None else f"{table.provider} {table.model}"
            raise _Fault(f"prices {what} again: prices[{first}] already does", at=("prices", index))
    return tuple(_model_price(table, currency, ("prices", index)) for index, table in enumerate(tables))


def _model_price(table: ModelPriceTable, currency: str, path: Path) -> ModelPrice:
    amounts = {
        "input_per_million_tokens": table.input_per_million_tokens,
        "output_per_million_tokens": table.output_per_million_tokens,
        "per_unit": table.per_unit,
    }
    if all(micros is None for micros in amounts.values()) and not table.per_million:
        raise _Fault(f"must have at least one of {', '.join(amounts)}, per_million", at=path)
    if table.per_unit is not None and table.unit is None:
        raise _Fault(
            'is missing: per_unit needs what it is the price of, like unit = "search"', at=(*path, "unit")
        )
    if table.per_unit is None and table.unit is not None:
        raise _Fault("only a price with per_unit has one", at=(*path, "unit"))
    currency = table.currency or currency
    prices = {name: None if micros is None else Money(micros, currency) for name, micros in amounts.items()}
    per_million = tuple((name, Money(micros, currency)) for name, micros in sorted(table.per_million.items()))
    title, provider = table.title or table.model or table.provider, canonical_provider(table.provider)
    return ModelPrice(provider, table.model, title, **prices, unit=table.unit, per_million=per_million)


def _check_tool(pattern: str) -> None:
    """A rule that names no tool would withhold nothing, silently."""
    path = ("tools", pattern)
    if pattern.startswith(GATE_PREFIX):
        return
    for tool in ALWAYS_OFFERED:
        if fnmatchcase(tool, pattern):
            raise _Fault(
                f"would withhold '{tool}', without which nobody could see a limit or upgrade", at=path
            )
    if not any(fnmatchcase(tool, pattern) for tool in TOOL_NAMES):
        raise _Fault(
            f"matches no tool; tools of other servers begin with '{GATE_PREFIX}'",
            at=path,
            nearest=_nearest(pattern, TOOL_NAMES),
        )


def _meter(name: str, table: MeterTable, events: Mapping[str, EventType], currency: str) -> Meter:
    path = ("meters", name)
    _declared(table.event, events, "event", (*path, "event"))
    attributes = events[table.event].attributes
    unit = _unit_of_meter(table, attributes, currency, path)
    if table.aggregate == "sum_of":
        if not table.attribute:
            raise _Fault(
                'is missing: aggregate = "sum_of" needs the attribute to add up', at=(*path, "attribute")
            )
        for attribute in table.attribute:
            _declared(attribute, attributes, "attribute", (*path, "attribute"))
            if attributes[attribute] != "integer":
                raise _Fault(f"cannot add up '{attribute}': it is text", at=(*path, "attribute"))
    elif table.attribute:
        raise _Fault('only a meter with aggregate = "sum_of" has one', at=(*path, "attribute"))
    for attribute, accepted in table.where.items():
        _declared(attribute, attributes, "attribute", (*path, "where", attribute))
        kind = str if attributes[attribute] == "text" else int
        if any(type(value) is not kind for value in accepted):
            raise _Fault(
                f"must match the attribute's type, {attributes[attribute]}", at=(*path, "where", attribute)
            )
    where = tuple((attribute, _filtered(attribute, accepted)) for attribute, accepted in table.where.items())
    return Meter(name, unit, table.event, table.aggregate, table.attribute, where)


def _unit_of_meter(
    table: MeterTable, attributes: Mapping[str, AttributeType], currency: str, path: Path
) -> str:
    if table.aggregate != "cost":
        if table.unit is None:
            raise _Fault("is missing", at=(*path, "unit"))
        if currency_of(table.unit):
            raise _Fault('is the unit of a cost: it needs aggregate = "cost"', at=(*path, "unit"))
        return table.unit
    unit = money_unit(currency)
    if table.unit not in (None, unit):
        raise _Fault(f"must be {unit}, or left out: a cost is counted in it", at=(*path, "unit"))
    for attribute in (INPUT_TOKENS, OUTPUT_TOKENS, *PRICED_BY_MILLION):
        if attributes.get(attribute, "integer") != "integer":
            raise _Fault(f"cannot price '{attribute}': it is text", at=(*path, "event"))
    return unit


def _filtered(attribute: str, accepted: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """What a filter accepts, where events are recorded under the one name of a provider."""
    if attribute != "provider":
        return accepted
    names = (canonical_provider(value) if isinstance(value, str) else value for value in accepted)
    return tuple(dict.fromkeys(names))


def _definition(plan: PlanTable, catalog: Catalog, path: Path) -> dict[str, Any]:
    """A plan's table, resolved against the catalog: what a plan does not have is left out, all else is spelled out."""
    _check_limits(plan.limits, catalog.meters, (*path, "limits"))
    for index, limit in enumerate(plan.limits):
        if (
            limit.maximum
            and limit.window == MINUTE_WINDOW
            and not _scaled(limit.maximum, plan.rate_limit_multiplier)
        ):
            raise _Fault(
                "is less than one a minute with the plan's rate_limit_multiplier",
                at=(*path, "limits", index, "limit"),
            )
    prices = _parts(plan.price)
    if plan.price.monthly is None and plan.price.yearly is None:
        raise _Fault('must have monthly or yearly, like { monthly = "29.00" }', at=(*path, "price"))
    definition: dict[str, Any] = {
        "title": plan.title,
        "currency": catalog.currency,
        "timezone": plan.timezone or catalog.timezone,
        "price": {
            part: format_amount(micros, catalog.currency)
            for part, micros in prices.items()
            if micros is not None
        },
        "limits": [_stored_limit(limit) for limit in plan.limits],
        "features": _features(plan.features, catalog.features, (*path, "features")),
        "sessions": {
            "max_concurrent": _stored(plan.sessions.max_concurrent),
            "max_duration_seconds": _stored(plan.sessions.max_duration),
        },
        "rate_limit_multiplier": plan.rate_limit_multiplier,
    }
    if plan.seats is not None:
        definition["seats"] = {"max": _stored(plan.seats.max)}
    if plan.trial is not None:
        if any(prices.values()):
            raise _Fault("a trial is free: what comes after it is upgraded to", at=(*path, "trial"))
        for index, limit in enumerate(plan.limits):
            if limit.overage is not None:
                raise _Fault(
                    "a trial is free: nothing beyond it can cost", at=(*path, "limits", index, "overage")
                )
        definition["trial"] = {"days": plan.trial.days}
    if plan.changes_to is not None:
        definition["changes_to"] = plan.changes_to
    if plan.provider_price_ids:
        definition["provider_price_ids"] = plan.provider_price_ids
    if plan.alerts is not None:
        definition["alerts"] = {"thresholds": plan.alerts.thresholds}
    elif catalog.alert_thresholds is not None:
        definition["alerts"] = {"thresholds": list(catalog.alert_thresholds)}
    return definition


def _stored_limit(limit: LimitTable) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "meter": limit.meter,
        "window": limit.window,
        "limit": _stored(limit.maximum),
        "scope": limit.scope,
    }
    if limit.overage is not None:
        stored["overage"] = format_decimal(limit.overage)
    if limit.overage_max is not None:
        stored["overage_max"] = limit.overage_max
    return stored


def _check_limits(limits: list[LimitTable], meters: Mapping[str, Meter], path: Path) -> None:
    seen: dict[tuple[str, str, str], int] = {}
    priced: dict[str, int] = {}
    for index, limit in enumerate(limits):
        _declared(limit.meter, meters, "meter", (*path, index, "meter"))
        if isinstance(limit.limit, Amount) and not meters[limit.meter].is_cost:
            raise _Fault(
                f"{limit.meter} is no amount of money: its limit must be an integer",
                at=(*path, index, "limit"),
            )
        is_level = meters[limit.meter].is_level
        if is_level is not (limit.window == Level.name):
            rule = "is a level: its window must be" if is_level else "is no level: its window cannot be"
            raise _Fault(f"{limit.meter} {rule} '{Level.name}'", at=(*path, index, "window"))
        first = seen.setdefault((limit.meter, limit.window, limit.scope), index)
        if first != index:
            what = f"{limit.meter} per {limit.window} and {limit.scope}"
            raise _Fault(f"limits {what} again: limits[{first}] already does", at=(*path, index))
        _check_overage(limit, (*path, index))
        if limit.overage is not None and meters[limit.meter].is_cost:
            raise _Fault(
                "what calls cost is paid as it is, not per unit beyond a limit", at=(*path, index, "overage")
            )
        if limit.overage is not None and (first := priced.setdefault(limit.meter, index)) != index:
            raise _Fault(
                f"one unit of {limit.meter} has one price: limits[{first}] already has an overage",
                at=(*path, index, "overage"),
            )


def _check_overage(limit: LimitTable, path: Path) -> None:
    if limit.overage is None:
        if limit.overage_max is not None:
            raise _Fault("needs overage, the price of one unit beyond the limit", at=(*path, "overage_max"))
        return
    if limit.limit is UNLIMITED:
        raise _Fault("nothing is beyond an unlimited limit", at=(*path, "overage"))
    window = parse_window(limit.window, "UTC")
    if window.is_rolling or window.name in (Lifetime.name, Level.name):
        raise _Fault(
            f"the window '{limit.window}' never begins anew; only beyond what a day, a month or the like includes can "
            "be charged",
            at=(*path, "overage"),
        )


def _features(
    listed: list[str] | dict[str, FeatureValue], declared: Mapping[str, str], path: Path
) -> dict[str, FeatureValue]:
    for place, name in enumerate(listed):
        _declared(name, declared, "feature", (*path, place if isinstance(listed, list) else name))
    values = dict.fromkeys(listed, True) if isinstance(listed, list) else listed
    return {name: values.get(name, False) for name in declared}


def _check_default_is_free(plan: Plan, at: Path) -> None:
    if not may_be_default(plan):
        raise _Fault(
            f"plan '{plan.key}' is not free; a default plan must be, with a monthly price of \"0\", no other and no "
            "overage",
            at=at,
        )


def may_be_default(plan: Plan) -> bool:
    """Whether everybody can have the plan without buying anything."""
    return plan.price.monthly is not None and not plan.may_charge


def _declared(word: str, words: Iterable[str], noun: str, at: Path) -> None:
    if word not in words:
        raise _Fault(
            f"unknown {noun} '{word}'",
            at=at,
            nearest=_nearest(word, words),
            rule=f"names no {noun} of this catalog",
        )


def _parts(price: PriceTable) -> dict[str, int | None]:
    return {"monthly": price.monthly, "yearly": price.yearly, "per_seat": price.per_seat}


def _stored(maximum: Maximum) -> int | str:
    return maximum if isinstance(maximum, int) else maximum.value


# From a fault to the sentence a person reads.

_SENTENCES = {
    "missing": "is missing",
    "string_type": "must be a text in quotes",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "list_type": "must be a list",
}
_DECLARED_TWICE = re.compile(r"Cannot declare \((?P<path>.*)\) twice \(at line (?P<line>\d+)")
_POSITION = re.compile(r"(?P<problem>.*) \(at (?P<place>.*)\)", re.DOTALL)


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _Fault("is nested too deeply") from None
    except ValueError as error:
        message = str(error)
    if twice := _DECLARED_TWICE.match(message):
        path = tuple(re.findall(r"""['"]([^'"]*)['"]""", twice["path"]))
        raise _Fault(f"declared twice, the second time in line {twice['line']}", at=path)
    position = _POSITION.fullmatch(message)
    problem, place = (position["problem"], f"{position['place']}: ") if position else (message, "")
    raise _Fault(f"{place}not valid TOML: {problem[:1].lower()}{problem[1:]}")


@contextmanager
def _faults_named(source: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        fault = _first_fault(error)
    except _Fault as error:
        fault = error
    else:
        return
    raise CatalogError(source, _key(fault.at), fault.problem, fault.nearest, fault.rule)


def _first_fault(error: ValidationError) -> _Fault:
    first = error.errors(include_url=False)[0]
    path = tuple(part for part in first["loc"] if part != "[key]")
    fault = first.get("ctx", {}).get("error")
    if isinstance(fault, _Fault):
        return _Fault(fault.problem, at=(*path, *fault.at), nearest=fault.nearest, rule=fault.rule)
    return _Fault(_SENTENCES.get(first["type"], first["msg"]), at=path)


def _key(path: Path) -> str:
    """A path as TOML would write it, list places in brackets: `plans.basic.limits[0].meter`."""
    key = ""
    for part in path:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part, re.ASCII)
            key += ("." if key else "") + (part if bare else json.dumps(part, ensure_ascii=False))
    return key


def _nearest(word: Any, words: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(words), n=1)), None) if isinstance(word, str) else None
