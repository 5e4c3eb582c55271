"""The composition root: the only module that names concrete classes. Everybody else is handed what they need.

Imports stay inside the functions where only one command needs them: the stdio path must start fast.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.auth.tokens import TokenSource, TokenVerifier
from subscription_mcp.catalogs import load_catalog
from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.catalog_file import plan_digest
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.ledger.commands import PlansPublished, PublishPlans, Revocation
from subscription_mcp.ledger.port import LedgerUnusable
from subscription_mcp.ledger.queries import PlanHolders, RevocationsSince
from subscription_mcp.ledger.sqlite.engine import SqliteEngine, revocations_of_file
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations import Operations
from subscription_mcp.settings import Settings, SettingsError
from subscription_mcp.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from subscription_mcp.webhooks.courier import Courier

log = logging.getLogger(__name__)

Clock = Callable[[], Instant]


@dataclass(frozen=True, slots=True)
class Service:
    """An open ledger with everything that works on it."""

    ledger: Ledger
    operations: Operations
    toolbox: Toolbox
    at_stop: list[Callable[[], None]] = field(default_factory=list)
    """What ends open streams, to be called before a server waits for its last requests."""


def system_clock() -> Instant:
    """The machine's clock."""
    return time.time_ns() // 1000


def clock_of(settings: Settings) -> Clock:
    """The ledger's clock: the machine's, or the frozen instant of a test or demonstration."""
    frozen = settings.clock
    return system_clock if frozen is None else lambda: frozen


def catalog_of(settings: Settings) -> Catalog:
    """The configured catalog. Raises CatalogError."""
    return load_catalog(settings.catalog)


def make_service(settings: Settings, catalog: Catalog, clock: Clock | None = None) -> Service:
    """The service, its ledger not yet open."""
    engine = SqliteEngine(
        settings.database_path,
        catalog,
        clock=clock or clock_of(settings),
        random_bits=random.SystemRandom().getrandbits,
        bounds=Bounds(
            settings.metering.users_max, settings.metering.dimensions_max, settings.metering.open_max
        ),
    )
    ledger = Ledger(engine)
    operations = Operations.on(
        ledger,
        real_time=system_clock,
        members_may_record=settings.metering.members_may_record,
        tier_decides=settings.auth.tier == "token",
    )
    return Service(ledger, operations, Toolbox(operations))


@asynccontextmanager
async def opened(
    service: Service,
    catalog: Catalog,
    *,
    publishing: bool = True,
    replace_catalog: bool = False,
    reset: str | None = None,
) -> AsyncIterator[Service]:
    """The service with its ledger open and the catalog's plans in it; the plan to `reset` as the file has it, whatever
    was edited at run time. A command that only reads does not publish, but in a ledger that has no plans yet. Raises
    LedgerUnusable."""
    await service.ledger.open()
    try:
        await publish(
            service.ledger,
            catalog,
            only_first=not publishing,
            replace_catalog=replace_catalog,
            reset=reset,
        )
        yield service
    finally:
        await service.ledger.close()


async def publish(
    ledger: Ledger,
    catalog: Catalog,
    *,
    only_first: bool = False,
    replace_catalog: bool = False,
    reset: str | None = None,
) -> None:
    """Make the catalog's plans the current ones; writes only where something changed, so that a client may
    start us twice. Says who stays on which older version. Raises SettingsError where the ledger counts by
    another catalog, or could not go on by this one; Refusal where there is no plan to reset."""
    command = PublishPlans(
        catalog.name,
        list(catalog.plans.values()),
        {key: plan_digest(plan.definition) for key, plan in catalog.plans.items()},
        replace_catalog,
        reset,
    )
    outcome = await ledger.rehearse(command)
    if isinstance(outcome, PlansPublished) and (outcome.is_first or not only_first):
        outcome = await ledger.rehearse_or_submit(command)
    if isinstance(outcome, Refusal):
        if outcome.code == "conflict":
            raise SettingsError(f"{catalog.source}: {outcome.message}" if outcome.fields else outcome.message)
        raise outcome if outcome.code == "invalid_request" else LedgerUnusable(outcome.message)
    assert isinstance(outcome, PlansPublished)
    if only_first:
        return
    for how, plans in (("edited", outcome.held_back), ("archived", outcome.archived)):
        for plan in plans:
            log.warning(
                "plan %r was %s at run time and stays so, whatever the catalog file says; "
                "`subscription-mcp plans reset %s --yes` lets the file win",
                plan,
                how,
                plan,
            )
    for plan in outcome.brought_back:
        log.warning(
            "the catalog file brings version %d of plan %r back, and a later one was on offer: "
            "where another server has a newer file, start this one with the same",
            outcome.versions[plan],
            plan,
        )
    for plan, version, accounts in await ledger.query(PlanHolders(ledger.now())):
        current = outcome.versions.get(plan)
        if version != current:
            newest = f"the newest is {current}" if current is not None else "it is no longer offered"
            moves = (
                f", or at once with `subscription-mcp plans migrate {plan}`" if current is not None else ""
            )
            log.warning(
                "%d account(s) stay on version %d of plan %r (%s); they change with their next change of plan%s",
                accounts,
                version,
                plan,
                newest,
                moves,
            )


