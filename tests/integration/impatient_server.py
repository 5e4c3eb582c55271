"""The product's own command line, whose patience with slow clients ends after a second. Run as a script."""

from subscription_mcp.cli.main import main
from subscription_mcp.web import connection, reading

if __name__ == "__main__":
    reading.BODY_SECONDS_MAX = 1
    connection.HEADER_SECONDS_MAX = 1
    connection.LINGER_SECONDS = 2
    connection.STALLED_SECONDS_MAX = 1
    main()
