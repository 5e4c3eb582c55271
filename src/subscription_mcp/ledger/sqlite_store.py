"""Facts, changes and questions of the ledger as SQL, over any SQLite connection."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from hashlib import blake2b
from itertools import chain
from typing import Any, cast
from uuid import UUID

from pydantic_core import from_json, to_json

from subscription_mcp.domain.catalog import (
    UNLIMITED,
    Catalog,
    Counted,
    Maximum,
    Meter,
    Plan,
    places_counted,
    places_of,
)
from subscription_mcp.domain.catalog_file import plan_from_definition
from subscription_mcp.domain.erasure import hashed_name
from subscription_mcp.domain.identifiers import AccountKind, uuid7_after, uuid7_instant, uuid_bytes
from subscription_mcp.domain.instants import DAY, MILLISECOND, QUARTER, Instant
from subscription_mcp.domain.invoices import Billing, HistoryRow
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.rolling import Cells, used_at, with_use
from subscription_mcp.domain.sessions import Session
from subscription_mcp.domain.subscriptions import AccountKey, Membership, Subscription, Trial
from subscription_mcp.domain.usage import gains_of
from subscription_mcp.domain.windows import (
    Anchor,
    BillingPeriod,
    Period,
    rolling_length,
    window_of_key,
)
from subscription_mcp.ledger.commands import (
    Actor,
    Alert,
    AnswerKey,
    AuditEntry,
    Delivery,
    Grant,
    Revocation,
    UsageEvent,
)
from subscription_mcp.ledger.machine.confirmations import actor_digest
from subscription_mcp.ledger.machine.facts import (
    FUTURE_TOLERANCE,
    KEY_RETENTION,
    NO_ANCHOR,
    Changes,
    CountedPlace,
    Counter,
    CounterKey,
    Dimensions,
    Facts,
    GroupSize,
    Hold,
    Holder,
    HolderKey,
    Holding,
    MarkKey,
    Offer,
    Override,
    OverrideKey,
    PlanHead,
    Reservation,
    RollupKey,
    StoredAnswer,
    TenantSize,
    ToMigrate,
)
from subscription_mcp.ledger.queries import (
    AccountIds,
    AccountPage,
    AccountsToBill,
    AlertPage,
    AuditTrail,
    BillingOf,
    Conversions,
    DeliveriesDue,
    DeliveryCounts,
    DeliveryPage,
    Denials,
    EventPage,
    FullestHolders,
    MemberPage,
    MemberRow,
    NewestEvent,
    OpenSessions,
    OverridesOf,
    PlanHolders,
    PlanRecord,
    PlanRecords,
    Query,
    Responses,
    RevocationsSince,
    SessionSpans,
    StatementOf,
    TenantActivity,
    TenantSummary,
    UsageTotals,
    Whose,
)
from subscription_mcp.ledger.sqlite_accounts import (
    PLAN_NOW,
    VERSION_NOW,
    account_page,
    fullest_holders,
    tenant_activity,
    tenant_summary,
)
from subscription_mcp.ledger.sqlite_alerts import (
    alert_page,
    deliveries_due,
    delivery_counts,
    delivery_page,
    read_alert,
    read_dead,
    read_delivery,
    read_due,
    read_marks,
    read_setting,
    save_alerts,
)
from subscription_mcp.ledger.sqlite_anchors import anchor_history
from subscription_mcp.ledger.sqlite_billing import (
    accounts_to_bill,
    billing_of,
    last_row_of,
    save_billing,
    statement_for,
    unsettled_billing_of,
)
from subscription_mcp.ledger.sqlite_reports import conversions, denials, responses, session_spans
from subscription_mcp.ledger.sqlite_rows import (
    KINDS,
    SUBSCRIPTION_COLUMNS,
    subscription_of_row,
    subscription_values,
)
from subscription_mcp.ledger.sqlite_schema import committed_at
from subscription_mcp.ledger.sqlite_wide import among, usage_totals, wide_cells

EVENTS_PER_BLOCK_BITS = 12  # as in the index event_by_block
EVENT_COLUMNS = "seq, id, holder, event, plan, quantity, attributes, gains, source, occurred_at, recorded_at, corrects, price"
CORRECTED_BY = "(SELECT c.id FROM event c WHERE c.tenant = event.tenant AND c.corrects = event.id)"
ID_SLACK = 2 * MILLISECOND
"""How much later than its id says an event may have been recorded: within a batch time may go on a little."""
LONGEST_HOLD = DAY
"""For how long a reservation can be made."""
WORDS_SEEN_MAX = 10_000
"""How many texts that begin like what somebody types are looked at, of which only some are accounts of the tenant."""
ACCOUNT_IDS = (
    "SELECT w.text FROM (SELECT id, text FROM word WHERE text >= ? AND text < ? || char(0x10FFFF)"
    " ORDER BY text LIMIT ?) w WHERE EXISTS (SELECT 1 FROM subscription s WHERE s.tenant = ?"
    " AND s.account_kind IN (0, 1) AND s.account = w.id) LIMIT ?"
)
# By themselves these would walk through everybody in the tenant.
USERS = "SELECT count(*) FROM member INDEXED BY member_by_account WHERE tenant = ? AND account = ?"
ADMINS = (
    "SELECT count(*) FROM member INDEXED BY member_admin WHERE tenant = ? AND account = ? AND role = 'admin'"
)
MEMBERS = (
    "SELECT user, role, joined_at FROM member INDEXED BY member_by_account"
    " WHERE tenant = ? AND account = ? AND user > ? ORDER BY user"
)
_AS_OF_NOW = frozenset({"open_sessions", "pending_offers", "holdings", "to_migrate", "deliveries_due"})
"""Facts that depend on the instant: of some only what has not expired need be loaded."""
OF_ALL_ACCOUNTS = frozenset(
    {"holdings", "meters_used", "to_migrate", "billing", "deliveries_due", "deliveries_dead"}
)
"""Facts that must be asked of what is saved: what a batch has changed so far has to be among it."""
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


PRICE_COLUMNS = tuple(one.name for one in fields(UnitPrice) if one.name != "tiers")
"""A price that was applied has no tiers any more."""
ROWS_A_STATEMENT = (32, 4, 1)
"""32 are a fifth cheaper than one; more gain nothing."""


class _Insert:
    """An INSERT of one row or many, with what happens where a row is there already."""

    def __init__(self, table: str, columns: str, conflict: str = "") -> None:
        row = f"({', '.join('?' * (columns.count(',') + 1))})"
        self._statements = [
            (size, f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * size)}{conflict}")
            for size in ROWS_A_STATEMENT
        ]

    def all(self, database: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        done, count = 0, len(rows)
        for size, statement in self._statements:
            end = count - (count - done) % size
            if done < end:
                chunks = range(done, end, size)
                database.executemany(
                    statement, [[*chain.from_iterable(rows[at : at + size])] for at in chunks]
                )
                done = end


_EVENTS = _Insert(
    "event",
    "id, tenant, holder, event, plan, quantity, attributes, gains, source, occurred_at, recorded_at, price",
)
_NAMING = _Insert(
    "event",
    "id, tenant, holder, event, plan, quantity, attributes, gains, source, occurred_at, recorded_at, price, corrects,"
    " grants",
)
_COUNTERS = _Insert(
    "counter",
    "tenant, start, window, holder, meter, used",
    " ON CONFLICT DO UPDATE SET used = excluded.used",
)
_ROLLUPS = _Insert(
    "rollup",
    "tenant, quarter, holder, meter, dimensions, events, quantity",
    " ON CONFLICT DO UPDATE SET events = events + excluded.events, quantity = quantity + excluded.quantity",
)
_WIDE = _Insert(
    "rollup_wide",
    "tenant, span, start, holder, meter, dimensions, events, quantity",
    " ON CONFLICT DO UPDATE SET events = events + excluded.events, quantity = quantity + excluded.quantity",
)
_ANSWERS = _Insert("answer", "seq, tenant, source, key, digest, answer, at")
_KEYS = _Insert("key_index", "hash, seq", " ON CONFLICT DO UPDATE SET seq = excluded.seq")


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


class Store:
    """Facts, changes and questions as SQL over one connection; no transaction control."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._first_recorded_at: Instant | None = None
        self._erasures: int | None = None
        self._words: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._holders: dict[HolderKey, int] = {}
        self._plan_ids: dict[tuple[str, int], int] = {}
        self._dimensions: dict[Dimensions, int] = {}
        self._price_ids: dict[UnitPrice, int] = {}
        self._prices: dict[int, UnitPrice] = {}
        self._free_places: dict[AnswerKey, int] = {}
        """Where an answer that was looked for in vain would stand."""

    @property
    def size(self) -> int:
        """How many surrogates are remembered."""
        known = (self._words, self._texts, self._holders, self._dimensions, self._price_ids, self._prices)
        return sum(len(one) for one in known)

    def forget(self) -> None:
        """Drop every surrogate handed out: a transaction that rolled back took them with it."""
        self._words.clear()
        self._texts.clear()
        self._holders.clear()
        self._plan_ids.clear()
        self._dimensions.clear()
        self._price_ids.clear()
        self._prices.clear()
        self._free_places.clear()

    def notice_erasures(self) -> None:
        """Drop every surrogate where a user was erased since they were handed out, by whichever process."""
        (erasures,) = self._db.execute("SELECT value FROM ledger_info WHERE name = 'erasures'").fetchone()
        if erasures != self._erasures:
            self.forget()
            self._erasures = erasures

    def rows(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        return self._db.execute(statement, values).fetchall()

    def fetch(self, statement: str, values: Sequence[object]) -> list[Any]:
        return self._db.execute(statement, values).fetchall()

    def each(self, statement: str, values: Sequence[object]) -> Iterator[Any]:
        return self._db.execute(statement, values)

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        self._db.executemany(statement, rows)

    def billing(self, account: AccountKey) -> Billing:
        """All that was ever charged to an account."""
        return billing_of(self, account)

    def run(self, statement: str, *values: object) -> None:
        self._db.execute(statement, values)

    # Surrogates

    def word(self, text: str) -> int | None:
        found = self._words.get(text)
        if found is None:
            row = self._db.execute("SELECT id FROM word WHERE text = ?", (text,)).fetchone()
            if row is None:
                return None
            found = self._words[text] = row[0]
        return found

    def word_made(self, text: str) -> int:
        found = self.word(text)
        if found is None:
            found = self._db.execute("INSERT INTO word (text) VALUES (?)", (text,)).lastrowid
            assert found is not None
            self._words[text] = found
        return found

    def text(self, word: int) -> str:
        found = self._texts.get(word)
        if found is None:
            (found,) = self._db.execute("SELECT text FROM word WHERE id = ?", (word,)).fetchone()
            self._texts[word] = cast(str, found)
        return cast(str, found)

    def holder(self, key: HolderKey) -> int | None:
        found = self._holders.get(key)
        if found is None:
            account, user = key
            words = (self.word(account.tenant), self.word(account.account), self.word(user))
            if None in words:
                return None
            row = self._db.execute(
                "SELECT id FROM holder WHERE tenant = ? AND account_kind = ? AND account = ? AND user = ?",
                (words[0], KINDS.index(account.account_kind), words[1], words[2]),
            ).fetchone()
            if row is None:
                return None
            found = self._holders[key] = row[0]
        return found

    def holder_made(self, key: HolderKey) -> int:
        found = self.holder(key)
        if found is None:
            account, user = key
            found = self._db.execute(
                "INSERT INTO holder (tenant, account_kind, account, user) VALUES (?, ?, ?, ?)",
                (
                    self.word_made(account.tenant),
                    KINDS.index(account.account_kind),
                    self.word_made(account.account),
                    self.word_made(user),
                ),
            ).lastrowid
            assert found is not None
            self._holders[key] = found
        return found

    def plan_id(self, plan: str, version: int) -> int:
        if version == 0:
            return 0
        found = self._plan_ids.get((plan, version))
        if found is None:
            (found,) = self._db.execute(
                "SELECT id FROM plan_version WHERE plan = ? AND version = ?", (plan, version)
            ).fetchone()
            self._plan_ids[(plan, version)] = cast(int, found)
        return cast(int, found)

    def price_made(self, price: UnitPrice) -> int:
        """The number of a price that was applied; each is kept once."""
        found = self._price_ids.get(price)
        if found is None:
            values = tuple(getattr(price, name) for name in PRICE_COLUMNS)
            same = " AND ".join(f"{name} IS ?" for name in PRICE_COLUMNS)
            row = self._db.execute(f"SELECT id FROM price WHERE {same}", values).fetchone()
            if row is None:
                places = ", ".join("?" * len(values))
                statement = f"INSERT INTO price ({', '.join(PRICE_COLUMNS)}) VALUES ({places})"
                row = (self._db.execute(statement, values).lastrowid,)
            found = self._price_ids[price] = cast(int, row[0])
        return found

    def price(self, number: int | None) -> UnitPrice | None:
        """The price of a number; None of none."""
        if number is None:
            return None
        found = self._prices.get(number)
        if found is None:
            row = self._one(f"SELECT {', '.join(PRICE_COLUMNS)} FROM price WHERE id = ?", number)
            found = self._prices[number] = UnitPrice(*row)
        return found

    def _dimensions_made(self, dimensions: Dimensions) -> int:
        found = self._dimensions.get(dimensions)
        if found is None:
            found = self._dimensions[dimensions] = self.word_made(_json(dimensions))
        return found

    def _place(self, key: CounterKey) -> tuple[int, int, int, int, int] | None:
        """Tenant, start, window, holder and meter of a counter as they are stored; None where it cannot be yet."""
        holder = self.holder((_account_of(key), key.user))
        tenant, window, meter = self.word(key.tenant), self.word(key.window_key), self.word(key.meter)
        if holder is None or tenant is None or window is None or meter is None:
            return None
        return tenant, key.start, window, holder, meter

    def _place_made(self, counter: Counter) -> tuple[int, int, int, int, int]:
        place: tuple[int, int, int, int, int] | None = counter.place
        if place is None:
            place = counter.place = self._key_made(counter.key)
        return place

    def _key_made(self, key: CounterKey) -> tuple[int, int, int, int, int]:
        return (
            self.word_made(key.tenant),
            key.start,
            self.word_made(key.window_key),
            self.holder_made((_account_of(key), key.user)),
            self.word_made(key.meter),
        )

    # Facts

    def forget_places(self) -> None:
        """Forget where answers that were looked for in vain would stand: somebody else may take the place."""
        self._free_places.clear()

    def last_recorded_at(self) -> Instant:
        """When the last event was recorded; 0 before the first."""
        row = self._db.execute("SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        return 0 if row is None else cast(Instant, row[0])

    def last_commit_at(self) -> Instant:
        """When something was last written, by the clock of whoever did."""
        return committed_at(self._db)

    def last_entry_at(self) -> Instant:
        """The newest instant in what is kept; 0 where there is nothing."""
        (at,) = self._db.execute(
            "SELECT max(coalesce((SELECT max(recorded_at) FROM event), 0), coalesce((SELECT max(at) FROM audit), 0),"
            " coalesce((SELECT max(at) FROM answer), 0), coalesce((SELECT max(reserved_at) FROM reservation), 0),"
            " coalesce((SELECT max(coalesce(closed_at, opened_at)) FROM session), 0))"
        ).fetchone()
        return cast(Instant, at)

    def note_commit(self, now: Instant) -> None:
        """Remember when something was written; where that was an event there is no need to."""
        self._db.execute("UPDATE ledger_info SET value = ? WHERE name = 'last_commit_at'", (now,))

    def plans_revision(self) -> int:
        (revision,) = self._db.execute(
            "SELECT value FROM ledger_info WHERE name = 'plans_revision'"
        ).fetchone()
        return cast(int, revision)

    def load_plans(self, meters: Mapping[str, Meter]) -> "PlanBook":
        """Every version there is, the newest of each plan, and the current ones in the catalog's order."""
        plans: dict[tuple[str, int], Plan] = {}
        heads: dict[str, PlanHead] = {}
        versions: dict[tuple[str, str], int] = {}
        since: dict[CountedPlace, Instant] = {}
        rows = self._db.execute(
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
        current = self._db.execute("SELECT plan, version FROM plan_current ORDER BY position").fetchall()
        offered = {plan: plans[(plan, version)] for plan, version in current}
        row = self._db.execute("SELECT name FROM ledger_catalog").fetchone()
        places = places_counted(meters, plans.values())
        archived = dict(self._db.execute("SELECT plan, archived_at FROM plan_archived").fetchall())
        counted = {
            name: json.loads(definition)
            for name, definition in self._db.execute("SELECT name, definition FROM ledger_meter")
        }
        return PlanBook(
            self.plans_revision(),
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

    def load(self, facts: Facts) -> None:
        """Bring what `facts.missing` names; what does not exist becomes None, 0 or empty."""
        missing, facts.missing = facts.missing, {}
        for table, keys in missing.items():
            known: dict[Any, Any] = getattr(facts, table)
            if table == "answers":
                known.update(self._read_answers(keys))
                continue
            read = getattr(self, f"_read_{table}")
            if table in _AS_OF_NOW:
                read = partial(read, now=facts.now)
            if table == "counters":
                read = partial(read, facts=facts)
            for key in keys:
                known[key] = read(key)

    def _read_members(self, key: tuple[str, str]) -> Membership | None:
        tenant, user = self.word(key[0]), self.word(key[1])
        row = self._one(
            "SELECT account, role, joined_at FROM member WHERE tenant = ? AND user = ?", tenant, user
        )
        return None if row is None else Membership(self.text(row[0]), *row[1:])

    def _read_removed(self, key: tuple[str, str, str]) -> Instant | None:
        tenant, user, account = key
        row = self._one(  # of who was erased since only a hash is kept
            "SELECT max(tokens_before) FROM member_removed WHERE tenant = ? AND account = ? AND user IN (?, ?)",
            self.word(tenant),
            self.word(account),
            self.word(user),
            self.word(hashed_name(user)),
        )
        found: Instant | None = row[0]
        return found

    def _read_groups(self, key: tuple[str, str]) -> GroupSize:
        tenant, account = self.word(key[0]), self.word(key[1])
        (users,), (admins,) = self._one(USERS, tenant, account), self._one(ADMINS, tenant, account)
        return GroupSize(users, admins)

    def _read_named(self, key: tuple[str, str]) -> bool:
        tenant, user = self.word(key[0]), self.word(key[1])
        row = self._one(
            "SELECT EXISTS (SELECT 1 FROM holder WHERE tenant = ?1 AND user = ?2"
            " UNION ALL SELECT 1 FROM subscription WHERE tenant = ?1 AND account_kind = 0 AND account = ?2"
            " UNION ALL SELECT 1 FROM member WHERE tenant = ?1 AND user = ?2"
            " UNION ALL SELECT 1 FROM audit WHERE tenant = ?1 AND actor = ?3)",
            tenant,
            user,
            key[1],
        )
        return bool(row[0])

    def _read_subscriptions(self, key: AccountKey) -> Subscription | None:
        row = self._one(
            f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE tenant = ? AND account_kind = ? AND account = ?",
            self.word(key.tenant),
            KINDS.index(key.account_kind),
            self.word(key.account),
        )
        return None if row is None else subscription_of_row(row)

    def _read_billing(self, key: AccountKey) -> Billing:
        return unsettled_billing_of(self, key)

    def _read_last_rows(self, key: AccountKey) -> HistoryRow | None:
        return last_row_of(self, key)

    def _read_trials(self, key: tuple[str, str]) -> Trial | None:
        row = self._one(
            "SELECT plan, started_at, ends_at, converted_at FROM trial WHERE tenant = ? AND subject = ?",
            self.word(key[0]),
            hash_of_trial(*key),
        )
        return None if row is None else Trial(*row)

    def _read_overrides(self, key: HolderKey) -> dict[OverrideKey, Override]:
        holder = self.holder(key)
        if holder is None:
            return {}
        rows = self._db.execute(
            "SELECT meter, window, scope, maximum, expires_at FROM limit_override WHERE tenant = ? AND holder = ?",
            (self.word(key[0].tenant), holder),
        ).fetchall()
        return {
            (self.text(meter), self.text(window), scope): Override(_maximum(maximum), expires_at)
            for meter, window, scope, maximum, expires_at in rows
        }

    def _read_grants(self, key: HolderKey) -> list[Grant]:
        holder, tenant = self.holder(key), self.word(key[0].tenant)
        if holder is None:
            return []
        found = []
        for id_, meter, window, scope, quantity, starts_at, ends_at in self._db.execute(
            "SELECT id, meter, window, scope, quantity, starts_at, ends_at FROM allowance_grant"
            " WHERE tenant = ? AND holder = ? ORDER BY id",
            (tenant, holder),
        ).fetchall():
            uses = self._db.execute(
                "SELECT start, quantity FROM grant_use WHERE tenant = ? AND id = ?", (tenant, id_)
            )
            found.append(
                Grant(
                    str(UUID(bytes=id_)),
                    self.text(meter),
                    window,
                    scope,
                    quantity,
                    starts_at,
                    ends_at,
                    dict(uses.fetchall()),
                )
            )
        return found

    def _read_counters(self, key: CounterKey, facts: Facts) -> Counter:
        since, now = facts.kept_since(key), facts.now
        counter = Counter(key, length=rolling_length(key.window_key), kept=since is not None)
        place = counter.place = self._place(key)
        row = None
        if place is not None and counter.kept:
            row = (
                self._one(
                    "SELECT used FROM counter WHERE tenant = ? AND start = ? AND window = ? AND holder = ?"
                    " AND meter = ?",
                    *place,
                )
                if counter.length is None
                else self._one(
                    "SELECT cells FROM rolling WHERE tenant = ? AND window = ? AND holder = ? AND meter = ?",
                    place[0],
                    *place[2:],
                )
            )
        if counter.length is None:
            counter.used = self._used_before(key, since, now) if row is None else row[0]
        else:
            counter.cleared_at = self._cleared_at(place)
            cells = self._cells_before(counter, since, now) if row is None else from_json(row[0])
            counter.cells = [(at, quantity) for at, quantity in cells]
        if place is not None:
            # Those that have expired too: the next reservation clears them away.
            rows = self._db.execute(
                "SELECT reservation, quantity, expires_at FROM hold WHERE tenant = ? AND start = ? AND window = ?"
                " AND holder = ? AND meter = ?",
                place,
            )
            counter.holds = {
                str(UUID(bytes=id_)): Hold(quantity, expires_at) for id_, quantity, expires_at in rows
            }
        if since is None or self._may_be_held_elsewhere(key, since, now):
            counter.holds |= self._holds_by_reservation(
                key, now if since is None else since, now, facts.catalog
            )
        return counter

    def _cleared_at(self, place: tuple[int, int, int, int, int] | None) -> Instant:
        """From when on use counts again in a rolling window; 0 where it was never cleared."""
        if place is None:
            return 0
        tenant, _, *key = place
        row = self._one(
            "SELECT at FROM rate_cleared WHERE tenant = ? AND window = ? AND holder = ? AND meter = ?",
            tenant,
            *key,
        )
        return 0 if row is None else cast(Instant, row[0])

    def _may_be_held_elsewhere(self, key: CounterKey, since: Instant, now: Instant) -> bool:
        """Whether a live reservation may be older than the total, so that it holds nothing of it yet."""
        if not since <= now < since + LONGEST_HOLD:
            return False
        (first,) = self._one("SELECT min(id) FROM reservation WHERE tenant = ?", self.word(key.tenant))
        return first is not None and first < uuid7_after(since)

    def _holds_by_reservation(
        self, key: CounterKey, until: Instant, now: Instant, catalog: Catalog
    ) -> dict[str, Hold]:
        """What live reservations made up to an instant hold of a total that was not kept then. They may hold nothing
        of any other: their meter may not have been limited at all."""
        period = Period(0, None)
        if rolling_length(key.window_key) is None:
            period = Period(key.start, self._end_of(key, now))
        rows = self._db.execute(
            "SELECT r.id, r.event, r.quantity, r.attributes, r.price, r.expires_at, r.reserved_at"
            " FROM reservation r"
            " WHERE r.tenant = ? AND r.id > ? AND r.expires_at > ? AND r.answer IS NULL"
            f"{among(self.holders_of(_whose(key)), 'r.holder')}",
            (self.word(key.tenant), uuid7_after(now - LONGEST_HOLD - QUARTER), now),
        ).fetchall()
        holds = {}
        for id_, event, quantity, attributes, price, expires_at, reserved_at in rows:
            given = json.loads(attributes) if attributes else {}
            held = gains_of(catalog, self.text(event), quantity, given, self.price(price)).get(key.meter)
            if held and reserved_at <= until and period.holds(reserved_at):
                holds[str(UUID(bytes=id_))] = Hold(held, expires_at)
        return holds

    def _read_holdings(self, _: None, now: Instant) -> list[Holding]:
        return [Holding(*row) for row in self._db.execute(HOLDINGS, {"now": now})]

    def _read_meters_used(self, meter: str) -> bool:
        return self._one("SELECT 1 FROM rollup WHERE meter = ? LIMIT 1", self.word(meter)) is not None

    def _read_to_migrate(self, key: ToMigrate, now: Instant) -> list[AccountKey]:
        after = (-1, -1, -1)
        if key.after is not None:
            kind = KINDS.index(key.after.account_kind)
            after = (self.word(key.after.tenant) or 0, kind, self.word(key.after.account) or 0)
        place = dict(zip(("tenant", "kind", "account"), after, strict=True))
        rows = self._db.execute(TO_MIGRATE, {**key._asdict(), **place, "now": now}).fetchall()
        return [
            AccountKey(self.text(tenant), KINDS[kind], self.text(account)) for tenant, kind, account in rows
        ]

    def _read_tenants(self, tenant: str) -> TenantSize:
        row = self._one("SELECT users, dimensions FROM tenant_size WHERE tenant = ?", self.word(tenant))
        return TenantSize() if row is None else TenantSize(*row)

    def _read_dimensions(self, key: tuple[str, Dimensions]) -> bool:
        row = self._one(
            "SELECT 1 FROM dimension WHERE tenant = ? AND dimensions = ?",
            self.word(key[0]),
            self.word(_json(key[1])),
        )
        return row is not None

    def _read_alert_marks(self, key: MarkKey) -> dict[int, Instant]:
        return read_marks(self, key)

    def _read_alert_settings(self, account: AccountKey) -> tuple[int, ...] | None:
        return read_setting(self, account)

    def _read_alerts(self, key: tuple[str, str]) -> Alert | None:
        return read_alert(self, *key)

    def _read_deliveries(self, id_: str) -> Delivery | None:
        return read_delivery(self, id_)

    def _read_deliveries_due(self, size: int, now: Instant) -> list[Delivery]:
        return read_due(self, size, now)

    def _read_deliveries_dead(self, ids: tuple[str, ...] | None) -> list[Delivery]:
        return read_dead(self, ids)

    # Where a counter is not kept, or only since some plan came to limit it in mid-period, what was used
    # before is in the rollups.

    def adds_up(self, facts: Facts) -> bool:
        """Whether a total that is missing may be added up from what was recorded before."""
        missing = facts.missing.get("counters", ())
        return any(self._came_late(key, facts.kept_since(key), facts.now) for key in missing)

    def _came_late(self, key: CounterKey, since: Instant | None, now: Instant) -> bool:
        """Whether something that counts in it may have been recorded before it was kept, perhaps as of later."""
        if since is None:
            return True
        # At one and the same instant the event may have come first.
        if since < self._first_recorded(now):
            return False
        length = rolling_length(key.window_key)
        began = key.start if length is None else self.last_recorded_at() - length
        return began < since + FUTURE_TOLERANCE

    def _first_recorded(self, now: Instant) -> Instant:
        """When the first event was recorded, or else is."""
        if self._first_recorded_at is None:
            row = self._db.execute("SELECT recorded_at FROM event ORDER BY seq LIMIT 1").fetchone()
            if row is None:
                return now
            self._first_recorded_at = row[0]
        return cast(Instant, self._first_recorded_at)

    def _used_before(self, key: CounterKey, since: Instant | None, now: Instant) -> int:
        if not self._came_late(key, since, now):
            return 0
        start = max(key.start, self._first_recorded(now) - KEY_RETENTION)
        end = self._end_of(key, now)
        # What was recorded since is counted already, be it in a billing period that began elsewhere.
        last = (self.last_recorded_at() if since is None else since) + FUTURE_TOLERANCE + 1
        end = last if end is None else min(end, last)
        if end <= start:
            return 0
        totals = usage_totals(self, UsageTotals(_whose(key), start, end, frozenset()))
        return sum(row.quantity for row in totals if row.meter == key.meter)

    def _end_of(self, key: CounterKey, now: Instant) -> Instant | None:
        """The end of a counter's period."""
        window, anchor = window_of_key(key.window_key), Anchor(key.start)
        if key.window_key == BillingPeriod.name:
            subscription = self._read_subscriptions(_account_of(key))
            anchor = subscription.at(now).billing_anchor if subscription is not None else NO_ANCHOR
            anchor = anchor._replace(nudge=0)  # a counter says where its period is counted from
            if window.period_at(key.start, anchor).start != key.start:  # another anchor was counted from
                end = window.period_at(key.start, Anchor(key.start, anchor.interval)).end
                assert end is not None
                return min(end, anchor.at) if key.start < anchor.at else end
        return window.period_at(key.start, anchor).end

    def _cells_before(self, counter: Counter, since: Instant | None, now: Instant) -> Cells:
        key, length = counter.key, counter.length
        assert length is not None
        if not self._came_late(key, since, now):
            return []
        last = self.last_recorded_at()
        if counter.cleared_at + FUTURE_TOLERANCE > last - length:
            return self._cells_since(counter.cleared_at, key, length, now)
        question = UsageTotals(
            _whose(key), last - length, last + FUTURE_TOLERANCE + 1, frozenset({"quarter"})
        )
        cells: Cells = []
        for row in usage_totals(self, question):
            if row.meter == key.meter:
                # At the end of its quarter, or of all there is: given back a little late, never early.
                at = min(cast(Instant, row.quarter) + QUARTER, last)
                cells = with_use(cells, at, row.quantity, length, now)
        return cells

    def _cells_since(self, start: Instant, key: CounterKey, length: Instant, now: Instant) -> Cells:
        """What was used from an instant on, from the events: a quarter of an hour has both sides of it."""
        cells: Cells = []
        page = EventPage(_whose(key), start, now + FUTURE_TOLERANCE + 1, size=-1)
        events = [event for _, event in self.event_page(page)[0]]
        taken_back = {event.corrects for event in events}
        for event in events:
            at = used_at(event.occurred_at, event.recorded_at)
            if at >= start and event.corrects is None and event.id not in taken_back:
                cells = with_use(cells, at, event.gains.get(key.meter, 0), length, now)
        return cells

    def _read_events(self, key: tuple[str, str]) -> UsageEvent | None:
        id_ = uuid_bytes(key[1])
        return None if id_ is None else self.event(key[0], id_)

    def event(self, tenant: str, id_: bytes) -> UsageEvent | None:
        """An event by its id, which begins with the millisecond it was recorded in."""
        at = uuid7_instant(id_)
        first, last = self._seq_at(at - 1) + 1, self._seq_at(at + ID_SLACK)
        row = self._one(
            f"SELECT {EVENT_COLUMNS}, {CORRECTED_BY} FROM event"
            " WHERE seq BETWEEN ? AND ? AND id = ? AND tenant = ?",
            first,
            last,
            id_,
            self.word(tenant),
        )
        return None if row is None else self._event_of(tenant, row)

    def _read_anchors(self, key: tuple[AccountKey, Instant, Instant]) -> frozenset[Anchor]:
        account, occurred_at, recorded_at = key
        tenant, id_ = self.word(account.tenant), self.word(account.account)
        if tenant is None or id_ is None:
            return frozenset({NO_ANCHOR})
        history = anchor_history(self._db, tenant, KINDS.index(account.account_kind), id_)
        return history.anchors(min(occurred_at, recorded_at), recorded_at)

    def _read_plans(self, key: tuple[str, int]) -> Plan:
        (definition,) = self._db.execute(
            "SELECT definition FROM plan_version WHERE plan = ? AND version = ?", key
        ).fetchone()
        return plan_from_definition(key[0], key[1], json.loads(definition))

    def _read_answers(self, keys: Iterable[AnswerKey]) -> dict[AnswerKey, StoredAnswer | None]:
        places = {key: hash_of_key(key) for key in keys}
        taken = {
            place
            for (place,) in self._db.execute(
                "SELECT k.hash FROM json_each(?) j CROSS JOIN key_index k ON k.hash = j.value",
                (_text_of(list(places.values())),),
            )
        }
        found: dict[AnswerKey, StoredAnswer | None] = {}
        for key, place in places.items():
            answer = None
            if place in taken:
                place, answer, _ = self._find_answer(key)
            if answer is None:
                self._free_places[key] = place
            found[key] = None if answer is None else StoredAnswer(*answer)
        return found

    def _find_answer(self, key: AnswerKey) -> tuple[int, tuple[bytes, str, int] | None, int | None]:
        """Its place in the index, the answer if it is there, and the row's number."""
        tenant, source = self.word(key[0]), self.word(key[1])
        place = hash_of_key(key)
        while True:
            row = self._db.execute(
                "SELECT a.tenant, a.source, a.key, a.digest, a.answer, a.at, a.seq"
                " FROM key_index k JOIN answer a ON a.seq = k.seq WHERE k.hash = ?",
                (place,),
            ).fetchone()
            if row is None:
                return place, None, None
            if row[:3] == (tenant, source, key[2]):
                return place, row[3:6], row[6]
            place += 1  # two keys of one hash stand side by side

    def _read_offers(self, key: tuple[str, bytes]) -> Offer | None:
        row = self._one(
            "SELECT actor, digest, terms, expires_at, used_at FROM offer WHERE tenant = ? AND handle = ?",
            self.word(key[0]),
            key[1],
        )
        return None if row is None else Offer(*row)

    def _read_pending_offers(self, key: tuple[str, str], now: Instant) -> dict[bytes, Instant]:
        first = actor_digest(key[1])
        rows = self._db.execute(
            "SELECT handle, expires_at FROM offer WHERE tenant = ? AND handle BETWEEN ? AND ?"
            " AND used_at IS NULL AND expires_at > ?",
            (self.word(key[0]), first, first + b"\xff" * 33, now),
        )
        return dict(rows.fetchall())

    def _read_reservations(self, key: tuple[str, str]) -> Reservation | None:
        row = self._one(
            "SELECT h.account_kind, h.account, h.user, r.event, r.quantity, r.attributes, p.plan, p.version,"
            " r.source, r.reserved_at, r.expires_at, r.held, r.price, r.estimated, r.digest, r.answer"
            " FROM reservation r"
            " JOIN holder h ON h.id = r.holder JOIN plan_version p ON p.id = r.plan"
            " WHERE r.tenant = ? AND r.id = ?",
            self.word(key[0]),
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
        account = AccountKey(key[0], KINDS[kind], self.text(account_))
        return Reservation(
            key[1],
            account,
            self.text(user_),
            self.text(event),
            quantity,
            json.loads(attributes) if attributes else {},
            plan,
            version,
            self.text(source),
            times[0],
            times[1],
            {
                CounterKey(key[0], start, window, KINDS[kind], account.account, user, meter): held_quantity
                for start, window, user, meter, held_quantity in json.loads(held)
            },
            self.price(price),
            tuple(json.loads(estimated)) if estimated else (),
            digest,
            answer,
        )

    _SESSION = (
        "SELECT s.id, h.account_kind, h.account, h.user, s.plan, s.source, s.opened_at, s.expires_at, s.closed_at"
        " FROM session s JOIN holder h ON h.id = s.holder WHERE s.tenant = ?"
    )

    def _read_sessions(self, key: tuple[str, str]) -> Session | None:
        row = self._one(f"{self._SESSION} AND s.id = ?", self.word(key[0]), uuid_bytes(key[1]))
        return None if row is None else self._session_of(key[0], row)

    def _read_open_sessions(self, key: HolderKey, now: Instant) -> dict[str, Session]:
        account, user = key
        whose = Whose(account.tenant, account.account_kind, account.account, user or None)
        return {session.id: session for session in self._sessions_open(OpenSessions(whose, now, size=-1))}

    def _sessions_open(self, question: OpenSessions) -> list[Session]:
        tenant, order = question.whose.tenant, "" if question.size < 0 else " ORDER BY s.expires_at"
        picked = among(self.holders_of(question.whose), "s.holder")
        rows = self._db.execute(
            f"{self._SESSION}{picked} AND s.closed_at IS NULL AND s.expires_at > ?{order} LIMIT ?",
            (self.word(tenant), question.now, question.size),
        ).fetchall()
        return [self._session_of(tenant, row) for row in rows]

    def _session_of(self, tenant: str, row: Any) -> Session:
        id_, kind, account, user, plan, source, opened_at, expires_at, closed_at = row
        return Session(
            str(UUID(bytes=id_)),
            AccountKey(tenant, KINDS[kind], self.text(account)),
            self.text(user),
            plan,
            self.text(source),
            opened_at,
            expires_at,
            closed_at,
        )

    def _one(self, statement: str, *values: object) -> Any:
        # A word nobody ever stored is NULL here, and NULL equals nothing.
        return self._db.execute(statement, values).fetchone()

    # Changes

    def save(self, changes: Changes) -> int:
        """Write everything; how many rows that were."""
        self._save_plans(changes)
        many = self._db.executemany
        if changes.subscriptions:
            many(
                f"INSERT OR REPLACE INTO subscription (tenant, account_kind, account, {SUBSCRIPTION_COLUMNS})"
                f" VALUES (?, ?, ?{', ?' * (SUBSCRIPTION_COLUMNS.count(',') + 1)})",
                [self._subscription_row(key, value) for key, value in changes.subscriptions.items()],
            )
        if changes.history or changes.billing_due:
            save_billing(self, changes)
        if changes.trials:
            many(
                "INSERT OR REPLACE INTO trial (tenant, kind, subject, plan, started_at, ends_at, converted_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (self.word_made(t), kind, hash_of_trial(t, whose), *astuple(trial))
                    for (t, whose), (kind, trial) in changes.trials.items()
                ],
            )
        if changes.members or changes.removed:
            self._save_members(changes)
        if changes.events:
            rows = [self._event_row(holder, event) for holder, event in changes.events]
            if any(event.corrects or event.grants for _, event in changes.events):
                more = ((_bytes_of(event.corrects), _grants_of(event)) for _, event in changes.events)
                _NAMING.all(self._db, [(*row, *two) for row, two in zip(rows, more, strict=True)])
            else:
                _EVENTS.all(self._db, rows)
        if changes.counters:
            self._save_counters(changes.counters)
        if changes.rollups:
            cells = sorted([self._rollup_row(*item) for item in changes.rollups.items()])
            _ROLLUPS.all(self._db, cells)
            _WIDE.all(self._db, wide_cells(cells))
        if changes.denials:
            many(
                "INSERT INTO denial (tenant, hour, holder, code, meter, count) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [
                    (*self._hour_of(holder, hour), self.word_made(code), self.word_made(meter), count)
                    for (holder, hour, code, meter), count in changes.denials.items()
                ],
            )
        if changes.responses:
            many(
                "INSERT INTO response (tenant, hour, holder, event, failed, cell, count) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [
                    (*self._hour_of(holder, hour), self.word_made(event), int(failed), cell, count)
                    for (holder, hour, event, failed, cell), count in changes.responses.items()
                ],
            )
        if changes.dimensions:
            many(
                "INSERT OR IGNORE INTO dimension (tenant, dimensions) VALUES (?, ?)",
                [(self.word_made(t), self._dimensions_made(d)) for t, d in changes.dimensions],
            )
        if changes.tenants:
            many(
                "INSERT OR REPLACE INTO tenant_size (tenant, users, dimensions) VALUES (?, ?, ?)",
                [(self.word_made(tenant), *size) for tenant, size in changes.tenants.items()],
            )
        if changes.answers:
            self._save_answers(changes.answers)
        self._free_places.clear()
        for (holder, override_key), override in changes.overrides.items():
            self._save_override(holder, override_key, override)
        if changes.grants or changes.grant_uses:
            self._save_grants(changes)
        if changes.rates_cleared:
            many(
                "INSERT OR REPLACE INTO rate_cleared (tenant, window, holder, meter, at) VALUES (?, ?, ?, ?, ?)",
                [
                    (tenant, *rest, at)
                    for (tenant, _, *rest), at in (
                        (self._key_made(key), at) for key, at in changes.rates_cleared.items()
                    )
                ],
            )
        if changes.offers:
            many(
                "INSERT OR REPLACE INTO offer (tenant, handle, actor, digest, terms, expires_at, used_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (self.word_made(t), handle, o.actor, o.digest, o.terms, o.expires_at, o.used_at)
                    for (t, handle), o in changes.offers.items()
                ],
            )
        if changes.reservations:
            many(
                "INSERT OR REPLACE INTO reservation (tenant, id, holder, event, plan, quantity, attributes, source,"
                " held, reserved_at, expires_at, digest, answer, price, estimated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [self._reservation_row(one) for one in changes.reservations.values()],
            )
        if changes.holds:
            self._save_holds(changes.holds)
        if changes.sessions:
            many(
                "INSERT OR REPLACE INTO session (tenant, id, holder, plan, source, opened_at, expires_at, closed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [self._session_row(one) for one in changes.sessions.values()],
            )
        if changes.audits:
            many(
                "INSERT INTO audit (id, tenant, holder, action, actor, actor_role, reason, before, after, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [self._audit_row(entry) for entry in changes.audits],
            )
        if changes.revocations:
            many(
                "INSERT INTO revocation (id, tenant, subject, token_id, issued_before, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (UUID(one.id).bytes, one.tenant, one.subject, one.token_id, one.issued_before, one.at)
                    for one in changes.revocations
                ],
            )
        save_alerts(self, changes)
        return len(changes.events) + len(changes.counters) + len(changes.rollups) + 2 * len(changes.answers)

    def _save_plans(self, changes: Changes) -> None:
        for plan, digest, origin, at in changes.plan_versions:
            self._db.execute(
                "INSERT INTO plan_version (plan, version, origin, digest, definition, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (plan.key, plan.version, origin, digest, _json(plan.definition), at),
            )
        for key, archived_at in changes.plans_archived.items():
            self._db.execute("DELETE FROM plan_archived WHERE plan = ?", (key,))
            if archived_at is not None:
                self._db.execute(
                    "INSERT INTO plan_archived (plan, archived_at) VALUES (?, ?)", (key, archived_at)
                )
        self._db.executemany(
            "INSERT OR REPLACE INTO ledger_meter (name, definition) VALUES (?, ?)",
            [(name, _json(definition)) for name, definition in changes.meters.items()],
        )
        if changes.catalog_name is not None:
            self._db.execute("DELETE FROM ledger_catalog")
            self._db.execute(
                "INSERT INTO ledger_catalog (name, published_at) VALUES (?, ?)",
                (changes.catalog_name, changes.published_at),
            )
        if changes.current_plans is not None:
            self._db.execute("DELETE FROM plan_current")
            self._db.executemany(
                "INSERT INTO plan_current (plan, version, position) VALUES (?, ?, ?)",
                [(plan, version, i) for i, (plan, version) in enumerate(changes.current_plans)],
            )
        if changes.catalog_name is not None or changes.current_plans is not None or changes.meters:
            self._db.execute("UPDATE ledger_info SET value = value + 1 WHERE name = 'plans_revision'")

    def _save_members(self, changes: Changes) -> None:
        self._db.executemany(
            "DELETE FROM member WHERE tenant = ? AND user = ?",
            [(self.word(t), self.word(u)) for (t, u), one in changes.members.items() if one is None],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO member (tenant, user, account, role, joined_at) VALUES (?, ?, ?, ?, ?)",
            [
                (self.word_made(t), self.word_made(u), self.word_made(one.account), one.role, one.joined_at)
                for (t, u), one in changes.members.items()
                if one is not None
            ],
        )
        self._db.executemany(
            "DELETE FROM member_removed WHERE tenant = ? AND user = ? AND account = ?",
            [[self.word(text) for text in key] for key, at in changes.removed.items() if at is None],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO member_removed (tenant, user, account, tokens_before) VALUES (?, ?, ?, ?)",
            [
                (*(self.word_made(text) for text in key), at)
                for key, at in changes.removed.items()
                if at is not None
            ],
        )

    def _subscription_row(self, key: AccountKey, value: Subscription) -> tuple[Any, ...]:
        return (
            self.word_made(key.tenant),
            KINDS.index(key.account_kind),
            self.word_made(key.account),
            *subscription_values(value),
        )

    def _hour_of(self, holder: HolderKey, hour: Instant) -> tuple[int, Instant, int]:
        return self.word_made(holder[0].tenant), hour, self.holder_made(holder)

    def _holder_made(self, holder: Holder) -> int:
        holder.place = place = self.holder_made(holder.key)
        return place

    def _event_row(self, holder: Holder, event: UsageEvent) -> tuple[Any, ...]:
        # Nearly every name was met before: looked up here, a call is saved for each.
        words = self._words.get
        return (
            bytes.fromhex(event.id.replace("-", "")),
            words(event.tenant) or self.word_made(event.tenant),
            holder.place or self._holder_made(holder),
            words(event.event) or self.word_made(event.event),
            self.plan_id(event.plan, event.plan_version),
            event.quantity,
            to_json(event.attributes).decode() if event.attributes else None,
            to_json(event.gains).decode(),
            words(event.source) or self.word_made(event.source),
            event.occurred_at,
            event.recorded_at,
            None if event.price is None else self.price_made(event.price),
        )

    def _save_counters(self, counters: Iterable[Counter]) -> None:
        counters = [one for one in counters if one.kept]
        periodic = [
            (*(one.place or self._place_made(one)), one.used) for one in counters if one.length is None
        ]
        rolling = [
            (*self._place_made(one), _text_of(one.cells)) for one in counters if one.length is not None
        ]
        # In the order of the key, so that what lies on one page is written together.
        _COUNTERS.all(self._db, sorted(periodic))
        if rolling:
            self._db.executemany(
                "INSERT OR REPLACE INTO rolling (tenant, window, holder, meter, cells) VALUES (?, ?, ?, ?, ?)",
                sorted((row[0], *row[2:]) for row in rolling),
            )

    def _rollup_row(self, key: RollupKey, cell: list[int]) -> tuple[int, ...]:
        holder, quarter, meter, dimensions = key
        words = self._words.get
        tenant = holder.key[0].tenant
        return (
            words(tenant) or self.word_made(tenant),
            quarter,
            holder.place or self._holder_made(holder),
            words(meter) or self.word_made(meter),
            self._dimensions.get(dimensions) or self._dimensions_made(dimensions),
            *cell,
        )

    def _save_answers(self, answers: Sequence[tuple[AnswerKey, StoredAnswer]]) -> None:
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM answer").fetchone()
        places: dict[int, int] = {}
        rows: list[tuple[Any, ...]] = []
        words = self._words.get
        for key, answer in answers:
            place = self._free_places.get(key)
            if place is None or place in places:
                # Not looked for in this batch, or two of them have one hash: one by one, those before it first.
                self._insert_answers(rows, places)
                rows, places = [], {}
                place, _, old = self._find_answer(key)
                if (
                    old is not None
                ):  # remembered too long ago to count: the key starts anew, behind all others
                    self._db.execute("DELETE FROM answer WHERE seq = ?", (old,))
            last += 1
            places[place] = last
            rows.append(
                (
                    last,
                    words(key[0]) or self.word_made(key[0]),
                    words(key[1]) or self.word_made(key[1]),
                    key[2],
                    answer.digest,
                    answer.answer,
                    answer.at,
                )
            )
        self._insert_answers(rows, places)

    def _insert_answers(self, rows: list[tuple[Any, ...]], places: Mapping[int, int]) -> None:
        _ANSWERS.all(self._db, rows)
        # The one table that is written at random: in its own order, so that a page is visited once.
        _KEYS.all(self._db, sorted(places.items()))

    def _reservation_row(self, reservation: Reservation) -> tuple[Any, ...]:
        held = [
            [key.start, key.window_key, key.user, key.meter, quantity]
            for key, quantity in reservation.held.items()
        ]
        return (
            self.word_made(reservation.account.tenant),
            UUID(reservation.id).bytes,
            self.holder_made((reservation.account, reservation.user)),
            self.word_made(reservation.event),
            self.plan_id(reservation.plan, reservation.plan_version),
            reservation.quantity,
            _json(reservation.attributes) if reservation.attributes else None,
            self.word_made(reservation.source),
            _json(held),
            reservation.reserved_at,
            reservation.expires_at,
            reservation.digest,
            reservation.answer,
            None if reservation.price is None else self.price_made(reservation.price),
            _json(reservation.estimated) if reservation.estimated else None,
        )

    def _save_holds(self, holds: Mapping[tuple[CounterKey, str], Hold | None]) -> None:
        places = {(key, id_): (*self._key_made(key), UUID(id_).bytes) for key, id_ in holds}
        self._db.executemany(
            "DELETE FROM hold WHERE tenant = ? AND start = ? AND window = ? AND holder = ? AND meter = ?"
            " AND reservation = ?",
            [places[place] for place, hold in holds.items() if hold is None],
        )
        self._db.executemany(
            "INSERT INTO hold (tenant, start, window, holder, meter, reservation, quantity, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(*places[place], *hold) for place, hold in holds.items() if hold is not None],
        )

    def _session_row(self, session: Session) -> tuple[Any, ...]:
        return (
            self.word_made(session.account.tenant),
            UUID(session.id).bytes,
            self.holder_made((session.account, session.user)),
            session.plan,
            self.word_made(session.source),
            session.opened_at,
            session.expires_at,
            session.closed_at,
        )

    def _save_override(self, holder: HolderKey, key: OverrideKey, override: Override | None) -> None:
        place = (
            self.word_made(holder[0].tenant),
            self.holder_made(holder),
            self.word_made(key[0]),
            self.word_made(key[1]),
            key[2],
        )
        if override is None:
            self._db.execute(
                "DELETE FROM limit_override"
                " WHERE tenant = ? AND holder = ? AND meter = ? AND window = ? AND scope = ?",
                place,
            )
            return
        maximum = None if override.maximum is UNLIMITED else override.maximum
        self._db.execute(
            "INSERT OR REPLACE INTO limit_override (tenant, holder, meter, window, scope, maximum, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*place, maximum, override.expires_at),
        )

    def _save_grants(self, changes: Changes) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO allowance_grant"
            " (tenant, holder, id, meter, window, scope, quantity, starts_at, ends_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    self.word_made(holder[0].tenant),
                    self.holder_made(holder),
                    UUID(id_).bytes,
                    self.word_made(one.meter),
                    *(one.window, one.scope, one.quantity, one.starts_at, one.ends_at),
                )
                for (holder, id_), one in changes.grants.items()
            ],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO grant_use (tenant, id, start, quantity) VALUES (?, ?, ?, ?)",
            [
                (self.word_made(tenant), UUID(id_).bytes, start, units)
                for (tenant, id_, start), units in changes.grant_uses.items()
            ],
        )

    def _audit_row(self, entry: AuditEntry) -> tuple[Any, ...]:
        account = AccountKey(entry.tenant, entry.account_kind, entry.account)
        return (
            UUID(entry.id).bytes,
            self.word_made(entry.tenant),
            self.holder_made((account, entry.user)),
            entry.action,
            entry.actor.user,
            entry.actor.role,
            entry.reason,
            None if entry.before is None else _json(entry.before),
            None if entry.after is None else _json(entry.after),
            entry.at,
        )

    # Questions

    def answer(self, question: Query) -> Any:
        match question:
            case UsageTotals():
                return usage_totals(self, question)
            case EventPage():
                return self.event_page(question)
            case NewestEvent():
                return self._db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0]
            case AuditTrail():
                return self._audit_trail(question)
            case TenantSummary():
                return tenant_summary(self, question)
            case TenantActivity():
                return tenant_activity(self, question)
            case AccountPage():
                return account_page(self, question)
            case OpenSessions():
                return self._sessions_open(question)
            case FullestHolders():
                return fullest_holders(self, question)
            case RevocationsSince():
                rows = self._db.execute(
                    "SELECT id, tenant, subject, token_id, issued_before, at, seq FROM revocation"
                    " WHERE seq > ? ORDER BY seq",
                    (question.seq,),
                )
                return [Revocation(str(UUID(bytes=id_)), *rest) for id_, *rest in rows]
            case PlanHolders():
                return self._db.execute(
                    f"SELECT {PLAN_NOW} AS plan_now, {VERSION_NOW} AS version_now, count(*) FROM subscription s"
                    " GROUP BY plan_now, version_now",
                    {"now": question.now},
                ).fetchall()
            case PlanRecords():
                return self._plan_records(question)
            case AccountIds():
                return self._account_ids(question)
            case MemberPage():
                return self._member_page(question)
            case BillingOf():
                billing = self.billing(question.account)
                return billing, {key: self._read_plans(key) for key in billing.versions}
            case StatementOf():
                return statement_for(self, question, self._read_plans)
            case OverridesOf():
                return self._read_overrides((question.account, question.user))
            case AccountsToBill():
                return accounts_to_bill(self, question)
            case AlertPage():
                return alert_page(self, question)
            case DeliveriesDue():
                return deliveries_due(self, question)
            case DeliveryPage():
                return delivery_page(self, question)
            case DeliveryCounts():
                return delivery_counts(self)
            case Conversions():
                return conversions(self, question)
            case Denials():
                return denials(self, question)
            case Responses():
                return responses(self, question)
            case SessionSpans():
                return session_spans(self, question)

    def _member_page(self, question: MemberPage) -> tuple[list[MemberRow], bool]:
        """In the order in which their names came into the ledger: as the index has them."""
        rows = self._db.execute(
            f"{MEMBERS} LIMIT ?",
            (self.word(question.tenant), self.word(question.account), question.after, question.size + 1),
        ).fetchall()
        found = [MemberRow(place, self.text(place), role, joined_at) for place, role, joined_at in rows]
        return found[: question.size], len(found) > question.size

    def _plan_records(self, question: PlanRecords) -> list[PlanRecord]:
        book = self.load_plans({})
        holders: dict[str, dict[int, int]] = {}
        for plan, version, accounts in self.answer(PlanHolders(question.now)):
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
                self._some_on_older(key, question),
            )
            for key in (*current, *gone)
            if question.plan in (None, key)
        ]

    def _some_on_older(self, key: str, question: PlanRecords) -> list[tuple[AccountKey, int]]:
        if question.accounts == 0:
            return []
        rows = self._db.execute(
            f"SELECT s.tenant, s.account_kind, s.account, {VERSION_NOW} AS version_now FROM subscription s"
            f" WHERE {PLAN_NOW} = :plan AND version_now <> :version LIMIT :size",
            {"plan": key, "version": question.newest, "size": question.accounts, "now": question.now},
        ).fetchall()
        return [
            (AccountKey(self.text(tenant), KINDS[kind], self.text(account)), held)
            for tenant, kind, account, held in rows
        ]

    def _account_ids(self, question: AccountIds) -> list[str]:
        rows = self._db.execute(
            ACCOUNT_IDS,
            (question.prefix, question.prefix, WORDS_SEEN_MAX, self.word(question.tenant), question.size),
        )
        return [text for (text,) in rows]

    def holders_of(self, whose: Whose) -> list[int] | None:
        """The holders asked about; None is every holder of the tenant."""
        if whose.account is None or whose.account_kind is None:
            return None
        account = AccountKey(whose.tenant, whose.account_kind, whose.account)
        if whose.user is not None:
            found = self.holder((account, whose.user))
            return [] if found is None else [found]
        rows = self._db.execute(
            "SELECT id FROM holder WHERE tenant = ? AND account_kind = ? AND account = ?",
            (self.word(whose.tenant), KINDS.index(whose.account_kind), self.word(whose.account)),
        )
        return [row[0] for row in rows]

    def holder_names(self, holder: int) -> tuple[str, str]:
        account, user = self._db.execute(
            "SELECT account, user FROM holder WHERE id = ?", (holder,)
        ).fetchone()
        return self.text(account), self.text(user)

    def event_page(self, question: EventPage) -> tuple[list[tuple[int, UsageEvent]], bool]:
        """One page, newest first unless asked otherwise, and whether there is more. Walks block by block; an event
        is reported at most 35 days late and 5 minutes early, which bounds the blocks that can hold the period."""
        holders = self.holders_of(question.whose)
        tenant = self.word(question.whose.tenant)
        event = None if question.event is None else self.word(question.event)
        if tenant is None or holders == [] or (question.event is not None and event is None):
            return [], False
        last = self._seq_at(question.end + KEY_RETENTION)
        if question.before is not None:
            last = min(last, question.before - 1)
        if question.last is not None:
            last = min(last, question.last)
        first = self._seq_at(question.start - FUTURE_TOLERANCE - 1) + 1
        if question.after is not None:
            first = max(first, question.after + 1)
        blocks = range(first >> EVENTS_PER_BLOCK_BITS, (last >> EVENTS_PER_BLOCK_BITS) + 1)
        order = "ASC" if question.oldest_first else "DESC"
        kind = "" if event is None else f" AND event = {event}"
        unbounded = question.size < 0
        # Who adds up everything needs no more than what corrects what.
        corrected_by = "NULL" if unbounded else CORRECTED_BY
        found: list[Any] = []
        for block in blocks if question.oldest_first else reversed(blocks):
            found += self._db.execute(
                f"SELECT {EVENT_COLUMNS}, {corrected_by} FROM event WHERE seq >> {EVENTS_PER_BLOCK_BITS} = ?"
                f"{among(holders)}{kind} AND tenant = ?"
                f" AND seq BETWEEN ? AND ? AND occurred_at >= ? AND occurred_at < ? ORDER BY seq {order} LIMIT ?",
                (
                    block,
                    tenant,
                    first,
                    last,
                    question.start,
                    question.end,
                    -1 if unbounded else question.size + 1 - len(found),
                ),
            ).fetchall()
            if not unbounded and len(found) > question.size:
                break
        shown = found if unbounded else found[: question.size]
        return [(row[0], self._event_of(question.whose.tenant, row)) for row in shown], len(shown) < len(
            found
        )

    def _seq_at(self, at: Instant) -> int:
        """The last event recorded at or before an instant, by bisection: the clock never runs backwards."""
        low: int = 0
        high: int = self._db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0]
        while low < high:
            middle = (low + high + 1) // 2
            row = self._db.execute(
                "SELECT seq, recorded_at FROM event WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (middle,)
            ).fetchone()
            if row is None or row[1] <= at:
                low = middle
            else:
                high = row[0] - 1
        return low

    def _event_of(self, tenant: str, row: tuple[Any, ...]) -> UsageEvent:
        _, id_, holder, event, plan, quantity, attributes, gains, source = row[:9]
        occurred_at, recorded_at, corrects, price, corrected_by = row[9:]
        kind, account, user = self._db.execute(
            "SELECT account_kind, account, user FROM holder WHERE id = ?", (holder,)
        ).fetchone()
        held = self._db.execute("SELECT plan, version FROM plan_version WHERE id = ?", (plan,)).fetchone()
        plan_key, version = held or ("", 0)
        return UsageEvent(
            str(UUID(bytes=id_)),
            tenant,
            KINDS[kind],
            self.text(account),
            self.text(user),
            self.text(event),
            plan_key,
            version,
            quantity,
            json.loads(attributes) if attributes else {},
            json.loads(gains),
            self.text(source),
            occurred_at,
            recorded_at,
            None if corrects is None else str(UUID(bytes=corrects)),
            None if corrected_by is None else str(UUID(bytes=corrected_by)),
            self.price(price),
        )

    def _audit_trail(self, question: AuditTrail) -> list[AuditEntry]:
        picked = among(self.holders_of(question.whose), "a.holder")
        rows = self._db.execute(
            "SELECT a.id, h.account_kind, h.account, h.user, a.action, a.actor, a.actor_role, a.reason,"
            " a.before, a.after, a.at FROM audit a JOIN holder h ON h.id = a.holder"
            f" WHERE a.tenant = ?{picked} AND a.action LIKE ? || '%' ORDER BY a.seq DESC LIMIT ?",
            (self.word(question.whose.tenant), question.action, question.size),
        ).fetchall()
        return [
            AuditEntry(
                str(UUID(bytes=id_)),
                question.whose.tenant,
                KINDS[kind],
                self.text(account),
                self.text(user),
                action,
                Actor(actor, actor_role),
                reason,
                None if before is None else json.loads(before),
                None if after is None else json.loads(after),
                at,
            )
            for id_, kind, account, user, action, actor, actor_role, reason, before, after, at in rows
        ]


def _bytes_of(id_: str | None) -> bytes | None:
    return None if id_ is None else UUID(id_).bytes


def _grants_of(event: UsageEvent) -> str | None:
    return _json(event.grants) if event.grants else None


def _whose(key: CounterKey) -> Whose:
    """Whose usage a counter adds up; '' as user is the group as a whole."""
    return Whose(key.tenant, cast(AccountKind, key.account_kind), key.account, key.user or None)


def _text_of(value: object) -> str:
    return to_json(value).decode()


def _account_of(key: CounterKey) -> AccountKey:
    return AccountKey(key.tenant, cast(AccountKind, key.account_kind), key.account)


def _maximum(stored: int | None) -> Maximum:
    return UNLIMITED if stored is None else stored


def hash_of_trial(tenant: str, whose: str) -> bytes:
    """What is kept of whose trial it was: enough to know them again, not to name them."""
    return blake2b(f"{tenant}\0{whose}".encode(), digest_size=16).digest()


def hash_of_key(key: AnswerKey) -> int:
    digest = blake2b("\0".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# Made once: `json.dumps` would make an encoder for every row.
_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=dict).encode
