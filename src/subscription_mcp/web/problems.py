"""Problem documents (RFC 9457) and the headers a decision brings (RateLimit, Retry-After)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from subscription_mcp.domain.catalog import UNLIMITED
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
    tightest: dict[str, LimitState] = {}
    for state in decision.limits:
        name = f"{state.meter}-{state.window}"
        if state.maximum is not UNLIMITED:
            known = tightest.get(name)
            if known is None or (state.remaining or 0) < (known.remaining or 0):
                tightest[name] = state
    if not tightest:
        return {}
    policies, left = [], []
    for name, state in tightest.items():
        window = f";w={state.window_seconds}" if state.window_seconds is not None else ""
        policies.append(f'"{name}";q={state.maximum}{window}')
        ends = state.period.end if not state.is_over else None
        reset = f";t={_seconds_until(ends, decision)}" if ends is not None else ""
        left.append(f'"{name}";r={state.remaining}{reset}')
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(left)}


def _seconds_until(end: int, decision: Decision) -> int:
    return max(1, -((decision.as_of - end) // SECOND))


def _problem(body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None) -> ProblemResponse:
    kind = QUOTA_EXCEEDED_TYPE if body["code"] == "quota_exceeded" else "about:blank"
    head = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": body["message"]}
    return ProblemResponse({**head, **body}, status, headers)
