"""The guard in front of every route: bounds on what is read, and who is calling.

One place, so that `/mcp` and `/api` judge a request alike.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

import anyio
from mcp.server.auth.middleware.auth_context import auth_context_var
from starlette.authentication import AuthCredentials
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subscription_mcp.auth.identity import authenticated
from subscription_mcp.auth.permissions import ANYBODY, ROUTES
from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.tokens import TokenVerifier
from subscription_mcp.domain.errors import Refusal, internal
from subscription_mcp.tools.defects import is_cancellation
from subscription_mcp.web.mcp_faults import SESSION_ENDED, answering_requests_only
from subscription_mcp.web.problems import HttpFault, http_fault, problem
from subscription_mcp.web.reading import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    ClientGone,
    check_is_json,
    given_again,
    strict_json,
    too_large,
    whole_body,
)

log = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset(route.split()[-1] for route in ROUTES) - {
    route.split()[-1] for route, row in ROUTES.items() if row != ANYBODY
}
"""Where no method asks for an access token."""
MCP_PATH = "/mcp"
HEADER_EXTRA_BYTES = len(": \r\n")
LENGTH_DIGITS_MAX = 16
ONCE = frozenset({b"host", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"})
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})

ReadHeaders = Mapping[bytes, str]
"""Every header by its lower-case name; one that came more than once as the list it then is, with commas."""

NO_CREDENTIALS = AuthCredentials([])


class Guard:
    """Checks headers, Host, Origin, token and body, then lets the request through with its verified caller."""

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
        started = ended = False

        async def sending(message: Message) -> None:
            nonlocal started, ended
            if ended:
                return  # the SDK answers once more where a session ends under a notification it has taken
            started = True
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        answer: Response | None = None
        try:
            await self._checked(scope, receive, sending)
        except HttpFault as fault:
            answer = http_fault(fault.status, fault.message)
        except Refusal as refusal:
            if started:  # a stream whose token was revoked: it ends in good order
                await sending({"type": "http.response.body"})
                return
            headers = (
                {"www-authenticate": self._challenge(scope)} if refusal.code == "unauthenticated" else None
            )
            answer = problem(refusal, headers=headers)
        except ClientGone:
            return
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            # The legacy session was ended by another request while this one was on its way.
            log.info("%s %s came to a session that has ended", scope["method"], scope["path"])
            answer = http_fault(404, SESSION_ENDED)
        except BaseException as defect:
            if is_cancellation(defect):
                raise
            log.exception("%s %s could not be answered", scope["method"], scope["path"])
            answer = problem(internal())
        if answer is not None and not started:
            await answer(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _checked_headers(scope)
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is None:
            raise HttpFault(400, "Send a Host header.")
        if not self._is_own_host(host):
            raise HttpFault(421, "This server does not answer for that Host. Set PUBLIC_URL to name it.")
        if origin is not None and not self._is_own_origin(origin):
            raise HttpFault(403, "Requests from that Origin are not answered.")
        path = scope["path"]
        if path in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        principal = await self._verifier.admit(_bearer(headers.get(b"authorization")))
        is_mcp = path == MCP_PATH
        if is_mcp and _has_body(headers):
            check_is_json(scope["headers"])
            body = await whole_body(receive)
            strict_json(body)
            receive = given_again(body, receive)
        user = authenticated(principal)
        scope["user"], scope["auth"] = user, NO_CREDENTIALS
        token = auth_context_var.set(user)
        if is_mcp:
            send = answering_requests_only(scope, receive, send)
        try:
            if is_mcp and scope["method"] == "GET":
                await self._listen(principal, scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            auth_context_var.reset(token)

    async def _listen(self, principal: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        """The stream of a legacy connection, which has no end of its own. Raises Refusal `unauthenticated` once
        its token is revoked."""
        with anyio.CancelScope() as stream:
            forget = self._verifier.revocations.end_with(principal, stream.cancel)
            try:
                await self._app(scope, receive, send)
            finally:
                forget()
        if stream.cancelled_caught:
            raise Refusal("unauthenticated", "The access token was revoked.")

    def _challenge(self, scope: Scope) -> str:
        presented = any(name == b"authorization" for name, _ in scope["headers"])
        error = 'error="invalid_token", ' if presented else ""
        return f'Bearer {error}resource_metadata="{self._metadata_url}"{self._scope}'

    def _is_own_host(self, host: str) -> bool:
        host = host.lower()
        return host in self._hosts or _without_port(host) in LOCAL_HOSTS

    def _is_own_origin(self, origin: str) -> bool:
        origin = origin.lower()
        if origin in self._origins:
            return True
        scheme, _, host = origin.partition("://")
        return scheme == "http" and _without_port(host) in LOCAL_HOSTS


def _checked_headers(scope: Scope) -> ReadHeaders:
    """The headers, within the bounds and without the contradictions that mean the same on every path. Raises
    HttpFault."""
    headers: dict[bytes, str] = {}
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + HEADER_EXTRA_BYTES
        if name in headers:
            if name in ONCE:
                raise HttpFault(400, f"Send {name.decode()} once.")
            headers[name] += f", {value.decode('latin-1')}"
        else:
            headers[name] = value.decode("latin-1")
    if size > HEADER_BYTES_MAX:
        raise HttpFault(431, f"Request line and headers are larger than {HEADER_BYTES_MAX} bytes.")
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None and coding.lower() != "chunked":
        raise HttpFault(400, "Send the body as it is, or in chunks: no other Transfer-Encoding is taken.")
    if length is not None:
        if coding is not None:
            raise HttpFault(400, "Send either Content-Length or Transfer-Encoding.")
        if not (length.isascii() and length.isdigit()):
            raise HttpFault(400, "Content-Length must be a number.")
        if len(length) > LENGTH_DIGITS_MAX or int(length) > BODY_BYTES_MAX:
            raise too_large()
    return headers


def _has_body(headers: ReadHeaders) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", "0").strip("0") != ""


@lru_cache(maxsize=64)
def _without_port(host: str) -> str | None:
    """The host without a numeric port; None where what follows the colon is no port."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return host
    return name if port.isascii() and port.isdigit() and int(port[:6]) <= 65_535 else None


def _bearer(header: str | None) -> str:
    """The access token of the one Authorization header. Raises Refusal `unauthenticated`."""
    if header is None:
        raise Refusal("unauthenticated", "Send an access token: Authorization: Bearer <token>.")
    scheme, _, access_token = header.partition(" ")
    if "," in header or scheme.lower() != "bearer" or not access_token.strip():
        raise Refusal(
            "unauthenticated", "Send exactly one Authorization header: Bearer and the access token."
        )
    return access_token.strip()
