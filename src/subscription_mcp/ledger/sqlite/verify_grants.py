"""What grants gave, worked out again from what the events say they took."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from subscription_mcp.domain.allowances import FOLDED, use_is_over
from subscription_mcp.domain.instants import Instant, format_instant
from subscription_mcp.ledger.machine.facts import FUTURE_TOLERANCE
from subscription_mcp.ledger.sqlite.cells import Cells, Key, Sums, keyed, side_by_side
from subscription_mcp.ledger.sqlite.consistency import make_room

_HALF = 2**63
"""Halves of ids as integers of SQLite, in the order of the ids."""


class _Given(NamedTuple):
    meter: str
    window: str
    quantity: int
    starts_at: Instant
    ends_at: Instant | None


class Grants:
    """What each grant gave in each period."""

    def __init__(self, connection: sqlite3.Connection, now: Instant, uses: Cells) -> None:
        self._db = connection
        self._now = now
        self._uses = uses
        self._known: dict[tuple[int, int, bytes], _Given | None] = {}

    def differences(
        self,
        id_: bytes,
        tenant: int,
        holders: tuple[int, ...],
        occurred_at: Instant,
        gains: Mapping[str, int],
        grants: str,
    ) -> Iterator[str]:
        """Add what an event took; what it could not take. `holders` are whose grants it may take of."""
        for grant, start, units in json.loads(grants):
            key = UUID(grant).bytes
            self._uses.add((tenant, *_halves(key), start, 0), units, 0)
            given = next(filter(None, (self._given(tenant, holder, key) for holder in holders)), None)
            one = f"Event {UUID(bytes=id_)} takes {units:,} of grant {grant}"
            if given is None:
                yield f"{one}, which is not there or somebody else's."
            elif given.meter not in gains:
                yield f"{one}, which is of {given.meter}."
            elif units > 0 and not self._is_in_effect(given, occurred_at):
                yield f"{one}, which was not in effect at {format_instant(occurred_at)}."

    def _is_in_effect(self, given: _Given, at: Instant) -> bool:
        # What was said to happen a little later may have come before the grant was ended by hand.
        return given.starts_at <= at and (given.ends_at is None or at < given.ends_at + FUTURE_TOLERANCE)

    def _given(self, tenant: int, holder: int, id_: bytes) -> _Given | None:
        place = (tenant, holder, id_)
        if place not in self._known:
            make_room(self._known)
            row = self._db.execute(
                "SELECT w.text, g.window, g.quantity, g.starts_at, g.ends_at FROM allowance_grant g"
                " JOIN word w ON w.id = g.meter WHERE g.tenant = ? AND g.holder = ? AND g.id = ?",
                place,
            ).fetchone()
            self._known[place] = None if row is None else _Given(*row)
        return self._known[place]

    def sums(self) -> Iterator[str]:
        """How what grants gave differs from the events, and grants that gave more than they had. What nobody counts in
        any more may have been added up."""
        stored = self._db.execute(
            "SELECT tenant, id, start, quantity FROM grant_use ORDER BY tenant, id, start"
        )
        rows = ((tenant, *_halves(id_), start, 0, quantity, 0, 0) for tenant, id_, start, quantity in stored)
        granted = self._db.execute(
            "SELECT tenant, id, window, quantity FROM allowance_grant ORDER BY tenant, id"
        )
        given = next(granted, None)
        pairs = side_by_side(keyed(rows), self._uses.in_order())
        for (tenant, *halves), uses in groupby(pairs, key=lambda pair: pair[0][:3]):
            id_ = _id(*halves)
            while given is not None and given[:2] < (tenant, id_):
                given = next(granted, None)
            is_there = given is not None and given[:2] == (tenant, id_)
            yield from self._of_one(
                id_, list(uses), *(given[2:] if given is not None and is_there else (None, 0))
            )

    def _of_one(
        self, id_: bytes, uses: list[tuple[Key, Sums | None, Sums | None]], window: str | None, quantity: int
    ) -> Iterator[str]:
        grant, folded, total = UUID(bytes=id_), 0, 0
        for (_, _, _, start, _), kept, took in uses:
            gave, said = (kept or (0,))[0], (took or (0,))[0]
            total += gave
            if start == FOLDED or (window is not None and use_is_over(window, start, self._now)):
                folded += gave - said
            elif gave != said:
                yield (
                    f"Grant {grant} says it gave {gave:,} in the period from {format_instant(start)}; the events say "
                    f"{said:,}."
                )
        if folded:
            yield f"Grant {grant} says it gave {folded:+,} long ago beside what the events say."
        if total > quantity:
            yield f"Grant {grant} of {quantity:,} gave {total:,}."


def _halves(id_: bytes) -> tuple[int, int]:
    return int.from_bytes(id_[:8]) - _HALF, int.from_bytes(id_[8:]) - _HALF


def _id(high: int, low: int) -> bytes:
    return (high + _HALF).to_bytes(8) + (low + _HALF).to_bytes(8)
