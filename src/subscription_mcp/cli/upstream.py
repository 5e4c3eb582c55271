"""HTTP to a remote MCP server for the bridge: the token put on each request, faults told in words, and what
was lost with a server that went away made again.

The MCP transport on top sees a server that always answers. That keeps the connection to the host alive
whatever happens at the other end.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import httpx2
from mcp_types import PROTOCOL_VERSION_META_KEY

from subscription_mcp.cli.common import json_object
from subscription_mcp.domain.errors import HTTP_STATUS, Code, Refusal
from subscription_mcp.server.faults import error_result

log = logging.getLogger(__name__)

SESSION_ID = "mcp-session-id"
CONNECT_SECONDS = 10
LISTEN_AGAIN_SECONDS = (0.5, 15.0)
"""The first and the longest wait before the stream for messages of the server is opened again."""
# What a legacy session remembers for its client, to be said again in a new one.
_SESSION_STATE = {"resources/subscribe": "uri", "logging/setLevel": None}


class Upstream(httpx2.AsyncClient):
    """Requests to one server. Nothing that goes wrong there raises for a POST: it is answered instead."""

    def __init__(self, url: str, access_token: Callable[[], str]) -> None:
        super().__init__(
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )
        self._endpoint = url
        self._access_token = access_token
        self._session: str | None = None
        self._initialize: httpx2.Request | None = None
        self._said: dict[str, httpx2.Request] = {}
        self._beginning = asyncio.Lock()

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if request.method == "GET":
            return await self._listen(request, options)
        if request.method != "POST":
            return await self._forward(request, options)
        message = json_object(request.content) or {}
        try:
            return await self._post(request, message, options)
        except Refusal as refusal:
            log.warning("%s: %s", message.get("method", "an answer"), refusal.message)
            return _answered(request, message, refusal)

    async def _post(
        self, request: httpx2.Request, message: dict[str, Any], options: dict[str, Any]
    ) -> httpx2.Response:
        method = message.get("method")
        response = await self._forward(request, options)
        if response.status_code == HTTPStatus.NOT_FOUND and SESSION_ID in request.headers:
            await response.aclose()
            await self._begin_again(request.headers[SESSION_ID])
            response = await self._forward(request, options)
        await self._judge(response)
        if method == "initialize":
            self._initialize, self._session, self._said = request, response.headers.get(SESSION_ID), {}
        elif method in _SESSION_STATE:
            key = _SESSION_STATE[method]
            self._said[f"{method} {key and message.get('params', {}).get(key)}"] = request
        elif method == "resources/unsubscribe":
            self._said.pop(f"resources/subscribe {message.get('params', {}).get('uri')}", None)
        return response

    async def _forward(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        """Send with the token of now, in the session of now. Raises Refusal."""
        request.headers["authorization"] = f"Bearer {self._access_token()}"
        if SESSION_ID in request.headers and self._session is not None:
            request.headers[SESSION_ID] = self._session
        try:
            response = await super().send(request, **options)
            if not _is_stream(response):
                await response.aread()  # a connection that breaks here must be told, too
        except httpx2.TransportError as fault:
            raise Refusal(
                "unavailable",
                f"The server {self._endpoint} cannot be reached ({str(fault) or type(fault).__name__}). "
                "Try again when it runs; nothing needs to be restarted here.",
            ) from None
        return response

    async def _judge(self, response: httpx2.Response) -> None:
        """Raises Refusal where a status says what JSON-RPC does not."""
        status = response.status_code
        if status < 400 or _is_rpc_error(response):
            return
        said = (json_object(response.content) or {}).get("detail")
        await response.aclose()
        if status == HTTPStatus.UNAUTHORIZED:
            reason = said or "The server does not accept the access token."
            raise Refusal(
                "unauthenticated", f"{reason} Put a new token into the bridge's token file; it is read again."
            )
        code: Code = "unavailable" if status >= 500 else "invalid_request"
        raise Refusal(code, f"The server {self._endpoint} answers {status}. {said or 'It does not say why.'}")

    async def _begin_again(self, lost: str) -> None:
        """A new session in place of one the server does not know any more. Raises Refusal."""
        async with self._beginning:
            if self._initialize is None or self._session != lost:
                return
            log.warning("the server does not know the session any more; beginning a new one")
            first = self._again(self._initialize)
            response = await self._forward(first, {})
            await self._judge(response)
            await response.aread()
            self._session = response.headers.get(SESSION_ID)
            version = _version_of(response)
            ready = self.build_request(
                "POST",
                self._endpoint,
                json={"jsonrpc": "2.0", "method": "notifications/initialized"},
                headers={"accept": first.headers["accept"]},
            )
            for request in (ready, *map(self._again, self._said.values())):
                if self._session is not None:
                    request.headers[SESSION_ID] = self._session
                if version is not None:
                    request.headers["mcp-protocol-version"] = version
                await self._judge(await self._forward(request, {}))

    def _again(self, request: httpx2.Request) -> httpx2.Request:
        headers = {name: value for name, value in request.headers.items() if name != SESSION_ID}
        return httpx2.Request(request.method, request.url, headers=headers, content=request.content)

    async def _listen(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        """The stream for messages of the server: waits for it as long as it takes."""
        wait_seconds, longest = LISTEN_AGAIN_SECONDS
        while True:
            try:
                response = await self._forward(request, options)
                if response.status_code == HTTPStatus.NOT_FOUND and SESSION_ID in request.headers:
                    await self._begin_again(request.headers[SESSION_ID])
                elif response.status_code != HTTPStatus.UNAUTHORIZED and response.status_code < 500:
                    if _is_stream(response):
                        assert isinstance(response.stream, httpx2.AsyncByteStream)
                        response.stream = _EndsQuietly(response.stream)
                    return response
                await response.aclose()
            except Refusal as refusal:
                log.info("not listening: %s", refusal.message)
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, longest)


class _EndsQuietly(httpx2.AsyncByteStream):
    """A stream that breaks off as if it had ended: it is opened again then, where a fault would be counted."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except httpx2.TransportError as fault:
            log.info("the server's stream broke off: %s", fault)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _is_stream(response: httpx2.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return response.status_code < 400 and kind.lower().startswith("text/event-stream")


def _is_rpc_error(response: httpx2.Response) -> bool:
    answer = json_object(response.content) or {}
    return answer.get("jsonrpc") == "2.0" and "error" in answer


def _version_of(response: httpx2.Response) -> str | None:
    """The protocol version that an answer to `initialize` names, plain or as an event."""
    for line in response.text.splitlines():
        result = (json_object(line.removeprefix("data:")) or {}).get("result")
        if isinstance(result, dict) and isinstance(result.get("protocolVersion"), str):
            return str(result["protocolVersion"])
    return None


def _answered(request: httpx2.Request, message: dict[str, Any], refusal: Refusal) -> httpx2.Response:
    """The refusal in the server's place: a tool's error result, else a JSON-RPC error whose code is the HTTP
    status, as the server itself answers. What waits for no answer is taken."""
    if "id" not in message or "method" not in message:
        return httpx2.Response(HTTPStatus.ACCEPTED, request=request)
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "tools/call":
        result = error_result(refusal).model_dump(by_alias=True, mode="json", exclude_none=True)
        if version_named(message) is not None:
            result["resultType"] = "complete"
        else:
            result.pop("resultType", None)
        answer["result"] = result
    else:
        answer["error"] = {
            "code": HTTP_STATUS[refusal.code],
            "message": refusal.message,
            "data": refusal.as_dict(),
        }
    return httpx2.Response(HTTPStatus.OK, json=answer, request=request)


def version_named(message: dict[str, Any]) -> str | None:
    """The protocol version a message of the modern era names in its envelope."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    version = meta.get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
    return version if isinstance(version, str) else None
