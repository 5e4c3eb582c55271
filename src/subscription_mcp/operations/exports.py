"""Exports: every event of a period, the oldest first, page by page."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from subscription_mcp.domain.analytics import UsageRow, explicit_period, whole_quarters
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.windows import Period
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.ledger.port import Ask
from subscription_mcp.ledger.queries import EventPage, NewestEvent, UsageTotals, Whose
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller, Target, whose_of
from subscription_mcp.operations.cursors import is_position, not_of_this_list, packed, unpacked

PAGE_EVENTS_MAX = 500


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What a page is asked for. The cursor remembers what the first page found: pages are of one export however
    long they are apart."""

    start: Instant
    end: Instant
    cursor: str | None = None


@dataclass(slots=True)
class ExportPage:
    """Events in the order they were recorded, and every meter any event of the whole export counted in. Whoever shows
    fewer of them asks `cursor_after` for where the next page begins."""

    events: list[UsageEvent]
    meters: tuple[str, ...]
    is_first: bool
    positions: list[int]
    has_more: bool
    last: int
    """The position of the newest event when the first page was asked for: later ones are not in it."""
    asked: tuple[str | int | None, ...]

    def cursor_after(self, count: int) -> str | None:
        """Where the page ends after so many of its events; None where that is the end of the export."""
        if count == len(self.events) and not self.has_more:
            return None
        return packed([self.positions[count - 1], self.last, self.meters, *self.asked])


class Exports:
    """Handing out single events as they were recorded."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def page(self, caller: Caller, target: Target, request: ExportRequest) -> ExportPage:
        """At most `PAGE_EVENTS_MAX` events of the caller's export. Raises Refusal."""
        granted = await self._access.grant("export_usage", caller, target)
        period = explicit_period(request.start, request.end)
        view = await self._access.view_of(granted)
        whose = Whose(granted.tenant) if view is None else whose_of(view)
        asked = (*astuple(whose), request.start, request.end)
        after: int | None = None
        if request.cursor is None:
            last = await self._ledger.query(NewestEvent())
            meters = meters_of(await self._ledger.query(meters_question(whose, period)))
        else:
            after, last, meters = _resumed(request.cursor, asked)
        page, more = await self._ledger.query(
            EventPage(
                whose,
                request.start,
                request.end,
                PAGE_EVENTS_MAX,
                oldest_first=True,
                after=after,
                last=last,
            )
        )
        return ExportPage(
            [event for _, event in page],
            meters,
            request.cursor is None,
            [position for position, _ in page],
            more,
            last,
            asked,
        )


def _resumed(cursor: str, asked: tuple[str | int | None, ...]) -> tuple[int, int, tuple[str, ...]]:
    """Position, last and meters as a page before has handed them out. Raises Refusal `invalid_request`."""
    match unpacked(cursor):
        case [after, last, list(meters), *rest] if (
            is_position(after)
            and is_position(last)
            and all(isinstance(meter, str) for meter in meters)
            and rest == list(asked)
        ):
            return after, last, tuple(meters)
    raise not_of_this_list()


def meters_question(whose: Whose, period: Period) -> UsageTotals:
    """What meters there are in a period: by whole cells of the rollups, so that no event has to be looked at."""
    whole = whole_quarters(period)
    assert whole.end is not None
    return UsageTotals(whose, whole.start, whole.end, frozenset())


def meters_of(rows: Sequence[UsageRow]) -> tuple[str, ...]:
    return tuple(sorted({row.meter for row in rows}))


def events_of(ask: Ask, whose: Whose, period: Period) -> Iterator[list[UsageEvent]]:
    """Every event of a period in the order they were recorded, some at a time."""
    assert period.end is not None
    after, more = None, True
    while more:
        page, more = ask(
            EventPage(whose, period.start, period.end, PAGE_EVENTS_MAX, oldest_first=True, after=after)
        )
        if page:
            after = page[-1][0]
            yield [event for _, event in page]
