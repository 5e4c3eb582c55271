"""Usage as CSV and JSON lines: whatever was recorded comes back, and no cell is a formula."""

import csv
import json
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import TODAY, a_catalog

from subscription_mcp.domain.catalog import DIMENSIONS, Meter
from subscription_mcp.domain.instants import parse_instant
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.usage import is_plain_text
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.tools import documents
from subscription_mcp.tools.exports import FIELDS, FORMULA_STARTS, CsvRows, JsonRows, defused

METERS = ("llm_calls", "llm_tokens", "storage_mb")
AT = parse_instant(TODAY)

texts = st.text("=+-@＝＋－＠−'\",; ab07{}ü中\u200d", min_size=1, max_size=12).filter(is_plain_text)
ids = st.text("abcXYZ019._:@|+-", min_size=1, max_size=12)
events = st.builds(
    UsageEvent,
    st.uuids().map(str),
    ids,
    st.sampled_from(["personal", "group"]),
    ids,
    ids,
    st.just("llm_call"),
    st.sampled_from(["", "basic"]),
    st.integers(0, 9),
    st.integers(-(10**12), 10**12),
    st.dictionaries(st.sampled_from([*DIMENSIONS, "endpoint"]), texts)
    | st.dictionaries(st.sampled_from(["tokens", "status"]), st.integers(0, 10**12)),
    st.dictionaries(st.sampled_from(METERS), st.integers(-(10**12), 10**12)),
    ids,
    st.just(AT),
    st.just(AT + 1),
)


def an_event(**fields: Any) -> UsageEvent:
    defaults: dict[str, Any] = {"attributes": {}, "gains": {}, "quantity": 1, "user": "bob"}
    given_ = defaults | fields
    return UsageEvent(
        "0193-id",
        "acme",
        "personal",
        "bob",
        given_["user"],
        "llm_call",
        "basic",
        1,
        given_["quantity"],
        given_["attributes"],
        given_["gains"],
        "app",
        AT,
        AT,
    )


def cells(*some: UsageEvent) -> list[dict[str, str]]:
    """What a reader of CSV finds."""
    rows = CsvRows(a_catalog(), METERS)
    text = rows.head + "".join(map(rows.row, some))
    return list(csv.DictReader(StringIO(text, newline=""), strict=True))


def as_recorded(text: str) -> str:
    return text.removeprefix("'")


def read_back(row: dict[str, str]) -> dict[str, Any]:
    """The document of the event again, out of its cells."""
    document: dict[str, Any] = {name: as_recorded(row[name]) for name in FIELDS}
    document["plan"] = document["plan"] or None
    for optional in ("corrects", "corrected_by"):
        if not document[optional]:
            del document[optional]
    document |= {"price": None, "estimated": False}
    for number in ("quantity", "plan_version"):
        document[number] = int(row[number])
    grouping = {name: as_recorded(row[name]) for name in DIMENSIONS if row[name]}
    document["attributes"] = grouping | json.loads(row["attributes"] or "{}")
    document["gains"] = {meter: int(row[f"gains.{meter}"]) for meter in METERS if row[f"gains.{meter}"]}
    return document


@given(events)
def test_every_cell_gives_back_what_was_recorded(event: UsageEvent) -> None:
    (row,) = cells(event)
    assert read_back(row) == documents.usage_event(event, a_catalog())


@given(events)
def test_a_line_of_json_is_the_event(event: UsageEvent) -> None:
    line = JsonRows(a_catalog()).row(event)
    assert line.endswith("\n") and line.count("\n") == 1
    assert json.loads(line) == documents.usage_event(event, a_catalog())


@given(events)
def test_no_cell_begins_like_a_formula_but_a_number(event: UsageEvent) -> None:
    (row,) = cells(event)
    for name, cell in row.items():
        if cell[:1] in tuple(FORMULA_STARTS):
            assert cell.startswith("-") and int(cell) < 0, name


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@sum(a1)", "＝1", "＋1", "－1", "＠a", "\t=1", "\r=1", " =1"]
)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert defused(text) == f"'{text}"


def test_an_apostrophe_of_ones_own_is_kept_by_another() -> None:
    assert defused("'=1") == "''=1"
    assert defused("it's") == "it's"


def test_a_negative_number_stays_a_number() -> None:
    (row,) = cells(an_event(quantity=-5, gains={"storage_mb": -5}))
    assert (row["quantity"], row["gains.storage_mb"]) == ("-5", "-5")


def test_a_meter_that_gained_nothing_is_told_from_one_that_was_not_moved() -> None:
    (row,) = cells(an_event(gains={"llm_tokens": 0}))
    assert (row["gains.llm_tokens"], row["gains.llm_calls"]) == ("0", "")


def test_lines_end_as_rfc_4180_has_it() -> None:
    rows = CsvRows(a_catalog(), METERS)
    assert rows.head.endswith("\r\n") and rows.row(an_event()).endswith("\r\n")


def test_what_usage_is_grouped_by_stands_in_columns_and_the_rest_as_json() -> None:
    (row,) = cells(an_event(attributes={"model": "gemini-2.5-pro", "tokens": 7}))
    assert (row["model"], row["attributes"], row["provider"]) == ("gemini-2.5-pro", '{"tokens": 7}', "")


def test_a_row_says_what_the_event_cost_and_by_which_price() -> None:
    catalog = a_catalog()
    cost = Meter("cost", "micro_usd", "llm_call", "cost")
    catalog = replace(catalog, meters={**catalog.meters, "cost": cost})
    price = UnitPrice("genai-prices 0.2.3", "USD", 2_500_000, 10_000_000)
    event = replace(an_event(gains={"llm_calls": 1, "cost": 12_500}), price=price)
    rows = CsvRows(catalog, METERS)
    (row,) = csv.DictReader(StringIO(rows.head + rows.row(event), newline=""))
    assert (row["cost"], row["currency"], row["price_source"]) == ("0.0125", "USD", "genai-prices 0.2.3")
