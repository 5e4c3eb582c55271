"""The product's own command line, which by itself asks only once an hour what was revoked. Run as a script."""

from subscription_mcp.auth import revocations
from subscription_mcp.cli.main import main

if __name__ == "__main__":
    revocations.ASK_AGAIN_SECONDS = 3600
    main()
