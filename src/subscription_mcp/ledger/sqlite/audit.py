"""Who did what, and which tokens were revoked, as SQL."""

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import Actor, AuditEntry, Revocation
from subscription_mcp.ledger.queries import AuditTrail
from subscription_mcp.ledger.sqlite.rows import KINDS, json_text
from subscription_mcp.ledger.sqlite.tables import Tables, among

# Changes


def save_audits(tables: Tables, entries: Iterable[AuditEntry]) -> None:
    tables.many(
        "INSERT INTO audit (id, tenant, holder, action, actor, actor_role, reason, before, after, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_audit_row(tables, entry) for entry in entries],
    )


def save_revocations(tables: Tables, revocations: Iterable[Revocation]) -> None:
    tables.many(
        "INSERT INTO revocation (id, tenant, subject, token_id, issued_before, at) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (UUID(one.id).bytes, one.tenant, one.subject, one.token_id, one.issued_before, one.at)
            for one in revocations
        ],
    )


def _audit_row(tables: Tables, entry: AuditEntry) -> tuple[Any, ...]:
    account = AccountKey(entry.tenant, entry.account_kind, entry.account)
    return (
        UUID(entry.id).bytes,
        tables.word_made(entry.tenant),
        tables.holder_made((account, entry.user)),
        entry.action,
        entry.actor.user,
        entry.actor.role,
        entry.reason,
        None if entry.before is None else json_text(entry.before),
        None if entry.after is None else json_text(entry.after),
        entry.at,
    )


# Questions


def audit_trail(tables: Tables, question: AuditTrail) -> list[AuditEntry]:
    picked = among(tables.holders_of(question.whose), "a.holder")
    rows = tables.database.execute(
        "SELECT a.id, h.account_kind, h.account, h.user, a.action, a.actor, a.actor_role, a.reason,"
        " a.before, a.after, a.at FROM audit a JOIN holder h ON h.id = a.holder"
        f" WHERE a.tenant = ?{picked} AND a.action LIKE ? || '%' ORDER BY a.seq DESC LIMIT ?",
        (tables.word(question.whose.tenant), question.action, question.size),
    ).fetchall()
    return [
        AuditEntry(
            str(UUID(bytes=id_)),
            question.whose.tenant,
            KINDS[kind],
            tables.text(account),
            tables.text(user),
            action,
            Actor(actor, actor_role),
            reason,
            None if before is None else json.loads(before),
            None if after is None else json.loads(after),
            at,
        )
        for id_, kind, account, user, action, actor, actor_role, reason, before, after, at in rows
    ]


def revocations_since(tables: Tables, seq: int) -> list[Revocation]:
    rows = tables.rows(
        "SELECT id, tenant, subject, token_id, issued_before, at, seq FROM revocation"
        " WHERE seq > ? ORDER BY seq",
        (seq,),
    )
    return [Revocation(str(UUID(bytes=id_)), *rest) for id_, *rest in rows]
