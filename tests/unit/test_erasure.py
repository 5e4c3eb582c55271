"""An alias in place of an id, wherever a text names the user and nowhere else."""

from typing import Any

import pytest

from subscription_mcp.domain.erasure import Redaction, hashed_name
from subscription_mcp.domain.identifiers import is_id

BOB = Redaction("bob", "erased-1", theirs=False)

SENTENCES = [
    ("bob", "erased-1"),
    ("bob asked, bob got", "erased-1 asked, erased-1 got"),
    ("(bob).", "(erased-1)."),
    ("It was bob.", "It was erased-1."),
    ("bob: gone. Ask @bob...", "erased-1: gone. Ask @erased-1..."),
    ("bob's, <bob>, bob/ann", "erased-1's, <erased-1>, erased-1/ann"),
    ("bob.x about bob@example.com", "bob.x about bob@example.com"),
    ("msg:bob-7, bob_2, -bob-7, bob|ann, v1.bob", "msg:bob-7, bob_2, -bob-7, bob|ann, v1.bob"),
    ("bobby and bob2 and Bob", "bobby and bob2 and Bob"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_a_sentence_names_the_user_where_the_id_stands_alone(text: str, expected: str) -> None:
    assert BOB.sentence(text) == expected


@pytest.mark.parametrize("user", ["7", "1234567", "al"])
def test_a_number_or_a_short_id_is_looked_for_only_in_what_is_theirs(user: str) -> None:
    others, theirs = (Redaction(user, "erased-3", theirs=whose) for whose in (False, True))
    text = f"Lowered for {user} days, ticket ABC-{user}, v1.{user}"
    assert others.sentence(text) == text
    assert theirs.sentence(text) == f"Lowered for erased-3 days, ticket ABC-{user}, v1.{user}"
    assert others.document({"user_id": user, "why": text}) == {"user_id": "erased-3", "why": text}


PARTS = [("bob", "bob", True), ("bob", "bob:1", True), ("bob", "bobby:1", False), ("7", "7", True)]


@pytest.mark.parametrize(("user", "text", "expected"), [*PARTS, ("7", "job:7", False)])
def test_a_token_may_be_called_after_the_user(user: str, text: str, expected: bool) -> None:
    assert Redaction(user, "erased-4", theirs=False).is_part_of(text) is expected


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
    redaction = Redaction("a.b+c@example.org", "erased-2", theirs=False)
    assert redaction.sentence("a.b+c@example.org, axb+c@example.org") == "erased-2, axb+c@example.org"


def test_a_hash_is_no_id_and_always_the_same() -> None:
    assert hashed_name("bob") == hashed_name("bob") != hashed_name("Bob")
    assert not is_id(hashed_name("bob"))
