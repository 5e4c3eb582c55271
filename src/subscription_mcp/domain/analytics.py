"""Analytics: the period a report covers and how sums of usage are grouped. Pure folds over rollup rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.instants import DAY, HOUR, Instant
from subscription_mcp.domain.usage import DIMENSIONS
from subscription_mcp.domain.windows import (
    Anchor,
    Day,
    Hour,
    Month,
    Period,
    Week,
    add_months,
    bucket_start,
    local_date,
    midnight,
)

Granularity = Literal["hour", "day", "week", "month"]
NamedPeriod = Literal["billing_period", "today", "this_month", "last_7_days", "last_30_days", "last_6_months"]
GroupKey = Literal["meter", "event", "plan", "user", "account", "provider", "model", "tool", "client"]

REPORT_DAYS_MAX = 400
SERIES_ROWS_MAX = 1000
BREAKDOWN_ROWS_MAX = 200

_WINDOWS: Mapping[Granularity, Callable[[str], Hour | Day | Week | Month]] = {
    "hour": lambda zone: Hour(zone),
    "day": lambda zone: Day(zone),
    "week": lambda zone: Week(zone),
    "month": lambda zone: Month(zone),
}
_PLACE_OF_DIMENSION = {name: place for place, name in enumerate(("event", "plan", *DIMENSIONS))}


@dataclass(slots=True)
class UsageRow:
    """A sum of usage: of one meter, in one hour where known, with what it is grouped by."""

    meter: str
    events: int
    quantity: int
    hour: Instant | None = None
    account: str | None = None
    user: str | None = None
    dimensions: tuple[str | None, ...] | None = None

    def value_of(self, key: GroupKey) -> str | None:
        if key == "meter":
            return self.meter
        if key == "user":
            return self.user
        if key == "account":
            return self.account
        return self.dimensions[_PLACE_OF_DIMENSION[key]] if self.dimensions is not None else None


@dataclass(slots=True)
class Group:
    """One line of a breakdown or series: the group's keys, and what was used."""

    keys: dict[str, str | None]
    meter: str
    quantity: int
    events: int
    share_permille: int = 0
    start: Instant | None = None
    end: Instant | None = None


def named_period(name: NamedPeriod, now: Instant, timezone: str, billing: Period | None) -> Period:
    """The period a word stands for, in whole days of the time zone up to the end of today (or of the month
    or billing period that is running)."""
    today = local_date(now, timezone)
    tomorrow = midnight(today + timedelta(days=1), timezone)
    match name:
        case "billing_period":
            return billing or Month(timezone).period_at(now, Anchor(0))
        case "today":
            return Period(midnight(today, timezone), tomorrow)
        case "this_month":
            return Month(timezone).period_at(now, Anchor(0))
        case "last_7_days":
            return Period(midnight(today - timedelta(days=6), timezone), tomorrow)
        case "last_30_days":
            return Period(midnight(today - timedelta(days=29), timezone), tomorrow)
        case "last_6_months":
            return Period(midnight(add_months(today.replace(day=1), -5), timezone), tomorrow)


def explicit_period(start: Instant, end: Instant) -> Period:
    """A period given by its ends. Raises Refusal `invalid_request`."""
    if end <= start:
        raise Refusal(
            "invalid_request",
            "The end must lie after the start.",
            fields=[FieldProblem("end", "must lie after start")],
        )
    if end - start > REPORT_DAYS_MAX * DAY:
        raise Refusal(
            "invalid_request",
            f"A report covers at most {REPORT_DAYS_MAX} days.",
            fields=[FieldProblem("end", f"must lie at most {REPORT_DAYS_MAX} days after start")],
        )
    return Period(start, end)


def whole_hours(period: Period, timezone: str) -> Period:
    """The period widened to whole rollup hours."""
    assert period.end is not None
    last = bucket_start(period.end, timezone)
    return Period(bucket_start(period.start, timezone), last if last == period.end else last + HOUR)


def totals(rows: Iterable[UsageRow]) -> list[Group]:
    """One sum per meter, by name."""
    return sorted(grouped(rows, ("meter",)), key=lambda group: group.meter)


def grouped(rows: Iterable[UsageRow], keys: Sequence[GroupKey]) -> list[Group]:
    """Sums per meter and group, largest first, each with its share of its meter. Quantities of different
    meters have different units and are never added."""
    sums: dict[tuple[str | None, ...], Group] = {}
    whole: dict[str, int] = {}
    for row in rows:
        values = tuple(row.value_of(key) for key in keys)
        group = sums.get((row.meter, *values))
        if group is None:
            named: dict[str, str | None] = dict(zip(keys, values, strict=True))
            group = sums[(row.meter, *values)] = Group(named, row.meter, 0, 0)
        group.quantity += row.quantity
        group.events += row.events
        whole[row.meter] = whole.get(row.meter, 0) + row.quantity
    for group in sums.values():
        group.share_permille = group.quantity * 1000 // whole[group.meter] if whole[group.meter] else 0
    return sorted(sums.values(), key=lambda group: (group.meter, -group.quantity, str(group.keys)))


def series(
    rows: Iterable[UsageRow], granularity: Granularity, keys: Sequence[GroupKey], timezone: str
) -> list[Group]:
    """Sums per calendar step, meter and group, in order of time."""
    window = _WINDOWS[granularity](timezone)
    steps: dict[Instant, Period] = {}
    sums: dict[tuple[Instant, str, tuple[str | None, ...]], Group] = {}
    for row in rows:
        assert row.hour is not None
        step = steps.get(row.hour)
        if step is None:
            period = Period(row.hour, row.hour + HOUR) if granularity == "hour" else None
            step = steps[row.hour] = period or window.period_at(row.hour, Anchor(0))
        values = tuple(row.value_of(key) for key in keys)
        place = (step.start, row.meter, values)
        group = sums.get(place)
        if group is None:
            named: dict[str, str | None] = dict(zip(keys, values, strict=True))
            group = sums[place] = Group(named, row.meter, 0, 0, start=step.start, end=step.end)
        group.quantity += row.quantity
        group.events += row.events
    return sorted(sums.values(), key=lambda group: (group.start or 0, group.meter, str(group.keys)))
