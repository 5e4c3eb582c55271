"""Events as SQL: recorded, found by their id, and read page by page."""

import json
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from pydantic_core import to_json

from subscription_mcp.domain.identifiers import uuid7_instant, uuid_bytes
from subscription_mcp.domain.instants import MILLISECOND, Instant
from subscription_mcp.ledger.commands import UsageEvent
from subscription_mcp.ledger.machine.facts import FUTURE_TOLERANCE, KEY_RETENTION, Holder
from subscription_mcp.ledger.queries import EventPage
from subscription_mcp.ledger.sqlite.insert import Insert
from subscription_mcp.ledger.sqlite.rows import KINDS, json_text
from subscription_mcp.ledger.sqlite.tables import Tables, among

EVENTS_PER_BLOCK_BITS = 12  # as in the index event_by_block
EVENT_COLUMNS = "seq, id, holder, event, plan, quantity, attributes, gains, source, occurred_at, recorded_at, corrects, price"
CORRECTED_BY = "(SELECT c.id FROM event c WHERE c.tenant = event.tenant AND c.corrects = event.id)"
ID_SLACK = 2 * MILLISECOND
"""How much later than its id says an event may have been recorded: within a batch time may go on a little."""
_EVENTS = Insert(
    "event",
    "id, tenant, holder, event, plan, quantity, attributes, gains, source, occurred_at, recorded_at, price",
)
_NAMING = Insert(
    "event",
    "id, tenant, holder, event, plan, quantity, attributes, gains, source, occurred_at, recorded_at, price, corrects,"
    " grants",
)


# Facts


def read_event(tables: Tables, key: tuple[str, str]) -> UsageEvent | None:
    id_ = uuid_bytes(key[1])
    return None if id_ is None else event_of_id(tables, key[0], id_)


def event_of_id(tables: Tables, tenant: str, id_: bytes) -> UsageEvent | None:
    """An event by its id, which begins with the millisecond it was recorded in."""
    at = uuid7_instant(id_)
    first, last = _seq_at(tables, at - 1) + 1, _seq_at(tables, at + ID_SLACK)
    row = tables.one(
        f"SELECT {EVENT_COLUMNS}, {CORRECTED_BY}, grants FROM event"
        " WHERE seq BETWEEN ? AND ? AND id = ? AND tenant = ?",
        first,
        last,
        id_,
        tables.word(tenant),
    )
    if row is None:
        return None
    *row, grants = row
    event = _event_of(tables, tenant, row)
    if grants is not None:
        event.grants = [(grant, start, units) for grant, start, units in json.loads(grants)]
    return event


