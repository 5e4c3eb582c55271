"""The product's own command line, with an access token put into every request that brings none: the conformance
suite cannot send one. `SUBSCRIPTION_MCP_TOKEN` holds it. Run as a script."""

import os
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from subscription_mcp import assembly
from subscription_mcp.cli.main import main


def with_token(app: ASGIApp, access_token: str) -> ASGIApp:
    """The application as a client meets it that always sends this token."""
    header = (b"authorization", f"Bearer {access_token}".encode())

    async def authorised(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not any(name == header[0] for name, _ in scope["headers"]):
            scope = {**scope, "headers": [*scope["headers"], header]}
        await app(scope, receive, send)

    return authorised


_make_http_app = assembly.make_http_app


def make_authorised_app(*arguments: Any) -> ASGIApp:
    return with_token(_make_http_app(*arguments), os.environ["SUBSCRIPTION_MCP_TOKEN"])


if __name__ == "__main__":
    assembly.make_http_app = make_authorised_app
    main()
