"""Windows and meters in the most naive way, for the reference model and `recount`: hours are in one window where a
calendar calls them by one name. A window added to the product is one more line in `NAMES` or `SLIDING`, a meter one in
`gains_of`."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from zoneinfo import ZoneInfo

SECOND = 10**6
CENT = 10_000
"""In micro-units."""
EPOCH, HOUR, DAY = datetime(1970, 1, 1, tzinfo=UTC), timedelta(hours=1), timedelta(days=1)
NAMES = {"hour": "%Y-%m-%d %H", "day": "%Y-%m-%d", "week": "%G-%V", "month": "%Y-%m"}
"""`%G-%V` is the ISO week."""
SLIDING = {"minute": 60 * SECOND, "rolling:PT2H": 7_200 * SECOND}
"""Windows that slide, and how far they look back."""


def period(window, zone, at, rhythm=()):
    """The start and the end of the window an instant is in; `rhythm` is where billing periods count from, and for
    how many months each lasts."""
    if window in ("lifetime", "level"):
        return 0, None
    if window == "billing_period":
        return billing_period(at, *rhythm)
    return hours_of_one_name(window, "UTC" if window == "hour" else zone, at // (3_600 * SECOND))


def place(window, zone, at, rhythm):
    """What tells the period an instant is in from every other, also from one that began in the same instant."""
    start, _ = period(window, zone, at, rhythm)
    return (start, rhythm[2]) if window == "billing_period" else start


@cache
def hours_of_one_name(window, zone, hour):
    def name(moment):
        return moment.astimezone(ZoneInfo(zone)).strftime(NAMES[window])

    start = end = EPOCH + hour * HOUR
    wanted = name(start)
    while name(start - HOUR) == wanted:
        start -= HOUR
    while name(end) == wanted:
        end += HOUR
    return instant(start), instant(end)


@cache
def billing_period(at, anchor, months, again=0):
    first, now = (EPOCH + timedelta(microseconds=one) for one in (anchor, at))

    def begins(day):
        months_since = (day.year - first.year) * 12 + day.month - first.month
        # The 31st is the 28th in February.
        return months_since % months == 0 and (
            day.day == first.day or (day.day < first.day and (day + DAY).day == 1)
        )

    start = first + (now - first) // DAY * DAY
    end = start + DAY
    while not begins(start):
        start -= DAY
    while not begins(end):
        end += DAY
    return instant(start), instant(end)


def cost(lines, rhythm, start, end):
    """What a stretch of time costs: of each line, for every billing period the part that is covered, in whole cents."""
    share, at = Fraction(0), start
    while at < end:
        first, last = billing_period(at, *rhythm)
        share, at = share + Fraction(min(end, last) - at, last - first), last
    return sum(int(line * share / CENT + Fraction(1, 2)) * CENT for line in lines)


def instant(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


def back_at(coming, room):
    """Of what comes back, instants and quantities: when no more than `room` is still to come, or else the last."""
    coming = [one for one in coming if one[1]]
    for at in sorted(at for at, _ in coming):
        if sum(quantity for other, quantity in coming if at < other) <= room:
            return at
    return max((at for at, _ in coming), default=None)


def gains_of(event, quantity, attributes):
    if event != "llm_call":
        return {"storage_mb" if event == "storage" else f"{event}s": quantity}
    gains = {"llm_calls": 1, "llm_tokens": attributes.get("tokens", 0)}
    return gains | ({"gemini_calls": 1} if attributes.get("provider") in ("gemini", "google") else {})
