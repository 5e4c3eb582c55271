"""MCP over HTTP, each protocol era in the way of answering that suits it.

A modern request is one exchange: whatever it may have to say is one answer, and only listening is a stream, which
the SDK makes one in either mode. A legacy request can be asked something back before it is answered, which needs a
stream each time. The mode that can stream costs the SDK half as much again.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

VERSION_HEADER = b"mcp-protocol-version"
LEGACY_VERSIONS = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)


class Eras:
    """The SDK's two applications of one server, told apart as the SDK itself does it."""

    def __init__(self, *, modern: Starlette, legacy: Starlette) -> None:
        self._apps = (modern, legacy)
        self._modern, self._legacy = (_endpoint(app) for app in self._apps)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in self._apps:
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = next((value for name, value in scope["headers"] if name == VERSION_HEADER), None)
        is_legacy = version is None or version in LEGACY_VERSIONS
        await (self._legacy if is_legacy else self._modern)(scope, receive, send)


def _endpoint(app: Starlette) -> ASGIApp:
    """What stands behind the one route of an application of the SDK."""
    (route,) = app.routes
    assert isinstance(route, Route)
    return route.app
