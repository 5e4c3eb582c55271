"""The MCP surface: tools, resources and the hooks into the SDK."""
