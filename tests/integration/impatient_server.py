"""The product's own command line, whose patience with slow clients ends after a second. Run as a script."""

from subscription_mcp.cli.main import main
from subscription_mcp.web import connection

if __name__ == "__main__":
    connection.HEADER_SECONDS_MAX = 1
    connection.BODY_SECONDS_MAX = 1
    connection.STALLED_SECONDS_MAX = 1
    main()
