"""The tools as MCP and HTTP both offer them: one strict model of arguments, one shape of result, one body."""
