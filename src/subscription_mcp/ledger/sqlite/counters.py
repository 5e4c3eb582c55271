"""Totals of windows as SQL: loaded, saved, and added up from the rollups and events where they were not kept."""

import json
from collections.abc import Iterable
from typing import cast
from uuid import UUID

from pydantic_core import from_json, to_json

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.identifiers import AccountKind, uuid7_after
from subscription_mcp.domain.instants import DAY, QUARTER, Instant
from subscription_mcp.domain.rolling import Cells, used_at, with_use
from subscription_mcp.domain.usage import gains_of
from subscription_mcp.domain.windows import Anchor, BillingPeriod, Period, rolling_length, window_of_key
from subscription_mcp.ledger.machine.facts import (
    FUTURE_TOLERANCE,
    KEY_RETENTION,
    NO_ANCHOR,
    Counter,
    CounterKey,
    Facts,
    Hold,
)
from subscription_mcp.ledger.queries import EventPage, UsageTotals, Whose
from subscription_mcp.ledger.sqlite.events import event_page, last_recorded_at
from subscription_mcp.ledger.sqlite.insert import Insert
from subscription_mcp.ledger.sqlite.limits import cleared_at
from subscription_mcp.ledger.sqlite.subscriptions import read_subscription
from subscription_mcp.ledger.sqlite.tables import Place, Tables, account_of, among
from subscription_mcp.ledger.sqlite.wide import usage_totals

LONGEST_HOLD = DAY
"""For how long a reservation can be made."""
_COUNTERS = Insert(
    "counter",
    "tenant, start, window, holder, meter, used",
    " ON CONFLICT DO UPDATE SET used = excluded.used",
)


