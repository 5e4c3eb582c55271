"""Usage: what one event says, and what every meter gains from it."""

import unicodedata
from dataclasses import dataclass
from difflib import get_close_matches

from subscription_mcp.domain.catalog import QUANTITY_MAX, Attributes, Catalog, EventType
from subscription_mcp.domain.errors import FieldProblem, Refusal

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


def gains_of(catalog: Catalog, event: str, quantity: int, attributes: Attributes) -> dict[str, int]:
    """What each meter the event concerns gains, by meter name; nothing where the catalog has no such event any more."""
    names = catalog.meters_of_quantity.get(event)
    if names is not None:  # most events, and looked up for each of them
        return dict.fromkeys(names, quantity)
    return {
        meter.name: gain
        for meter in catalog.meters_of_event.get(event, ())
        if (gain := meter.gain(event, quantity, attributes)) is not None
    }


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
