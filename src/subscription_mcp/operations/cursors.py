"""Where a page of a list ended, as callers hand it back. It names whose list it was, so that it cannot be carried to
somebody else's."""

import base64
import json

from subscription_mcp.domain.errors import FieldProblem, Refusal

POSITION_MAX = 2**63 - 1


def cursor_of(position: int, *whose: str | None) -> str:
    text = json.dumps([position, *whose])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position_of(cursor: str | None, *whose: str | None) -> int | None:
    """The position; None where the list begins. Raises Refusal `invalid_request`."""
    if cursor is None:
        return None
    try:
        position, *owner = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        position, owner = None, []
    if type(position) is not int or not 0 <= position <= POSITION_MAX or owner != list(whose):
        raise Refusal(
            "invalid_request",
            "This cursor does not belong to this list. Start again without one.",
            fields=[FieldProblem("cursor", "must be the next_cursor of the same list")],
        )
    return position
