"""Usage: what one event says, and what every meter gains from it."""

import pytest
from tests.builders import EVENTS, a_catalog

from subscription_mcp.domain.catalog import QUANTITY_MAX
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.usage import attribute_problems, event_type_of, gains_of, is_plain_text


@pytest.mark.parametrize(
    ("event", "quantity", "attributes", "gains"),
    [
        ("message", 1, {}, {"messages": 1}),
        ("message", 3, {}, {"messages": 3}),
        ("message", QUANTITY_MAX, {}, {"messages": QUANTITY_MAX}),
        ("tool_call", 2, {"tool": "search"}, {"tool_calls": 2}),
        ("llm_call", 5, {}, {"llm_calls": 1, "llm_tokens": 0}),
        ("llm_call", 1, {"tokens": 900, "provider": "openai"}, {"llm_calls": 1, "llm_tokens": 900}),
        ("llm_call", 1, {"provider": "gemini"}, {"llm_calls": 1, "llm_tokens": 0, "gemini_calls": 1}),
        ("llm_call", 1, {"provider": "google"}, {"llm_calls": 1, "llm_tokens": 0, "gemini_calls": 1}),
        ("llm_call", 1, {"provider": "Gemini"}, {"llm_calls": 1, "llm_tokens": 0}),
    ],
)
def test_every_meter_of_the_event_gains_what_it_measures(event, quantity, attributes, gains) -> None:
    assert gains_of(a_catalog(), event, quantity, attributes) == gains


def test_an_unknown_event_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Refusal) as caught:
        event_type_of(a_catalog(), "mesage")
    assert caught.value.code == "invalid_request"
    assert caught.value.message == "Unknown event. Did you mean 'message'?"
    assert [problem.field for problem in caught.value.fields] == ["event"]


def test_an_event_nothing_is_near_to_is_refused_with_all_names() -> None:
    with pytest.raises(Refusal, match="There are: llm_call, message, storage, tool_call"):
        event_type_of(a_catalog(), "zzz")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"provider": "openai", "tokens": 0},
        {"tokens": QUANTITY_MAX},
        {"model": "gpt-5", "tool": "search", "client": "desktop"},
        {"provider": "x" * 256},
        {"provider": "Zürich 東京"},
    ],
)
def test_declared_attributes_and_dimensions_are_taken(attributes) -> None:
    assert attribute_problems(EVENTS["llm_call"], attributes) == []


@pytest.mark.parametrize(
    ("attributes", "field", "rule"),
    [
        ({"provder": "x"}, "attributes.provder", "Did you mean 'provider'?"),
        ({"no name": "x"}, "attributes", "is no attribute of this event"),
        ({"x" * 500: "x"}, "attributes." + "x" * 64, "is no attribute of this event"),
        ({"tokens": "9"}, "attributes.tokens", "must be an integer from 0"),
        ({"tokens": True}, "attributes.tokens", "must be an integer from 0"),
        ({"tokens": -1}, "attributes.tokens", "must be an integer from 0"),
        ({"tokens": QUANTITY_MAX + 1}, "attributes.tokens", "must be an integer from 0"),
        ({"provider": 7}, "attributes.provider", "must be a text"),
        ({"provider": ""}, "attributes.provider", "must be a text"),
        ({"provider": "x" * 257}, "attributes.provider", "must be a text"),
        ({"provider": "a\nb"}, "attributes.provider", "must be a text"),
    ],
)
def test_an_attribute_that_cannot_be_stored_is_named_with_its_rule(attributes, field, rule) -> None:
    (problem,) = attribute_problems(EVENTS["llm_call"], attributes)
    assert problem.field == field
    assert rule in problem.rule


def test_every_problem_is_named_at_once() -> None:
    problems = attribute_problems(EVENTS["llm_call"], {"tokens": -1, "provider": "", "model": "fine"})
    assert [problem.field for problem in problems] == ["attributes.tokens", "attributes.provider"]


@pytest.mark.parametrize("character", ["\0", "\x1b", "\u202e", "\u200b", "\U000e0041", "\ud800", "\ue000"])
def test_a_character_that_hides_something_from_a_reader_is_not_plain_text(character: str) -> None:
    assert not is_plain_text(f"fine{character}fine")
