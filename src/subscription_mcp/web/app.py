"""The HTTP application: `/mcp`, the API and health behind one guard."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from subscription_mcp.auth.permissions import ROUTES
from subscription_mcp.auth.tokens import TokenVerifier
from subscription_mcp.web.api import ToolCalls, on_defect, on_http_exception, tool_named
from subscription_mcp.web.eras import Eras
from subscription_mcp.web.guard import MCP_PATH, Guard

log = logging.getLogger(__name__)

METADATA_PATH = "/.well-known/oauth-protected-resource/mcp"


def build_app(
    *,
    api: list[Route],
    tool_calls: ToolCalls,
    mcp: Eras,
    verifier: TokenVerifier,
    base_url: str,
    public_url: str | None,
    scopes: Sequence[str] = (),
) -> ASGIApp:
    """The whole application, for a service that is open. `mcp` is the SDK's; it is served beside ours and runs
    as long as the application."""

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        async with mcp.running():
            yield

    app = Starlette(
        routes=[route for route in (Route(MCP_PATH, mcp), *api) if _is_permitted(route)],
        lifespan=running,
        exception_handlers={HTTPException: on_http_exception, Exception: on_defect},
    )
    app.router.redirect_slashes = False

    async def straight(scope: Scope, receive: Receive, send: Send) -> None:
        """What is called most is found at once; the layers and routes of Starlette cost as much as the rest of it."""
        to: ASGIApp = app
        if scope["type"] == "http":
            if scope["path"] == MCP_PATH:
                to = mcp
            elif scope["method"] == "POST" and tool_named(scope["path"]):
                to = tool_calls
        await to(scope, receive, send)

    metadata_url = f"{base_url}{METADATA_PATH}"
    return Guard(straight, verifier, public_url=public_url, metadata_url=metadata_url, scopes=scopes)


def _is_permitted(route: Route) -> bool:
    """Whether the permission table names every method of a route; one it does not name is not there."""
    methods = (route.methods or set()) - {"HEAD"}  # which comes with GET
    keys = [f"{method} {route.path}" for method in methods] or [route.path]
    missing = [key for key in keys if key not in ROUTES]
    if missing:
        log.error("not served, for want of a row in the permission table: %s", ", ".join(missing))
    return not missing


def resource_metadata(base_url: str, issuer: str, scopes: Sequence[str] = ()) -> dict[str, Any]:
    """RFC 9728: what this server is and, where its issuer is one, which authorization server to ask."""
    document: dict[str, Any] = {
        "resource": f"{base_url}/mcp",
        "resource_name": "subscription-mcp",
        "bearer_methods_supported": ["header"],
    }
    if issuer.startswith("https://"):
        document["authorization_servers"] = [issuer]
    if scopes:
        document["scopes_supported"] = list(scopes)
    return document
