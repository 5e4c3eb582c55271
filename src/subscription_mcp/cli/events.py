"""`events`: single recorded events as they come."""

import asyncio
import json
import os
import select
import sys
from collections.abc import AsyncIterator

import click

from subscription_mcp.auth.tokens import DEFAULT_TENANT
from subscription_mcp.cli.acting import target_options
from subscription_mcp.cli.common import json_option, settings_of
from subscription_mcp.domain.instants import DAY, MINUTE
from subscription_mcp.ledger.commands import Arrive, Subject, UsageEvent
from subscription_mcp.ledger.port import LedgerUnusable
from subscription_mcp.ledger.queries import EventPage, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.settings import Settings
from subscription_mcp.tools import documents, texts

POLL_SECONDS = 0.5
PAGE_SIZE = 200
# What may still be recorded: an event is reported at most 35 days late and 5 minutes early.
LATE, EARLY = 35 * DAY, 5 * MINUTE


@click.group()
def events() -> None:
    """Single recorded events."""


@events.command("tail")
@target_options
@click.option("--event", help="Only events of this kind, like message.")
@click.option("--lines", "-n", default=20, show_default=True, type=click.IntRange(0, 10_000))
@click.option("--follow", "-f", is_flag=True, help="Go on with new ones as they come, until Ctrl-C.")
@json_option
@click.pass_context
def tail(
    ctx: click.Context,
    tenant: str | None,
    account: str | None,
    user: str | None,
    event: str | None,
    lines: int,
    follow: bool,
    as_json: bool,
) -> None:
    """The newest events of a tenant or somebody in it, the newest last. --json prints one object a line."""
    settings = settings_of(ctx)
    if not settings.database_path.exists():
        raise LedgerUnusable(f"There is no ledger at {settings.database_path} yet; a server makes it.")
    subject = Subject(tenant or DEFAULT_TENANT, user, account)
    try:
        asyncio.run(_print(settings, subject, event, lines, follow, as_json))
    except BrokenPipeError:
        # Whoever read is gone. What is still in the buffer must not be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _print(
    settings: Settings, subject: Subject, event: str | None, lines: int, follow: bool, as_json: bool
) -> None:
    from subscription_mcp.assembly import catalog_of, make_service

    catalog = catalog_of(settings)
    if event is not None and event not in catalog.events:
        raise click.BadParameter(f"there are {', '.join(sorted(catalog.events))}", param_hint="--event")
    ledger = make_service(settings, catalog).ledger
    await ledger.open()
    try:
        whose = await _whose(ledger, subject)
        async for found in _events(ledger, whose, event, lines, follow):
            for one in found:
                if as_json:
                    click.echo(json.dumps(documents.usage_event(one, catalog), ensure_ascii=False))
                else:
                    click.echo(texts.usage_event(one))
            sys.stdout.flush()
    finally:
        await ledger.close()


async def _whose(ledger: Ledger, subject: Subject) -> Whose:
    """Whose events; of a user without an account those in the account it is in. Raises Refusal."""
    if subject.user is None and subject.account is None:
        return Whose(subject.tenant)
    standing = (await ledger.look(Arrive(subject), may_make_known=False)).standing
    return Whose(standing.tenant, standing.account_kind, standing.account, subject.user)


async def _events(
    ledger: Ledger, whose: Whose, event: str | None, lines: int, follow: bool
) -> AsyncIterator[list[UsageEvent]]:
    """The newest ones, then what was recorded since, each batch oldest first."""
    newest = 0
    first, _ = await _page(ledger, whose, event, max(lines, 1))
    newest = first[0][0] if first else 0
    yield [found for _, found in reversed(first[:lines])]
    while follow:
        _stop_if_nobody_reads()
        await asyncio.sleep(POLL_SECONDS)
        since: list[tuple[int, UsageEvent]] = []
        before: int | None = None
        more = True
        while more:
            page, more = await _page(ledger, whose, event, PAGE_SIZE, before)
            fresh = [entry for entry in page if entry[0] > newest]
            since += fresh
            more = more and len(fresh) == len(page)
            before = page[-1][0] if page else None
        if since:
            newest = since[0][0]
            yield [found for _, found in reversed(since)]


async def _page(
    ledger: Ledger, whose: Whose, event: str | None, size: int, before: int | None = None
) -> tuple[list[tuple[int, UsageEvent]], bool]:
    now = ledger.now()
    question = EventPage(whose, now - LATE, now + EARLY + 1, size, event, before)
    page: list[tuple[int, UsageEvent]]
    page, more = await ledger.query(question)
    return page, more


def _stop_if_nobody_reads() -> None:
    """Raises BrokenPipeError where the other end of stdout is closed, without writing to it."""
    if not hasattr(select, "poll"):
        return
    watching = select.poll()
    watching.register(sys.stdout.fileno(), 0)
    if any(state & (select.POLLERR | select.POLLHUP) for _, state in watching.poll(0)):
        raise BrokenPipeError
