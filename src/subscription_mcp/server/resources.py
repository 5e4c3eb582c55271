"""Resources: the plan, the quota and the plans on offer as JSON, for clients that read rather than call."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resources import Resource
from mcp.shared.exceptions import MCPError
from pydantic import Field

from subscription_mcp.auth.identity import Identify
from subscription_mcp.domain.errors import HTTP_STATUS, Refusal
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.operations.access import ME
from subscription_mcp.server.hooks import unknown_resource
from subscription_mcp.tools import documents
from subscription_mcp.tools.toolbox import Toolbox

JSON = "application/json"
Read = Callable[[], Awaitable[dict[str, Any]]]


class DocumentResource(Resource):
    """A resource made anew at every read."""

    make: Read = Field(exclude=True)

    async def read(self) -> str:
        try:
            return _json(await self.make())
        except Refusal as refusal:
            raise error_of(refusal) from None


def error_of(refusal: Refusal) -> MCPError:
    """A refused read as a JSON-RPC error. The code is the HTTP status of the table: outside JSON-RPC's own
    range, as the protocol asks of applications."""
    return MCPError(HTTP_STATUS[refusal.code], refusal.message, refusal.as_dict())


def add_resources(server: MCPServer[Any], toolbox: Toolbox, identify: Identify) -> None:
    do = toolbox.operations

    async def plans() -> dict[str, Any]:
        await identify()
        return {"plans": [documents.plan(plan, do.plans.catalog) for plan in await do.plans.offered()]}

    async def subscription() -> dict[str, Any]:
        caller = await do.access.caller(await identify(), may_settle_in=True)
        return documents.tier_info(await do.plans.account(caller, ME), do.plans.catalog)

    async def quota() -> dict[str, Any]:
        caller = await do.access.caller(await identify(), may_settle_in=True)
        view = await do.plans.account(caller, ME)
        return {"limits": documents.limits(view.limits), "as_of": format_instant(view.as_of)}

    async def quota_of_meter(meter: str) -> str:
        if meter not in do.plans.catalog.meters:
            raise unknown_resource(f"quota://me/{meter}")
        try:
            whole = await quota()
        except Refusal as refusal:
            raise error_of(refusal) from None
        of_meter = [limit for limit in whole["limits"] if limit["meter"] == meter]
        return _json({"meter": meter, "limits": of_meter, "as_of": whole["as_of"]})

    server.add_resource(
        DocumentResource(
            uri="subscription://plans",
            name="plans",
            title="Plans on offer",
            description="Prices, limits and features of every plan, cheapest first.",
            mime_type=JSON,
            make=plans,
        )
    )
    server.add_resource(
        DocumentResource(
            uri="subscription://me",
            name="my-subscription",
            title="My plan",
            description="Your plan, its price, limits and features, and what is used.",
            mime_type=JSON,
            make=subscription,
        )
    )
    server.add_resource(
        DocumentResource(
            uri="quota://me",
            name="my-quota",
            title="My quota",
            description="What is used and left of every limit, and when it resets.",
            mime_type=JSON,
            make=quota,
        )
    )
    server.resource(
        "quota://me/{meter}",
        name="my-quota-of-meter",
        title="My quota of one meter",
        description="What is used and left of one meter's limits.",
        mime_type=JSON,
    )(quota_of_meter)


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False)
