"""Calls of tools, answered where the SDK first lets us.

A call that cannot lead to a question is one lookup and one answer; the SDK's way through its tool manager, with a
context, a model of the parameters, one of the result and one of its wire form, takes as long as the rest of the
request. So a modern call of such a tool is answered at the hook, with what that way would have made of it. Whatever
is not plain goes on into the SDK.
"""

import logging
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import SERVER_INFO_META_KEY, CallToolResult, methods
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import Refusal, internal
from subscription_mcp.server.faults import error_result, unknown_tool
from subscription_mcp.tools.defects import is_cancellation
from subscription_mcp.tools.toolbox import TOOLS, Toolbox, UnknownTool

log = logging.getLogger(__name__)

PLAIN_MEMBERS = frozenset({"name", "arguments", "_meta"})
PLAIN_TOOLS = frozenset(tool.name for tool in TOOLS if not tool.asks)


class Calls:
    """The plain calls of one server."""

    def __init__(self, toolbox: Toolbox, identify: Identify) -> None:
        self._toolbox = toolbox
        self._identify = identify

    def serve(self, server: MCPServer[Any]) -> None:
        sdk = server._lowlevel_server
        self._stamp = {SERVER_INFO_META_KEY: sdk.server_info_stamp}
        # No argument of ours is mirrored in a header; the SDK would look for that in the schema at every call.
        sdk.get_tool_input_schema = lambda _: None

    async def early(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """The hook."""
        if ctx.method == "tools/call" and self._is_plain(ctx):
            return await self._answer(ctx)
        return await call_next(ctx)

    def _is_plain(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        params = ctx.params or {}
        return (
            ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
            and ctx.request_id is not None
            and params.get("name") in PLAIN_TOOLS
            and PLAIN_MEMBERS.issuperset(params)
        )

    async def _answer(self, ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
        """The result as it is on the wire. Raises MCPError, and ValidationError where the SDK would."""
        params = ctx.params or {}
        methods.validate_client_request(ctx.method, ctx.protocol_version, params)
        name = params["name"]
        try:
            answer = await self._toolbox.call(await self._identify(), name, params.get("arguments") or {})
        except UnknownTool:
            raise unknown_tool(name) from None
        except Refusal as refusal:
            return self._wire(error_result(refusal))
        except BaseException as defect:
            if is_cancellation(defect):
                raise
            log.exception("%s could not be answered", name)
            return self._wire(error_result(internal()))
        return {
            "content": [{"text": answer.text, "type": "text"}],
            "isError": False,
            "resultType": "complete",
            "structuredContent": answer.document,
            "_meta": self._stamp,
        }

    def _wire(self, result: CallToolResult) -> dict[str, Any]:
        wire = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        return {**wire, "_meta": {**wire.get("_meta", {}), **self._stamp}}
