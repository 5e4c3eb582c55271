"""Reading a request's body: no more than allowed, in time, at once, and as JSON in the strict sense.

A proxy, our own code and the SDK may each take another meaning from a key given twice, from UTF-16 or from
`NaN`; so none of that gets past here.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from starlette.types import Message, Receive

from subscription_mcp.web.problems import HttpFault

HEADER_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 4 * 1024 * 1024
DEPTH_MAX = 32

# One text, also one that does not end, without ever looking back.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


class ClientGone(Exception):
    """The client left before its request was complete: there is nobody to answer."""


async def whole_body(receive: Receive) -> bytes:
    """The body, complete; how long it may take is the connection's to judge. Raises HttpFault 413, and
    ClientGone."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        parts.append(message["body"])
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise too_large()
        more = message["more_body"]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large() -> HttpFault:
    return HttpFault(413, f"The body is larger than {BODY_BYTES_MAX} bytes.")


def given_again(body: bytes, receive: Receive) -> Receive:
    """`receive` for a body that was read already."""
    pending: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receiving() -> Message:
        nonlocal pending
        if pending is None:
            return await receive()
        message, pending = pending, None
        return message

    return receiving


def check_is_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """The body calls itself JSON, in UTF-8, each header being there once. Raises HttpFault 415."""
    content_type, encoding = b"", b"identity"
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            encoding = value
    if content_type != b"application/json":
        _check_type_is_json(content_type.decode("latin-1"))
    if encoding.lower() != b"identity":
        raise HttpFault(415, "Send the body without a Content-Encoding.")


def _check_type_is_json(content_type: str) -> None:
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "application/json":
        raise HttpFault(415, "Send the body as Content-Type: application/json.")
    if parameters:
        for parameter in parameters.lower().split(";"):
            name, _, value = parameter.partition("=")
            if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
                raise HttpFault(415, "Send JSON in UTF-8.")


def strict_json(body: bytes) -> Any:
    """The body as JSON: UTF-8, no key twice, no NaN, not too deep. Raises HttpFault 400."""
    if is_too_deep(body):
        raise HttpFault(
            400, f"The body is nested deeper than {DEPTH_MAX} levels, or its brackets do not match."
        )
    try:
        text = body.decode("utf-8").strip(" \t\r\n")
        value, end = _strict.raw_decode(text)
        if end != len(text):
            raise ValueError("something after it")
        return value
    except (ValueError, RecursionError):
        raise HttpFault(400, "The body is no valid JSON in UTF-8, or has the same key twice.") from None


def is_too_deep(body: bytes) -> bool:
    """Whether arrays and objects stand in each other more than DEPTH_MAX deep. Linear, and without parsing."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return False
    brackets = _TEXT.sub(b"", body).translate(_ONE_KIND, _ALL_BUT_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # the innermost ones of now
    return bool(brackets)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("the same key twice")
    return made


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_strict = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_no_number)
