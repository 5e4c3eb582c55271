"""Sums of usage for reports, from the widest cells that fit: days of a holder or a tenant, quarters of an hour, events.

A rollup is one quarter of an hour of one holder. Adding up a month of many of them takes seconds; so whole UTC days of
each holder are kept too, and days and quarters of a tenant as a whole (holder 0). They follow from the rollups: `filling`
makes them anew, `differences` says where they are not what the rollups say.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from subscription_mcp.domain.analytics import Tile, UsageRow, tiles_of
from subscription_mcp.domain.instants import DAY, QUARTER, Instant
from subscription_mcp.domain.windows import Period, quarter_of
from subscription_mcp.ledger.machine.usage import dimensions_of_event
from subscription_mcp.ledger.queries import EventPage, UsageTotals
from subscription_mcp.ledger.sqlite.events import event_page
from subscription_mcp.ledger.sqlite.tables import Tables, among

EVERYBODY = 0
"""In place of a holder: the tenant as a whole."""
Cell = tuple[int, ...]
_COLUMNS = "tenant, span, start, holder, meter, dimensions, events, quantity"
_KINDS = ((DAY, "holder"), (DAY, "+0"), (QUARTER, "+0"))


def _said(where: str = "1") -> tuple[str, ...]:
    """What the rollups say the wider cells are."""
    return tuple(
        f"SELECT tenant, {span} AS span, quarter - quarter % {span} AS start, {holder} AS holder, meter, dimensions,"
        f" sum(events) AS events, sum(quantity) AS quantity FROM rollup WHERE {where} GROUP BY 1, 3, 4, 5, 6"
        for span, holder in _KINDS
    )


def filling(where: str = "1") -> tuple[str, ...]:
    """Statements that make cells from those rollups, where there are none."""
    return tuple(f"INSERT INTO rollup_wide ({_COLUMNS}) {said}" for said in _said(where))


def wide_cells(rollups: Sequence[Cell]) -> list[Cell]:
    """What rows to be added to the rollups add to the wider cells, in the order of their key."""
    sums: dict[tuple[int, ...], list[int]] = {}
    for tenant, quarter, holder, meter, dimensions, events, quantity in rollups:
        day = quarter - quarter % DAY
        for key in (
            (tenant, DAY, day, holder, meter, dimensions),
            (tenant, DAY, day, EVERYBODY, meter, dimensions),
            (tenant, QUARTER, quarter, EVERYBODY, meter, dimensions),
        ):
            cell = sums.get(key)
            if cell is None:
                sums[key] = [events, quantity]
            else:
                cell[0] += events
                cell[1] += quantity
    return sorted((*key, *cell) for key, cell in sums.items())


def differences(connection: sqlite3.Connection) -> Iterator[Cell]:
    """The cells that are not what the rollups say, as they are kept or as they should be."""
    kept = f"SELECT {_COLUMNS} FROM rollup_wide"
    said = f"SELECT * FROM ({' UNION ALL '.join(_said())})"
    yield from connection.execute(f"{kept} EXCEPT {said}")
    yield from connection.execute(f"{said} EXCEPT {kept}")


def usage_totals(tables: Tables, question: UsageTotals) -> list[UsageRow]:
    """Whole quarters of an hour from the rollups, whole days from the wider ones; where the period begins or ends within
    a quarter, that part of it from the events themselves."""
    whole, edges = _whole_quarters(question)
    if "quarter" in question.columns and question.steps is None:
        totals = [row for _, row in _sums(tables, question, QUARTER, [whole], "cell")]
    else:
        totals = _of_tiles(tables, question, tiles_of(whole, question.steps or ()))
    for edge in edges:
        page = EventPage(question.whose, edge.start, cast(Instant, edge.end), size=-1)
        for _, event in event_page(tables, page)[0]:
            totals += [
                UsageRow(
                    meter,
                    event.number,
                    gain,
                    quarter_of(event.occurred_at),
                    event.account,
                    event.user,
                    dimensions_of_event(event),
                )
                for meter, gain in event.gains.items()
            ]
    return totals


def _of_tiles(tables: Tables, question: UsageTotals, tiles: Sequence[Tile]) -> list[UsageRow]:
    """One row for each step, or for all of them, and whatever else was asked for."""
    by_step = "quarter" in question.columns
    sums: dict[tuple[Any, ...], UsageRow] = {}
    lessened: set[tuple[Any, ...]] = set()
    for span in (DAY, QUARTER):
        of_span = [tile for tile in tiles if tile.span == span]
        periods = [tile.period for tile in of_span]
        for place, row in _sums(tables, question, span, periods, "tile" if by_step else None):
            for step, sign in of_span[place].steps if by_step else ((None, 1),):
                key = (step, row.meter, row.account, row.user, row.dimensions)
                total = sums.get(key)
                if total is None:
                    total = sums[key] = replace(row, events=0, quantity=0, quarter=step)
                total.events += sign * row.events
                total.quantity += sign * row.quantity
                if sign < 0:
                    lessened.add(key)
    for key in lessened:
        if not sums[key].events and not sums[key].quantity:
            del sums[key]  # all of that day was in the other step
    return list(sums.values())


def _sums(
    tables: Tables,
    question: UsageTotals,
    span: Instant,
    periods: Sequence[Period],
    when: Literal["cell", "tile"] | None,
) -> Iterator[tuple[int, UsageRow]]:
    """Sums over periods of whole cells: of each cell, of each period (with its place among them), or of all."""
    if not periods:
        return
    columns = question.columns
    by_holder = bool({"user", "account"} & columns)
    picked = ["meter"]
    picked += [when] if when is not None else []
    picked += ["holder"] if by_holder else []
    picked += ["dimensions"] if "dimensions" in columns else []
    holders = tables.holders_of(question.whose)
    everybody = holders is None and not by_holder
    source, start = ("rollup", "quarter") if span == QUARTER and not everybody else ("rollup_wide", "start")
    where = "" if source == "rollup" else f" AND span = {span}"
    where += f" AND holder = {EVERYBODY}" if everybody else among(holders) or f" AND holder > {EVERYBODY}"
    names = ", ".join(picked)
    if everybody or holders is not None:
        # A few among a tenant's many: one seek for each cell instead of a walk over all of them.
        statement = (
            "WITH RECURSIVE step (tile, cell, until) AS"
            " (SELECT key, value ->> 0, value ->> 1 FROM json_each(:periods) WHERE value ->> 0 < value ->> 1"
            f" UNION ALL SELECT tile, cell + {span}, until FROM step WHERE cell + {span} < until)"
            f" SELECT {names}, sum(events), sum(quantity) FROM step CROSS JOIN {source}"
            f" WHERE tenant = :tenant AND {start} = cell{where}"
        )
    else:
        known = {"cell": f"{start} AS cell", "tile": "key AS tile"}
        statement = (
            f"SELECT {', '.join(known.get(one, one) for one in picked)}, sum(events), sum(quantity)"
            f" FROM json_each(:periods) CROSS JOIN {source}"
            f" WHERE tenant = :tenant AND {start} >= value ->> 0 AND {start} < value ->> 1{where}"
        )
    values = {"tenant": tables.word(question.whose.tenant), "periods": json.dumps(periods)}
    named: dict[int, tuple[str, str]] = {}
    for *found, events, quantity in tables.rows(f"{statement} GROUP BY {names}", values):
        row: dict[str, Any] = dict(zip(picked, found, strict=True))
        total = UsageRow(tables.text(row["meter"]), events, quantity, row.get("cell"))
        if by_holder:
            holder = row["holder"]
            if holder not in named:
                named[holder] = tables.holder_names(holder)
            total.account, total.user = named[holder]
        if "dimensions" in row:
            total.dimensions = tuple(json.loads(tables.text(row["dimensions"])))
        yield row.get("tile", 0), total


def _whole_quarters(question: UsageTotals) -> tuple[Period, list[Period]]:
    """The rollup cells that lie in the period as a whole, and the parts of cells at its ends."""
    start, end = question.start, question.end
    first, last = quarter_of(start), quarter_of(end)
    if first == start:
        whole_start, edges = start, []
    elif first == last:
        return Period(end, end), [Period(start, end)]
    else:
        whole_start = first + QUARTER
        edges = [Period(start, whole_start)]
    if last != end:
        edges.append(Period(last, end))
    return Period(whole_start, last), edges