def verifier_of(settings: Settings, ledger: Ledger) -> TokenVerifier:
    """The verifier of a server: it asks the ledger, once open, which tokens were revoked."""

    async def since(position: int) -> list[Revocation]:
        revoked: list[Revocation] = await ledger.query(RevocationsSince(position))
        return revoked

    return TokenVerifier.of(settings, Revocations(since))


def verifier_without_ledger(settings: Settings) -> TokenVerifier:
    """The verifier of a command that only looks: what was revoked it reads from the ledger's file, if any."""

    async def since(position: int) -> list[Revocation]:
        return revocations_of_file(settings.database_path) if position == 0 else []

    return TokenVerifier.of(settings, Revocations(since))


def courier_of(settings: Settings, service: Service) -> "Courier | None":
    """Who sends messages to the webhook; None where there is none. Raises SettingsError."""
    if settings.webhooks.url is None:
        return None
    from subscription_mcp.webhooks.courier import Courier
    from subscription_mcp.webhooks.sending import Endpoint

    dice = random.SystemRandom()
    return Courier(
        service.ledger,
        Endpoint(settings.webhooks.url, settings.webhooks.secrets, settings.webhooks.timeout_seconds),
        real_time=system_clock,
        dice=dice.randrange,
        new_lease=lambda: f"{dice.getrandbits(128):032x}",
    )


@asynccontextmanager
async def sending(courier: "Courier | None") -> AsyncIterator[None]:
    """With the courier on its way, where there is one."""
    if courier is None:
        yield
        return
    task = asyncio.create_task(courier.run(), name="courier")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def base_url_of(settings: Settings, host: str, port: int) -> str:
    return settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_http_app(settings: Settings, service: Service, base_url: str) -> "ASGIApp":
    """The HTTP application over a service that is open."""
    from mcp.server.transport_security import TransportSecuritySettings

    from subscription_mcp.auth.identity import identify_by_request
    from subscription_mcp.server.mcp import build_server
    from subscription_mcp.web.api import ToolCalls, api_routes
    from subscription_mcp.web.app import build_app, resource_metadata
    from subscription_mcp.web.eras import Eras
    from subscription_mcp.web.guard import MCP_PATH

    verifier = verifier_of(settings, service.ledger)
    server = build_server(service.toolbox, identify_by_request, verifier.revocations, service.at_stop)
    streaming, single = (
        server.streamable_http_app(
            streamable_http_path=MCP_PATH,
            json_response=json_response,
            # Host and Origin are judged by our own guard, exactly and for every route.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        for json_response in (False, True)
    )
    scopes = settings.auth.scopes
    tool_calls = ToolCalls(service.toolbox)
    return build_app(
        api=api_routes(
            service.toolbox,
            tool_calls,
            verifier.keys_health,
            resource_metadata(base_url, settings.issuer, scopes),
            base_url,
        ),
        tool_calls=tool_calls,
        mcp=Eras(modern=single, legacy=streaming),
        verifier=verifier,
        base_url=base_url,
        public_url=settings.public_url,
        scopes=scopes,
    )


def collecting_for(service: Service) -> AbstractAsyncContextManager[None]:
    """Closing invoices and having them paid, for as long as the context is open."""
    from subscription_mcp.billing.collecting import collecting
    from subscription_mcp.billing.simulated import SimulatedProvider

    return collecting(service.operations.collection, SimulatedProvider())


async def run_stdio(settings: Settings, ready: Callable[[], None]) -> None:
    """Serve MCP over stdin and stdout until stdin ends; `ready` is called before the first message is read."""
    from subscription_mcp.auth.identity import identify_by_configuration
    from subscription_mcp.server.mcp import build_server

    catalog = catalog_of(settings)
    service = make_service(settings, catalog)
    verifier = verifier_of(settings, service.ledger)
    identify = identify_by_configuration(TokenSource.of(settings), verifier)
    async with opened(service, catalog):
        server = build_server(service.toolbox, identify, verifier.revocations)
        ready()
        await server.run_stdio_async()
