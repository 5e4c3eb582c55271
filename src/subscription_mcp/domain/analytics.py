"""Analytics: the period a report covers and how sums of usage are grouped. Pure folds over rollup rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from itertools import islice, pairwise
from typing import Literal, NamedTuple

from subscription_mcp.domain.catalog import DIMENSIONS
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.instants import DAY, HOUR, QUARTER, Instant
from subscription_mcp.domain.windows import (
    Anchor,
    Day,
    Month,
    Period,
    Week,
    add_months,
    local_date,
    local_hour_of,
    midnight,
    quarter_of,
)

Granularity = Literal["hour", "day", "week", "month"]
NamedPeriod = Literal["billing_period", "today", "this_month", "last_7_days", "last_30_days", "last_6_months"]
GroupKey = Literal["meter", "event", "plan", "user", "account", "provider", "model", "tool", "client"]

REPORT_DAYS_MAX = 400
FIRST_PAGE_BYTES, NEXT_PAGE_BYTES = 140_000, 180_000
"""What the rows of a page of a report may take: the first one says much beside them."""

_ROW_BYTES = 100
"""What a row takes beside its texts."""
_WINDOWS: Mapping[str, type[Day] | type[Week] | type[Month]] = {"day": Day, "week": Week, "month": Month}
_PLACE_OF_DIMENSION = {name: place for place, name in enumerate(("event", "plan", *DIMENSIONS))}


@dataclass(slots=True)
class UsageRow:
    """A sum of usage: of one meter, in one quarter of an hour where known, with what it is grouped by."""

    meter: str
    events: int
    quantity: int
    quarter: Instant | None = None
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
    share_millionths: int = 0
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


def whole_quarters(period: Period) -> Period:
    """The period widened to whole cells of the rollups."""
    assert period.end is not None
    last = quarter_of(period.end)
    return Period(quarter_of(period.start), last if last == period.end else last + QUARTER)


def step_starts(period: Period, granularity: Granularity, timezone: str) -> tuple[Instant, ...] | None:
    """Where the steps of a series begin after the first; None for hours, which no day lies within."""
    if granularity == "hour":
        return None
    assert period.end is not None
    starts: list[Instant] = []
    end = step_at(period.start, granularity, timezone).end
    while end is not None and end < period.end:
        starts.append(end)
        end = step_at(end, granularity, timezone).end
    return tuple(starts)


class Tile(NamedTuple):
    """A stretch of cells of one width that is read as a whole, and the steps it counts in, by their beginnings: added,
    or (-1) taken away."""

    span: Instant
    period: Period
    steps: tuple[tuple[Instant, Literal[1, -1]], ...]


def tiles_of(period: Period, starts: Sequence[Instant]) -> list[Tile]:
    """A period of whole quarters of an hour, as whole UTC days where no step but the first begins within, and quarters
    for what is left. A day that is parted once, as by midnight elsewhere, is read as a whole and its shorter part by
    quarters: they are of one step, and what is left of the day of the other."""
    assert period.end is not None
    bounds = [period.start, *(one for one in starts if period.start < one < period.end), period.end]
    parted: dict[Instant, list[int]] = {}
    for place, at in enumerate(bounds[1:-1], 1):
        day = at - at % DAY
        if at != day and period.start <= day and day + DAY <= period.end:
            parted.setdefault(day, []).append(place)
    once = {day: places[0] for day, places in parted.items() if len(places) == 1}
    tiles: list[Tile] = []
    for place, (start, end) in enumerate(pairwise(bounds)):
        low = start - start % DAY + DAY if once.get(start - start % DAY) == place else start
        high = end - end % DAY if once.get(end - end % DAY) == place + 1 else end
        first, last = low + -low % DAY, high - high % DAY
        spans = [(DAY, first, last), (QUARTER, low, first), (QUARTER, last, high)]
        if last < first:
            spans = [(QUARTER, low, high)]
        tiles += [Tile(span, Period(of, to), ((start, 1),)) for span, of, to in spans if of < to]
    for day, place in once.items():
        short, of, rest = Period(day, bounds[place]), bounds[place - 1], bounds[place]
        if bounds[place] - day > DAY // 2:
            short, of, rest = Period(bounds[place], day + DAY), rest, of
        tiles += [
            Tile(DAY, Period(day, day + DAY), ((rest, 1),)),
            Tile(QUARTER, short, ((of, 1), (rest, -1))),
        ]
    return tiles


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
        group.share_millionths = group.quantity * 1_000_000 // whole[group.meter] if whole[group.meter] else 0
    return sorted(sums.values(), key=lambda group: (group.meter, -group.quantity, _names(group)))


def series(
    rows: Iterable[UsageRow], granularity: Granularity, keys: Sequence[GroupKey], timezone: str
) -> list[Group]:
    """Sums per calendar step, meter and group, in order of time."""
    steps: dict[Instant, Period] = {}
    sums: dict[tuple[Instant, str, tuple[str | None, ...]], Group] = {}
    for row in rows:
        assert row.quarter is not None
        step = steps.get(row.quarter)
        if step is None:
            step = steps[row.quarter] = step_at(row.quarter, granularity, timezone)
        values = tuple(row.value_of(key) for key in keys)
        place = (step.start, row.meter, values)
        group = sums.get(place)
        if group is None:
            named: dict[str, str | None] = dict(zip(keys, values, strict=True))
            group = sums[place] = Group(named, row.meter, 0, 0, start=step.start, end=step.end)
        group.quantity += row.quantity
        group.events += row.events
    return sorted(sums.values(), key=lambda group: (group.start or 0, group.meter, _names(group)))


def _names(group: Group) -> list[str]:
    return [name or "" for name in group.keys.values()]


def page_of(groups: Sequence[Group], skip: int, bytes_max: int) -> list[Group]:
    """As many groups after the first `skip` as there is room for, one at least."""
    page: list[Group] = []
    room = bytes_max
    for group in islice(groups, skip, None):
        room -= _bytes_of(group)
        if page and room < 0:
            break
        page.append(group)
    return page


def pages_of(
    steps: Sequence[Group], lines: Sequence[Group], skip: tuple[int, int], bytes_max: int
) -> tuple[list[Group], list[Group]]:
    """The next steps of a series and lines of a breakdown: half of the room for each, and all of it for what is left
    when there are no more of the others."""
    of_steps = bytes_max // 2 if skip[1] < len(lines) else bytes_max
    some_steps = page_of(steps, skip[0], of_steps)
    rest = bytes_max - sum(map(_bytes_of, some_steps))
    return some_steps, page_of(lines, skip[1], rest)


def _bytes_of(group: Group) -> int:
    return _ROW_BYTES + len(json.dumps([group.meter, group.keys]))


def digest_of(*lists: Iterable[Group]) -> str:
    """Tells whether a report is still the same, row by row."""
    digest = blake2b(digest_size=12)
    for groups in lists:
        for group in groups:
            row = [group.start, group.meter, group.quantity, group.events, *group.keys.values()]
            digest.update(json.dumps(row).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def step_at(at: Instant, granularity: Granularity, timezone: str) -> Period:
    """The calendar step that holds an instant."""
    if granularity == "hour":
        start = local_hour_of(at, timezone)
        return Period(start, start + HOUR)
    return _WINDOWS[granularity](timezone).period_at(at, Anchor(0))
