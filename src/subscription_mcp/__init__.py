"""Plans, quotas, usage metering and billing as a standalone MCP server."""

__version__ = "0.1.0"
