"""What the SDK lacks, in one place, because it calls the hook used here provisional.

- Lists show what the caller may use.
- A tool, resource or prompt that is hidden answers exactly as one that does not exist: JSON-RPC -32602.
- Arguments reach our own models untouched; the SDK would drop unknown ones and turn `"null"` into nothing.
- No exception text leaves, in either protocol era, and nothing a handler raises ends a session or the process.
"""

import logging
from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, GetPromptRequestParams, methods
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS
from pydantic import BaseModel, ValidationError

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.operations.access import Caller
from subscription_mcp.server.faults import error_of, unknown_prompt, unknown_resource, unknown_tool
from subscription_mcp.server.listening import Listening
from subscription_mcp.server.offers import listed
from subscription_mcp.server.prompts import PROMPTS
from subscription_mcp.server.resources import RESOURCES
from subscription_mcp.tools.defects import is_cancellation
from subscription_mcp.tools.toolbox import Tool, Toolbox

log = logging.getLogger(__name__)


class UntouchedArguments(FuncMetadata):
    """Hands a tool body its raw arguments as they came."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": arguments_to_validate}


class NoArguments(ArgModelBase):
    """Stands where the SDK wants a model; ours is published and applied instead."""


_PARAMS: dict[str, type[BaseModel]] = {
    "tools/call": CallToolRequestParams,
    "prompts/get": GetPromptRequestParams,
}
"""What the SDK reads the parameters of a request into, before it asks a handler of ours."""

ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""Stands where the SDK wants a schema: ours are made when somebody lists them, not before the first answer."""


async def contain(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Outermost: what is raised beneath becomes an error that tells nothing of our insides."""
    try:
        return await call_next(ctx)
    except MCPError:
        raise
    except Refusal as refusal:
        raise error_of(refusal) from None
    except ValidationError:
        raise MCPError(INVALID_PARAMS, "The parameters are not those of this method") from None
    except BaseException as defect:
        if is_cancellation(defect):
            raise
        log.exception("%s could not be handled", ctx.method)
        raise MCPError(INTERNAL_ERROR, "Internal error") from None


def known_only(tools: frozenset[str], prompts: frozenset[str]) -> ServerMiddleware[Any]:
    """Only tools and prompts of these names are reached, and tools with an object of arguments; whatever else is
    asked for does not exist."""

    async def only(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        params: Mapping[str, Any] = ctx.params or {}
        match ctx.method:
            case "tools/call" if not isinstance(params.get("arguments", {}), dict | None):
                raise MCPError(INVALID_PARAMS, "arguments must be an object")
            case "tools/call" if not _is_among(tools, params.get("name")):
                _judge_as_if_known(ctx)
                raise unknown_tool(params.get("name"))
            case "prompts/get" if not _is_among(prompts, params.get("name")):
                _judge_as_if_known(ctx)
                raise unknown_prompt(params.get("name"))
            case "resources/read":
                return await _read(ctx, call_next, params.get("uri"))
        return await call_next(ctx)

    return only


def _judge_as_if_known(ctx: ServerRequestContext[Any, Any]) -> None:
    """Raises ValidationError where what is hidden would: a wrong request must not tell it from what is unknown."""
    methods.validate_client_request(ctx.method, ctx.protocol_version, ctx.params)
    _PARAMS[ctx.method].model_validate(ctx.params or {}, by_name=False)


def per_caller(toolbox: Toolbox, identify: Identify, listening: Listening) -> ServerMiddleware[Any]:
    """Lists show what the caller may use; whoever listens is told within its rights."""
    access = toolbox.operations.access

    async def own(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        match ctx.method:
            case "subscriptions/listen":
                return await listening.listen(ctx, call_next)
            case "notifications/initialized":
                return await listening.connected(ctx, call_next)
            case "tools/list":
                caller = await _caller_or_nobody(toolbox, identify)
                tools = toolbox.visible_to(caller) if caller is not None else toolbox.listed_for_nobody()
                return _with_schemas(await call_next(ctx), {tool.name: tool for tool in tools})
            case "prompts/list":
                names = listed(PROMPTS, await _caller_or_nobody(toolbox, identify), access)
                return _filtered(await call_next(ctx), "prompts", "name", names)
            case "resources/list":
                uris = listed(RESOURCES, await _caller_or_nobody(toolbox, identify), access)
                return _filtered(await call_next(ctx), "resources", "uri", uris)
            case "resources/templates/list":
                uris = listed(RESOURCES, await _caller_or_nobody(toolbox, identify), access)
                return _filtered(await call_next(ctx), "resourceTemplates", "uriTemplate", uris)
        return await call_next(ctx)

    return own


async def _read(ctx: ServerRequestContext[Any, Any], call_next: CallNext, uri: object) -> HandlerResult:
    try:
        return await call_next(ctx)
    except MCPError as error:
        # The SDK's own words for what matches nothing, as ours for what is hidden.
        if error.error.code == INVALID_PARAMS and error.error.message.startswith("Unknown resource"):
            raise unknown_resource(uri) from None
        raise


async def _caller_or_nobody(toolbox: Toolbox, identify: Identify) -> Caller | None:
    """The caller, or None where there is no valid token yet. Raises Refusal."""
    try:
        return await toolbox.operations.access.caller(await identify())
    except Refusal as refusal:
        if refusal.code == "unauthenticated":
            return None
        raise


def _is_among(names: frozenset[str], name: object) -> bool:
    return isinstance(name, str) and name in names


def _with_schemas(result: HandlerResult, tools: Mapping[str, Tool]) -> HandlerResult:
    """The list of these tools, with our schemas in place of what stands for them; not every version of the
    protocol has both."""

    def schemas_of(tool: Tool, item: Mapping[str, Any]) -> dict[str, Any]:
        schemas = {"inputSchema": tool.input_schema, "outputSchema": tool.output_schema}
        return {key: schema for key, schema in schemas.items() if key in item}

    assert isinstance(result, dict)
    listed = [item for item in result["tools"] if item["name"] in tools]
    return {**result, "tools": [item | schemas_of(tools[item["name"]], item) for item in listed]}


def _filtered(result: HandlerResult, items: str, key: str, wanted: frozenset[str]) -> HandlerResult:
    assert isinstance(result, dict)
    return {**result, items: [item for item in result[items] if item[key] in wanted]}
