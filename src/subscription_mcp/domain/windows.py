"""Windows: the stretch of time a limit counts over. Each kind knows its period and when it resets.

A window is never reset by a job: the period is computed from the instant, and a new period simply has no
usage yet. Periods are half-open, `[start, end)`; `end` belongs to the next one. A rolling window has no
periods: what was used comes back a fixed length after it was used (`rolling.py`).
"""

import calendar
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple
from zoneinfo import ZoneInfo

from subscription_mcp.domain.instants import (
    DAY,
    HOUR,
    QUARTER,
    SECOND,
    Instant,
    from_datetime,
    parse_duration,
    to_datetime,
)

Interval = Literal["monthly", "yearly"]
MONTHS_OF_INTERVAL: dict[Interval, int] = {"monthly": 1, "yearly": 12}


class Period(NamedTuple):
    """`[start, end)`; `end` is None where a period never ends."""

    start: Instant
    end: Instant | None

    def holds(self, at: Instant) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


class Anchor(NamedTuple):
    """Where a subscription's billing periods count from, and how long each is. They are shown `nudge` later than
    they are counted."""

    at: Instant
    interval: Interval = "monthly"
    nudge: Instant = 0


@dataclass(frozen=True, slots=True)
class Rolling:
    """The last so many seconds, at every instant: a sliding `minute`, or `rolling:PT5H`."""

    name: str
    seconds: int
    timezone: str = "UTC"
    is_rolling: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return self.name

    @property
    def length(self) -> Instant:
        return self.seconds * SECOND

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        """What counts at an instant, up to when something used then comes back."""
        return Period(at - self.length, at + self.length)


@dataclass(frozen=True, slots=True)
class Hour:
    """The clock hour in UTC."""

    name: ClassVar[str] = "hour"
    is_rolling: ClassVar[bool] = False
    seconds: ClassVar[int | None] = 3600
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        return self.name

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        start = at - at % HOUR
        return Period(start, start + HOUR)


@dataclass(frozen=True, slots=True)
class Day:
    """The calendar day in the plan's time zone: 23 or 25 hours where clocks change."""

    name: ClassVar[str] = "day"
    is_rolling: ClassVar[bool] = False
    seconds: ClassVar[int | None] = 86_400
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        return _zoned_key(self.name, self.timezone)

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        today = local_date(at, self.timezone)
        return Period(midnight(today, self.timezone), midnight(today + timedelta(days=1), self.timezone))


@dataclass(frozen=True, slots=True)
class Week:
    """The week from Monday (ISO 8601) in the plan's time zone."""

    name: ClassVar[str] = "week"
    is_rolling: ClassVar[bool] = False
    seconds: ClassVar[int | None] = 604_800
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        return _zoned_key(self.name, self.timezone)

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        today = local_date(at, self.timezone)
        monday = today - timedelta(days=today.weekday())
        return Period(midnight(monday, self.timezone), midnight(monday + timedelta(days=7), self.timezone))


@dataclass(frozen=True, slots=True)
class Month:
    """The calendar month in the plan's time zone."""

    name: ClassVar[str] = "month"
    is_rolling: ClassVar[bool] = False
    seconds: ClassVar[int | None] = 2_592_000
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        return _zoned_key(self.name, self.timezone)

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        first = local_date(at, self.timezone).replace(day=1)
        return Period(midnight(first, self.timezone), midnight(add_months(first, 1), self.timezone))


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """The subscription's own period, counted from its anchor each time: the 31st becomes the 28th in
    February and is the 31st again in March."""

    name: ClassVar[str] = "billing_period"
    is_rolling: ClassVar[bool] = False
    seconds: ClassVar[int | None] = 2_592_000
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        return self.name

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        step = MONTHS_OF_INTERVAL[anchor.interval]
        at -= anchor.nudge
        first, now = to_datetime(anchor.at), to_datetime(at)
        # Count from the anchor, not from the last period: the 31st must come back after February.
        steps = ((now.year - first.year) * 12 + now.month - first.month) // step
        start = self._boundary(anchor.at, steps * step)
        if start > at:
            steps -= 1
            start = self._boundary(anchor.at, steps * step)
        return Period(start, self._boundary(anchor.at, (steps + 1) * step))

    @staticmethod
    def _boundary(anchor_at: Instant, months: int) -> Instant:
        first = to_datetime(anchor_at)
        day = add_months(first.date(), months)
        return from_datetime(datetime.combine(day, first.timetz()))


