"""Completions for the variables of resources and prompts. What the caller may not see completes to nothing,
as what does not exist does."""

from collections.abc import Iterable
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types import Completion as SdkCompletion
from mcp_types import (
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from subscription_mcp.auth.identity import Identify
from subscription_mcp.auth.permissions import COMPLETIONS
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.operations import Operations
from subscription_mcp.operations.access import Caller
from subscription_mcp.server.faults import error_of
from subscription_mcp.server.offers import Offer, listed
from subscription_mcp.server.prompts import PROMPTS
from subscription_mcp.server.resources import PERIODS, RESOURCES

VALUES_MAX = 100
"""As many as the protocol lets one answer carry."""


def add_completions(server: MCPServer[Any], do: Operations, identify: Identify) -> None:
    @server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> SdkCompletion:
        try:
            caller = await do.access.caller(await identify())
            offer = _offer_of(ref, caller, do)
            values = await _values(offer, argument, caller, do) if offer is not None else []
        except Refusal as refusal:
            raise error_of(refusal) from None
        return SdkCompletion(values=values[:VALUES_MAX], has_more=len(values) > VALUES_MAX)


def _offer_of(
    ref: PromptReference | ResourceTemplateReference, caller: Caller, do: Operations
) -> Offer | None:
    among: Iterable[Offer] = PROMPTS if isinstance(ref, PromptReference) else RESOURCES
    key = ref.name if isinstance(ref, PromptReference) else ref.uri
    seen = listed(among, caller, do.access)
    return next((offer for offer in among if offer.key == key and key in seen), None)


async def _values(offer: Offer, argument: CompletionArgument, caller: Caller, do: Operations) -> list[str]:
    name, typed = argument.name, argument.value
    operation = COMPLETIONS[f"{name} of {offer.key}"]
    if not do.access.is_visible(operation, caller):
        return []
    catalog = do.plans.catalog
    match name:
        case "plan":
            return _beginning(typed, [plan.key for plan in await do.plans.offered()])
        case "plans":
            return _next_in_list(typed, [plan.key for plan in await do.plans.offered()])
        case "model":
            return _beginning(typed, do.prices.models())
        case "meter":
            return _beginning(typed, catalog.meters)
        case "period":
            return _beginning(typed, PERIODS)
        case "event":
            return _beginning(typed, catalog.events)
        case "feature":
            return _beginning(typed, catalog.features)
        case "account_id":
            return await do.access.accounts_within_reach(operation, caller, typed, VALUES_MAX + 1)
    return []


def _beginning(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.lower().startswith(typed.lower())]


def _next_in_list(typed: str, words: Iterable[str]) -> list[str]:
    """The list as far as it is typed, with each word that may stand last."""
    before, comma, last = typed.rpartition(",")
    chosen = {word.strip() for word in before.split(",")}
    return [before + comma + word for word in _beginning(last.strip(), words) if word not in chosen]
