"""What calls cost, the long way round: which line of a book is meant, and exact fractions rounded up once for each event.
A line is what it costs by the million tokens in and out, by the piece, and in which tiers: above how many tokens in
everything costs otherwise."""

from fractions import Fraction
from math import ceil

MILLION = 10**6
CALLED = ("provider", "model")
"""The attributes that say who was called."""
FLASH, OTHER, PAGES = ("gemini", "flash"), ("openai", "flash"), ("google", None)
TIERED, ODD = ("openai", "gpt"), ("stability", "image")
FIRST = {
    FLASH: (70_000, 300_000, 0, ()),
    TIERED: (1_250_000, 10_000_000, 0, ((50, 2_500_000, 15_000_000), (90, 5_000_000, 0))),
    PAGES: (0, 0, 130, ()),
    ODD: (500_000, 0, 40, ()),
}
"""The lines by provider and model; without a model it is the provider's as a whole."""
BOOKS = (
    FIRST,
    FIRST | {FLASH: (90_000, 500_000, 3, ()), PAGES: (0, 0, 155, ())},
    {FLASH: FIRST[FLASH], OTHER: (20_000, 20_000, 0, ()), ODD: FIRST[ODD]},
)
"""The price list as it changes: dearer, then with a model that two have, and one without a price."""


def line_of(book, provider, model):
    """A model of a provider, the provider as a whole, or a model that only one of them has; None is no price."""
    if provider is None:
        having = [line for (_, name), line in book.items() if model and name == model.lower()]
        return having[0] if len(having) == 1 else None
    return book.get((provider, model and model.lower()), book.get((provider, None)))


def for_tokens(line, tokens):
    """What the tokens of a call cost by the million, by how many go in."""
    reached = [tier[1:] for tier in line[3] if tokens > tier[0]]
    return reached[-1] if reached else line[:2]


def cost_of(line, quantity, attributes):
    tokens, words = attributes.get("input_tokens", 0), attributes.get("output_tokens", 0)
    price_in, price_out = for_tokens(line, tokens)
    exact = Fraction(tokens * price_in + words * price_out, MILLION) + quantity * line[2]
    return ceil(exact)


def costs_of(event, quantity, attributes, price, ahead=False):
    """What an event adds to the cost, and whether nobody knew; `ahead` of a call it may still be said."""
    if event != "llm_call":
        return {}
    if price is None or not says_cost(price, attributes):
        return {"cost": 0} if price and ahead else {"cost": 0, "cost:unpriced": 1}
    return {"cost": cost_of(price, quantity, attributes)}


def says_cost(line, attributes):
    """Whether a call says what it costs: it goes by tokens, and there are some said, or by the piece; or is free."""
    by_tokens = any(line[:2]) or any(any(tier[1:]) for tier in line[3])
    return bool(line[2]) or not by_tokens or "input_tokens" in attributes or "output_tokens" in attributes


def unsaid(event, _, attributes, price):
    """The meters a call moves and does not say by how much."""
    if event != "llm_call":
        return set()
    costs = {"cost"} if price and not says_cost(price, attributes) else set()
    return costs if "tokens" in attributes else costs | {"llm_tokens"}


def line_said(price):
    """The line a command brings along; None where nobody knows."""
    if price is None:
        return None
    tiers = [
        (one.above_input_tokens, one.input_per_million_tokens, one.output_per_million_tokens)
        for one in price.tiers
    ]
    return price.input_per_million_tokens, price.output_per_million_tokens, price.per_unit, tuple(tiers)


def line_kept(thing):
    """What an event keeps: the price as it was for that call."""
    event, _, attributes = thing.told
    if event != "llm_call" or thing.price is None or not says_cost(thing.price, attributes):
        return None
    return (*for_tokens(thing.price, attributes.get("input_tokens", 0)), thing.price[2], ())
