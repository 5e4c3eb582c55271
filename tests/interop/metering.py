"""Metering around another server's tools: held before the call, counted when it has succeeded."""

from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension
from mcp_types import CallToolRequestParams, CallToolResult

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.operations import Operations
from subscription_mcp.operations.metering import Settlement, UsageReport
from subscription_mcp.server.mcp import error_result

EVENT = "tool_call"
TTL_SECONDS = 120


class Metering(Extension):
    """One `tool_call` for each call of a tool that succeeds. What asks back first, fails or is cancelled gives back
    what it held: the last round of an asking tool is the one that counts."""

    identifier = "io.github.subscription-mcp/metering"

    def __init__(self, do: Operations, identify: Identify) -> None:
        self._do = do
        self._identify = identify

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        metering = self._do.metering
        report = UsageReport(EVENT, attributes={"tool": params.name})
        try:
            caller = await self._do.access.caller(await self._identify(), may_make_known=True)
            decision = await metering.reserve(caller, report, TTL_SECONDS)
        except Refusal as refusal:
            return error_result(refusal)
        if not decision.allowed or decision.reservation_id is None:
            return error_result(Refusal(decision.code, decision.message))
        has_happened = False
        try:
            result = await call_next(ctx)
            has_happened = isinstance(result, CallToolResult) and not result.is_error
            return result
        finally:
            with anyio.CancelScope(shield=True):
                quantity = None if has_happened else 0
                await metering.settle(caller, Settlement(decision.reservation_id, quantity))
