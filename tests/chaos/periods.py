"""Windows and meters the long way round, for the reference model: a window added to the product is one more
line in `PERIODS` or `LENGTHS`, a meter one in `gains_of`."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PERIODS = {
    "hour": lambda at, _: (top := at.replace(minute=0, second=0, microsecond=0), top + timedelta(hours=1)),
    "day": lambda at, _: (top := at.replace(hour=0, minute=0, second=0, microsecond=0), top + timedelta(1)),
    "month": lambda at, _: months_around(at, datetime(2000, 1, 1, tzinfo=UTC)),
    "billing_period": lambda at, anchor: months_around(at, anchor),
    "lifetime": lambda at, _: (EPOCH, None),
    "level": lambda at, _: (EPOCH, None),
}
LENGTHS = {"minute": 60 * 10**6, "rolling:PT2H": 7_200 * 10**6}
"""Windows that slide, and how far they look back, in microseconds."""


def months_around(at, anchor):
    """Step by step from the anchor: the last step that is not past, and the next one."""
    steps = (
        (months_after(anchor, n), months_after(anchor, n + 1)) for n in count(0, -1 if at < anchor else 1)
    )
    return next((start, end) for start, end in steps if start <= at < end)


def months_after(anchor, months):
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    first = anchor.replace(year=year, month=month + 1, day=1)
    # Back from the day that may lie in the month after: the 31st is then the 28th in February.
    days = (first + timedelta(day - 1) for day in range(anchor.day, 0, -1))
    return next(day for day in days if day.month == first.month)


@lru_cache(maxsize=100_000)
def period(window, at, anchor):
    found = PERIODS[window](*(EPOCH + timedelta(microseconds=one) for one in (at, anchor)))
    return tuple(None if one is None else (one - EPOCH) // timedelta(microseconds=1) for one in found)


def gains_of(event, quantity, attributes):
    if event == "storage":
        return {"storage_mb": quantity}
    if event != "llm_call":
        return {f"{event}s": quantity}
    gains = {"llm_calls": 1, "llm_tokens": attributes.get("tokens", 0)}
    return gains | ({"gemini_calls": 1} if attributes.get("provider") in ("gemini", "google") else {})
