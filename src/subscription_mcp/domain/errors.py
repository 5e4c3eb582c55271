"""Every code an answer can carry, its HTTP status, and the one exception that carries an error to a surface.

A refused decision is an answer (`decisions.Decision`), not an exception. A `Refusal` is for everything else
that cannot be done: the surfaces turn it into an `isError` result, a problem document or an exit code.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Code = Literal[
    "ok",
    "quota_exceeded",
    "rate_limited",
    "session_limit",
    "trial_expired",
    "payment_required",
    "feature_not_in_plan",
    "subscription_inactive",
    "forbidden",
    "unauthenticated",
    "not_found",
    "invalid_request",
    "conflict",
    "unavailable",
    "internal",
]

HTTP_STATUS: dict[Code, int] = {
    "ok": 200,
    "quota_exceeded": 429,
    "rate_limited": 429,
    "session_limit": 429,
    "trial_expired": 402,
    "payment_required": 402,
    "feature_not_in_plan": 403,
    "subscription_inactive": 403,
    "forbidden": 403,
    "unauthenticated": 401,
    "not_found": 404,
    "invalid_request": 422,
    "conflict": 409,
    "unavailable": 503,
    "internal": 500,
}

RETRYABLE: frozenset[Code] = frozenset({"rate_limited", "unavailable"})
"""Codes after which the same call can succeed soon without anybody doing anything."""


@dataclass(slots=True)
class FieldProblem:
    """One argument that was refused: its path and the rule it broke, never its value."""

    field: str
    rule: str


@dataclass(slots=True, eq=False)
class Refusal(Exception):
    """Something that was asked for and not done. `message` is a sentence for the caller: what happened, why,
    and what to do next; it never holds exception text, SQL, a path or a token."""

    code: Code
    message: str
    unlocks: list[dict[str, Any]] = field(default_factory=list)
    fields: list[FieldProblem] = field(default_factory=list)
    retry_after_seconds: int | None = None
    """Where it is known when asking again can help; a header over HTTP."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE

    def as_dict(self) -> dict[str, Any]:
        """The error object of every surface."""
        body: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.unlocks:
            body["unlocks"] = self.unlocks
        if self.fields:
            body["fields"] = [{"field": problem.field, "rule": problem.rule} for problem in self.fields]
        return body


def forbidden() -> Refusal:
    """The one answer for anything beyond the caller's reach, the same whether or not it exists."""
    return Refusal("forbidden", "Your role does not allow this here. Ask an administrator of the account.")


def not_found(what: str, instead: str) -> Refusal:
    """`instead` is the sentence that says where to look."""
    return Refusal("not_found", f"No such {what}. {instead}")


def unavailable() -> Refusal:
    return Refusal(
        "unavailable", "The ledger cannot be written right now; nothing was counted. Try again shortly."
    )


def internal() -> Refusal:
    return Refusal(
        "internal",
        "Something went wrong on our side, and has been logged. Should it come again, tell the operator of this server.",
    )
