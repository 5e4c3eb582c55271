"""Problem documents (RFC 9457) and the headers a decision brings (RateLimit, Retry-After)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Send

from subscription_mcp.domain.decisions import Decision, LimitState
from subscription_mcp.domain.errors import HTTP_STATUS, Refusal
from subscription_mcp.domain.instants import SECOND

UNAVAILABLE_SECONDS = 5
PROBLEM = "application/problem+json"
QUOTA_EXCEEDED_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"


class HttpFault(Exception):
    """A fault of HTTP itself, before anything was asked: a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class JsonResponse(Response):
    """A JSON document; what it says of a caller is nobody else's to cache."""

    media_type = "application/json"

    def __init__(
        self, document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(to_json(document), status, {"cache-control": "no-store", **(headers or {})})


async def send_json(send: Send, document: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """The same with 200, without a response being made first."""
    body = to_json(document)
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    raw += (*_OF_EVERY_DOCUMENT, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    await send({"type": "http.response.body", "body": body})


_OF_EVERY_DOCUMENT = ((b"cache-control", b"no-store"), (b"content-type", b"application/json"))


class ProblemResponse(JsonResponse):
    media_type = PROBLEM


def problem(
    refusal: Refusal, status: int | None = None, headers: Mapping[str, str] | None = None
) -> ProblemResponse:
    """A refusal as a problem document with the status of the table, or of HTTP itself."""
    if refusal.code == "unavailable":
        headers = {"retry-after": str(refusal.retry_after_seconds or UNAVAILABLE_SECONDS), **(headers or {})}
    return _problem(refusal.as_dict(), status or HTTP_STATUS[refusal.code], headers)


def http_fault(status: int, message: str, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """A fault of HTTP itself, like a body that is too large."""
    return problem(Refusal("invalid_request", message), status, headers)


def refused_decision(decision: Decision) -> ProblemResponse:
    """A decision that says no, with the whole of it."""
    body = {
        "code": decision.code,
        "message": decision.message,
        "retryable": decision.retryable,
        "decision": decision.as_dict(),
    }
    headers = rate_limit_headers(decision)
    status = HTTP_STATUS[decision.code]
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        until = [unlock.until for unlock in decision.unlocks if unlock.until is not None]
        if until:
            headers["retry-after"] = str(_seconds_until(max(until), decision))
    return _problem(body, status, headers)


def rate_limit_headers(decision: Decision) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), one item per meter and
    window; where user and account are both limited, the one with less left."""
    tightest: dict[str, tuple[int, LimitState]] = {}
    for state in decision.limits:
        remaining, limit = state.remaining, state.limit
        if remaining is not None:
            name = f"{limit.meter}-{limit.window.name}"
            known = tightest.get(name)
            if known is None or remaining < known[0]:
                tightest[name] = (remaining, state)
    if not tightest:
        return {}
    policies, left = [], []
    for name, (remaining, state) in tightest.items():
        seconds, ends = state.limit.window.seconds, state.period.end
        window = f";w={seconds}" if seconds is not None else ""
        policies.append(f'"{name}";q={state.limit.maximum}{window}')
        reset = f";t={_seconds_until(ends, decision)}" if ends is not None and not state.is_over else ""
        left.append(f'"{name}";r={remaining}{reset}')
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(left)}


def _seconds_until(end: int, decision: Decision) -> int:
    return max(1, -((decision.as_of - end) // SECOND))


def _problem(body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None) -> ProblemResponse:
    kind = QUOTA_EXCEEDED_TYPE if body["code"] == "quota_exceeded" else "about:blank"
    head = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": body["message"]}
    return ProblemResponse({**head, **body}, status, headers)
