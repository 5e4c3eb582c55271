"""`python -m subscription_mcp` is the command line."""

from subscription_mcp.cli.main import main

if __name__ == "__main__":
    main()
