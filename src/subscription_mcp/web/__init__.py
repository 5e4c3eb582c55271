"""The HTTP surface: the API beside `/mcp`, health, and the guard in front of all of it."""
