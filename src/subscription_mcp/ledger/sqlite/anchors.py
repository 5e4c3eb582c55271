"""Where the billing periods of an account were counted from over time, read from its audit trail."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, cast

from subscription_mcp.domain.instants import Instant, parse_instant
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import Anchor, Interval
from subscription_mcp.ledger.machine.facts import NO_ANCHOR
from subscription_mcp.ledger.recount import AnchorHistory, SubscriptionEntry
from subscription_mcp.ledger.sqlite.rows import KINDS
from subscription_mcp.ledger.sqlite.tables import Tables


def anchor_history(
    database: sqlite3.Connection, tenant: int, account_kind: int, account: int
) -> AnchorHistory:
    """The history of one account, named by its words."""
    stored = database.execute(
        "SELECT anchor, interval FROM subscription WHERE tenant = ? AND account_kind = ? AND account = ?",
        (tenant, account_kind, account),
    ).fetchone()
    entries = database.execute(
        "SELECT a.at, a.after FROM audit a JOIN holder h ON h.id = a.holder JOIN word w ON w.id = h.user"
        " WHERE a.tenant = ? AND h.tenant = ? AND h.account_kind = ? AND h.account = ? AND w.text = ''"
        " AND a.action LIKE 'subscription.%' AND a.after IS NOT NULL ORDER BY a.seq",
        (tenant, tenant, account_kind, account),
    ).fetchall()
    return AnchorHistory(
        [_subscription_entry(at, json.loads(after)) for at, after in entries],
        None if stored is None else Anchor(*stored),
    )


def _subscription_entry(at: Instant, after: Mapping[str, Any]) -> SubscriptionEntry:
    def instant(name: str) -> Instant | None:
        return None if after.get(name) is None else parse_instant(after[name])

    return SubscriptionEntry(
        at,
        instant("billing_anchor"),
        cast(Interval, after["interval"]),
        after.get("next_interval"),
        instant("next_plan_at"),
        instant("next_billing_anchor"),
        after.get("billing_nudge", 0),
    )


def read_anchors(tables: Tables, key: tuple[AccountKey, Instant, Instant]) -> frozenset[Anchor]:
    account, occurred_at, recorded_at = key
    tenant, id_ = tables.word(account.tenant), tables.word(account.account)
    if tenant is None or id_ is None:
        return frozenset({NO_ANCHOR})
    history = anchor_history(tables.database, tenant, KINDS.index(account.account_kind), id_)
    return history.anchors(min(occurred_at, recorded_at), recorded_at)
