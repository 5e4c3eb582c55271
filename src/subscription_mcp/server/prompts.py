"""Prompts: what is left, which plan fits, why something was refused; each with the caller's own numbers in it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import Prompt, PromptArgument

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import FieldProblem, Refusal
from subscription_mcp.operations import Operations
from subscription_mcp.operations.access import ME, Caller
from subscription_mcp.operations.metering import UsageReport
from subscription_mcp.server.faults import error_of, unknown_prompt
from subscription_mcp.server.offers import Offer
from subscription_mcp.tools import texts, wire
from subscription_mcp.tools.validation import parsed

Arguments = dict[str, str]
Render = Callable[[Operations, Caller, Arguments], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class OfferedPrompt(Offer):
    """A prompt; all its arguments may be left out as far as the protocol goes."""

    arguments: tuple[tuple[str, str], ...] = ()


QUOTA = OfferedPrompt(
    "quota",
    "quota",
    "What is left",
    "How much of your plan is left, and when it resets.",
)
COMPARE_PLANS = OfferedPrompt(
    "compare_plans",
    "compare_plans",
    "Compare plans",
    "Which plan fits: prices, limits and features beside what you use now.",
    "catalog",
    (("plans", "The plans to compare, separated by commas; all of them unless given."),),
)
EXPLAIN_DENIAL = OfferedPrompt(
    "explain_denial",
    "explain_denial",
    "Explain a refusal",
    "Why something is refused, until when, and what would help. Needs event or feature.",
    "me",
    (
        ("event", "The kind of event that was refused, like message."),
        ("quantity", "How much of it; 1 unless given."),
        ("feature", "Or the feature that was missing."),
    ),
)
PROMPTS = (QUOTA, COMPARE_PLANS, EXPLAIN_DENIAL)


async def quota(do: Operations, caller: Caller, given: Arguments) -> str:
    return texts.quota_prompt(await do.plans.account(caller, ME))


async def compare_plans(do: Operations, caller: Caller, given: Arguments) -> str:
    offered = await do.plans.offered()
    named = given.get("plans")
    if named is not None:
        known = {plan.key: plan for plan in offered}
        wanted = dict.fromkeys(word.strip() for word in named.split(",") if word.strip())
        if not wanted or any(key not in known for key in wanted):
            names = ", ".join(known)
            raise Refusal(
                "invalid_request",
                f"plans must name plans, separated by commas. There are: {names}.",
                fields=[FieldProblem("plans", f"must be among {names}")],
            )
        offered = [plan for plan in offered if plan.key in wanted]
    return texts.compare_plans_prompt(offered, do.plans.catalog, caller.view)


async def explain_denial(do: Operations, caller: Caller, given: Arguments) -> str:
    event, feature = given.get("event"), given.get("feature")
    if event is None and feature is None:
        raise Refusal(
            "invalid_request",
            "explain_denial needs event or feature.",
            fields=[FieldProblem("event", "or feature is required")],
        )
    if event is None and "quantity" in given:
        raise Refusal(
            "invalid_request",
            "quantity goes with event.",
            fields=[FieldProblem("quantity", "goes with event")],
        )
    said = []
    if event is not None:
        digits = given.get("quantity", "1")
        quantity: int | str = (
            int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else digits
        )
        asked = parsed(wire.CheckQuotaArguments, {"event": event, "quantity": quantity})
        said.append(texts.decision(await do.metering.check(caller, UsageReport(asked.event, asked.quantity))))
    if feature is not None:
        asked_feature = parsed(wire.HasFeatureArguments, {"feature": feature}).feature
        said.append(texts.feature(await do.plans.feature(caller, ME, asked_feature)))
    return texts.explain_denial_prompt(said, await do.plans.account(caller, ME))


_RENDER: dict[str, Render] = {
    "quota": quota,
    "compare_plans": compare_plans,
    "explain_denial": explain_denial,
}


def add_prompts(server: MCPServer[Any], do: Operations, identify: Identify) -> None:
    """Register every prompt. Who sees which is decided at each call and each list."""
    for prompt in PROMPTS:
        server.add_prompt(_sdk_prompt(prompt, do, identify))


def _sdk_prompt(prompt: OfferedPrompt, do: Operations, identify: Identify) -> Prompt:
    names = [name for name, _ in prompt.arguments]

    async def render(**arguments: str) -> str:
        try:
            caller = await do.access.caller(await identify(), may_make_known=True)
            if not prompt.exists_for(caller, do.access):
                raise unknown_prompt(prompt.key)
            withheld = prompt.withheld_from(caller, do.access)
            if withheld is not None:
                raise withheld
            if any(name not in names for name in arguments):
                raise Refusal(
                    "invalid_request",
                    f"{prompt.key} takes {', '.join(names) or 'no arguments'}.",
                    fields=[FieldProblem("arguments", f"may be {', '.join(names) or 'none'}")],
                )
            # A form that was left empty is not an answer.
            given = {name: value.strip() for name, value in arguments.items() if value.strip()}
            return await _RENDER[prompt.key](do, caller, given)
        except Refusal as refusal:
            raise error_of(refusal) from None

    return Prompt(
        name=prompt.name,
        title=prompt.title,
        description=prompt.description,
        arguments=[PromptArgument(name=name, description=words) for name, words in prompt.arguments],
        fn=render,
        context_kwarg=None,
    )
