"""What the SDK lacks, in one place, because it calls the hook used here provisional.

- Lists show what the caller may use.
- Unknown prompts answer -32602.
- A tool or resource that is hidden answers exactly as one that does not exist: JSON-RPC -32602.
- Arguments reach our own models untouched; the SDK would drop unknown ones and turn `"null"` into nothing.
- No exception text leaves, in either protocol era, and nothing a handler raises ends a session or the process.
"""

import logging
from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS
from pydantic import ValidationError

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.tools.defects import is_cancellation
from subscription_mcp.tools.toolbox import TOOLS, Toolbox

log = logging.getLogger(__name__)

NAME_SHOWN_MAX = 64
_TOOL_NAMES = frozenset(tool.name for tool in TOOLS)
_OWN_ACCOUNT_SCHEMES = ("subscription://me", "quota://me")


class UntouchedArguments(FuncMetadata):
    """Hands a tool body its raw arguments as they came."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": arguments_to_validate}


class NoArguments(ArgModelBase):
    """Stands where the SDK wants a model; ours is published and applied instead."""


def unknown_tool(name: object) -> MCPError:
    """The one answer for a tool that does not exist or is hidden from the caller."""
    return MCPError(INVALID_PARAMS, f"Unknown tool: {_shown(name)}")


def unknown_resource(uri: object) -> MCPError:
    """The one answer for a resource that does not exist or is hidden from the caller."""
    return MCPError(INVALID_PARAMS, f"Unknown resource: {_shown(uri)}", {"uri": _shown(uri)})


def middleware(toolbox: Toolbox, identify: Identify) -> list[Any]:
    """Our hooks, outermost first."""

    async def contain(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        try:
            return await call_next(ctx)
        except MCPError:
            raise
        except ValidationError:
            raise MCPError(INVALID_PARAMS, "The parameters are not those of this method") from None
        except BaseException as defect:
            if is_cancellation(defect):
                raise
            log.exception("%s could not be handled", ctx.method)
            raise MCPError(INTERNAL_ERROR, "Internal error") from None

    async def per_caller(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        params: Mapping[str, Any] = ctx.params or {}
        match ctx.method:
            case "tools/call" if not _is_known_tool(params.get("name")):
                raise unknown_tool(params.get("name"))
            case "tools/call" if not isinstance(params.get("arguments", {}), dict | None):
                raise MCPError(INVALID_PARAMS, "arguments must be an object")
            case "prompts/get":
                raise MCPError(INVALID_PARAMS, f"Unknown prompt: {_shown(params.get('name'))}")
            case "tools/list":
                return _filtered(
                    await call_next(ctx), "tools", "name", await _visible_tools(toolbox, identify)
                )
            case "resources/list" if await _stands_in_no_account(identify):
                return _without_own_account(await call_next(ctx), "resources", "uri")
            case "resources/templates/list" if await _stands_in_no_account(identify):
                return _without_own_account(await call_next(ctx), "resourceTemplates", "uriTemplate")
            case "resources/read" if _is_own_account(params.get("uri")) and await _stands_in_no_account(
                identify
            ):
                raise unknown_resource(params.get("uri"))
        return await call_next(ctx)

    return [contain, per_caller]


async def _visible_tools(toolbox: Toolbox, identify: Identify) -> frozenset[str]:
    try:
        return frozenset(tool.name for tool in await toolbox.listed(await identify()))
    except Refusal as refusal:
        if refusal.code != "unauthenticated":
            raise MCPError(INTERNAL_ERROR, refusal.message, refusal.as_dict()) from None
        return frozenset(tool.name for tool in toolbox.listed_for_nobody())


async def _stands_in_no_account(identify: Identify) -> bool:
    """A service acts for others and has no plan or quota of its own to show."""
    try:
        return "service" in (await identify()).roles
    except Refusal:
        return False


def _is_known_tool(name: object) -> bool:
    return isinstance(name, str) and name in _TOOL_NAMES


def _is_own_account(uri: object) -> bool:
    return isinstance(uri, str) and uri.startswith(_OWN_ACCOUNT_SCHEMES)


def _filtered(result: HandlerResult, items: str, key: str, wanted: frozenset[str]) -> HandlerResult:
    assert isinstance(result, dict)
    return {**result, items: [item for item in result[items] if item[key] in wanted]}


def _without_own_account(result: HandlerResult, items: str, key: str) -> HandlerResult:
    assert isinstance(result, dict)
    return {**result, items: [item for item in result[items] if not _is_own_account(item[key])]}


def _shown(name: object) -> str:
    """A caller's own word, cut short and made harmless."""
    text = name if isinstance(name, str) else "?"
    return "".join(c if c.isprintable() else "?" for c in text[:NAME_SHOWN_MAX])
