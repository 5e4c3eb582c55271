"""What `retention` says is over is deleted, a few rows with each batch, in the batch's own transaction.

A sweep goes once through what is old enough, table by table, tenant by tenant; the next one begins some
minutes later by the ledger's clock. It keeps its place in memory only: another process may sweep, too, and
whoever is first deletes. The file does not shrink; the pages are used again.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Any

from subscription_mcp.domain.allowances import FOLDED, use_is_over
from subscription_mcp.domain.identifiers import uuid7_after
from subscription_mcp.domain.instants import MINUTE, Instant
from subscription_mcp.ledger.machine.facts import KEY_RETENTION, SESSION_RETENTION
from subscription_mcp.ledger.retention import (
    COUNTER_RETENTION,
    REPORT_RETENTION,
    alert_is_over,
    answer_is_over,
    counter_is_over,
    delivery_is_over,
    mark_is_over,
    offer_is_over,
    reservation_is_over,
    rolling_is_over,
    session_is_over,
)
from subscription_mcp.ledger.sqlite.answers import hash_of_key

log = logging.getLogger(__name__)

SWEEP_EVERY = 10 * MINUTE
ROWS_A_BATCH = 16
ROWS_A_COMMAND = 2
"""More than one command can add, so that a sweep ends however much is recorded meanwhile."""


class Pruner:
    """The sweep of one process over one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._next_at: Instant = 0
        self._sweep: Iterator[int] | None = None

    def prune(self, now: Instant, commands: int) -> int:
        """Look at a few rows more and delete those that are over; how many were looked at. Within the write
        transaction of a batch of so many commands, which a failure here does not harm."""
        if self._sweep is None:
            if now < self._next_at:
                return 0
            self._next_at = now + SWEEP_EVERY
            self._sweep = _Sweep(self._db, now).steps()
        room, looked_at = ROWS_A_BATCH + ROWS_A_COMMAND * commands, 0
        self._db.execute("SAVEPOINT pruning")
        try:
            while looked_at < room:
                step = next(self._sweep, None)
                if step is None:
                    self._sweep = None
                    break
                looked_at += step
        except Exception:
            self._sweep = None
            if not self._db.in_transaction:  # the batch went with it: the disk is full, say
                raise
            log.exception("what is over could not be deleted; the next sweep tries again")
            self._db.execute("ROLLBACK TO pruning")
        self._db.execute("RELEASE pruning")
        return looked_at


