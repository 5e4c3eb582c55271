"""What is added up for reports, and how far it is told apart, as SQL."""

from collections.abc import Iterable, Mapping

from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.machine.facts import Dimensions, HolderKey, RollupKey, TenantSize
from subscription_mcp.ledger.sqlite.insert import Insert
from subscription_mcp.ledger.sqlite.rows import json_text
from subscription_mcp.ledger.sqlite.tables import Tables
from subscription_mcp.ledger.sqlite.wide import wide_cells

_ROLLUPS = Insert(
    "rollup",
    "tenant, quarter, holder, meter, dimensions, events, quantity",
    " ON CONFLICT DO UPDATE SET events = events + excluded.events, quantity = quantity + excluded.quantity",
)
_WIDE = Insert(
    "rollup_wide",
    "tenant, span, start, holder, meter, dimensions, events, quantity",
    " ON CONFLICT DO UPDATE SET events = events + excluded.events, quantity = quantity + excluded.quantity",
)


# Facts


def read_meter_used(tables: Tables, meter: str) -> bool:
    return tables.one("SELECT 1 FROM rollup WHERE meter = ? LIMIT 1", tables.word(meter)) is not None


def read_tenant_size(tables: Tables, tenant: str) -> TenantSize:
    row = tables.one("SELECT users, dimensions FROM tenant_size WHERE tenant = ?", tables.word(tenant))
    return TenantSize() if row is None else TenantSize(*row)


def read_dimensions(tables: Tables, key: tuple[str, Dimensions]) -> bool:
    row = tables.one(
        "SELECT 1 FROM dimension WHERE tenant = ? AND dimensions = ?",
        tables.word(key[0]),
        tables.word(json_text(key[1])),
    )
    return row is not None


# Changes


def save_rollups(tables: Tables, rollups: Mapping[RollupKey, list[int]]) -> None:
    cells = sorted([_rollup_row(tables, *item) for item in rollups.items()])
    _ROLLUPS.all(tables.database, cells)
    _WIDE.all(tables.database, wide_cells(cells))


def save_denials(tables: Tables, denials: Mapping[tuple[HolderKey, Instant, str, str], int]) -> None:
    tables.many(
        "INSERT INTO denial (tenant, hour, holder, code, meter, count) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [
            (*_hour_of(tables, holder, hour), tables.word_made(code), tables.word_made(meter), count)
            for (holder, hour, code, meter), count in denials.items()
        ],
    )


def save_responses(
    tables: Tables, responses: Mapping[tuple[HolderKey, Instant, str, bool, int], int]
) -> None:
    tables.many(
        "INSERT INTO response (tenant, hour, holder, event, failed, cell, count) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [
            (*_hour_of(tables, holder, hour), tables.word_made(event), int(failed), cell, count)
            for (holder, hour, event, failed, cell), count in responses.items()
        ],
    )


def save_dimensions(tables: Tables, dimensions: Iterable[tuple[str, Dimensions]]) -> None:
    tables.many(
        "INSERT OR IGNORE INTO dimension (tenant, dimensions) VALUES (?, ?)",
        [(tables.word_made(t), tables.dimensions_made(d)) for t, d in dimensions],
    )


def save_tenant_sizes(tables: Tables, sizes: Mapping[str, TenantSize]) -> None:
    tables.many(
        "INSERT OR REPLACE INTO tenant_size (tenant, users, dimensions) VALUES (?, ?, ?)",
        [(tables.word_made(tenant), *size) for tenant, size in sizes.items()],
    )


def _rollup_row(tables: Tables, key: RollupKey, cell: list[int]) -> tuple[int, ...]:
    holder, quarter, meter, dimensions = key
    words = tables.known_words.get
    tenant = holder.key[0].tenant
    return (
        words(tenant) or tables.word_made(tenant),
        quarter,
        holder.place or tables.holder_number(holder),
        words(meter) or tables.word_made(meter),
        tables.known_dimensions.get(dimensions) or tables.dimensions_made(dimensions),
        *cell,
    )


def _hour_of(tables: Tables, holder: HolderKey, hour: Instant) -> tuple[int, Instant, int]:
    return tables.word_made(holder[0].tenant), hour, tables.holder_made(holder)
