"""Tokens nobody counted, and what is still affordable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.domain.catalog import EventType
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.estimation import estimated, heard_tokens, llm_tokens, spoken_tokens
from subscription_mcp.domain.pricing import UnitPrice

CALL = EventType(
    "call",
    {"input_tokens": "integer"},
    {"input_text": "input_tokens", "audio_bytes": "quantity", "spoken_text": "quantity"},
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("word", 1), ("words", 2), ("слово", 3), ("你好", 2), (8, 2), (9, 3), ("\ud800", 1)],
)
def test_a_token_for_four_bytes_of_text(text: str | int, tokens: int) -> None:
    assert llm_tokens(text) == tokens


@pytest.mark.parametrize(("audio_bytes", "tokens"), [(0, 0), (15_999, 0), (16_000, 1), (480_000, 30)])
def test_speech_to_text_counts_full_16000_bytes(audio_bytes: int, tokens: int) -> None:
    assert heard_tokens(audio_bytes) == tokens


@pytest.mark.parametrize(("text", "tokens"), [("Hello", 10), ("", 0), (5, 10)])
def test_text_to_speech_counts_two_for_each_character(text: str | int, tokens: int) -> None:
    assert spoken_tokens(text) == tokens


@given(st.text())
def test_a_longer_text_is_never_fewer_tokens(text: str) -> None:
    assert llm_tokens(text) <= llm_tokens(text + "a") <= llm_tokens(text) + 1


def test_what_was_said_is_not_estimated_and_a_quantity_is_at_least_one() -> None:
    assert estimated(CALL, {"input_text": "words"}, {}) == {"input_tokens": 2}
    assert estimated(CALL, {"input_text": "words"}, {"input_tokens": 9}) == {}
    assert estimated(CALL, {"audio_bytes": 5}, {}) == {"quantity": 1}
    assert estimated(CALL, {"audio_bytes": 32_000, "spoken_text": "ab"}, {}) == {"quantity": 6}


@pytest.mark.parametrize(
    ("source", "value", "said"),
    [
        ("text", "x", "estimate_from.text is nothing this event is estimated from"),
        ("audio_bytes", "RIFF", "estimate_from.audio_bytes must be how many there are"),
        ("input_text", -1, "estimate_from.input_text must not be negative"),
        ("a b", 1, "estimate_from is nothing"),
    ],
)
def test_what_cannot_be_estimated_is_refused_without_the_text(
    source: str, value: str | int, said: str
) -> None:
    with pytest.raises(Refusal) as raised:
        estimated(CALL, {source: value}, {})
    assert raised.value.code == "invalid_request"
    assert raised.value.message.startswith(said)
    assert "RIFF" not in str(raised.value.as_dict())


@given(
    micros=st.integers(0, 10**9),
    tokens_in=st.integers(0, 10**6),
    rates=st.tuples(st.integers(0, 10**8), st.integers(1, 10**8)),
    per_unit=st.none() | st.integers(0, 10**6),
)
def test_the_longest_affordable_answer_is_affordable_and_one_token_more_is_not(
    micros: int, tokens_in: int, rates: tuple[int, int], per_unit: int | None
) -> None:
    price = UnitPrice("catalog", "USD", *rates, per_unit)
    longest = price.output_tokens_for(micros, 1, {"input_tokens": tokens_in, "output_tokens": 7})
    cost_of = lambda tokens: price.cost_micros(1, {"input_tokens": tokens_in, "output_tokens": tokens})  # noqa: E731
    assert longest == 0 or cost_of(longest) <= micros
    assert cost_of(longest + 1) > micros or cost_of(0) > micros
