"""Tokens that nobody counted, estimated from what is known of a call: a text, or the length of a recording.

The text is only looked at here. What is kept is the number, marked as estimated.
"""

from collections.abc import Callable, Mapping

from subscription_mcp.domain.catalog import QUANTITY, Attributes, EventType
from subscription_mcp.domain.errors import FieldProblem, Refusal

BYTES_PER_LLM_TOKEN = 4
AUDIO_BYTES_PER_TOKEN = 16_000
TOKENS_PER_SPOKEN_CHARACTER = 2

Given = str | int
"""A text, or instead of it how many characters it has; of a recording its bytes."""
Estimates = Mapping[str, Given]


def llm_tokens(text: Given) -> int:
    """A token for every four bytes of UTF-8, rounded up: about a token for four letters of English, for two of Greek
    or Cyrillic, and three for four Chinese characters. Of characters, four are taken for a token."""
    size = text if isinstance(text, int) else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_LLM_TOKEN)


def heard_tokens(audio_bytes: Given) -> int:
    """Speech to text: a token for every full 16,000 bytes of audio."""
    assert isinstance(audio_bytes, int)
    return audio_bytes // AUDIO_BYTES_PER_TOKEN


def spoken_tokens(text: Given) -> int:
    """Text to speech: two tokens for each character."""
    characters = text if isinstance(text, int) else len(text)
    return characters * TOKENS_PER_SPOKEN_CHARACTER


RULES: Mapping[str, Callable[[Given], int]] = {
    "text": llm_tokens,
    "input_text": llm_tokens,
    "output_text": llm_tokens,
    "audio_bytes": heard_tokens,
    "spoken_text": spoken_tokens,
}
"""What may be estimated from, and how."""
AMOUNTS_ONLY = frozenset({"audio_bytes"})


def estimated(event: EventType, given: Estimates, said: Attributes) -> dict[str, int]:
    """What the quantity and the attributes of an event are estimated to be, by the rules its catalog has for it. What
    was `said` is not estimated. Raises Refusal `invalid_request`."""
    found: dict[str, int] = {}
    problems = []
    for source, value in given.items():
        target = event.estimate.get(source)
        path = f"estimate_from.{source[:64]}" if source.isidentifier() else "estimate_from"
        if target is None:
            known = ", ".join(event.estimate)
            rule = f"is nothing this event is estimated from; that is {known or 'nothing'}"
            problems.append(FieldProblem(path, rule))
        elif isinstance(value, str) and source in AMOUNTS_ONLY:
            problems.append(FieldProblem(path, "must be how many there are, not the bytes themselves"))
        elif isinstance(value, int) and value < 0:
            problems.append(FieldProblem(path, "must not be negative"))
        elif target not in said:
            found[target] = found.get(target, 0) + RULES[source](value)
    if problems:
        raise Refusal("invalid_request", f"{problems[0].field} {problems[0].rule}.", fields=problems)
    if QUANTITY in found:  # something happened, however short it was
        found[QUANTITY] = max(1, found[QUANTITY])
    return found
