"""`export`: a whole ledger to import elsewhere, or the usage of somebody as a file."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import click

from subscription_mcp.auth.tokens import DEFAULT_TENANT
from subscription_mcp.cli.acting import target_options
from subscription_mcp.cli.common import json_option, print_json, settings_of, tell
from subscription_mcp.cli.dates import end_option, period_of, start_option
from subscription_mcp.cli.keeping import existing_ledger, must_not_be_there, on_the_open_ledger
from subscription_mcp.domain.windows import Period
from subscription_mcp.domain.wording import counted
from subscription_mcp.ledger.commands import AccountView, Arrive, Subject
from subscription_mcp.ledger.port import Ask, TransferRefused
from subscription_mcp.ledger.queries import Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import whose_of
from subscription_mcp.operations.exports import events_of, meters_of, meters_question
from subscription_mcp.settings import Settings
from subscription_mcp.tools.exports import ExportFormat, rows_of

STDOUT = Path("-")
Write = Callable[[bytes], object]


@click.command("export")
@click.option("--all", "everything", is_flag=True, help="The whole ledger, for `import`.")
@click.option("--usage", is_flag=True, help="Every event of a period, for people and their spreadsheets.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl"]),
    help="Of usage: csv unless given.",
)
@start_option
@end_option
@target_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), required=False)
@click.option("--yes", is_flag=True, help="Replace a file that is there.")
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    everything: bool,
    usage: bool,
    format_: ExportFormat | None,
    start: int | None,
    end: int | None,
    tenant: str | None,
    account: str | None,
    user: str | None,
    file: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Write a whole ledger as JSON lines that any engine can import (--all), or usage as CSV or JSON lines (--usage), to
    stdout without FILE. Servers may go on; a file is there when all of it is."""
    if everything == usage:
        raise click.UsageError("What is to be exported? Add --all for the whole ledger, or --usage.")
    settings = settings_of(ctx)
    target = None if file == STDOUT else file
    if everything:
        if any(given is not None for given in (format_, start, end, tenant, account, user)):
            raise click.UsageError("--all is the whole ledger: it goes with no other choice.")
        if target is None:
            raise click.UsageError("Name the FILE to write the ledger to.")
        _export_ledger(settings, target, yes, as_json)
        return
    if as_json and target is None:
        raise click.UsageError("--json says what was written: it goes with a FILE.")
    period = period_of(start, end)
    subject = Subject(tenant or DEFAULT_TENANT, user, account)

    def write_to(write: Write) -> int:
        return on_the_open_ledger(settings, lambda ledger: _usage(ledger, subject, period, format_, write))

    existing_ledger(settings)
    if target is None:
        _to_stdout(write_to)
        return
    events = _to_file(target, yes, write_to)
    if as_json:
        print_json({"file": str(target), "events": events})
    else:
        tell(f"{target}: {counted(events, 'event')}.")


def _export_ledger(settings: Settings, file: Path, yes: bool, as_json: bool) -> None:
    from subscription_mcp.ledger.sqlite.backup import new_file

    existing_ledger(settings)
    must_not_be_there(file, yes)
    with new_file(file) as made, made.open("wb") as stream:
        rows = on_the_open_ledger(settings, lambda ledger: ledger.engine.dump(stream.write))
    if as_json:
        print_json({"file": str(file), "rows": dict(rows)})
    else:
        tell(f"{file}: {counted(sum(rows.values()), 'row')}, {counted(rows['event'], 'event')} among them.")


async def _usage(
    ledger: Ledger, subject: Subject, period: Period, format_: ExportFormat | None, write: Write
) -> int:
    """Write the usage of whoever is meant from one snapshot, some events at a time; how many there were."""
    whose = Whose(subject.tenant)
    if subject.user is not None or subject.account is not None:
        view: AccountView = await ledger.look(Arrive(subject), may_make_known=False)
        whose = whose_of(view)

    def reading(ask: Ask) -> int:
        meters = meters_of(ask(meters_question(whose, period)))
        rows = rows_of(format_ or "csv", ledger.engine.catalog, meters)
        write(rows.head.encode())
        events = 0
        for some in events_of(ask, whose, period):
            write("".join(map(rows.row, some)).encode())
            events += len(some)
        return events

    return await ledger.engine.read_aside(reading)


class _CannotWrite(Exception):
    """The disk is full, or nobody reads: told apart from a ledger that cannot be read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def _guarded(write: Write) -> Write:
    def guarded(data: bytes) -> None:
        try:
            write(data)
        except OSError as error:
            raise _CannotWrite(error) from error

    return guarded


def _to_file(file: Path, yes: bool, write_to: Callable[[Write], int]) -> int:
    from subscription_mcp.ledger.sqlite.backup import new_file

    must_not_be_there(file, yes)
    with new_file(file) as made:
        try:
            with made.open("wb") as stream:
                return write_to(_guarded(stream.write))
        except _CannotWrite as failed:
            raise failed.error from failed  # `new_file` says so, and leaves nothing behind


def _to_stdout(write_to: Callable[[Write], int]) -> None:
    stdout = cast(Write, sys.stdout.buffer.write)
    try:
        events = write_to(_guarded(stdout))
        sys.stdout.buffer.flush()
    except (_CannotWrite, OSError) as failed:
        error = failed.error if isinstance(failed, _CannotWrite) else failed
        # What is still in the buffer must not be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise TransferRefused(f"stdout cannot be written ({error.strerror}).") from failed
        return
    tell(f"{counted(events, 'event')}.")
