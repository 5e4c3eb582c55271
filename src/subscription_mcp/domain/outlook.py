"""Whether usage is as usual, and whether it will last: pure folds over sums of days and of parts of days. Integers only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from subscription_mcp.domain.analytics import Granularity, step_at
from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.domain.decisions import LimitState
from subscription_mcp.domain.instants import DAY, QUARTER, Instant
from subscription_mcp.domain.money import currency_of, round_to_minor
from subscription_mcp.domain.windows import Level, Period, add_months, local_date, midnight
from subscription_mcp.domain.wording import clock_time, counted, duration_text, meter_text, number, sum_text

DAYS_BEHIND = 14
"""How many complete days a projection looks at, and among how many a usual day is looked for."""
DAYS_NEEDED = 3
COMPARED_MAX = 5
METHOD = "used so far, and for the rest of the period as much a day as on the complete days since the first use, 14 at most"

Sums = Mapping[str, int]
"""Quantities by meter."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The step of a series that is looked at as far as it has gone, and stretches of the same length at the beginning of
    steps before it that are like it, the newest first."""

    current: Period
    usual: tuple[Period, ...]
    before: Period
    """As long as the period asked for has lasted, right before it."""
    is_over: bool
    """The period asked for has ended: the step is its last one, and not that of now."""


@dataclass(slots=True)
class TrendLine:
    """One meter: this step beside the usual, and this period beside the one before. While there is nothing yet, it is
    not said to be less."""

    meter: str
    current: int
    usual: int | None
    change_percent: int | None
    total: int
    previous: int
    previous_change_percent: int | None
    message: str


@dataclass(slots=True)
class Projection:
    """One limit at the end of its window, if usage goes on as it did."""

    meter: str
    window: str
    scope: str
    limit: int | None
    days: int
    """How many days of use it rests on."""
    projected: int | None
    percent: int | None
    runs_out_at: Instant | None
    message: str


def comparison(period: Period, granularity: Granularity, timezone: str, now: Instant) -> Comparison:
    """What the last step of a period is compared with. Working days are like working days, hours like that hour of such
    days, weeks and months like any."""
    assert period.end is not None
    until = min(period.end, now + 1)
    until += -until % QUARTER
    step = step_at(max(until - 1, period.start), granularity, timezone)
    elapsed = until - step.start
    starts = _starts_before(step.start, granularity, timezone)
    ends = [step_at(start, granularity, timezone).end or start for start in starts]
    usual = [Period(start, min(start + elapsed, end)) for start, end in zip(starts, ends, strict=True)]
    length = max(until - period.start, QUARTER)
    before = Period(period.start - length, period.start)
    return Comparison(Period(step.start, until), tuple(usual), before, period.end <= now)


def _starts_before(start: Instant, granularity: Granularity, timezone: str) -> list[Instant]:
    today = local_date(start, timezone)
    match granularity:
        case "week":
            return [midnight(today - timedelta(days=7 * n), timezone) for n in range(1, COMPARED_MAX + 1)]
        case "month":
            return [midnight(add_months(today, -n), timezone) for n in range(1, COMPARED_MAX + 1)]
    offset = start - midnight(today, timezone)
    days = [today - timedelta(days=n) for n in range(1, DAYS_BEHIND + 1)]
    alike = [day for day in days if (day.weekday() < 5) == (today.weekday() < 5)]
    return [midnight(day, timezone) + offset for day in alike[:COMPARED_MAX]]


def trend(
    meters: Sequence[str],
    units: Mapping[str, str],
    granularity: Granularity,
    compared: Comparison,
    current: Sums,
    usual: Sequence[Sums],
    total: Sums,
    previous: Sums,
) -> list[TrendLine]:
    """What each meter has come to beside the median of the steps before it; `usual` is the newest first. Steps from
    before anything was used are not compared with."""
    while usual and not any(usual[-1].values()):
        usual = usual[:-1]
    lines = []
    for meter in meters:
        now, whole, most = current.get(meter, 0), total.get(meter, 0), len(usual)
        median = _median([sums.get(meter, 0) for sums in usual]) if most >= DAYS_NEEDED else None
        line = TrendLine(
            meter,
            now,
            median,
            _change(now, median) if now or compared.is_over else None,
            whole,
            previous.get(meter, 0),
            _change(whole, previous.get(meter, 0)) if whole or compared.is_over else None,
            "",
        )
        unit = units.get(meter, meter)
        line.message = (
            _past_sentence(line, unit, compared.before)
            if compared.is_over
            else _trend_sentence(line, unit, granularity, most)
        )
        lines.append(line)
    return lines


def _trend_sentence(line: TrendLine, unit: str, granularity: Granularity, most: int) -> str:
    """This step so far beside the usual by now, of so many steps before it."""
    step, change = "today" if granularity == "day" else f"this {granularity}", line.change_percent
    used = f"{sum_text(line.meter, line.current, unit)} {step} so far"
    if not line.current:
        used = f"Nothing yet {step} ({meter_text(line.meter)})"
    if line.usual is None:
        return f"{used}; too little before it to say what is usual."
    usual = f"usual by now is {counted(line.usual, unit)}, the median of {most} {granularity}s"
    return f"{used}, {_more(change)} than usual; {usual}." if change else f"{used}; {usual}."


def _past_sentence(line: TrendLine, unit: str, before: Period) -> str:
    """A period that is over beside as long a time before it."""
    assert before.end is not None
    length, change = before.end - before.start, line.previous_change_percent
    days = (length + DAY // 2) // DAY  # one with a change of clocks in it is as good as another
    ago = "the day before"
    if days != 1:
        ago = f"the {counted(days, 'day') if days else duration_text(length)} before"
    used = f"{sum_text(line.meter, line.total, unit)} in this period"
    if change:
        return f"{used}, {_more(change)} than the {counted(line.previous, unit)} in {ago}."
    return f"{used}, {counted(line.previous, unit)} in {ago}."


def _more(change_percent: int) -> str:
    return f"{abs(change_percent):,} % {'more' if change_percent > 0 else 'less'}"


def projections(
    states: Sequence[LimitState],
    daily: Mapping[str, Sequence[Sums]],
    now: Instant,
) -> list[Projection]:
    """Where each limit that counts over a calendar's period is heading. `daily` has the complete days before today, the
    oldest first, for each user (`user`) and for the account as a whole (`account`)."""
    return [
        _projection(state, [sums.get(state.meter, 0) for sums in daily[state.scope]], now)
        for state in states
        if not state.limit.window.is_rolling and not isinstance(state.limit.window, Level)
    ]


def _projection(state: LimitState, days: Sequence[int], now: Instant) -> Projection:
    while days and not days[0]:
        days = days[1:]
    maximum = None if state.maximum is UNLIMITED else state.maximum
    found = Projection(state.meter, state.window, state.scope, maximum, len(days), None, None, None, "")
    if len(days) < DAYS_NEEDED:
        found.message = (
            f"Too early to say: it takes {DAYS_NEEDED} complete days of use, and there {_are(len(days))}."
        )
        return found
    rate, span, end = max(sum(days), 0), len(days) * DAY, state.period.end
    found.message = f"About {counted(rate // len(days), state.unit)} a day."
    if end is not None:
        found.projected = state.used + rate * max(end - now, 0) // span
        found.message = (
            f"At the pace of the last {counted(len(days), 'day')} {counted(_rounded(found.projected, state.unit), state.unit)} "
            f"by {clock_time(end, state.timezone)}."
        )
    if maximum is None:
        return found
    if end is not None and maximum and found.projected is not None:
        found.percent = found.projected * 100 // maximum
        found.message = f"{found.message[:-1]}, {found.percent:,} % of {number(maximum, state.unit)}."
    left = max(maximum - state.used, 0)
    if left == 0 or rate:
        at = now + (left * span // rate if left else 0)
        if end is None or at < end:
            found.runs_out_at = at
            found.message += f" It runs out {clock_time(at, state.timezone)}." if left else " It is used up."
    return found


def _rounded(quantity: int, unit: str) -> int:
    """Money to its smallest coin: a guess has no millionths."""
    currency = currency_of(unit)
    return quantity if currency is None else round_to_minor(quantity, currency)


def _are(days: int) -> str:
    return "is 1" if days == 1 else f"are {days}"


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def _change(now: int, before: int | None) -> int | None:
    """By how many percent it is more, towards zero; None of nothing."""
    if before is None or before <= 0:
        return None
    more = abs(now - before) * 100 // before
    return more if now >= before else -more


@dataclass(slots=True)
class SessionSummary:
    """The sessions of a period: how many were open in it, how long those that ended lasted, how many at once. With
    `truncated` there were more, and only the newest were looked at."""

    count: int
    p50_seconds: int | None
    p95_seconds: int | None
    longest_seconds: int | None
    peak_concurrent: int
    truncated: bool


def session_summary(
    spans: Sequence[tuple[Instant, Instant | None]], period: Period, most: int
) -> SessionSummary:
    """`spans` are sessions that were open in the period, the newest first: opened and ended, None while they last. Of
    more than `most`, the newest are looked at."""
    truncated, spans = len(spans) > most, spans[:most]
    seconds = sorted((ended - opened) // 1_000_000 for opened, ended in spans if ended is not None)
    steps: list[tuple[Instant, int]] = []
    for opened, ended in spans:
        steps.append((max(opened, period.start), 1))
        if ended is not None:
            steps.append((ended, -1))
    open_now = peak = 0
    for at, step in sorted(steps):
        if period.end is not None and at >= period.end:
            break
        open_now += step
        peak = max(peak, open_now)
    return SessionSummary(
        len(spans), _rank(seconds, 50), _rank(seconds, 95), seconds[-1] if seconds else None, peak, truncated
    )


def _rank(ordered: Sequence[int], percent: int) -> int | None:
    """The nearest rank."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None
