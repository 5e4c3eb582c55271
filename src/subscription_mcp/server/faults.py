"""The errors of this server: what does not exist for the caller, and what is refused."""

import json

from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from mcp_types.jsonrpc import INVALID_PARAMS

from subscription_mcp.domain.errors import HTTP_STATUS, Refusal

ERROR_KEY = "io.github.subscription-mcp/error"
"""Where an error result carries its object: structured content would have to match the output schema."""
NAME_SHOWN_MAX = 64
URI_SHOWN_MAX = 256


def unknown_tool(name: object) -> MCPError:
    """The one answer for a tool that does not exist or is hidden from the caller."""
    return MCPError(INVALID_PARAMS, f"Unknown tool: {_shown(name, NAME_SHOWN_MAX)}")


def unknown_prompt(name: object) -> MCPError:
    """The one answer for a prompt that does not exist or is hidden from the caller."""
    return MCPError(INVALID_PARAMS, f"Unknown prompt: {_shown(name, NAME_SHOWN_MAX)}")


def unknown_resource(uri: object) -> MCPError:
    """The one answer for a resource that does not exist or is hidden from the caller."""
    shown = _shown(uri, URI_SHOWN_MAX)
    return MCPError(INVALID_PARAMS, f"Unknown resource: {shown}", {"uri": shown})


def error_of(refusal: Refusal) -> MCPError:
    """A refusal where there is no tool result to carry it. Arguments that are wrong are invalid params; else the
    code is the HTTP status of the table: outside JSON-RPC's own range, as the protocol asks of applications."""
    code = INVALID_PARAMS if refusal.code == "invalid_request" else HTTP_STATUS[refusal.code]
    return MCPError(code, refusal.message, refusal.as_dict())


def error_result(refusal: Refusal) -> CallToolResult:
    """A refusal as clients of both eras can read it: the sentence, the object as text, and in `_meta`."""
    body = refusal.as_dict()
    return CallToolResult(
        is_error=True,
        content=[
            TextContent(type="text", text=refusal.message),
            TextContent(type="text", text=json.dumps(body, ensure_ascii=False)),
        ],
        _meta={ERROR_KEY: body},
    )


def _shown(name: object, most: int) -> str:
    """A caller's own word, cut short and made harmless."""
    text = name if isinstance(name, str) else "?"
    return "".join(c if c.isprintable() else "?" for c in text[:most])
