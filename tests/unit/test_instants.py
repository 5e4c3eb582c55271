"""Instants and their RFC 3339 text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.domain.instants import EARLIEST, LATEST, format_instant, parse_instant, parse_moment

NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z


@given(st.integers(EARLIEST, LATEST - 1))
def test_what_is_written_reads_back_as_the_same_instant(instant: int) -> None:
    assert parse_instant(format_instant(instant)) == instant


@given(st.integers(EARLIEST, LATEST - 1), st.integers(1, 10**9))
def test_texts_of_whole_seconds_order_as_their_instants(instant: int, gap: int) -> None:
    earlier, later = instant - instant % 1_000_000, instant - instant % 1_000_000 + gap * 1_000_000
    assert format_instant(earlier) < format_instant(later)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T12:00:00Z",
        "2026-01-01t12:00:00z",
        "2026-01-01 12:00:00Z",
        "2026-01-01T12:00:00.0Z",
        "2026-01-01T12:00:00+00:00",
        "2026-01-01T12:00:00-00:00",
        "2026-01-01T13:00:00+01:00",
        "2026-01-01T06:30:00-05:30",
        "2026-01-02T02:00:00+14:00",
        "2026-01-01T12:00:00.000000999Z",
    ],
)
def test_every_rfc_3339_spelling_of_an_instant_is_the_same_instant(text: str) -> None:
    assert parse_instant(text) == NOON


@pytest.mark.parametrize(
    ("fraction", "microseconds"),
    [(".1", 100_000), (".000001", 1), (".999999", 999_999), (".123456789", 123_456)],
)
def test_fractions_are_read_to_the_microsecond_and_cut_there(fraction: str, microseconds: int) -> None:
    assert parse_instant(f"2026-01-01T12:00:00{fraction}Z") == NOON + microseconds


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "2026-01-01T12:00:00Z"),
        (1, "2026-01-01T12:00:00.000001Z"),
        (500_000, "2026-01-01T12:00:00.500000Z"),
    ],
)
def test_microseconds_are_written_only_where_there_are_any(microseconds: int, text: str) -> None:
    assert format_instant(NOON + microseconds) == text


NOT_RFC_3339 = "must be an RFC 3339 instant"
NO_SUCH = "does not exist"
OUT_OF_RANGE = "between the years 2000 and 2100"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2026-02-29T00:00:00Z", NO_SUCH),
        ("2026-13-01T00:00:00Z", NO_SUCH),
        ("2026-00-01T00:00:00Z", NO_SUCH),
        ("2026-04-31T00:00:00Z", NO_SUCH),
        ("2026-12-31T23:59:60Z", NO_SUCH),
        ("2026-01-01T12:60:00Z", NO_SUCH),
        ("0000-01-01T00:00:00Z", NO_SUCH),
        ("2026-01-01T24:00:00Z", NOT_RFC_3339),
        ("2026-01-01T12:00:00", NOT_RFC_3339),
        ("2026-01-01T12:00Z", NOT_RFC_3339),
        ("2026-01-01", NOT_RFC_3339),
        ("20260101", NOT_RFC_3339),
        ("20260101T120000Z", NOT_RFC_3339),
        ("2026-W01-4T12:00:00Z", NOT_RFC_3339),
        ("2026-001T12:00:00Z", NOT_RFC_3339),
        ("2026-01-01T12:00:00+99:00", NOT_RFC_3339),
        ("2026-01-01T12:00:00+15:00", NOT_RFC_3339),
        ("2026-01-01T12:00:00+01:60", NOT_RFC_3339),
        ("2026-01-01T12:00:00+0100", NOT_RFC_3339),
        ("2026-01-01T12:00:00,5Z", NOT_RFC_3339),
        ("2026-01-01T12:00:00.Z", NOT_RFC_3339),
        ("2026-01-01T12:00:00.1234567890Z", NOT_RFC_3339),
        ("2026-01-01T12:00:00Z\n", NOT_RFC_3339),
        (" 2026-01-01T12:00:00Z", NOT_RFC_3339),
        ("٢٠٢٦-01-01T12:00:00Z", NOT_RFC_3339),
        ("1767268800", NOT_RFC_3339),
        ("now", NOT_RFC_3339),
        ("", NOT_RFC_3339),
        ("0001-01-01T00:00:00+14:00", OUT_OF_RANGE),
        ("9999-12-31T23:59:59-14:00", OUT_OF_RANGE),
        ("1999-12-31T23:59:59.999999Z", OUT_OF_RANGE),
        ("2000-01-01T00:00:00+00:01", OUT_OF_RANGE),
        ("2100-01-01T00:00:00Z", OUT_OF_RANGE),
    ],
)
def test_other_texts_are_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_instant(text)


def test_a_day_is_its_beginning_in_utc_where_somebody_asks_for_a_moment() -> None:
    assert parse_moment("2026-01-01") == NOON - 12 * 3_600_000_000
    assert parse_moment("2026-01-01T13:00:00+01:00") == NOON


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2026-02-30", NO_SUCH),
        ("1999-12-31", OUT_OF_RANGE),
        ("2100-01-01", OUT_OF_RANGE),
        ("2026-1-1", "or a day like 2026-11-20"),
        ("2026-01-01T12:00:00", "or a day like 2026-11-20"),
        ("2026-01", "or a day like 2026-11-20"),
    ],
)
def test_what_is_neither_a_moment_nor_a_day_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_moment(text)


def test_the_range_is_half_open() -> None:
    assert parse_instant("2000-01-01T00:00:00Z") == EARLIEST
    assert parse_instant("2099-12-31T23:59:59.999999Z") == LATEST - 1
