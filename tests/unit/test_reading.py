"""The strict reading of bodies: how deep is too deep, and what is no JSON here."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription_mcp.web.problems import HttpFault
from subscription_mcp.web.reading import DEPTH_MAX, is_too_deep, strict_json


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def nested(depth: int, inside: Any = 0) -> Any:
    for level in range(depth):
        inside = [inside, "]}"] if level % 2 else {'"[{\\': inside}
    return inside


@pytest.mark.parametrize(("depth", "too_deep"), [(0, False), (DEPTH_MAX, False), (DEPTH_MAX + 1, True)])
def test_depth_is_counted_to_its_edge(depth: int, too_deep: bool) -> None:
    body = json.dumps([0] * 3 if depth == 0 else nested(depth)).encode()
    assert is_too_deep(body) is too_deep


@given(
    st.recursive(
        st.text('[]{}"\\ab') | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[{"\\'), inner),
    ),
    st.integers(0, DEPTH_MAX + 3),
)
def test_depth_agrees_with_a_parser_whatever_the_texts_hold(value: Any, more: int) -> None:
    document = nested(more, value)
    assert is_too_deep(json.dumps(document).encode()) is (depth_of(document) > DEPTH_MAX)


def test_many_values_side_by_side_are_not_deep() -> None:
    assert not is_too_deep(json.dumps({"events": [{"attributes": {}}] * 1_000}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 4_000_000,
        b"[]" * 2_000_000,
        b'"' + b'\\"' * 2_000_000 + b"[" * 40,
        b'{"a":' * 700_000,
        b'["' * 2_000_000,
    ],
    ids=lambda body: body[:8].decode(),
)
def test_a_hostile_body_is_refused_whatever_its_size(body: bytes) -> None:
    with pytest.raises(HttpFault) as refused:
        strict_json(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
        b"NaN",
        b"[-Infinity]",
        b"9" * 5_000,
        b'"\xff"',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32"),
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_no_json_here(body: bytes) -> None:
    with pytest.raises(HttpFault) as refused:
        strict_json(body)
    assert refused.value.status == 400
