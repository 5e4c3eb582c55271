"""Moving and keeping a ledger: `verify`, `backup`, `restore`, `import`; `export` is in `export.py`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from subscription_mcp.cli.common import json_option, print_json, settings_of, tell
from subscription_mcp.domain.wording import counted
from subscription_mcp.ledger.port import LedgerUnavailable, LedgerUnusable, Verification
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.settings import Settings

T = TypeVar("T")

a_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
replacing = click.option("--yes", is_flag=True, help="Replace a file that is there.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@json_option
@click.pass_context
def verify(ctx: click.Context, file: Path | None, as_json: bool) -> None:
    """Work out every counter and rollup again from the events and compare; servers may go on. FILE is a copy, which is
    only read. Exit 1 where something differs."""
    settings = settings_of(ctx)
    copy = file or _plain_copy(settings)
    if copy is None:
        found = on_the_open_ledger(settings, lambda ledger: ledger.engine.verify())
    else:
        found = _verify_copy(settings, copy)
    if as_json:
        print_json({"ok": not found.differences, **asdict(found)})
    else:
        _tell_verification(found)
    ctx.exit(1 if found.differences else 0)


@click.command()
@a_file
@replacing
@json_option
@click.pass_context
def backup(ctx: click.Context, file: Path, yes: bool, as_json: bool) -> None:
    """Copy the ledger into one file, checked and synced; servers may go on."""
    from subscription_mcp.ledger.sqlite.backup import back_up

    ledger = existing_ledger(settings_of(ctx))
    must_not_be_there(file, yes)
    size_bytes = back_up(ledger, file)
    if as_json:
        print_json({"file": str(file), "size_bytes": size_bytes})
    else:
        tell(f"{file}: a copy of {size_bytes:,} bytes. `restore` puts it back.")


@click.command()
@a_file
@click.option("--yes", is_flag=True, help="Replace the ledger that is there; it is kept beside it.")
@json_option
@click.pass_context
def restore(ctx: click.Context, file: Path, yes: bool, as_json: bool) -> None:
    """Put a copy in the ledger's place, while no server has it open. What was there is kept beside it."""
    from subscription_mcp.ledger.sqlite import backup as sqlite_backup

    ledger = settings_of(ctx).database_path.resolve()
    if ledger.exists() and not yes:
        raise click.UsageError(f"This replaces {ledger}, which is kept beside it. Add --yes to do it.")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = ledger.with_name(f"{ledger.name}.replaced-{stamp}")
    done = sqlite_backup.restore(ledger, file, aside)
    if as_json:
        replaced = {"ledger": str(ledger), "replaced": str(aside) if done.is_kept else None}
        revocations = {"taken_over": done.revocations_taken_over, "all": done.are_all_revocations}
        print_json({**replaced, "revocations": revocations})
        return
    tell(f"{ledger} is the copy {file} now.{f' What was there is {aside}.' if done.is_kept else ''}")
    if done.revocations_taken_over:
        taken_over = counted(done.revocations_taken_over, "revocation")
        tell(f"Still in force: {taken_over} of access tokens that the copy did not have.")
    if not done.are_all_revocations:
        tell(
            "Access tokens revoked after the copy was made may be accepted again: there was no ledger to read them from, "
            "or not all of it. Revoke them once more (`token revoke`)."
        )


@click.command("import")
@a_file
@json_option
@click.pass_context
def import_ledger(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Take over what `export --all` wrote, into a ledger with nothing in it, and verify it. All of it or nothing."""

    try:
        stream = file.open("rb")
    except OSError as error:
        raise click.BadParameter(f"{file} cannot be read ({error.strerror})", param_hint="FILE") from None

    async def take_over(ledger: Ledger) -> tuple[dict[str, int], Verification]:
        return dict(await ledger.engine.load(stream)), await ledger.engine.verify()

    with stream:
        rows, found = on_the_open_ledger(settings_of(ctx), take_over, may_be_new=True)
    if as_json:
        print_json({"ok": not found.differences, "rows": rows, **asdict(found)})
    else:
        tell(f"{counted(sum(rows.values()), 'row')} imported.")
        _tell_verification(found)
    ctx.exit(1 if found.differences else 0)


def _plain_copy(settings: Settings) -> Path | None:
    """The ledger's file, where it is a copy that nobody has opened yet."""
    from subscription_mcp.ledger.sqlite.schema import is_plain_copy

    path = settings.database_path
    return path if path.is_file() and is_plain_copy(path) else None


def _verify_copy(settings: Settings, copy: Path) -> Verification:
    from subscription_mcp.assembly import catalog_of, clock_of
    from subscription_mcp.ledger.sqlite.verify import verify_copy

    levels = {meter.name for meter in catalog_of(settings).meters.values() if meter.is_level}
    return verify_copy(copy, clock_of(settings), levels)


def existing_ledger(settings: Settings) -> Path:
    """Where the ledger is. Raises LedgerUnusable."""
    if not settings.database_path.exists():
        raise LedgerUnusable(f"There is no ledger at {settings.database_path} yet; a server makes it.")
    return settings.database_path


def must_not_be_there(file: Path, yes: bool) -> None:
    if file.exists() and not yes:
        raise click.UsageError(f"{file} is there already. Name another file, or add --yes to replace it.")


def on_the_open_ledger(
    settings: Settings, do: Callable[[Ledger], Awaitable[T]], *, may_be_new: bool = False
) -> T:
    """Open the ledger without publishing anything, do one thing, close it. Raises LedgerUnusable."""
    from subscription_mcp.assembly import catalog_of, make_service

    async def once() -> T:
        ledger = make_service(settings, catalog_of(settings)).ledger
        await ledger.open()
        try:
            return await do(ledger)
        except LedgerUnavailable as error:
            raise LedgerUnusable(f"The ledger cannot be read or written ({error}).") from error
        finally:
            await ledger.close()

    if not may_be_new:
        existing_ledger(settings)
    return asyncio.run(once())


def _tell_verification(found: Verification) -> None:
    if not found.differences:
        tell(
            f"All agree: {counted(found.events, 'event')}, {counted(found.counters, 'counter')}, "
            f"{counted(found.rollups, 'rollup')}, {counted(found.holds, 'hold')}."
        )
        return
    for difference in found.differences:
        tell(difference)
    tell("The events are the truth. Restore a backup that verifies, or report the difference with the file.")
