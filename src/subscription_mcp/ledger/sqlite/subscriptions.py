"""Subscriptions and trials as SQL, and who has which plan.

The plan and the status of a subscription follow from its instants; here they are said once more in SQL, because there
may be more accounts than can be worked out one by one. `STATUS_NOW` is `Subscription.status_at`.
"""

from collections.abc import Mapping
from dataclasses import astuple
from hashlib import blake2b

from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import AccountKey, Subscription, Trial
from subscription_mcp.ledger.machine.facts import Holding, ToMigrate
from subscription_mcp.ledger.sqlite.rows import (
    KINDS,
    SUBSCRIPTION_COLUMNS,
    subscription_of_row,
    subscription_values,
)
from subscription_mcp.ledger.sqlite.tables import Tables

# A change that was scheduled and is due has happened, also where nobody has touched the account since.
PLAN_NOW = "CASE WHEN s.scheduled_at <= :now THEN coalesce(s.next_plan, s.plan) ELSE s.plan END"
VERSION_NOW = "CASE WHEN s.scheduled_at <= :now THEN coalesce(s.next_version, s.version) ELSE s.version END"
STATUS_NOW = (
    "CASE WHEN s.suspended_at IS NOT NULL THEN 'suspended'"
    " WHEN s.scheduled_at <= :now AND s.next_plan IS NULL"
    " THEN CASE s.scheduled_reason WHEN 'cancel' THEN 'canceled' ELSE 'expired' END"
    " WHEN s.ended_as IS NOT NULL THEN s.ended_as"
    " WHEN s.trial_ends_at > :now THEN 'trialing'"
    " WHEN s.trial_ends_at IS NOT NULL THEN 'expired'"
    " WHEN s.past_due_since IS NULL OR (s.scheduled_at <= :now AND s.scheduled_reason <> 'change') THEN 'active'"
    " ELSE 'past_due' END"
)
_INTERVAL_NOW = (
    "CASE WHEN s.scheduled_at <= :now THEN coalesce(s.next_interval, s.interval) ELSE s.interval END"
)
_GOES_ON = "s.ended_at IS NULL AND NOT coalesce(s.scheduled_at <= :now AND s.next_plan IS NULL, 0)"
HOLDINGS = (
    "SELECT plan, version, interval, sum(accounts) FROM ("
    f" SELECT {PLAN_NOW} AS plan, {VERSION_NOW} AS version, {_INTERVAL_NOW} AS interval, count(*) AS accounts"
    f" FROM subscription s WHERE {_GOES_ON} GROUP BY 1, 2, 3 UNION ALL"
    " SELECT next_plan, next_version, coalesce(next_interval, interval), count(*) FROM subscription"
    " WHERE scheduled_at > :now AND next_plan IS NOT NULL GROUP BY 1, 2, 3) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
)
TO_MIGRATE = (
    "SELECT s.tenant, s.account_kind, s.account FROM subscription s"
    " WHERE (s.tenant, s.account_kind, s.account) > (:tenant, :kind, :account) AND ("
    f" ({PLAN_NOW} = :plan AND {VERSION_NOW} <> :version AND coalesce(:from_version, {VERSION_NOW}) = {VERSION_NOW})"
    " OR (s.scheduled_at > :now AND s.next_plan = :plan AND s.next_version <> :version"
    " AND coalesce(:from_version, s.next_version) = s.next_version))"
    " ORDER BY s.tenant, s.account_kind, s.account LIMIT :size"
)


# Facts


def read_subscription(tables: Tables, key: AccountKey) -> Subscription | None:
    row = tables.one(
        f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE tenant = ? AND account_kind = ? AND account = ?",
        tables.word(key.tenant),
        KINDS.index(key.account_kind),
        tables.word(key.account),
    )
    return None if row is None else subscription_of_row(row)


def read_trial(tables: Tables, key: tuple[str, str]) -> Trial | None:
    row = tables.one(
        "SELECT plan, started_at, ends_at, converted_at FROM trial WHERE tenant = ? AND subject = ?",
        tables.word(key[0]),
        hash_of_trial(*key),
    )
    return None if row is None else Trial(*row)


def read_holdings(tables: Tables, _: None, now: Instant) -> list[Holding]:
    return [Holding(*row) for row in tables.database.execute(HOLDINGS, {"now": now})]


def read_to_migrate(tables: Tables, key: ToMigrate, now: Instant) -> list[AccountKey]:
    after = (-1, -1, -1)
    if key.after is not None:
        kind = KINDS.index(key.after.account_kind)
        after = (tables.word(key.after.tenant) or 0, kind, tables.word(key.after.account) or 0)
    place = dict(zip(("tenant", "kind", "account"), after, strict=True))
    rows = tables.database.execute(TO_MIGRATE, {**key._asdict(), **place, "now": now}).fetchall()
    return [
        AccountKey(tables.text(tenant), KINDS[kind], tables.text(account)) for tenant, kind, account in rows
    ]


# Changes


def save_subscriptions(tables: Tables, subscriptions: Mapping[AccountKey, Subscription]) -> None:
    tables.many(
        f"INSERT OR REPLACE INTO subscription (tenant, account_kind, account, {SUBSCRIPTION_COLUMNS})"
        f" VALUES (?, ?, ?{', ?' * (SUBSCRIPTION_COLUMNS.count(',') + 1)})",
        [
            (
                tables.word_made(key.tenant),
                KINDS.index(key.account_kind),
                tables.word_made(key.account),
                *subscription_values(value),
            )
            for key, value in subscriptions.items()
        ],
    )


def save_trials(tables: Tables, trials: Mapping[tuple[str, str], tuple[str, Trial]]) -> None:
    tables.many(
        "INSERT OR REPLACE INTO trial (tenant, kind, subject, plan, started_at, ends_at, converted_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (tables.word_made(t), kind, hash_of_trial(t, whose), *astuple(trial))
            for (t, whose), (kind, trial) in trials.items()
        ],
    )


# Questions


def plan_holders(tables: Tables, now: Instant) -> list[tuple[str, int, int]]:
    """Plan, version and how many accounts have it."""
    return tables.rows(
        f"SELECT {PLAN_NOW} AS plan_now, {VERSION_NOW} AS version_now, count(*) FROM subscription s"
        " GROUP BY plan_now, version_now",
        {"now": now},
    )


def hash_of_trial(tenant: str, whose: str) -> bytes:
    """What is kept of whose trial it was: enough to know them again, not to name them."""
    return blake2b(f"{tenant}\0{whose}".encode(), digest_size=16).digest()
