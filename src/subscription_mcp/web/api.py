"""The HTTP API: the same tools, plans and accounts as over MCP, with statuses and headers of HTTP."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from subscription_mcp.auth.identity import principal_of_request
from subscription_mcp.auth.jwks import KeysHealth
from subscription_mcp.auth.permissions import ROUTES
from subscription_mcp.domain.errors import FieldProblem, Refusal, forbidden, internal, not_found
from subscription_mcp.domain.identifiers import is_id
from subscription_mcp.domain.usage import is_plain_text
from subscription_mcp.operations.access import Target
from subscription_mcp.tools import documents
from subscription_mcp.tools.toolbox import Tool, Toolbox, UnknownTool
from subscription_mcp.web.openapi import ADVISORY_TOOLS, openapi_document
from subscription_mcp.web.problems import (
    HttpFault,
    JsonResponse,
    http_fault,
    problem,
    rate_limit_headers,
    refused_decision,
    send_json,
)
from subscription_mcp.web.reading import check_is_json, strict_json, whole_body

TOOLS_PATH = "/api/mcp/tools"
SUBSCRIPTION_PATH = "/api/tenants/{tenant_id}/subscription"

Endpoint = Callable[[Request], Awaitable[Response]]

ENVELOPE_MEMBERS = frozenset({"tenant_id", "arguments"})
KEYS_MESSAGES: dict[KeysHealth, str | None] = {
    "ok": None,
    "degraded": "The keys of the identity provider cannot be fetched. The last good ones are used, for up to an hour.",
    "unavailable": "The keys of the identity provider cannot be fetched, so no access token can be judged.",
}


class ToolCalls:
    """`POST /api/mcp/tools/{tool_name}`. Raises HttpFault and Refusal, for the guard to answer: most requests come
    here, and what Starlette makes of each is not needed."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = tool_named(scope["path"])
        check_is_json(scope["headers"])
        tenant, arguments = _envelope(strict_json(await whole_body(receive)))
        try:
            answer = await self._toolbox.call(principal_of_request(), name, arguments, tenant=tenant)
        except UnknownTool:
            raise not_found("tool", "GET /api/mcp/tools lists yours.") from None
        decision = answer.decision
        # What already happened is recorded and answered 200, also where it was over a limit.
        if (
            decision is not None
            and not decision.allowed
            and decision.event_id is None
            and name not in ADVISORY_TOOLS
        ):
            await refused_decision(decision)(scope, receive, send)
            return
        headers = rate_limit_headers(decision) if decision is not None else {}
        await send_json(send, {"result": answer.document, "text": answer.text}, headers)


def tool_named(path: str) -> str:
    """The tool a path is about; no text where it is about none."""
    name = path[len(TOOLS_PATH) + 1 :]
    return name if "/" not in name and path.startswith(f"{TOOLS_PATH}/") else ""


def api_routes(
    toolbox: Toolbox,
    tool_calls: ToolCalls,
    keys_health: Callable[[], Awaitable[KeysHealth]],
    resource_metadata: dict[str, Any],
    base_url: str,
) -> list[Route]:
    do = toolbox.operations
    of_account, of_tenant = (ROUTES[f"GET {SUBSCRIPTION_PATH}{part}"] for part in ("", "#tenant"))

    async def tools(request: Request) -> Response:
        listed = await toolbox.listed(principal_of_request())
        return JsonResponse({"tools": [_tool(tool) for tool in listed]})

    async def subscription(request: Request) -> Response:
        tenant = request.path_params["tenant_id"]
        target = _target_of(request, tenant)
        caller = await do.access.caller(principal_of_request(), may_make_known=target == Target())
        summarises = do.access.is_visible(of_tenant, caller)
        if tenant != caller.principal.tenant and target == Target():
            # Of another tenant there is no "me": only the tenant itself, for those who may see it.
            summary = await do.reports.tenant(caller, tenant)
            return JsonResponse({"tenant": documents.tenant_summary(summary)})
        view = await do.plans.account(caller, target, of_account)
        document = documents.tier_info(view, do.plans.catalog)
        if summarises:
            document["tenant"] = documents.tenant_summary(await do.reports.tenant(caller, tenant))
        return JsonResponse(document)

    async def plans(request: Request) -> Response:
        offered = await do.plans.offered()
        return JsonResponse({"plans": [documents.plan(plan, do.plans.catalog) for plan in offered]})

    async def pricing(request: Request) -> Response:
        asked = _query(request, ("provider", "model"), is_plain_text, "a name")
        if not asked:
            return JsonResponse(documents.pricing(do.plans.catalog))
        known = do.metering.price_of(asked.get("provider"), asked.get("model"))
        return JsonResponse(documents.pricing_of_model(*known, do.plans.catalog))

    async def healthz(request: Request) -> Response:
        return JsonResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        if not await do.ready():
            return _readiness("unavailable", "The ledger cannot be written right now.")
        keys = await keys_health()
        return _readiness(keys, KEYS_MESSAGES[keys])

    async def metadata(request: Request) -> Response:
        return JsonResponse(resource_metadata)

    described = cache(lambda: openapi_document(do.plans.catalog, base_url))  # made when first asked for

    async def openapi(request: Request) -> Response:
        return JsonResponse(described())

    return [
        Route(f"{TOOLS_PATH}/{{tool_name}}", tool_calls, methods=["POST"]),
        Route(TOOLS_PATH, _answering(tools), methods=["GET"]),
        Route(SUBSCRIPTION_PATH, _answering(subscription), methods=["GET"]),
        Route("/api/plans", _answering(plans), methods=["GET"]),
        Route("/api/pricing", _answering(pricing), methods=["GET"]),
        Route("/openapi.json", _answering(openapi), methods=["GET"]),
        Route("/healthz", _answering(healthz), methods=["GET"]),
        Route("/readyz", _answering(readyz), methods=["GET"]),
        Route("/.well-known/oauth-protected-resource/mcp", _answering(metadata), methods=["GET"]),
    ]


