"""What was set for one holder beside the plan, as SQL: overrides, grants, rates that were cleared."""

from collections.abc import Mapping
from typing import cast
from uuid import UUID

from subscription_mcp.domain.catalog import UNLIMITED, Maximum
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.windows import LONGEST_PERIOD, Lifetime
from subscription_mcp.ledger.commands import Grant
from subscription_mcp.ledger.machine.facts import (
    Changes,
    CounterKey,
    HolderKey,
    Override,
    OverrideKey,
)
from subscription_mcp.ledger.retention import grant_needed_since
from subscription_mcp.ledger.sqlite.rows import json_text
from subscription_mcp.ledger.sqlite.tables import Place, Tables

# Facts


def read_overrides(tables: Tables, key: HolderKey) -> dict[OverrideKey, Override]:
    holder = tables.holder(key)
    if holder is None:
        return {}
    rows = tables.database.execute(
        "SELECT meter, window, scope, maximum, expires_at FROM limit_override WHERE tenant = ? AND holder = ?",
        (tables.word(key[0].tenant), holder),
    ).fetchall()
    return {
        (tables.text(meter), tables.text(window), scope): Override(_maximum(maximum), expires_at)
        for meter, window, scope, maximum, expires_at in rows
    }


def read_grants(tables: Tables, key: HolderKey, now: Instant) -> list[Grant]:
    """Those that an event may still take of, or that gave something in a period one may still come for."""
    since = {window: grant_needed_since(window, now) for window in (*LONGEST_PERIOD, Lifetime.name)}
    return _grants(
        tables,
        key,
        "SELECT g.* FROM json_each(:windows) s CROSS JOIN allowance_grant g WHERE g.tenant = :tenant AND g.holder = :holder"
        " AND g.window = s.key AND g.ends_at IS NULL"
        " UNION ALL SELECT g.* FROM json_each(:windows) s CROSS JOIN allowance_grant g WHERE g.tenant = :tenant"
        " AND g.holder = :holder AND g.window = s.key AND g.ends_at > s.value",
        windows=json_text(since),
    )


def read_grants_of_old(tables: Tables, key: HolderKey) -> list[Grant]:
    """All that have an end."""
    picked = (
        "SELECT * FROM allowance_grant WHERE tenant = :tenant AND holder = :holder AND ends_at IS NOT NULL"
    )
    return _grants(tables, key, picked)


def read_all_grants(tables: Tables, key: HolderKey) -> list[Grant]:
    return _grants(tables, key, "SELECT * FROM allowance_grant WHERE tenant = :tenant AND holder = :holder")


def _grants(tables: Tables, key: HolderKey, picked: str, **values: str) -> list[Grant]:
    holder, tenant = tables.holder(key), tables.word(key[0].tenant)
    if holder is None:
        return []
    found: dict[bytes, Grant] = {}
    for id_, meter, window, scope, quantity, starts_at, ends_at, start, used in tables.rows(
        "SELECT g.id, g.meter, g.window, g.scope, g.quantity, g.starts_at, g.ends_at, u.start, u.quantity"
        f" FROM ({picked}) g LEFT JOIN grant_use u ON u.tenant = g.tenant AND u.id = g.id ORDER BY g.id",
        {"tenant": tenant, "holder": holder, **values},
    ):
        one = found.get(id_)
        if one is None:
            limit = (tables.text(meter), window, scope)
            one = found[id_] = Grant(str(UUID(bytes=id_)), *limit, quantity, starts_at, ends_at)
        if start is not None:
            one.uses[start] = used
    return list(found.values())


def cleared_at(tables: Tables, place: Place | None) -> Instant:
    """From when on use counts again in a rolling window; 0 where it was never cleared."""
    if place is None:
        return 0
    tenant, _, *key = place
    row = tables.one(
        "SELECT at FROM rate_cleared WHERE tenant = ? AND window = ? AND holder = ? AND meter = ?",
        tenant,
        *key,
    )
    return 0 if row is None else cast(Instant, row[0])


# Changes


def save_override(tables: Tables, holder: HolderKey, key: OverrideKey, override: Override | None) -> None:
    place = (
        tables.word_made(holder[0].tenant),
        tables.holder_made(holder),
        tables.word_made(key[0]),
        tables.word_made(key[1]),
        key[2],
    )
    if override is None:
        tables.database.execute(
            "DELETE FROM limit_override"
            " WHERE tenant = ? AND holder = ? AND meter = ? AND window = ? AND scope = ?",
            place,
        )
        return
    maximum = None if override.maximum is UNLIMITED else override.maximum
    tables.database.execute(
        "INSERT OR REPLACE INTO limit_override (tenant, holder, meter, window, scope, maximum, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*place, maximum, override.expires_at),
    )


def save_grants(tables: Tables, changes: Changes) -> None:
    tables.many(
        "INSERT OR REPLACE INTO allowance_grant"
        " (tenant, holder, id, meter, window, scope, quantity, starts_at, ends_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                tables.word_made(holder[0].tenant),
                tables.holder_made(holder),
                UUID(id_).bytes,
                tables.word_made(one.meter),
                *(one.window, one.scope, one.quantity, one.starts_at, one.ends_at),
            )
            for (holder, id_), one in changes.grants.items()
        ],
    )
    tables.many(
        "INSERT OR REPLACE INTO grant_use (tenant, id, start, quantity) VALUES (?, ?, ?, ?)",
        [
            (tables.word_made(tenant), UUID(id_).bytes, start, units)
            for (tenant, id_, start), units in changes.grant_uses.items()
        ],
    )


def save_rates_cleared(tables: Tables, cleared: Mapping[CounterKey, Instant]) -> None:
    tables.many(
        "INSERT OR REPLACE INTO rate_cleared (tenant, window, holder, meter, at) VALUES (?, ?, ?, ?, ?)",
        [
            (tenant, *rest, at)
            for (tenant, _, *rest), at in ((tables.place_made(key), at) for key, at in cleared.items())
        ],
    )


def _maximum(stored: int | None) -> Maximum:
    return UNLIMITED if stored is None else stored
