"""Usage: what one event says, and what every meter gains from it."""

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from subscription_mcp.domain.catalog import (
    ESTIMATED,
    QUANTITY,
    QUANTITY_MAX,
    UNPRICED,
    Attributes,
    Catalog,
    EventType,
    Meter,
    derived,
)
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.pricing import PRICED_BY, WHOLE_OF, UnitPrice, too_many_parts, without

TEXT_LENGTH_MAX = 256
_HIDING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one tenant may make of things that stay: users, and different things to group usage by; how many
    reservations and sessions may be open at a time in one place, and confirmations wait for one caller."""

    users: int = 1_000_000
    dimensions: int = 10_000
    open: int = 10_000
    confirmations: int = 100


def gains_of(
    catalog: Catalog,
    event: str,
    quantity: int,
    attributes: Attributes,
    price: UnitPrice | None = None,
    estimated: Collection[str] = (),
    *,
    has_happened: bool = True,
) -> dict[str, int]:
    """What each meter the event concerns gains, by meter name; nothing where the catalog has no such event any more.

    Beside them it says that a cost is not known in full (`cost:unpriced`; then nothing is added to it), and what of a gain
    comes from attributes, or a quantity, that were only `estimated` (`tokens:estimated`). Of a call that has not happened
    yet, and says nothing of what it is priced by, the cost is still to be known.
    """
    names = catalog.meters_of_quantity.get(event)
    if names is not None and not estimated:  # most events, and looked up for each of them
        return dict.fromkeys(names, quantity)
    if price is not None and not price.covers(attributes):
        is_to_be_known = not has_happened and not any(name in attributes for name in PRICED_BY)
        price = price if is_to_be_known else None
    gains: dict[str, int] = {}
    for meter in catalog.meters_of_event.get(event, ()):
        gain = meter.gain(event, quantity, attributes, price)
        if gain is None:
            continue
        gains[meter.name] = gain
        if price is None and meter.is_cost:
            gains[derived(meter.name, UNPRICED)] = 1
        if estimated and (part := _estimated_part(meter, gain, quantity, attributes, price, estimated)):
            gains[derived(meter.name, ESTIMATED)] = part
    return gains


def unsaid_of(
    catalog: Catalog, event: str, gains: Mapping[str, int], attributes: Attributes, price: UnitPrice | None
) -> Collection[str]:
    """Of the meters an event moves, those it does not say by how much: the tokens of a call that is not over yet."""
    if event in catalog.meters_of_quantity or 0 not in gains.values():
        return ()
    return [
        meter.name
        for meter in catalog.meters_of_event.get(event, ())
        if gains.get(meter.name) == 0 and not meter.is_said(attributes, price)
    ]


def _estimated_part(
    meter: Meter,
    gain: int,
    quantity: int,
    attributes: Attributes,
    price: UnitPrice | None,
    estimated: Collection[str],
) -> int:
    """How much of a gain rests on estimates."""
    if meter.aggregate in ("sum", "level"):
        return gain if QUANTITY in estimated else 0
    said = without(attributes, estimated)
    if meter.is_cost and price is not None:
        said_quantity = 0 if QUANTITY in estimated else quantity
        return gain - price.for_call(attributes).cost_micros(said_quantity, said)
    if meter.aggregate == "sum_of":
        return gain - sum(value for name in meter.attributes if isinstance(value := said.get(name), int))
    return 0


def event_type_of(catalog: Catalog, event: str) -> EventType:
    """The catalog's event of that name; Refusal `invalid_request` naming the nearest one."""
    found = catalog.events.get(event)
    if found is None:
        raise Refusal(
            "invalid_request",
            f"Unknown event. {_nearest(event, catalog.events)}",
            fields=[FieldProblem("event", f"must be one of {', '.join(sorted(catalog.events))}")],
        )
    return found


def attribute_problems(event: EventType, attributes: Attributes) -> list[FieldProblem]:
    """Every attribute that is undeclared, of the wrong type, or unfit to be stored."""
    known = event.attributes_known
    problems = []
    for name, value in attributes.items():
        kind = known.get(name)
        if kind == "text" and isinstance(value, str) and is_plain_text(value):
            continue
        path = f"attributes.{name[:64]}" if name.isidentifier() else "attributes"
        if kind is None:
            rule = f"is no attribute of this event. {_nearest(name, known)}"
        elif kind == "integer":
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= QUANTITY_MAX:
                continue
            rule = f"must be an integer from 0 to {QUANTITY_MAX}"
        else:
            rule = f"must be a text of 1 to {TEXT_LENGTH_MAX} characters without control characters"
        problems.append(FieldProblem(path, rule))
    return problems


def token_problems(attributes: Attributes) -> list[FieldProblem]:
    """That more tokens are said to be of some kind than there are in all."""
    whole = too_many_parts(attributes)
    if whole is None:
        return []
    parts = " + ".join(name for name in attributes if WHOLE_OF.get(name) == whole)
    return [FieldProblem(f"attributes.{whole}", f"must be all of them, but is less than {parts}")]


SUCCEEDED = frozenset({"ok", "success", "succeeded", "completed"})


def has_failed(status: str | int | None) -> bool:
    """Whether the `status` of an event says that what it tells of failed: an HTTP status from 400 on, or a word that
    is none of `SUCCEEDED`."""
    if isinstance(status, str):
        if not (status.isascii() and status.isdigit()):
            return status.lower() not in SUCCEEDED
        status = int(status)
    return status is not None and status >= 400


def is_plain_text(text: str) -> bool:
    """Whether a text is fit to be stored and shown: bounded, on one line, and free of control, format
    (bidirectional, tag) and surrogate characters that could hide something from a reader. The two joiners
    are spelling in Persian and Indic scripts."""
    if not 0 < len(text) <= TEXT_LENGTH_MAX:
        return False
    if text.isascii():
        return text.isprintable()
    return not any(
        unicodedata.category(character) in _HIDING and character not in _JOINERS for character in text
    )


def is_visible(text: str) -> bool:
    """Whether a text shows anything: a letter, a digit, punctuation or a sign, not only space and joiners."""
    return any(unicodedata.category(character)[0] in "LNPS" for character in text)


def _nearest(word: str, known: object) -> str:
    names = sorted(known)  # type: ignore[call-overload]
    found = get_close_matches(word, names, n=1)
    return f"Did you mean '{found[0]}'?" if found else f"There are: {', '.join(names)}."
