"""The everything server behind our guard and hooks, every call of a tool metered in the ledger: the product's own
command line with this server in place of ours, and the token the suite cannot send. Run as a script."""

import os
import warnings

from everything import PROMPTS, TOOLS, build_everything, http_app, json_schema_2020_12_tool
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPDeprecationWarning
from metering import Metering
from served_with_token import with_token
from starlette.types import ASGIApp

from subscription_mcp import assembly
from subscription_mcp.auth.identity import identify_by_request
from subscription_mcp.cli.main import main
from subscription_mcp.server.hooks import contain, known_only
from subscription_mcp.settings import Settings
from subscription_mcp.web.api import ToolCalls
from subscription_mcp.web.app import build_app
from subscription_mcp.web.eras import Eras

TOOL_NAMES = frozenset(function.__name__ for function in [*TOOLS, json_schema_2020_12_tool])
PROMPT_NAMES = frozenset(function.__name__ for function in PROMPTS)


def make_metered_app(settings: Settings, service: assembly.Service, base_url: str) -> ASGIApp:
    server = build_everything(
        middleware=[contain, known_only(TOOL_NAMES, PROMPT_NAMES)],
        extensions=[Metering(service.operations, identify_by_request)],
    )
    # This server reports progress, which only a stream can carry: in both eras.
    modern, legacy = (
        http_app(server, TransportSecuritySettings(enable_dns_rebinding_protection=False)) for _ in range(2)
    )
    guarded = build_app(
        api=[],
        tool_calls=ToolCalls(service.toolbox),
        mcp=Eras(modern=modern, legacy=legacy),
        verifier=assembly.verifier_of(settings, service.ledger),
        base_url=base_url,
        public_url=None,
    )
    return with_token(guarded, os.environ["SUBSCRIPTION_MCP_TOKEN"])


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging: what the suite asks of a legacy server
    assembly.make_http_app = make_metered_app
    main()
