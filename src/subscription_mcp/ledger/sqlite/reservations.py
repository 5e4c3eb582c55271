"""Reservations and what they hold, as SQL."""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from subscription_mcp.domain.identifiers import uuid_bytes
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.machine.facts import CounterKey, Hold, Reservation
from subscription_mcp.ledger.sqlite.rows import KINDS, json_text
from subscription_mcp.ledger.sqlite.tables import Tables


def read_reservation(tables: Tables, key: tuple[str, str]) -> Reservation | None:
    row = tables.one(
        "SELECT h.account_kind, h.account, h.user, r.event, r.quantity, r.attributes, p.plan, p.version,"
        " r.source, r.reserved_at, r.expires_at, r.held, r.price, r.estimated, r.digest, r.answer"
        " FROM reservation r"
        " JOIN holder h ON h.id = r.holder JOIN plan_version p ON p.id = r.plan"
        " WHERE r.tenant = ? AND r.id = ?",
        tables.word(key[0]),
        uuid_bytes(key[1]),
    )
    if row is None:
        return None
    (
        kind,
        account_,
        user_,
        event,
        quantity,
        attributes,
        plan,
        version,
        source,
        *times,
        held,
        price,
        estimated,
        digest,
        answer,
    ) = row
    account = AccountKey(key[0], KINDS[kind], tables.text(account_))
    return Reservation(
        key[1],
        account,
        tables.text(user_),
        tables.text(event),
        quantity,
        json.loads(attributes) if attributes else {},
        plan,
        version,
        tables.text(source),
        times[0],
        times[1],
        {
            CounterKey(key[0], start, window, KINDS[kind], account.account, user, meter): held_quantity
            for start, window, user, meter, held_quantity in json.loads(held)
        },
        tables.price(price),
        tuple(json.loads(estimated)) if estimated else (),
        digest,
        answer,
    )


def save_reservations(tables: Tables, reservations: Iterable[Reservation]) -> None:
    tables.many(
        "INSERT OR REPLACE INTO reservation (tenant, id, holder, event, plan, quantity, attributes, source,"
        " held, reserved_at, expires_at, digest, answer, price, estimated)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_reservation_row(tables, one) for one in reservations],
    )


def _reservation_row(tables: Tables, reservation: Reservation) -> tuple[Any, ...]:
    held = [
        [key.start, key.window_key, key.user, key.meter, quantity]
        for key, quantity in reservation.held.items()
    ]
    return (
        tables.word_made(reservation.account.tenant),
        UUID(reservation.id).bytes,
        tables.holder_made((reservation.account, reservation.user)),
        tables.word_made(reservation.event),
        tables.plan_id(reservation.plan, reservation.plan_version),
        reservation.quantity,
        json_text(reservation.attributes) if reservation.attributes else None,
        tables.word_made(reservation.source),
        json_text(held),
        reservation.reserved_at,
        reservation.expires_at,
        reservation.digest,
        reservation.answer,
        None if reservation.price is None else tables.price_made(reservation.price),
        json_text(reservation.estimated) if reservation.estimated else None,
    )


def save_holds(tables: Tables, holds: Mapping[tuple[CounterKey, str], Hold | None]) -> None:
    places = {(key, id_): (*tables.place_made(key), UUID(id_).bytes) for key, id_ in holds}
    tables.many(
        "DELETE FROM hold WHERE tenant = ? AND start = ? AND window = ? AND holder = ? AND meter = ?"
        " AND reservation = ?",
        [places[place] for place, hold in holds.items() if hold is None],
    )
    tables.many(
        "INSERT INTO hold (tenant, start, window, holder, meter, reservation, quantity, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(*places[place], *hold) for place, hold in holds.items() if hold is not None],
    )
