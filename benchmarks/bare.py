"""What our server is held against: the SDK, and Starlette, doing nothing, served just as ours is.

Started as a program, with the arguments of ours: `bare.py mcp serve --port 0`, `bare.py route serve --port 0`,
`bare.py mcp stdio`. Says where it serves in the same words.
"""

import asyncio
import sys

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel


class Done(BaseModel):
    allowed: bool
    code: str
    used: int
    remaining: int


def mcp_server() -> MCPServer:
    server: MCPServer = MCPServer("bare", version="1", log_level="WARNING")

    @server.tool()
    async def record_usage(
        event: str, user_id: str = "", quantity: int = 1, idempotency_key: str = ""
    ) -> Done:
        """Do nothing."""
        return Done(allowed=True, code="ok", used=1, remaining=1)

    return server


def route_app():
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Request) -> JSONResponse:
        await request.json()
        return JSONResponse({"result": {"allowed": True, "code": "ok", "used": 1, "remaining": 1}})

    return Starlette(routes=[Route("/api/mcp/tools/{tool_name}", answer, methods=["POST"])])


async def serve(kind: str) -> None:
    from subscription_mcp.cli.serving import http_server, listen

    apps = {
        "mcp": lambda: mcp_server().streamable_http_app(),
        "mcp-json": lambda: mcp_server().streamable_http_app(json_response=True),
        "route": route_app,
    }
    app = apps[kind]()
    listening = listen("127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def announce() -> None:
        print(f"MCP       {base_url}/mcp", file=sys.stderr, flush=True)

    await http_server(app, announce, []).serve(sockets=[listening])


if __name__ == "__main__":
    kind, transport = sys.argv[1:3]
    if transport == "stdio":
        asyncio.run(mcp_server().run_stdio_async())
    else:
        asyncio.run(serve(kind))
