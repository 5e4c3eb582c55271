"""The MCP server: the toolbox as tools of the SDK's `MCPServer`, both protocol eras from one object."""

import logging
from collections.abc import Callable
from typing import Any, get_args

from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool as SdkTool
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations

from subscription_mcp import __version__
from subscription_mcp.auth.identity import Identify
from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.domain.errors import Refusal, internal
from subscription_mcp.server.calls import Calls
from subscription_mcp.server.completions import add_completions
from subscription_mcp.server.confirmation import confirmed
from subscription_mcp.server.faults import error_result, unknown_tool
from subscription_mcp.server.hooks import (
    ANY_OBJECT,
    NoArguments,
    UntouchedArguments,
    contain,
    known_only,
    per_caller,
)
from subscription_mcp.server.listening import Listening
from subscription_mcp.server.prompts import PROMPTS, add_prompts
from subscription_mcp.server.resources import add_resources
from subscription_mcp.tools.bodies import Answer
from subscription_mcp.tools.defects import is_cancellation
from subscription_mcp.tools.toolbox import TOOLS, Tool, Toolbox, UnknownTool

log = logging.getLogger(__name__)

CACHEABLE: tuple[CacheableMethod, ...] = get_args(CacheableMethod)

NAME = "subscription-mcp"
INSTRUCTIONS = (
    "Plans, quotas and usage. get_tier_info says which plan the caller has, what is left of each limit and when it "
    "resets; check_quota asks before acting; upgrade_tier changes the plan and asks for a confirmation first. "
    "Whom a call is about: nobody named is the caller, account_id alone a whole account, tenant_id alone a whole tenant. "
    "A time is RFC 3339, or a day like 2026-11-20: its beginning in UTC. "
    "A refused decision says why, until when, and what would help; retrying does not help unless retryable is true."
)


def build_server(
    toolbox: Toolbox,
    identify: Identify,
    revocations: Revocations,
    at_stop: list[Callable[[], None]] | None = None,
) -> MCPServer[Any]:
    """The server for one way of knowing who calls. What ends its open streams is added to `at_stop`."""
    do = toolbox.operations
    listening = Listening(toolbox, identify, revocations)
    calls = Calls(toolbox, identify)
    server: MCPServer[Any] = MCPServer(
        NAME,
        title="Subscriptions and quotas",
        description="Plans, quotas, usage metering and billing.",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=[_sdk_tool(tool, toolbox, identify) for tool in TOOLS],
        subscriptions=listening,
        # Every answer is the caller's own and old with the next event or change of plan.
        cache_hints={method: CacheHint(ttl_ms=0, scope="private") for method in CACHEABLE},
        middleware=[
            contain,
            known_only(frozenset(tool.name for tool in TOOLS), frozenset(prompt.key for prompt in PROMPTS)),
            calls.early,
            per_caller(toolbox, identify, listening),
        ],
        log_level="WARNING",
    )
    add_resources(server, do, identify)
    add_prompts(server, do, identify)
    add_completions(server, do, identify)
    listening.serve(server)
    calls.serve(server)
    if at_stop is not None:
        at_stop.append(listening.close)
    return server


def _sdk_tool(tool: Tool, toolbox: Toolbox, identify: Identify) -> SdkTool:
    async def run(arguments: dict[str, Any]) -> Answer:
        return await toolbox.call(await identify(), tool.name, arguments)

    async def call(arguments: dict[str, Any], ctx: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
        try:
            answer = await confirmed(run, arguments, ctx)
        except UnknownTool:
            raise unknown_tool(tool.name) from None
        except Refusal as refusal:
            return error_result(refusal)
        except BaseException as defect:
            if is_cancellation(defect):
                raise
            log.exception("%s could not be answered", tool.name)
            return error_result(internal())
        if isinstance(answer, InputRequiredResult):
            return answer
        return CallToolResult(
            content=[TextContent(type="text", text=answer.text)], structured_content=answer.document
        )

    return SdkTool(
        fn=call,
        name=tool.name,
        title=tool.title,
        description=tool.description,
        parameters=ANY_OBJECT,
        fn_metadata=UntouchedArguments(arg_model=NoArguments, output_schema=ANY_OBJECT),
        is_async=True,
        context_kwarg="ctx",
        annotations=ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=False,
        ),
    )
