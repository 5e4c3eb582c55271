"""Sessions as SQL."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from subscription_mcp.domain.identifiers import uuid_bytes
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.machine.facts import HolderKey
from subscription_mcp.ledger.queries import OpenSessions, Whose
from subscription_mcp.ledger.sqlite.rows import KINDS
from subscription_mcp.ledger.sqlite.tables import Tables, among

_SESSION = (
    "SELECT s.id, h.account_kind, h.account, h.user, s.plan, s.source, s.opened_at, s.expires_at, s.closed_at"
    " FROM session s JOIN holder h ON h.id = s.holder WHERE s.tenant = ?"
)


# Facts


def read_session(tables: Tables, key: tuple[str, str]) -> Session | None:
    row = tables.one(f"{_SESSION} AND s.id = ?", tables.word(key[0]), uuid_bytes(key[1]))
    return None if row is None else _session_of(tables, key[0], row)


def read_open_sessions(tables: Tables, key: HolderKey, now: Instant) -> dict[str, Session]:
    account, user = key
    whose = Whose(account.tenant, account.account_kind, account.account, user or None)
    return {session.id: session for session in sessions_open(tables, OpenSessions(whose, now, size=-1))}


# Changes


def save_sessions(tables: Tables, sessions: Iterable[Session]) -> None:
    tables.many(
        "INSERT OR REPLACE INTO session (tenant, id, holder, plan, source, opened_at, expires_at, closed_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [_session_row(tables, one) for one in sessions],
    )


def _session_row(tables: Tables, session: Session) -> tuple[Any, ...]:
    return (
        tables.word_made(session.account.tenant),
        UUID(session.id).bytes,
        tables.holder_made((session.account, session.user)),
        session.plan,
        tables.word_made(session.source),
        session.opened_at,
        session.expires_at,
        session.closed_at,
    )


# Questions


def sessions_open(tables: Tables, question: OpenSessions) -> list[Session]:
    tenant, order = question.whose.tenant, "" if question.size < 0 else " ORDER BY s.expires_at"
    picked = among(tables.holders_of(question.whose), "s.holder")
    rows = tables.database.execute(
        f"{_SESSION}{picked} AND s.closed_at IS NULL AND s.expires_at > ?{order} LIMIT ?",
        (tables.word(tenant), question.now, question.size),
    ).fetchall()
    return [_session_of(tables, tenant, row) for row in rows]


def _session_of(tables: Tables, tenant: str, row: Any) -> Session:
    id_, kind, account, user, plan, source, opened_at, expires_at, closed_at = row
    return Session(
        str(UUID(bytes=id_)),
        AccountKey(tenant, KINDS[kind], tables.text(account)),
        tables.text(user),
        plan,
        tables.text(source),
        opened_at,
        expires_at,
        closed_at,
    )
