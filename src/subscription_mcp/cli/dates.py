"""Periods on the command line: instants as everywhere, and days in UTC for people."""

from collections.abc import Callable
from typing import Any

import click

from subscription_mcp.cli.acting import Command
from subscription_mcp.domain.instants import EARLIEST, LATEST, Instant, parse_moment
from subscription_mcp.domain.windows import Period


class InstantParameter(click.ParamType[Instant]):
    """An RFC 3339 instant, or a day, which is its first moment in UTC."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        if isinstance(value, int):
            return value
        try:
            return parse_moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def instant_option(*names: str, help_: str) -> Callable[[Command], Command]:
    return click.option(*names, type=InstantParameter(), metavar="INSTANT", help=help_)


start_option = instant_option(
    "--start", help_="From then on: RFC 3339, or a day in UTC; the beginning unless given."
)
end_option = instant_option("--end", help_="Up to then, and not with it; everything unless given.")


def period_of(start: Instant | None, end: Instant | None) -> Period:
    """What lies between; all there is where an end is open. Raises UsageError."""
    period = Period(EARLIEST if start is None else start, LATEST if end is None else end)
    assert period.end is not None
    if period.end <= period.start:
        raise click.UsageError("The end must lie after the start.")
    return period