def _readiness(status: KeysHealth, message: str | None) -> Response:
    """Not ready is who can answer nobody. On the last good keys everybody is answered, so that is a warning only:
    a failing check would take every node away at once."""
    document = {"status": status} if message is None else {"status": status, "message": message}
    return JsonResponse(document, 503 if status == "unavailable" else 200)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own faults (no such path, method not allowed) as problem documents."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(Refusal("not_found", "There is nothing at this path."))
    message = {405: "This path does not take that method."}.get(
        error.status_code, "The request cannot be answered."
    )
    return http_fault(error.status_code, message, error.headers)


async def on_defect(request: Request, error: Exception) -> Response:
    """A defect of ours, without its text. Starlette raises it again after this, to be logged by the guard."""
    return problem(internal())


def _answering(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return problem(refusal)
        except HttpFault as fault:
            return http_fault(fault.status, fault.message)

    return answer


def _envelope(body: Any) -> tuple[str | None, dict[str, Any]]:
    """`{"tenant_id"?: …, "arguments": {…}}`, strictly."""
    if not isinstance(body, dict):
        raise HttpFault(400, 'The body must be a JSON object: {"arguments": {…}}.')
    problems = (
        []
        if ENVELOPE_MEMBERS.issuperset(body)
        else [FieldProblem("body", "takes only tenant_id and arguments")]
    )
    tenant, arguments = body.get("tenant_id"), body.get("arguments", {})
    if "tenant_id" in body and not (isinstance(tenant, str) and is_id(tenant)):
        problems.append(FieldProblem("tenant_id", "must be an id"))
    if not isinstance(arguments, dict):
        problems.append(FieldProblem("arguments", "must be an object"))
    if problems:
        shown = "; ".join(f"{entry.field} {entry.rule}" for entry in problems)
        raise Refusal("invalid_request", f"{shown}.", fields=problems)
    return tenant, arguments


def _target_of(request: Request, tenant: str) -> Target:
    """Who is asked about beside the tenant: nobody in particular, or `user_id` and `account_id` of the query."""
    if not is_id(tenant):
        raise forbidden()
    given = _query(request, ("user_id", "account_id"), is_id, "an id")
    if not given:
        return Target()
    return Target(tenant, given.get("account_id"), given.get("user_id"))


def _query(
    request: Request, names: tuple[str, str], is_fit: Callable[[str], bool], kind: str
) -> dict[str, str]:
    """What the query says, which may be nothing. Raises Refusal `invalid_request`."""
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) < len(pairs) or not all(name in names and is_fit(value) for name, value in pairs):
        takes = f"takes {' and '.join(names)}"
        raise Refusal(
            "invalid_request",
            f"The query {takes}, each {kind} and once.",
            fields=[FieldProblem("query", takes)],
        )
    return given


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
        "annotations": {
            "readOnlyHint": tool.read_only,
            "destructiveHint": tool.destructive,
            "idempotentHint": tool.idempotent,
            "openWorldHint": False,
        },
    }
