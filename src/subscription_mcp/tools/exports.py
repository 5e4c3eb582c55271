"""Usage as files: rows of CSV and lines of JSON.

CSV is RFC 4180 in UTF-8. A spreadsheet takes a text for a formula where it begins like one, so such a text gets an
apostrophe in front; one that begins with an apostrophe gets another, so that taking one away always gives back what
was recorded. Numbers stay numbers, negative ones too.
"""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from typing import Any, Literal, Protocol

from subscription_mcp.domain.catalog import DIMENSIONS, Catalog
from subscription_mcp.operations import Operations, UsageEvent
from subscription_mcp.operations.access import Caller
from subscription_mcp.operations.exports import ExportRequest
from subscription_mcp.tools import documents, texts, wire
from subscription_mcp.tools.bodies import Answer, instant_of, target_of

ExportFormat = Literal["csv", "jsonl"]
FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"
CONTENT_BYTES_MAX = 112 * 1024
"""Of one page as JSON. An answer has it twice, as text and as structure, and stays within 256 KiB."""
_MARK = "'"
_SPREAD = ("attributes", "gains", "price", "estimated")
COSTS = ("cost", "currency", "price_source")
FIELDS = tuple(name for name in wire.UsageEventResult.model_fields if name not in _SPREAD)


class Rows(Protocol):
    """How events are written: what comes first, and then each of them."""

    head: str

    def row(self, event: UsageEvent) -> str: ...


class JsonRows:
    """One event a line, as `list_usage_events` shows it: nothing is lost."""

    head = ""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def row(self, event: UsageEvent) -> str:
        return (
            json.dumps(documents.usage_event(event, self._catalog), ensure_ascii=False, separators=(",", ":"))
            + "\n"
        )


class CsvRows:
    """One event a row: its fields, what usage is grouped by, other attributes as JSON, what it cost and by whose price,
    and what each meter gained; an empty cell is nothing, and not 0."""

    def __init__(self, catalog: Catalog, meters: Sequence[str]) -> None:
        self._catalog = catalog
        self._meters = meters
        self._buffer = StringIO()
        self._writer = csv.writer(self._buffer)
        self.head = self._line(
            [*FIELDS, *DIMENSIONS, "attributes", *COSTS, *(f"gains.{meter}" for meter in meters)]
        )

    def row(self, event: UsageEvent) -> str:
        document = documents.usage_event(event, self._catalog)
        others = dict(document["attributes"])
        grouping = [others.pop(name, None) for name in DIMENSIONS]
        gains, price = document["gains"], document["price"]
        costs = (
            (None,) * len(COSTS)
            if price is None
            else (price["cost"]["amount"], price["cost"]["currency"], price["source"])
        )
        return self._line(
            [
                *(document.get(name) for name in FIELDS),
                *grouping,
                json.dumps(others, ensure_ascii=False) if others else None,
                *costs,
                *(gains.get(meter) for meter in self._meters),
            ]
        )

    def _line(self, values: Sequence[Any]) -> str:
        self._writer.writerow([defused(value) if isinstance(value, str) else value for value in values])
        line = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return line


def rows_of(format_: ExportFormat, catalog: Catalog, meters: Sequence[str]) -> Rows:
    return CsvRows(catalog, meters) if format_ == "csv" else JsonRows(catalog)


def defused(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    begins = text[:1] in FORMULA_STARTS or text.lstrip()[:1] in FORMULA_STARTS
    return _MARK + text if text and (begins or text.startswith(_MARK)) else text


async def export_usage(do: Operations, caller: Caller, given: wire.ExportUsageArguments) -> Answer:
    start, end = instant_of(given.start, "start"), instant_of(given.end, "end")
    assert start is not None and end is not None
    page = await do.exports.page(caller, target_of(given), ExportRequest(start, end, given.cursor))
    rows = rows_of(given.format, do.plans.catalog, page.meters)
    parts = [rows.head] if page.is_first else []
    room = CONTENT_BYTES_MAX - sum(map(_json_bytes, parts))
    count = 0
    for event in page.events:
        row = rows.row(event)
        room -= _json_bytes(row)
        if room < 0 and count:
            break
        parts.append(row)
        count += 1
    content, next_cursor = "".join(parts), page.cursor_after(count)
    document = {"format": given.format, "content": content, "events": count, "next_cursor": next_cursor}
    return Answer(texts.export_page(given.format, content, count, next_cursor), document)


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2
