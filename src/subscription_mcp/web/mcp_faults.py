"""Faults on `/mcp` that answer no request: problem documents, never a JSON-RPC error with `id: null`.

The SDK answers a body it cannot read, or a session it does not know, with an error nobody can match to a
request, and with its parser's text. Strict clients refuse such an answer; the HTTP status says it better.
"""

import json
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from subscription_mcp.web.problems import http_fault

SESSION_ENDED = "There is no such MCP session: it has ended. Begin a new one with initialize."

_WORDS = {
    HTTPStatus.BAD_REQUEST: "This is no MCP request this server can answer: send one JSON-RPC message with a "
    "method and an id, and the Mcp-Session-Id header where a session was begun.",
    HTTPStatus.NOT_FOUND: SESSION_ENDED,
    HTTPStatus.NOT_ACCEPTABLE: "Send Accept: application/json, text/event-stream.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Send the body as Content-Type: application/json.",
}


def answering_requests_only(scope: Scope, receive: Receive, send: Send) -> Send:
    """`send`, with an error that answers no request replaced by a problem document of the same status."""
    start: Message | None = None
    body = b""

    async def sending(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start" and _is_json_fault(message):
            start = message
            return
        if start is None or message["type"] != "http.response.body":
            await send(message)
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        if _answers_no_request(body):
            status = start["status"]
            words = _WORDS.get(HTTPStatus(status), "The request cannot be answered.")
            kept = {name: value for name, value in Headers(raw=start["headers"]).items() if name == "allow"}
            await http_fault(status, words, kept)(scope, receive, send)
            return
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return sending


def _is_json_fault(message: Message) -> bool:
    if message["status"] < 400:
        return False
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return kind.partition(";")[0].strip() == "application/json"


def _answers_no_request(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and "error" in answer and answer.get("id") is None