class _Sweep:
    """Once through everything that is old enough. No cursor stays open from one step to the next."""

    def __init__(self, connection: sqlite3.Connection, now: Instant) -> None:
        self._db = connection
        self._now = now

    def steps(self) -> Iterator[int]:
        """Goes on by a few rows each time; how many were looked at, at least 1."""
        yield from self._answers()
        yield from self._alerts()
        yield from self._deliveries()
        for table, of_tenant in (
            ("offer", self._offers),
            ("reservation", self._reservations),
            ("session", self._sessions),
            ("counter", self._counters),
            ("alert_mark", self._marks),
            ("allowance_grant", self._grant_uses),
            ("rolling", partial(self._sliding, "rolling", "r.cells")),
            ("denial", partial(self._hours, "denial", "code, meter")),
            ("response", partial(self._hours, "response", "event, failed, cell")),
            ("rate_cleared", partial(self._sliding, "rate_cleared", "json_array(json_array(r.at, 0))")),
        ):
            tenant = 0
            while tenant := self._tenant_after(table, tenant):
                yield 1
                yield from of_tenant(tenant)

    def _tenant_after(self, table: str, tenant: int) -> int:
        """The next tenant that has rows; 0 after the last. Every key begins with the tenant."""
        row = self._db.execute(f"SELECT min(tenant) FROM {table} WHERE tenant > ?", (tenant,)).fetchone()
        return row[0] or 0

    def _answers(self) -> Iterator[int]:
        # The oldest come first.
        while rows := self._db.execute(
            "SELECT a.seq, a.at, t.text, s.text, a.key FROM answer a JOIN word t ON t.id = a.tenant"
            " JOIN word s ON s.id = a.source ORDER BY a.seq LIMIT ?",
            (ROWS_A_BATCH,),
        ).fetchall():
            over = [row for row in rows if answer_is_over(row[1], self._now)]
            for seq, _, tenant, source, key in over:
                free_place(self._db, hash_of_key((tenant, source, key)), seq)
                self._db.execute("DELETE FROM answer WHERE seq = ?", (seq,))
            yield len(rows)
            if len(over) < len(rows):
                return

    def _alerts(self) -> Iterator[int]:
        # The oldest come first.
        while rows := self._db.execute(
            "SELECT seq, created_at FROM alert ORDER BY seq LIMIT ?", (ROWS_A_BATCH,)
        ).fetchall():
            over = [seq for seq, created_at in rows if alert_is_over(created_at, self._now)]
            self._db.executemany("DELETE FROM alert WHERE seq = ?", [(seq,) for seq in over])
            yield len(rows)
            if len(over) < len(rows):
                return

    def _deliveries(self) -> Iterator[int]:
        place = 0
        while rows := self._db.execute(
            "SELECT seq, state, created_at, next_attempt_at, ended_at FROM delivery WHERE seq > ? ORDER BY seq LIMIT ?",
            (place, ROWS_A_BATCH),
        ).fetchall():
            for seq, state, created_at, next_attempt_at, ended_at in rows:
                if delivery_is_over(state, created_at, next_attempt_at, ended_at, self._now):
                    self._db.execute("DELETE FROM delivery WHERE seq = ?", (seq,))
            yield len(rows)
            place = rows[-1][0]

    def _marks(self, tenant: int) -> Iterator[int]:
        for rows in self._few(
            "SELECT m.start, m.window, m.holder, m.meter, m.scope, m.subject, m.threshold, m.until, w.text"
            " FROM alert_mark m JOIN word w ON w.id = m.window WHERE m.tenant = ?"
            " AND (m.start, m.window, m.holder, m.meter, m.scope, m.subject, m.threshold) > (?, ?, ?, ?, ?, ?, ?)"
            " ORDER BY m.start, m.window, m.holder, m.meter, m.scope, m.subject, m.threshold LIMIT ?",
            tenant,
            (-1, 0, 0, 0, "", "", 0),
        ):
            for *key, until, window in rows:
                if mark_is_over(window, key[0], until, self._now):
                    self._db.execute(
                        "DELETE FROM alert_mark WHERE tenant = ? AND start = ? AND window = ? AND holder = ?"
                        " AND meter = ? AND scope = ? AND subject = ? AND threshold = ?",
                        (tenant, *key),
                    )
            yield len(rows)

    def _offers(self, tenant: int) -> Iterator[int]:
        for rows in self._few(
            "SELECT handle, expires_at FROM offer WHERE tenant = ? AND handle > ? ORDER BY handle LIMIT ?",
            tenant,
            (b"",),
        ):
            for handle, expires_at in rows:
                if offer_is_over(expires_at, self._now):
                    self._db.execute("DELETE FROM offer WHERE tenant = ? AND handle = ?", (tenant, handle))
            yield len(rows)

    def _reservations(self, tenant: int) -> Iterator[int]:
        for rows in self._few(
            "SELECT id, holder, held, reserved_at, expires_at FROM reservation"
            " WHERE tenant = ? AND id > ? AND id < ? ORDER BY id LIMIT ?",
            tenant,
            (b"",),
            uuid7_after(self._now - KEY_RETENTION),
        ):
            for id_, holder, held, reserved_at, expires_at in rows:
                if reservation_is_over(reserved_at, expires_at, self._now):
                    for start, window, user, meter, _ in json.loads(held):
                        self._delete_hold(tenant, start, window, holder, user, meter, id_)
                    self._db.execute("DELETE FROM reservation WHERE tenant = ? AND id = ?", (tenant, id_))
            yield len(rows)

    def _delete_hold(
        self, tenant: int, start: Instant, window: str, holder: int, user: str, meter: str, reservation: bytes
    ) -> None:
        self._db.execute(
            "DELETE FROM hold WHERE tenant = ? AND start = ?"
            " AND window = (SELECT id FROM word WHERE text = ?)"
            " AND holder = (SELECT other.id FROM holder one JOIN holder other ON other.tenant = one.tenant"
            " AND other.account_kind = one.account_kind AND other.account = one.account"
            " AND other.user = (SELECT id FROM word WHERE text = ?) WHERE one.id = ?)"
            " AND meter = (SELECT id FROM word WHERE text = ?) AND reservation = ?",
            (tenant, start, window, user, holder, meter, reservation),
        )

    def _sessions(self, tenant: int) -> Iterator[int]:
        for rows in self._few(
            "SELECT id, expires_at, closed_at FROM session WHERE tenant = ? AND id > ? AND id < ?"
            " ORDER BY id LIMIT ?",
            tenant,
            (b"",),
            uuid7_after(self._now - SESSION_RETENTION),
        ):
            for id_, expires_at, closed_at in rows:
                if session_is_over(expires_at, closed_at, self._now):
                    self._db.execute("DELETE FROM session WHERE tenant = ? AND id = ?", (tenant, id_))
            yield len(rows)

    def _counters(self, tenant: int) -> Iterator[int]:
        for rows in self._few(
            "SELECT c.start, c.window, c.holder, c.meter, w.text, m.text FROM counter c"
            " JOIN word w ON w.id = c.window JOIN word m ON m.id = c.meter WHERE c.tenant = ? AND (c.start, c.window, c.holder, c.meter) > (?, ?, ?, ?) AND c.start < ?"
            " ORDER BY c.start, c.window, c.holder, c.meter LIMIT ?",
            tenant,
            (1, 0, 0, 0),  # what never ends begins at 0
            self._now - COUNTER_RETENTION,
        ):
            for *key, window, meter in rows:
                if counter_is_over(window, key[0], self._now, meter):
                    self._db.execute(
                        "DELETE FROM counter"
                        " WHERE tenant = ? AND start = ? AND window = ? AND holder = ? AND meter = ?",
                        (tenant, *key),
                    )
            yield len(rows)

    def _grant_uses(self, tenant: int) -> Iterator[int]:
        """What a grant gave in periods that are over becomes one sum."""
        for rows in self._few(
            "SELECT holder, id, window FROM allowance_grant WHERE tenant = ? AND (holder, id) > (?, ?)"
            " ORDER BY holder, id LIMIT ?",
            tenant,
            (0, b""),
        ):
            for _, id_, window in rows:
                yield 1
                while over := self._uses_over(tenant, id_, window):
                    self._db.execute(
                        "INSERT INTO grant_use (tenant, id, start, quantity) VALUES (?, ?, ?, ?)"
                        " ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
                        (tenant, id_, FOLDED, sum(quantity for _, quantity in over)),
                    )
                    self._db.executemany(
                        "DELETE FROM grant_use WHERE tenant = ? AND id = ? AND start = ?",
                        [(tenant, id_, start) for start, _ in over],
                    )
                    yield len(over)

    def _uses_over(self, tenant: int, id_: bytes, window: str) -> list[tuple[Instant, int]]:
        rows: list[tuple[Instant, int]] = self._db.execute(
            "SELECT start, quantity FROM grant_use WHERE tenant = ? AND id = ? AND start > ? ORDER BY start LIMIT ?",
            (tenant, id_, FOLDED, ROWS_A_BATCH),
        ).fetchall()
        return [row for row in rows if use_is_over(window, row[0], self._now)]

    def _hours(self, table: str, rest: str, tenant: int) -> Iterator[int]:
        columns = f"hour, holder, {rest}"
        places = ", ".join("?" * len(columns.split(",")))
        while rows := self._db.execute(
            f"SELECT {columns} FROM {table} WHERE tenant = ? AND hour < ? ORDER BY {columns} LIMIT ?",
            (tenant, self._now - REPORT_RETENTION, ROWS_A_BATCH),
        ).fetchall():
            self._db.executemany(
                f"DELETE FROM {table} WHERE tenant = ? AND ({columns}) = ({places})",
                [(tenant, *row) for row in rows],
            )
            yield len(rows)

    def _sliding(self, table: str, cells_column: str, tenant: int) -> Iterator[int]:
        for rows in self._few(
            f"SELECT r.window, r.holder, r.meter, w.text, {cells_column} FROM {table} r"
            " JOIN word w ON w.id = r.window WHERE r.tenant = ? AND (r.window, r.holder, r.meter) > (?, ?, ?)"
            " ORDER BY r.window, r.holder, r.meter LIMIT ?",
            tenant,
            (0, 0, 0),
        ):
            for *key, window, cells in rows:
                if rolling_is_over(window, json.loads(cells), self._now):
                    self._db.execute(
                        f"DELETE FROM {table} WHERE tenant = ? AND window = ? AND holder = ? AND meter = ?",
                        (tenant, *key),
                    )
            yield len(rows)

    def _few(
        self, statement: str, tenant: int, place: tuple[object, ...], *bounds: object
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of a tenant, a few at a time, in the order of their first columns, after `place`."""
        while rows := self._db.execute(statement, (tenant, *place, *bounds, ROWS_A_BATCH)).fetchall():
            yield rows
            place = rows[-1][: len(place)]


def free_place(database: sqlite3.Connection, place: int, seq: int) -> None:
    """Take an answer out of the index. Keys of one hash stand side by side: those behind it close up."""
    while (found := _seq_at(database, place)) != seq:
        if found is None:
            return
        place += 1
    database.execute("DELETE FROM key_index WHERE hash = ?", (place,))
    behind = place
    while (found := _seq_at(database, behind := behind + 1)) is not None:
        (*key,) = database.execute(
            "SELECT t.text, s.text, a.key FROM answer a JOIN word t ON t.id = a.tenant"
            " JOIN word s ON s.id = a.source WHERE a.seq = ?",
            (found,),
        ).fetchone()
        if hash_of_key((key[0], key[1], key[2])) <= place:
            database.execute("UPDATE key_index SET hash = ? WHERE hash = ?", (place, behind))
            place = behind


def _seq_at(database: sqlite3.Connection, place: int) -> int | None:
    row = database.execute("SELECT seq FROM key_index WHERE hash = ?", (place,)).fetchone()
    return None if row is None else row[0]