class Counters:
    """The totals of one connection, to be loaded.

    Where a counter is not kept, or only since some plan came to limit it in mid-period, what was used before is in the
    rollups."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._first_recorded_at: Instant | None = None

    def read(self, key: CounterKey, facts: Facts) -> Counter:
        since, now = facts.kept_since(key), facts.now
        counter = Counter(key, length=rolling_length(key.window_key), kept=since is not None)
        place = counter.place = self._tables.place_of(key)
        row = None
        if place is not None and counter.kept:
            row = (
                self._tables.one(
                    "SELECT used FROM counter WHERE tenant = ? AND start = ? AND window = ? AND holder = ?"
                    " AND meter = ?",
                    *place,
                )
                if counter.length is None
                else self._tables.one(
                    "SELECT cells FROM rolling WHERE tenant = ? AND window = ? AND holder = ? AND meter = ?",
                    place[0],
                    *place[2:],
                )
            )
        if counter.length is None:
            counter.used = self._used_before(key, since, now) if row is None else row[0]
        else:
            counter.cleared_at = cleared_at(self._tables, place)
            cells = self._cells_before(counter, since, now) if row is None else from_json(row[0])
            counter.cells = [(at, quantity) for at, quantity in cells]
        if place is not None:
            # Those that have expired too: the next reservation clears them away.
            rows = self._tables.database.execute(
                "SELECT reservation, quantity, expires_at FROM hold WHERE tenant = ? AND start = ? AND window = ?"
                " AND holder = ? AND meter = ?",
                place,
            )
            counter.holds = {
                str(UUID(bytes=id_)): Hold(quantity, expires_at) for id_, quantity, expires_at in rows
            }
        if since is None or self._may_be_held_elsewhere(key, since, now):
            counter.holds |= self._holds_by_reservation(
                key, now if since is None else since, now, facts.catalog
            )
        return counter

    def adds_up(self, facts: Facts) -> bool:
        """Whether a total that is missing may be added up from what was recorded before."""
        missing = facts.missing.get("counters", ())
        return any(self._came_late(key, facts.kept_since(key), facts.now) for key in missing)

    def _came_late(self, key: CounterKey, since: Instant | None, now: Instant) -> bool:
        """Whether something that counts in it may have been recorded before it was kept, perhaps as of later."""
        if since is None:
            return True
        # At one and the same instant the event may have come first.
        if since < self._first_recorded(now):
            return False
        length = rolling_length(key.window_key)
        began = key.start if length is None else last_recorded_at(self._tables) - length
        return began < since + FUTURE_TOLERANCE

    def _first_recorded(self, now: Instant) -> Instant:
        """When the first event was recorded, or else is."""
        if self._first_recorded_at is None:
            row = self._tables.database.execute(
                "SELECT recorded_at FROM event ORDER BY seq LIMIT 1"
            ).fetchone()
            if row is None:
                return now
            self._first_recorded_at = row[0]
        return cast(Instant, self._first_recorded_at)

    def _used_before(self, key: CounterKey, since: Instant | None, now: Instant) -> int:
        if not self._came_late(key, since, now):
            return 0
        start = max(key.start, self._first_recorded(now) - KEY_RETENTION)
        end = self._end_of(key, now)
        # What was recorded since is counted already, be it in a billing period that began elsewhere.
        last = (last_recorded_at(self._tables) if since is None else since) + FUTURE_TOLERANCE + 1
        end = last if end is None else min(end, last)
        if end <= start:
            return 0
        totals = usage_totals(self._tables, UsageTotals(_whose(key), start, end, frozenset()))
        return sum(row.quantity for row in totals if row.meter == key.meter)

    def _end_of(self, key: CounterKey, now: Instant) -> Instant | None:
        """The end of a counter's period."""
        window, anchor = window_of_key(key.window_key), Anchor(key.start)
        if key.window_key == BillingPeriod.name:
            subscription = read_subscription(self._tables, account_of(key))
            anchor = subscription.at(now).billing_anchor if subscription is not None else NO_ANCHOR
            anchor = anchor._replace(nudge=0)  # a counter says where its period is counted from
            if window.period_at(key.start, anchor).start != key.start:  # another anchor was counted from
                end = window.period_at(key.start, Anchor(key.start, anchor.interval)).end
                assert end is not None
                return min(end, anchor.at) if key.start < anchor.at else end
        return window.period_at(key.start, anchor).end

    def _cells_before(self, counter: Counter, since: Instant | None, now: Instant) -> Cells:
        key, length = counter.key, counter.length
        assert length is not None
        if not self._came_late(key, since, now):
            return []
        last = last_recorded_at(self._tables)
        if counter.cleared_at + FUTURE_TOLERANCE > last - length:
            return self._cells_since(counter.cleared_at, key, length, now)
        question = UsageTotals(
            _whose(key), last - length, last + FUTURE_TOLERANCE + 1, frozenset({"quarter"})
        )
        cells: Cells = []
        for row in usage_totals(self._tables, question):
            if row.meter == key.meter:
                # At the end of its quarter, or of all there is: given back a little late, never early.
                at = min(cast(Instant, row.quarter) + QUARTER, last)
                cells = with_use(cells, at, row.quantity, length, now)
        return cells

    def _cells_since(self, start: Instant, key: CounterKey, length: Instant, now: Instant) -> Cells:
        """What was used from an instant on, from the events: a quarter of an hour has both sides of it."""
        cells: Cells = []
        page = EventPage(_whose(key), start, now + FUTURE_TOLERANCE + 1, size=-1)
        events = [event for _, event in event_page(self._tables, page)[0]]
        taken_back = {event.corrects for event in events}
        for event in events:
            at = used_at(event.occurred_at, event.recorded_at)
            if at >= start and event.corrects is None and event.id not in taken_back:
                cells = with_use(cells, at, event.gains.get(key.meter, 0), length, now)
        return cells

    def _may_be_held_elsewhere(self, key: CounterKey, since: Instant, now: Instant) -> bool:
        """Whether a live reservation may be older than the total, so that it holds nothing of it yet."""
        if not since <= now < since + LONGEST_HOLD:
            return False
        (first,) = self._tables.one(
            "SELECT min(id) FROM reservation WHERE tenant = ?", self._tables.word(key.tenant)
        )
        return first is not None and first < uuid7_after(since)

    def _holds_by_reservation(
        self, key: CounterKey, until: Instant, now: Instant, catalog: Catalog
    ) -> dict[str, Hold]:
        """What live reservations made up to an instant hold of a total that was not kept then. They may hold nothing
        of any other: their meter may not have been limited at all."""
        period = Period(0, None)
        if rolling_length(key.window_key) is None:
            period = Period(key.start, self._end_of(key, now))
        rows = self._tables.database.execute(
            "SELECT r.id, r.event, r.quantity, r.attributes, r.price, r.expires_at, r.reserved_at"
            " FROM reservation r"
            " WHERE r.tenant = ? AND r.id > ? AND r.expires_at > ? AND r.answer IS NULL"
            f"{among(self._tables.holders_of(_whose(key)), 'r.holder')}",
            (self._tables.word(key.tenant), uuid7_after(now - LONGEST_HOLD - QUARTER), now),
        ).fetchall()
        holds = {}
        for id_, event, quantity, attributes, price, expires_at, reserved_at in rows:
            given = json.loads(attributes) if attributes else {}
            held = gains_of(
                catalog, self._tables.text(event), quantity, given, self._tables.price(price)
            ).get(key.meter)
            if held and reserved_at <= until and period.holds(reserved_at):
                holds[str(UUID(bytes=id_))] = Hold(held, expires_at)
        return holds


def save_counters(tables: Tables, counters: Iterable[Counter]) -> None:
    counters = [one for one in counters if one.kept]
    periodic = [
        (*(one.place or _place_made(tables, one)), one.used) for one in counters if one.length is None
    ]
    rolling = [
        (*_place_made(tables, one), to_json(one.cells).decode()) for one in counters if one.length is not None
    ]
    # In the order of the key, so that what lies on one page is written together.
    _COUNTERS.all(tables.database, sorted(periodic))
    if rolling:
        tables.many(
            "INSERT OR REPLACE INTO rolling (tenant, window, holder, meter, cells) VALUES (?, ?, ?, ?, ?)",
            sorted((row[0], *row[2:]) for row in rolling),
        )


def _place_made(tables: Tables, counter: Counter) -> Place:
    place: Place | None = counter.place
    if place is None:
        place = counter.place = tables.place_made(counter.key)
    return place


def _whose(key: CounterKey) -> Whose:
    """Whose usage a counter adds up; '' as user is the group as a whole."""
    return Whose(key.tenant, cast(AccountKind, key.account_kind), key.account, key.user or None)
