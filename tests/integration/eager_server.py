"""The product's own command line, which asks an identity provider for its keys every moment. Run as a script."""

from subscription_mcp.auth import jwks
from subscription_mcp.cli.main import main

if __name__ == "__main__":
    jwks.COOLDOWN_SECONDS = 0.02
    jwks.REFRESH_SECONDS = 0.02
    main()
