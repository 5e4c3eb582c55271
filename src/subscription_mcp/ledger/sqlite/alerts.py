"""Alerts and the messages that tell of them, as SQL."""

import json
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from subscription_mcp.domain.identifiers import AccountKind, uuid_bytes
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import RESENT_MAX, Alert, Delivery
from subscription_mcp.ledger.machine.facts import Changes, MarkKey
from subscription_mcp.ledger.queries import AlertPage, DeliveriesDue, DeliveryPage
from subscription_mcp.ledger.sqlite.rows import KINDS
from subscription_mcp.ledger.sqlite.tables import Tables

_ALERT = (
    "SELECT a.seq, a.id, t.text, h.account_kind, h.account, h.user, a.meter, a.window, a.start, a.scope, a.threshold,"
    " a.severity, a.message, a.recommendation, a.suggested_plan, a.used, a.maximum, a.created_at, a.read_at"
    " FROM alert a JOIN holder h ON h.id = a.holder JOIN word t ON t.id = a.tenant"
)
_DELIVERY = (
    "SELECT d.id, t.text, d.event, d.payload, d.created_at, d.state, d.attempts, d.next_attempt_at, d.lease,"
    " d.last_error, d.ended_at FROM delivery d JOIN word t ON t.id = d.tenant"
)


# Facts


def read_marks(tables: Tables, key: MarkKey) -> dict[int, Instant]:
    place = key.place
    tenant, window, meter = tables.word(place.tenant), tables.word(place.window_key), tables.word(place.meter)
    account = AccountKey(place.tenant, _kind(place.account_kind), place.account)
    holder = tables.holder((account, place.user))
    rows = tables.rows(
        "SELECT threshold, until FROM alert_mark WHERE tenant = :tenant AND start = :start AND window = :window"
        " AND holder = :holder AND meter = :meter AND scope = :scope AND subject = :subject",
        {
            "tenant": tenant,
            "start": place.start,
            "window": window,
            "holder": holder,
            "meter": meter,
            "scope": key.scope,
            "subject": key.subject,
        },
    )
    return dict(rows)


def read_setting(tables: Tables, account: AccountKey) -> tuple[int, ...] | None:
    holder = tables.holder((account, ""))
    if holder is None:
        return None
    rows = tables.rows(
        "SELECT thresholds FROM alert_setting WHERE tenant = :tenant AND holder = :holder",
        {"tenant": tables.word(account.tenant), "holder": holder},
    )
    return tuple(json.loads(rows[0][0])) if rows else None


def read_alert(tables: Tables, key: tuple[str, str]) -> Alert | None:
    tenant, id_ = key
    values = {"tenant": tables.word(tenant), "id": uuid_bytes(id_)}
    found = tables.rows(f"{_ALERT} WHERE a.tenant = :tenant AND a.id = :id", values)
    return _alert(tables, found[0][1:]) if found else None


def read_delivery(tables: Tables, id_: str) -> Delivery | None:
    found = tables.rows(f"{_DELIVERY} WHERE d.id = :id", {"id": uuid_bytes(id_)})
    return _delivery(found[0]) if found else None


def read_due(tables: Tables, size: int, now: Instant) -> list[Delivery]:
    rows = tables.rows(
        f"{_DELIVERY} WHERE d.state = 'pending' AND d.next_attempt_at <= :now ORDER BY d.next_attempt_at LIMIT :size",
        {"now": now, "size": size},
    )
    return [_delivery(row) for row in rows]


def read_dead(tables: Tables, ids: tuple[str, ...] | None) -> list[Delivery]:
    if ids is not None:
        named = [read_delivery(tables, id_) for id_ in ids]
        return [one for one in named if one is not None]
    dead = f"{_DELIVERY} WHERE d.state = 'dead' ORDER BY d.seq LIMIT :size"
    return [_delivery(row) for row in tables.rows(dead, {"size": RESENT_MAX})]


# Changes


