"""The guard in front of every route: bounds on what is read, and who is calling.

One place, so that `/mcp` and `/api` judge a request alike. Paths that need no token are named here.
"""

import logging
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.authentication import AuthCredentials
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subscription_mcp.auth.identity import VerifiedToken
from subscription_mcp.auth.tokens import TokenVerifier
from subscription_mcp.domain.errors import Refusal, internal
from subscription_mcp.web.mcp_faults import answering_requests_only
from subscription_mcp.web.problems import http_fault, problem

log = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/api/plans", "/.well-known/oauth-protected-resource/mcp"})
MCP_PATH = "/mcp"
BODY_BYTES_MAX = 4 * 1024 * 1024
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})


class _BodyTooLarge(Exception):
    pass


class Guard:
    """Checks Host, Origin, size and token, then lets the request through with its verified caller."""

    def __init__(
        self,
        app: ASGIApp,
        verifier: TokenVerifier,
        *,
        public_url: str | None,
        metadata_url: str,
        scopes: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._hosts = set(LOCAL_HOSTS)
        self._origins: set[str] = set()
        self._metadata_url = metadata_url
        self._scope = f', scope="{" ".join(scopes)}"' if scopes else ""
        if public_url is not None:
            url = urlsplit(public_url)
            self._hosts.add(url.netloc.lower())
            self._origins.add(f"{url.scheme}://{url.netloc}".lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _BoundedBody(receive)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if body.is_too_large and not started:
                return  # whatever is made of the rest of it, the answer is 413
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._checked(scope, body.receive, sending)
        except Refusal as refusal:
            if started:
                raise
            headers = (
                {"www-authenticate": self._challenge(scope)} if refusal.code == "unauthenticated" else None
            )
            await problem(refusal, headers=headers)(scope, receive, send)
        except _BodyTooLarge:
            body.is_too_large = True
        except Exception:
            if not body.is_too_large:
                log.exception("%s %s could not be answered", scope["method"], scope["path"])
                if not started:
                    await problem(internal())(scope, receive, send)
        if body.is_too_large and not started:
            await http_fault(413, f"The body is larger than {BODY_BYTES_MAX} bytes.")(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not self._is_own_host(headers.getlist("host")):
            await http_fault(421, "This server does not answer for that Host. Set PUBLIC_URL to name it.")(
                scope, receive, send
            )
            return
        if any(not self._is_own_origin(origin) for origin in headers.getlist("origin")):
            await http_fault(403, "Requests from that Origin are not answered.")(scope, receive, send)
            return
        if int(headers.get("content-length", "0") or 0) > BODY_BYTES_MAX:
            raise _BodyTooLarge
        if scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        principal = await self._verifier.admit(_bearer(headers.getlist("authorization")))
        user = AuthenticatedUser(VerifiedToken.of(principal))
        scope["user"], scope["auth"] = user, AuthCredentials([])
        token = auth_context_var.set(user)
        if scope["path"] == MCP_PATH:
            send = answering_requests_only(scope, receive, send)
        try:
            await self._app(scope, receive, send)
        finally:
            auth_context_var.reset(token)

    def _challenge(self, scope: Scope) -> str:
        presented = bool(Headers(scope=scope).getlist("authorization"))
        error = 'error="invalid_token", ' if presented else ""
        return f'Bearer {error}resource_metadata="{self._metadata_url}"{self._scope}'

    def _is_own_host(self, hosts: Iterable[str]) -> bool:
        named = [host.lower() for host in hosts]
        if len(named) != 1:
            return False
        return named[0] in self._hosts or _without_port(named[0]) in LOCAL_HOSTS

    def _is_own_origin(self, origin: str) -> bool:
        origin = origin.lower()
        if origin in self._origins:
            return True
        scheme, _, host = origin.partition("://")
        return scheme == "http" and _without_port(host) in LOCAL_HOSTS


def _without_port(host: str) -> str | None:
    """The host without a numeric port; None where what follows the colon is no port."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return host
    return name if port.isascii() and port.isdigit() and int(port[:6]) <= 65_535 else None


def _bearer(values: list[str]) -> str:
    """The access token of the one Authorization header. Raises Refusal `unauthenticated`."""
    if not values:
        raise Refusal("unauthenticated", "Send an access token: Authorization: Bearer <token>.")
    scheme, _, access_token = values[0].partition(" ")
    if len(values) > 1 or "," in values[0] or scheme.lower() != "bearer" or not access_token.strip():
        raise Refusal(
            "unauthenticated", "Send exactly one Authorization header: Bearer and the access token."
        )
    return access_token.strip()


class _BoundedBody:
    """The body, but no more of it than allowed: a length that was not announced is counted."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = 0
        self.is_too_large = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > BODY_BYTES_MAX:
                self.is_too_large = True
                raise _BodyTooLarge
        return message
