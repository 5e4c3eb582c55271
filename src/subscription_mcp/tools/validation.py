"""Judging raw arguments by a tool's model. Problems name field and rule, never the value that was sent."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.domain.identifiers import ID_PATTERN, ID_RULE
from subscription_mcp.domain.wording import counted
from subscription_mcp.tools.wire import YEAR_OR_MONTH_PATTERN, Arguments

PROBLEMS_MAX = 10
_TYPES = {
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "string_unicode": "must be a text of valid Unicode",
}
_PATTERNS = {
    ID_PATTERN: f"must be {ID_RULE}",
    YEAR_OR_MONTH_PATTERN: "must be a year or a month, like 2026 or 2026-11",
}
_UNIONS = {
    "thresholds": 'must be a list of whole percents, or "plan"',
}
"""Fields that take one of two kinds: a wrong kind is told once, and not as two branches of ours."""
ALL_TOGETHER = "arguments"
"""The field of a problem that several arguments make together."""


def parsed(model: type[Arguments], raw: Mapping[str, Any]) -> Any:
    """The arguments as their model. Raises Refusal `invalid_request`."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise refusal_of(error, model) from None


def refusal_of(error: ValidationError, model: type[Arguments]) -> Refusal:
    """Everything wrong with the arguments, as one refusal."""
    problems: list[FieldProblem] = []
    for detail in error.errors(include_url=False, include_context=True, include_input=False):
        problem = _problem(detail, model)
        if problem not in problems and not any(_is_same_union(problem, other) for other in problems):
            problems.append(problem)
    shown = "; ".join(
        problem.rule if problem.field == ALL_TOGETHER else f"{problem.field} {problem.rule}".strip()
        for problem in problems[:PROBLEMS_MAX]
    )
    return Refusal("invalid_request", f"{shown}.", fields=problems[:PROBLEMS_MAX])


def _problem(detail: Any, model: type[Arguments]) -> FieldProblem:
    kind, context = detail["type"], detail.get("ctx", {})
    path = [str(part) for part in detail["loc"]]
    if kind == "extra_forbidden":
        return FieldProblem(_shown(path[-1]), f"is no argument of this tool{_did_you_mean(path[-1], model)}")
    # A union names its branch as a last part (`limit.int`): that is ours, not the caller's.
    field = ".".join(
        _shown(part)
        for part in (path[:1] if path and path[0] in _UNIONS else path)
        if part not in ("int", "str", "constrained-int")
    )
    if path and path[0] in _UNIONS and (kind in _TYPES or kind == "literal_error"):
        return FieldProblem(path[0], _UNIONS[path[0]])
    if path and path[0] == "estimate_from" and len(path) > 1 and kind in _TYPES:
        return FieldProblem(".".join(_shown(part) for part in path[:2]), "must be a text or its size")
    if kind in _TYPES and "attributes" in path[:-2]:  # which of the two the catalog says
        return FieldProblem(field, "must be an integer or a text")
    if kind == "missing":
        return FieldProblem(field, "is required")
    if kind in _TYPES:
        return FieldProblem(field, _TYPES[kind])
    if kind == "string_pattern_mismatch" and context.get("pattern") in _PATTERNS:
        return FieldProblem(field, _PATTERNS[context["pattern"]])
    if kind == "literal_error":
        return FieldProblem(field, f"must be one of {str(context.get('expected', '')).replace(' or ', ', ')}")
    if kind == "value_error":
        return FieldProblem(field or ALL_TOGETHER, str(context.get("error", "is not valid")))
    for bound, words in (("ge", "at least"), ("le", "at most"), ("gt", "more than"), ("lt", "less than")):
        if bound in context:
            return FieldProblem(field, f"must be {words} {context[bound]}")
    one = "character" if kind.startswith("string") else "entry"
    for bound, words in (("min_length", "at least"), ("max_length", "at most")):
        if bound in context:
            return FieldProblem(field, f"must have {words} {counted(context[bound], one)}")
    return FieldProblem(field, "is not valid")


def _is_same_union(one: FieldProblem, other: FieldProblem) -> bool:
    return one.field == other.field


def _did_you_mean(word: str, model: type[Arguments]) -> str:
    nearest = get_close_matches(word, list(model.model_fields), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _shown(part: str) -> str:
    """A caller's own key, cut short and made harmless."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "?" for c in part[:64])