def save_alerts(tables: Tables, changes: Changes) -> None:
    """Everything of a batch about alerts and messages."""
    for alert in changes.alerts:
        account = AccountKey(alert.tenant, alert.account_kind, alert.account)
        tables.run(
            "INSERT INTO alert (id, tenant, holder, meter, window, start, scope, threshold, severity, message,"
            " recommendation, suggested_plan, used, maximum, created_at, read_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            UUID(alert.id).bytes,
            tables.word_made(alert.tenant),
            tables.holder_made((account, alert.user)),
            tables.word_made(alert.meter),
            tables.word_made(alert.window_key),
            alert.window_start,
            alert.scope,
            alert.threshold_percent,
            alert.severity,
            alert.message,
            alert.recommendation,
            alert.suggested_plan,
            alert.used,
            alert.maximum,
            alert.created_at,
            alert.read_at,
        )
    for (tenant, id_), alert in changes.alerts_read.items():
        tables.run(
            "UPDATE alert SET read_at = ? WHERE tenant = ? AND id = ?",
            alert.read_at,
            tables.word(tenant),
            UUID(id_).bytes,
        )
    for (key, threshold), until in changes.alert_marks.items():
        place = key.place
        account = AccountKey(place.tenant, _kind(place.account_kind), place.account)
        tables.run(
            "INSERT OR REPLACE INTO alert_mark (tenant, start, window, holder, meter, scope, subject, threshold, until)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            tables.word_made(place.tenant),
            place.start,
            tables.word_made(place.window_key),
            tables.holder_made((account, place.user)),
            tables.word_made(place.meter),
            key.scope,
            key.subject,
            threshold,
            until,
        )
    for account, thresholds in changes.alert_settings.items():
        whose = (tables.word_made(account.tenant), tables.holder_made((account, "")))
        if thresholds is None:
            tables.run("DELETE FROM alert_setting WHERE tenant = ? AND holder = ?", *whose)
        else:
            tables.run(
                "INSERT OR REPLACE INTO alert_setting (tenant, holder, thresholds) VALUES (?, ?, ?)",
                *whose,
                to_json(thresholds).decode(),
            )
    for one in changes.deliveries.values():
        tables.run(
            "INSERT INTO delivery (id, tenant, event, payload, created_at, state, attempts, next_attempt_at, lease,"
            " last_error, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " state = excluded.state, attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at,"
            " lease = excluded.lease, last_error = excluded.last_error, ended_at = excluded.ended_at",
            UUID(one.id).bytes,
            tables.word_made(one.tenant),
            one.event,
            one.payload,
            one.created_at,
            one.state,
            one.attempts,
            one.next_attempt_at,
            one.lease,
            one.last_error,
            one.ended_at,
        )


# Questions


def alert_page(tables: Tables, question: AlertPage) -> list[tuple[int, Alert]]:
    """Newest first, by the holders asked about; those of all tenants among those of a whole tenant."""
    whose = question.whose
    values = {"tenant": tables.word(whose.tenant), "size": question.size}
    unread = " AND a.read_at IS NULL" if question.unread_only else ""
    if question.before is not None:
        unread, values["before"] = f"{unread} AND a.seq < :before", question.before
    if whose.account is not None and whose.account_kind is not None:
        account = AccountKey(whose.tenant, whose.account_kind, whose.account)
        if whose.user is None:
            among = tables.holders_of(whose)
        else:
            mine = (tables.holder((account, whose.user)), tables.holder((account, "")))
            among = [one for one in mine if one is not None]
        picked = f"a.tenant = :tenant AND a.holder IN ({','.join(map(str, among or ()))})"
    elif question.with_service:
        picked, values["nobody"] = "a.tenant IN (:tenant, :nobody)", tables.word("")
    else:
        picked = "a.tenant = :tenant"
    rows = tables.rows(f"{_ALERT} WHERE {picked}{unread} ORDER BY a.seq DESC LIMIT :size", values)
    return [(seq, _alert(tables, row)) for seq, *row in rows]


def deliveries_due(tables: Tables, question: DeliveriesDue) -> tuple[int, Instant | None]:
    rows = tables.rows(
        "SELECT next_attempt_at FROM delivery WHERE state = 'pending' ORDER BY next_attempt_at LIMIT :size",
        {"size": question.size},
    )
    due = [at for (at,) in rows if at <= question.now]
    return len(due), rows[0][0] if rows else None


def delivery_page(tables: Tables, question: DeliveryPage) -> list[Delivery]:
    rows = tables.rows(
        f"{_DELIVERY} WHERE d.state <> 'delivered' ORDER BY d.state <> 'dead', d.seq LIMIT :size",
        {"size": question.size},
    )
    return [_delivery(row) for row in rows]


def delivery_counts(tables: Tables) -> dict[str, int]:
    return dict(tables.rows("SELECT state, count(*) FROM delivery GROUP BY state", {}))


def _alert(tables: Tables, row: Any) -> Alert:
    id_, tenant, kind, account, user, meter, window, *rest = row
    return Alert(
        str(UUID(bytes=id_)),
        tenant,
        KINDS[kind],
        tables.text(account),
        tables.text(user),
        tables.text(meter),
        tables.text(window),
        *rest,
    )


def _delivery(row: Any) -> Delivery:
    id_, *rest = row
    return Delivery(str(UUID(bytes=id_)), *rest)


def _kind(kind: str) -> AccountKind:
    return "group" if kind == "group" else "personal"
