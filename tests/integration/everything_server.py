"""A server with one of everything MCP has, over HTTP with an access token: what a bridge must let through.

`python everything_server.py PORT TOKEN` says `ready` and answers at /mcp until it is stopped.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import uvicorn
from mcp.server.mcpserver import (
    AcceptedElicitation,
    Context,
    Elicit,
    ElicitationResult,
    MCPServer,
    Resolve,
)
from mcp.shared.exceptions import MCPError
from mcp_types import Completion, EmptyResult, SubscribeRequestParams
from pydantic import BaseModel

server: MCPServer[Any] = MCPServer("everything", instructions="Try it all.")
sessions_of: dict[str, list[Any]] = {}
cancelled = 0


class Answer(BaseModel):
    colour: str


def ask(thing: str) -> Elicit[Answer]:
    return Elicit(f"Which colour for the {thing}?", Answer)


@server.tool()
async def paint(thing: str, answer: Annotated[ElicitationResult[Answer], Resolve(ask)]) -> str:
    if isinstance(answer, AcceptedElicitation):
        return f"{thing} is {answer.data.colour}"
    return f"{thing} stays as it is"


@server.tool()
async def count(ctx: Context, steps: int) -> int:
    for step in range(steps):
        await ctx.report_progress(step + 1, steps, f"step {step + 1}")
    return steps


@server.tool()
async def wait() -> str:
    global cancelled
    try:
        await anyio.sleep(60)
    finally:
        cancelled += 1
    return "waited"


@server.tool()
async def how_many_were_cancelled() -> int:
    return cancelled


@server.tool()
async def refuse() -> str:
    raise MCPError(4711, "not today", {"why": "because"})


@server.tool()
async def touch(ctx: Context, uri: str) -> str:
    await ctx.notify_resource_updated(uri)
    for session in sessions_of.get(uri, []):
        await session.send_resource_updated(uri)
    return "touched"


@server.resource("note://one")
async def note() -> str:
    return "a note"


@server.resource("note://of/{name}")
async def note_of(name: str) -> str:
    return f"a note of {name}"


@server.prompt()
async def greet(name: str) -> str:
    return f"Greet {name}."


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> Completion:
    return Completion(values=[f"{argument.value}a", f"{argument.value}b"])


async def subscribe(ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
    sessions_of.setdefault(str(params.uri), []).append(ctx.session)
    return EmptyResult()


server._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)


def guarded(app: Any, token: str) -> Callable[..., Awaitable[None]]:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", [])).get(b"authorization", b"").decode()
        if scope["type"] == "lifespan" or given == f"Bearer {token}":
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/problem+json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"detail": "That token is not accepted."}'})

    return answer


class Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


if __name__ == "__main__":
    port, token = int(sys.argv[1]), sys.argv[2]
    app = guarded(server.streamable_http_app(), token)
    Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1)).run()
