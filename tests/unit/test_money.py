"""Decimal strings, micro-units, and rounding to what can be paid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.domain.money import (
    AMOUNT_MAX,
    format_amount,
    minor_unit_digits,
    parse_amount,
    prorate,
    round_to_minor,
)

CURRENCIES = st.sampled_from(["USD", "JPY", "KWD", "CLF"])
MICROS = st.integers(-AMOUNT_MAX, AMOUNT_MAX)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("29.00", 29_000_000),
        ("29", 29_000_000),
        ("0.075", 75_000),
        ("0.000001", 1),
        ("-0.01", -10_000),
        ("9007199254.740991", AMOUNT_MAX),
    ],
)
def test_a_decimal_string_is_read_as_micros(text: str, micros: int) -> None:
    assert parse_amount(text) == micros


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "decimal string"),
        ("29.", "decimal string"),
        (".5", "decimal string"),
        ("+1", "decimal string"),
        ("01", "decimal string"),
        ("1e3", "decimal string"),
        ("1,000.00", "decimal string"),
        (" 1", "decimal string"),
        ("1\n", "decimal string"),
        ("٣", "decimal string"),
        ("NaN", "decimal string"),
        ("$29", "decimal string"),
        ("0.0000001", "at most 6 decimals"),
        ("9007199254.740992", "at most 9007199254.740991"),
        ("9" * 5_000, "at most 9007199254.740991"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_amount(text)


@pytest.mark.parametrize(
    ("micros", "currency", "text"),
    [
        (29_000_000, "USD", "29.00"),
        (0, "USD", "0.00"),
        (100_000, "USD", "0.10"),
        (75_000, "USD", "0.075"),
        (1, "USD", "0.000001"),
        (-5_500_000, "USD", "-5.50"),
        (500_000_000, "JPY", "500"),
        (500_500_000, "JPY", "500.5"),
        (1_250_000, "KWD", "1.250"),
        (1_250_000, "CLF", "1.2500"),
    ],
)
def test_an_amount_is_written_at_its_minor_unit_and_longer_only_where_needed(
    micros: int, currency: str, text: str
) -> None:
    assert format_amount(micros, currency) == text


@given(MICROS, CURRENCIES)
def test_what_is_written_reads_back_as_the_same_amount(micros: int, currency: str) -> None:
    assert parse_amount(format_amount(micros, currency)) == micros


@pytest.mark.parametrize(
    ("micros", "currency", "rounded"),
    [
        (4_999, "USD", 0),
        (5_000, "USD", 10_000),
        (14_999, "USD", 10_000),
        (-4_999, "USD", 0),
        (-5_000, "USD", -10_000),
        (499_999, "JPY", 0),
        (500_000, "JPY", 1_000_000),
        (499, "KWD", 0),
        (500, "KWD", 1_000),
        (50, "CLF", 100),
    ],
)
def test_half_a_minor_unit_rounds_away_from_zero(micros: int, currency: str, rounded: int) -> None:
    assert round_to_minor(micros, currency) == rounded


@given(MICROS, CURRENCIES)
def test_rounding_moves_at_most_half_a_minor_unit_and_mirrors_negatives(micros: int, currency: str) -> None:
    minor_unit = 10 ** (6 - minor_unit_digits(currency))
    rounded = round_to_minor(micros, currency)
    assert rounded % minor_unit == 0
    assert 2 * abs(rounded - micros) <= minor_unit
    assert round_to_minor(-micros, currency) == -rounded
    assert round_to_minor(rounded, currency) == rounded


@pytest.mark.parametrize(
    ("micros", "numerator", "denominator", "currency", "part"),
    [
        (29_000_000, 10, 30, "USD", 9_670_000),
        (29_000_000, 20, 30, "USD", 19_330_000),
        (-29_000_000, 10, 30, "USD", -9_670_000),
        (29_000_000, 0, 30, "USD", 0),
        (29_000_000, 30, 30, "USD", 29_000_000),
        (500_000_000, 1, 3, "JPY", 167_000_000),
    ],
)
def test_a_part_of_an_amount_is_rounded_once(
    micros: int, numerator: int, denominator: int, currency: str, part: int
) -> None:
    assert prorate(micros, numerator, denominator, currency) == part


def test_a_part_is_not_rounded_to_micros_before_it_is_rounded_to_cents() -> None:
    assert prorate(14_999_999, 1, 1_000, "USD") == 10_000


@pytest.mark.parametrize("denominator", [0, -1])
def test_a_part_needs_a_positive_denominator(denominator: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        prorate(1_000_000, 1, denominator, "USD")
