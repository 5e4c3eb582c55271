"""Where a page of a list ended, as callers hand it back. It names whose list it was, so that it cannot be carried to
somebody else's."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from subscription_mcp.domain.errors import FieldProblem, Refusal

POSITION_MAX = 2**63 - 1


def cursor_of(position: int, *whose: str | None) -> str:
    return packed([position, *whose])


def packed(values: Sequence[Any]) -> str:
    """What a page wants to know again, as the text that is handed out."""
    text = json.dumps(values, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def unpacked(cursor: str) -> list[Any]:
    """What `packed` was given; nothing where it is no such text."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, RecursionError):
        return []
    return values if isinstance(values, list) else []


def position_of(cursor: str | None, *whose: str | None, state: str | None = None) -> int | None:
    """The position; None where the list begins. A list that may change as a whole has its `state` at the end of its
    cursors. Raises Refusal `invalid_request`."""
    if cursor is None:
        return None
    values = unpacked(cursor)
    was = values.pop() if values and state is not None else None
    if not values or not is_position(values[0]) or values[1:] != list(whose):
        raise not_of_this_list()
    if was != state:
        raise Refusal(
            "invalid_request",
            "What this list shows has changed since its first page. Start again without a cursor; a period that is "
            "over changes least.",
            fields=[FieldProblem("cursor", "must be of the list as it is now")],
        )
    position: int = values[0]
    return position


def is_position(value: object) -> bool:
    return type(value) is int and 0 <= value <= POSITION_MAX


def not_of_this_list() -> Refusal:
    return Refusal(
        "invalid_request",
        "This cursor does not belong to this list. Start again without one.",
        fields=[FieldProblem("cursor", "must be the next_cursor of the same list")],
    )