def last_recorded_at(tables: Tables) -> Instant:
    """When the last event was recorded; 0 before the first."""
    row = tables.database.execute("SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    return 0 if row is None else cast(Instant, row[0])


# Changes


def save_events(tables: Tables, events: Sequence[tuple[Holder, UsageEvent]]) -> None:
    rows = [_event_row(tables, holder, event) for holder, event in events]
    if any(event.corrects or event.grants for _, event in events):
        more = ((_bytes_of(event.corrects), _grants_of(event)) for _, event in events)
        _NAMING.all(tables.database, [(*row, *two) for row, two in zip(rows, more, strict=True)])
    else:
        _EVENTS.all(tables.database, rows)


def _event_row(tables: Tables, holder: Holder, event: UsageEvent) -> tuple[Any, ...]:
    # Nearly every name was met before: looked up here, a call is saved for each.
    words = tables.known_words.get
    return (
        bytes.fromhex(event.id.replace("-", "")),
        words(event.tenant) or tables.word_made(event.tenant),
        holder.place or tables.holder_number(holder),
        words(event.event) or tables.word_made(event.event),
        tables.plan_id(event.plan, event.plan_version),
        event.quantity,
        to_json(event.attributes).decode() if event.attributes else None,
        to_json(event.gains).decode(),
        words(event.source) or tables.word_made(event.source),
        event.occurred_at,
        event.recorded_at,
        None if event.price is None else tables.price_made(event.price),
    )


# Questions


def newest_event(tables: Tables) -> int:
    """The number of the newest event; 0 where there is none."""
    return cast(int, tables.one("SELECT coalesce(max(seq), 0) FROM event")[0])


def event_page(tables: Tables, question: EventPage) -> tuple[list[tuple[int, UsageEvent]], bool]:
    """One page, newest first unless asked otherwise, and whether there is more. Walks block by block; an event
    is reported at most 35 days late and 5 minutes early, which bounds the blocks that can hold the period."""
    holders = tables.holders_of(question.whose)
    tenant = tables.word(question.whose.tenant)
    event = None if question.event is None else tables.word(question.event)
    if tenant is None or holders == [] or (question.event is not None and event is None):
        return [], False
    last = _seq_at(tables, question.end + KEY_RETENTION)
    if question.before is not None:
        last = min(last, question.before - 1)
    if question.last is not None:
        last = min(last, question.last)
    first = _seq_at(tables, question.start - FUTURE_TOLERANCE - 1) + 1
    if question.after is not None:
        first = max(first, question.after + 1)
    blocks = range(first >> EVENTS_PER_BLOCK_BITS, (last >> EVENTS_PER_BLOCK_BITS) + 1)
    order = "ASC" if question.oldest_first else "DESC"
    kind = "" if event is None else f" AND event = {event}"
    unbounded = question.size < 0
    # Who adds up everything needs no more than what corrects what.
    corrected_by = "NULL" if unbounded else CORRECTED_BY
    found: list[Any] = []
    for block in blocks if question.oldest_first else reversed(blocks):
        found += tables.database.execute(
            f"SELECT {EVENT_COLUMNS}, {corrected_by} FROM event WHERE seq >> {EVENTS_PER_BLOCK_BITS} = ?"
            f"{among(holders)}{kind} AND tenant = ?"
            f" AND seq BETWEEN ? AND ? AND occurred_at >= ? AND occurred_at < ? ORDER BY seq {order} LIMIT ?",
            (
                block,
                tenant,
                first,
                last,
                question.start,
                question.end,
                -1 if unbounded else question.size + 1 - len(found),
            ),
        ).fetchall()
        if not unbounded and len(found) > question.size:
            break
    shown = found if unbounded else found[: question.size]
    return [(row[0], _event_of(tables, question.whose.tenant, row)) for row in shown], len(shown) < len(found)


def _seq_at(tables: Tables, at: Instant) -> int:
    """The last event recorded at or before an instant, by bisection: the clock never runs backwards."""
    low: int = 0
    high: int = newest_event(tables)
    while low < high:
        middle = (low + high + 1) // 2
        row = tables.database.execute(
            "SELECT seq, recorded_at FROM event WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] <= at:
            low = middle
        else:
            high = row[0] - 1
    return low


def _event_of(tables: Tables, tenant: str, row: Sequence[Any]) -> UsageEvent:
    _, id_, holder, event, plan, quantity, attributes, gains, source = row[:9]
    occurred_at, recorded_at, corrects, price, corrected_by = row[9:]
    kind, account, user = tables.database.execute(
        "SELECT account_kind, account, user FROM holder WHERE id = ?", (holder,)
    ).fetchone()
    held = tables.database.execute("SELECT plan, version FROM plan_version WHERE id = ?", (plan,)).fetchone()
    plan_key, version = held or ("", 0)
    return UsageEvent(
        str(UUID(bytes=id_)),
        tenant,
        KINDS[kind],
        tables.text(account),
        tables.text(user),
        tables.text(event),
        plan_key,
        version,
        quantity,
        json.loads(attributes) if attributes else {},
        json.loads(gains),
        tables.text(source),
        occurred_at,
        recorded_at,
        None if corrects is None else str(UUID(bytes=corrects)),
        None if corrected_by is None else str(UUID(bytes=corrected_by)),
        tables.price(price),
    )


def _bytes_of(id_: str | None) -> bytes | None:
    return None if id_ is None else UUID(id_).bytes


def _grants_of(event: UsageEvent) -> str | None:
    return json_text(event.grants) if event.grants else None