@dataclass(frozen=True, slots=True)
class Lifetime:
    """From the beginning, for ever: what is used does not come back."""

    name: ClassVar[str] = "lifetime"
    is_rolling: ClassVar[bool] = False
    seconds: ClassVar[int | None] = None
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        return self.name

    def period_at(self, at: Instant, anchor: Anchor) -> Period:
        return Period(0, None)


@dataclass(frozen=True, slots=True)
class Level(Lifetime):
    """How much there is now, of a meter that goes up and down: that has no end either."""

    name: ClassVar[str] = "level"


CalendarWindow = Hour | Day | Week | Month | BillingPeriod | Lifetime | Level
Window = CalendarWindow | Rolling
_CALENDAR: dict[str, type[CalendarWindow]] = {
    kind.name: kind for kind in (Hour, Day, Week, Month, BillingPeriod, Lifetime, Level)
}
LONGEST_PERIOD = {
    Hour.name: HOUR,
    Day.name: DAY + HOUR,
    Week.name: 7 * DAY + HOUR,
    Month.name: 31 * DAY + HOUR,
    BillingPeriod.name: 366 * DAY + HOUR,
    Level.name: 0,
}
"""How long a period of a window may be, by its name and in every time zone. What is not here never ends. Of a level
nothing is used up, so nothing of it lasts either."""
MINUTE_WINDOW = "minute"
ROLLING_PREFIX = "rolling:"
ROLLING_SECONDS_MAX = 400 * 86_400
WINDOW_NAMES = (MINUTE_WINDOW, *_CALENDAR, f"{ROLLING_PREFIX}DURATION")
"""The words a catalog may use; DURATION is ISO 8601, like PT5H."""


def parse_window(text: str, timezone: str) -> Window:
    """The window a catalog names; ValueError with a sentence."""
    if text == MINUTE_WINDOW:
        return Rolling(text, 60, timezone)
    if text.startswith(ROLLING_PREFIX):
        seconds = parse_duration(text.removeprefix(ROLLING_PREFIX))
        if seconds > ROLLING_SECONDS_MAX:
            raise ValueError("must be at most 400 days long")
        return Rolling(text, seconds, timezone)
    kind = _CALENDAR.get(text)
    if kind is None:
        raise ValueError(f"must be one of {', '.join(WINDOW_NAMES)}")
    return kind(timezone=timezone)


def window_of_key(key: str) -> Window:
    """The window a stored total was counted in."""
    name, _, timezone = key.partition("@")
    return parse_window(name, timezone or "UTC")


@lru_cache(4096)
def rolling_length(key: str) -> Instant | None:
    """The length of the rolling window a total was counted in; None for one with periods."""
    window = window_of_key(key)
    return window.length if isinstance(window, Rolling) else None


def quarter_of(at: Instant) -> Instant:
    """The start of the quarter of an hour in UTC: the cell of the rollups. Hours and days of every time zone
    are made of whole ones."""
    return at - at % QUARTER


def local_hour_of(at: Instant, timezone: str) -> Instant:
    """The start of the clock hour in a time zone."""
    offset = to_datetime(at).astimezone(ZoneInfo(timezone)).utcoffset() or timedelta()
    return at - (at + offset // timedelta(microseconds=1)) % HOUR


def local_date(at: Instant, timezone: str) -> date:
    """The calendar day an instant falls on in a time zone."""
    moment = to_datetime(at)
    if timezone == "UTC":
        return moment.date()
    today = moment.astimezone(ZoneInfo(timezone)).date()
    tomorrow = today + timedelta(days=1)
    # Where clocks go back across midnight (St John's until 2010) a day that has begun stays begun.
    return tomorrow if midnight(tomorrow, timezone) <= at else today


def midnight(day: date, timezone: str) -> Instant:
    """The instant a calendar day begins. Where clocks skip midnight it is the moment they skip (`fold=0`
    reads the time with the offset before the change)."""
    return from_datetime(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)))


def add_months(day: date, months: int) -> date:
    """The same day of a later month, or that month's last day where it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def _zoned_key(name: str, timezone: str) -> str:
    # A day in Berlin and a day in UTC can begin at the same instant and still end apart.
    return name if timezone == "UTC" else f"{name}@{timezone}"
