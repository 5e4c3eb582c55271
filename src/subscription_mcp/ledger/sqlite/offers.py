"""What waits to be confirmed, as SQL."""

from collections.abc import Mapping

from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.machine.confirmations import actor_digest
from subscription_mcp.ledger.machine.facts import Offer
from subscription_mcp.ledger.sqlite.tables import Tables


def read_offer(tables: Tables, key: tuple[str, bytes]) -> Offer | None:
    row = tables.one(
        "SELECT actor, digest, terms, expires_at, used_at FROM offer WHERE tenant = ? AND handle = ?",
        tables.word(key[0]),
        key[1],
    )
    return None if row is None else Offer(*row)


def read_pending_offers(tables: Tables, key: tuple[str, str], now: Instant) -> dict[bytes, Instant]:
    first = actor_digest(key[1])
    rows = tables.database.execute(
        "SELECT handle, expires_at FROM offer WHERE tenant = ? AND handle BETWEEN ? AND ?"
        " AND used_at IS NULL AND expires_at > ?",
        (tables.word(key[0]), first, first + b"\xff" * 33, now),
    )
    return dict(rows.fetchall())


def save_offers(tables: Tables, offers: Mapping[tuple[str, bytes], Offer]) -> None:
    tables.many(
        "INSERT OR REPLACE INTO offer (tenant, handle, actor, digest, terms, expires_at, used_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (tables.word_made(t), handle, o.actor, o.digest, o.terms, o.expires_at, o.used_at)
            for (t, handle), o in offers.items()
        ],
    )
