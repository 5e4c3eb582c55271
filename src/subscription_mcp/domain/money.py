"""Money: decimal strings outside, integer micro-units inside, rounded to what a currency can be paid in.

No float ever holds an amount. Rounding is half up and symmetric, so a refund mirrors its charge.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

MICROS = 1_000_000
"""Micro-units of one unit of any currency."""
AMOUNT_DECIMALS = 6
AMOUNT_MAX = 2**53 - 1
"""The largest amount in micros: about nine billion units."""

_DECIMALS_OF = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
MINOR_UNIT_DIGITS: dict[str, int] = {
    currency: digits for digits, currencies in _DECIMALS_OF.items() for currency in currencies.split()
}
"""Decimals of a currency's smallest payable unit (ISO 4217) where they are not 2."""

_MONEY_UNIT = re.compile(r"micro_([a-z]{3})", re.ASCII)
_AMOUNT = re.compile(r"(-?)(0|[1-9]\d*)(?:\.(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of something that was written as money, in micros."""

    micros: int


def parse_amount(text: str) -> int:
    """The micros of a decimal string: "29.00" is 29_000_000.

    Raises ValueError with a sentence: not a decimal string, more than six decimals, or too large.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError('must be a decimal string like "29.00"')
    sign, units, decimals = match.group(1), match.group(2), match.group(3) or ""
    if len(decimals) > AMOUNT_DECIMALS:
        raise ValueError(f"must have at most {AMOUNT_DECIMALS} decimals")
    # Length first: a text of thousands of digits is not worth converting.
    if len(units) > len(str(AMOUNT_MAX)) or (micros := _micros(units, decimals)) > AMOUNT_MAX:
        raise ValueError(f"must be at most {format_decimal(AMOUNT_MAX)}")
    return -micros if sign else micros


def format_amount(micros: int, currency: str) -> str:
    """The decimal string of an amount at the currency's minor unit ("29.00", JPY "500"), with more decimals
    only where the amount needs them ("0.075")."""
    return format_decimal(micros, minor_unit_digits(currency))


def format_decimal(micros: int, decimals_min: int = 0) -> str:
    """The shortest decimal string of a number in millionths with at least so many decimals."""
    units, fraction = divmod(abs(micros), MICROS)
    digits = f"{fraction:06d}"
    decimals = digits[:decimals_min] + digits[decimals_min:].rstrip("0")
    return f"{'-' if micros < 0 else ''}{units}{'.' if decimals else ''}{decimals}"


def money_unit(currency: str) -> str:
    """The unit of a total that is money, in micro-units: `micro_usd`."""
    return f"micro_{currency.lower()}"


@lru_cache(256)
def currency_of(unit: str) -> str | None:
    """The currency of a unit that is money; None of any other."""
    match = _MONEY_UNIT.fullmatch(unit)
    return None if match is None else match.group(1).upper()


def minor_unit_digits(currency: str) -> int:
    return MINOR_UNIT_DIGITS.get(currency, 2)


def round_to_minor(micros: int, currency: str) -> int:
    """The nearest payable amount, in micros; half a minor unit rounds away from zero."""
    return prorate(micros, 1, 1, currency)


def prorate(micros: int, numerator: int, denominator: int, currency: str) -> int:
    """The part `numerator / denominator` of an amount, in micros, rounded once to the minor unit.

    Raises ValueError where the denominator is not positive.
    """
    if denominator <= 0:
        raise ValueError("denominator must be positive")
    minor_unit: int = 10 ** (AMOUNT_DECIMALS - minor_unit_digits(currency))
    part, whole = micros * numerator, denominator * minor_unit
    rounded = (2 * abs(part) + whole) // (2 * whole) * minor_unit
    return -rounded if part < 0 else rounded


def _micros(units: str, decimals: str) -> int:
    return int(units) * MICROS + int(decimals.ljust(AMOUNT_DECIMALS, "0"))
