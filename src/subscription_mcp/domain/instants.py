"""Instants: whole microseconds since 1970-01-01T00:00:00Z, and their RFC 3339 text; durations, and theirs.

An integer orders, subtracts and stores without surprises; a `datetime` is only made where a calendar is
needed (`windows.py`). Text is always UTC and ends in `Z`.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

Instant = int
"""Microseconds since the epoch, UTC."""

MILLISECOND: Instant = 1_000
SECOND: Instant = 1_000_000
MINUTE: Instant = 60 * SECOND
QUARTER: Instant = 15 * MINUTE
HOUR: Instant = 60 * MINUTE
DAY: Instant = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# `datetime.fromisoformat` also takes week dates, basic format, naive times and, in later Pythons, hour 24; an
# instant is none of these.
_RFC_3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ]((?:[01]\d|2[0-3]):\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+-](?:0\d|1[0-4]):[0-5]\d)",
    re.ASCII,
)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ISO_8601_DURATION = re.compile(
    r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII
)
_DURATION_UNITS_SECONDS = (604_800, 86_400, 3_600, 60, 1)
DURATION_SECONDS_MAX = 2**53 - 1
EARLIEST: Instant = 946_684_800 * SECOND  # 2000-01-01
LATEST: Instant = 4_102_444_800 * SECOND  # 2100-01-01
NOT_RFC_3339 = "must be an RFC 3339 instant with an offset, like 2026-11-20T14:00:00Z"


def parse_instant(text: str) -> Instant:
    """The instant an RFC 3339 text with an offset names; fractions beyond a microsecond are cut.

    Raises ValueError with a sentence for the caller: not RFC 3339, no such date, or outside 2000 to 2100.
    """
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError(NOT_RFC_3339)
    date, time, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{offset.upper().replace('Z', '+00:00')}")
    except ValueError:
        raise ValueError("names a date or time that does not exist") from None
    instant = from_datetime(moment) + int(((fraction or ".0")[1:] + "000000")[:6])
    if not EARLIEST <= instant < LATEST:
        raise ValueError("must lie between the years 2000 and 2100")
    return instant


def parse_moment(text: str) -> Instant:
    """The instant somebody asks for: as `parse_instant`, or a day like 2026-11-20, which stands for its first moment in
    UTC; as an end, the day itself is not in it.

    Raises ValueError with a sentence for the caller.
    """
    if _DAY.fullmatch(text):
        return parse_instant(f"{text}T00:00:00Z")
    if _RFC_3339.fullmatch(text) is None:
        raise ValueError(f"{NOT_RFC_3339}, or a day like 2026-11-20")
    return parse_instant(text)


@lru_cache(maxsize=4096)  # ends of windows are told with every decision, and are the same for everybody
def format_instant(instant: Instant) -> str:
    """RFC 3339 in UTC; microseconds only where there are any."""
    moment = to_datetime(instant)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond:06d}Z" if moment.microsecond else f"{text}Z"


def from_datetime(moment: datetime) -> Instant:
    """The instant of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(instant: Instant) -> datetime:
    """The aware UTC datetime of an instant."""
    return _EPOCH + timedelta(microseconds=instant)


def parse_duration(text: str) -> int:
    """The seconds of an ISO 8601 duration of weeks, days, hours, minutes and seconds.

    Raises ValueError with a sentence. Years and months are refused: they have no fixed length.
    """
    match = _ISO_8601_DURATION.fullmatch(text)
    if match is None or not any(match.groups()) or len(text) > 32:
        raise ValueError(
            'must be an ISO 8601 duration in weeks, days, hours, minutes or seconds, like "PT30M"'
        )
    seconds = sum(
        int(count or 0) * unit for count, unit in zip(match.groups(), _DURATION_UNITS_SECONDS, strict=True)
    )
    if not 0 < seconds <= DURATION_SECONDS_MAX:
        raise ValueError("must be longer than nothing" if not seconds else "is too long")
    return seconds
