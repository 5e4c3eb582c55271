"""`stdio` and `serve`: the two ways to run the server."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from subscription_mcp.cli.collector import look_later, spare_what_stays
from subscription_mcp.cli.common import log_to_stderr, settings_of, tell
from subscription_mcp.settings import Settings, SettingsError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

DEFAULT_PORT = 8765
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHUTDOWN_SECONDS = 20


@click.command()
@click.pass_context
def stdio(ctx: click.Context) -> None:
    """Serve one MCP client over stdin and stdout; the token comes from SUBSCRIPTION_MCP_TOKEN."""
    look_later()
    from subscription_mcp.assembly import run_stdio

    log_to_stderr()
    asyncio.run(run_stdio(settings_of(ctx), spare_what_stays))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Another host needs PUBLIC_URL.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535))
@click.pass_context
def serve(ctx: click.Context, host: str, port: int) -> None:
    """Serve MCP at /mcp and the HTTP API."""
    settings = settings_of(ctx)
    if host not in LOOPBACK and settings.public_url is None:
        raise SettingsError(
            f"--host {host} is reachable from outside, so SUBSCRIPTION_MCP_PUBLIC_URL must say under which URL."
        )
    listening = listen(host, port)

    def announce(base_url: str) -> None:
        tell(
            f"MCP       {base_url}/mcp\nHTTP API  {base_url}/api/mcp/tools\nhealth    {base_url}/readyz\n"
            f"catalog   {settings.catalog}\nledger    {settings.database_path}"
        )

    look_later()
    log_to_stderr()
    asyncio.run(run_http(settings, listening, host, announce))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises SettingsError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio sends small answers at once only on sockets that say they are TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # from here on the port is ours alone; who connects early waits
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"Port {port} of {host} cannot be used ({error.strerror}); choose another --port."
        ) from None
    return listening


async def run_http(
    settings: Settings, listening: socket.socket, host: str, announce: Callable[[str], None]
) -> None:
    """Serve on a listening socket until a signal says stop; the ledger is closed after the last request."""
    from subscription_mcp.assembly import (
        base_url_of,
        catalog_of,
        collecting_for,
        courier_of,
        make_http_app,
        make_service,
        opened,
        sending,
    )

    catalog = catalog_of(settings)
    service = make_service(settings, catalog)
    courier = courier_of(settings, service)
    base_url = base_url_of(settings, host, listening.getsockname()[1])
    async with opened(service, catalog), collecting_for(service), sending(courier):

        def ready() -> None:
            spare_what_stays()
            announce(base_url)

        server = http_server(make_http_app(settings, service, base_url), ready, service.at_stop)
        await server.serve(sockets=[listening])


def http_server(
    app: "ASGIApp", announce: Callable[[], None], at_stop: list[Callable[[], None]]
) -> "uvicorn.Server":
    """The server of an application: its bounds, how it starts and how it ends."""
    import uvicorn

    from subscription_mcp.web.connection import Connection

    class Server(uvicorn.Server):
        """Ends on a signal, and lets what is around it end too: the original raises the signal again, which
        would kill the process before the ledger is closed. Announced once it answers and signals are heard."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for end in at_stop:
                end()
            await super().shutdown(sockets)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        app,
        http=Connection,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nobody asks where a request came from
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config)
