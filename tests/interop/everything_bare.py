"""The everything server as the SDK serves it, with nothing of ours around it. Run as a script: it takes what `serve`
takes and says where it listens."""

import asyncio
import socket
import sys
import warnings

import uvicorn
from everything import build_everything, http_app
from mcp.shared.exceptions import MCPDeprecationWarning


async def serve() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    # As uvicorn comes. Over httptools it leaves the blanks around a header's value in, which the suite minds.
    server = uvicorn.Server(uvicorn.Config(http_app(build_everything()), http="h11", log_level="error"))
    sys.stderr.write(f"MCP http://127.0.0.1:{listening.getsockname()[1]}/mcp\n")
    sys.stderr.flush()
    await server.serve(sockets=[listening])


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging: what the suite asks of a legacy server
    asyncio.run(serve())
