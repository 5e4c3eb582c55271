"""An alias in place of an id, wherever a text names the user and nowhere else."""

from typing import Any

import pytest

from subscription_mcp.domain.erasure import Redaction, hashed_name
from subscription_mcp.domain.identifiers import is_id

BOB = Redaction("bob", "erased-1")

SENTENCES = [
    ("bob", "erased-1"),
    ("bob asked, bob got", "erased-1 asked, erased-1 got"),
    ("(bob).", "(erased-1)."),
    ("msg:bob-7", "msg:erased-1-7"),
    ("bobby and bob2 and Bob", "bobby and bob2 and Bob"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_a_sentence_names_the_user_between_what_is_no_letter_and_no_digit(text: str, expected: str) -> None:
    assert BOB.sentence(text) == expected
    assert BOB.is_in_sentence(text) is (text != expected)


DOCUMENTS: list[tuple[Any, Any]] = [
    ("bob", "erased-1"),
    ("bob.smith", "bob.smith"),
    ("for bob", "for erased-1"),
    ({"user_id": "bob", "plan": "bob"}, {"user_id": "erased-1", "plan": "bob"}),
    ({"users": ["ann", "bob"], "n": 7, "is": None}, {"users": ["ann", "erased-1"], "n": 7, "is": None}),
]


@pytest.mark.parametrize(("value", "expected"), DOCUMENTS)
def test_a_document_names_the_user_by_exactly_the_id(value: Any, expected: Any) -> None:
    spared = frozenset({"plan"})
    assert BOB.document(value, spared) == expected
    assert BOB.is_in(value, spared) is (value != expected)
    assert not BOB.is_in(expected, spared)


def test_an_id_with_signs_is_found_as_it_is_written() -> None:
    redaction = Redaction("a.b+c@example.org", "erased-2")
    assert redaction.sentence("a.b+c@example.org, axb+c@example.org") == "erased-2, axb+c@example.org"


def test_a_hash_is_no_id_and_always_the_same() -> None:
    assert hashed_name("bob") == hashed_name("bob") != hashed_name("Bob")
    assert not is_id(hashed_name("bob"))
