"""The plans there are and were, as SQL."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from subscription_mcp.domain.catalog import Counted, Meter, Plan, places_counted, places_of
from subscription_mcp.domain.catalog_file import plan_from_definition
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.machine.facts import Changes, CountedPlace, PlanHead
from subscription_mcp.ledger.queries import PlanRecord, PlanRecords
from subscription_mcp.ledger.sqlite.rows import KINDS, json_text
from subscription_mcp.ledger.sqlite.subscriptions import PLAN_NOW, VERSION_NOW, plan_holders
from subscription_mcp.ledger.sqlite.tables import Tables


@dataclass(frozen=True, slots=True)
class PlanBook:
    """The plans as one connection last saw them."""

    revision: int
    catalog_name: str | None
    plans: Mapping[tuple[str, int], Plan]
    heads: Mapping[str, PlanHead]
    versions: Mapping[tuple[str, str], int]
    offered: Mapping[str, Plan]
    archived: Mapping[str, Instant]
    meters: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, tuple[Counted, ...]]
    counted_since: Mapping[CountedPlace, Instant]

    @property
    def is_published(self) -> bool:
        """Whether some catalog's plans are in it, be they all archived by now."""
        return bool(self.offered) or self.catalog_name is not None


def plans_revision(database: sqlite3.Connection) -> int:
    """A number that goes up whenever plans are published or archived."""
    (revision,) = database.execute("SELECT value FROM ledger_info WHERE name = 'plans_revision'").fetchone()
    return cast(int, revision)


def load_plans(database: sqlite3.Connection, meters: Mapping[str, Meter]) -> PlanBook:
    """Every version there is, the newest of each plan, and the current ones in the catalog's order."""
    plans: dict[tuple[str, int], Plan] = {}
    heads: dict[str, PlanHead] = {}
    versions: dict[tuple[str, str], int] = {}
    since: dict[CountedPlace, Instant] = {}
    rows = database.execute(
        "SELECT plan, version, origin, digest, definition, created_at FROM plan_version ORDER BY plan, version"
    )
    for plan, version, origin, digest, definition, created_at in rows:
        found = plans[(plan, version)] = plan_from_definition(plan, version, json.loads(definition))
        for limit in found.limits:
            for meter, window, scope in places_of(limit):
                place = (meter, window.key, scope)
                since[place] = min(created_at, since.get(place, created_at))
        heads[plan] = PlanHead(version, digest, origin)
        versions[(plan, digest)] = version
    current = database.execute("SELECT plan, version FROM plan_current ORDER BY position").fetchall()
    offered = {plan: plans[(plan, version)] for plan, version in current}
    row = database.execute("SELECT name FROM ledger_catalog").fetchone()
    places = places_counted(meters, plans.values())
    archived = dict(database.execute("SELECT plan, archived_at FROM plan_archived").fetchall())
    counted = {
        name: json.loads(definition)
        for name, definition in database.execute("SELECT name, definition FROM ledger_meter")
    }
    return PlanBook(
        plans_revision(database),
        row and row[0],
        plans,
        heads,
        versions,
        offered,
        archived,
        counted,
        places,
        since,
    )


# Facts


def read_plan(tables: Tables, key: tuple[str, int]) -> Plan:
    (definition,) = tables.database.execute(
        "SELECT definition FROM plan_version WHERE plan = ? AND version = ?", key
    ).fetchone()
    return plan_from_definition(key[0], key[1], json.loads(definition))


# Changes


def save_plans(tables: Tables, changes: Changes) -> None:
    for plan, digest, origin, at in changes.plan_versions:
        tables.database.execute(
            "INSERT INTO plan_version (plan, version, origin, digest, definition, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (plan.key, plan.version, origin, digest, json_text(plan.definition), at),
        )
    for key, archived_at in changes.plans_archived.items():
        tables.database.execute("DELETE FROM plan_archived WHERE plan = ?", (key,))
        if archived_at is not None:
            tables.database.execute(
                "INSERT INTO plan_archived (plan, archived_at) VALUES (?, ?)", (key, archived_at)
            )
    tables.many(
        "INSERT OR REPLACE INTO ledger_meter (name, definition) VALUES (?, ?)",
        [(name, json_text(definition)) for name, definition in changes.meters.items()],
    )
    if changes.catalog_name is not None:
        tables.database.execute("DELETE FROM ledger_catalog")
        tables.database.execute(
            "INSERT INTO ledger_catalog (name, published_at) VALUES (?, ?)",
            (changes.catalog_name, changes.published_at),
        )
    if changes.current_plans is not None:
        tables.database.execute("DELETE FROM plan_current")
        tables.many(
            "INSERT INTO plan_current (plan, version, position) VALUES (?, ?, ?)",
            [(plan, version, i) for i, (plan, version) in enumerate(changes.current_plans)],
        )
    if changes.catalog_name is not None or changes.current_plans is not None or changes.meters:
        tables.database.execute("UPDATE ledger_info SET value = value + 1 WHERE name = 'plans_revision'")


# Questions


def plan_records(tables: Tables, question: PlanRecords) -> list[PlanRecord]:
    book = load_plans(tables.database, {})
    holders: dict[str, dict[int, int]] = {}
    for plan, version, accounts in plan_holders(tables, question.now):
        holders.setdefault(plan, {})[version] = accounts
    current = {key: plan.version for key, plan in book.offered.items()}
    gone = [key for key in book.heads if key not in current]
    return [
        PlanRecord(
            book.plans[(key, current.get(key, book.heads[key].version))],
            book.heads[key].origin,
            key in current,
            key in book.archived,
            holders.get(key, {}),
            _some_on_older(tables, key, question),
        )
        for key in (*current, *gone)
        if question.plan in (None, key)
    ]


def _some_on_older(tables: Tables, key: str, question: PlanRecords) -> list[tuple[AccountKey, int]]:
    if question.accounts == 0:
        return []
    rows = tables.database.execute(
        f"SELECT s.tenant, s.account_kind, s.account, {VERSION_NOW} AS version_now FROM subscription s"
        f" WHERE {PLAN_NOW} = :plan AND version_now <> :version LIMIT :size",
        {"plan": key, "version": question.newest, "size": question.accounts, "now": question.now},
    ).fetchall()
    return [
        (AccountKey(tables.text(tenant), KINDS[kind], tables.text(account)), held)
        for tenant, kind, account, held in rows
    ]
