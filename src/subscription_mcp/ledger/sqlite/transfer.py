"""A whole ledger out of SQLite and into it: what `transfer` describes, with texts in place of surrogates."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, BinaryIO, cast
from uuid import UUID

from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.port import TransferRefused
from subscription_mcp.ledger.sqlite.answers import hash_of_key
from subscription_mcp.ledger.sqlite.rows import KINDS, PRICE_COLUMNS, PRICE_PARTS, price_of_parts
from subscription_mcp.ledger.sqlite.store import Store
from subscription_mcp.ledger.sqlite.wide import filling
from subscription_mcp.ledger.transfer import ExportReader, ExportWriter, Row, encode

ROWS_AT_ONCE = 500
REMEMBERED_MAX = 200_000


@dataclass(frozen=True)
class Table:
    """A table that travels. `kinds` says of each column what stands for it outside: nothing for the value itself,
    `word` and `kind` for their texts, `holder` for account_kind, account and user, `plan` for plan and
    plan_version, `price` for the price as an object, `uuid`, `hex`, `json`. Rows come in the order of `key`."""

    name: str
    kinds: Mapping[str, str]
    key: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @cached_property
    def fields(self) -> frozenset[str]:
        """The names a row has outside."""
        return frozenset(name for column in self.columns for name in _names(column, self.kinds[column]))

    @cached_property
    def select(self) -> str:
        """Every row with its texts, in order."""
        picked, joins, texts = [], [], {}
        for column, kind in self.kinds.items():
            joined = _JOINED.get(kind)
            if joined is None:
                picked.append(f"t.{column}")
                texts[column] = picked[-1:]
            else:
                texts[column] = [value.format(column) for value in joined.values]
                picked += texts[column]
                joins += [join.format(column) for join in joined.joins]
        order = [text for column in self.key for text in texts.get(column, [f"t.{column}"])]
        return f"SELECT {', '.join(picked)} FROM {self.name} t {' '.join(joins)} ORDER BY {', '.join(order)}"

    @cached_property
    def insert(self) -> str:
        places = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({places})"


@dataclass(frozen=True, slots=True)
class _Join:
    joins: tuple[str, ...]
    values: tuple[str, ...]


_PRICE_AS_JSON = {name: f"json({{0}}_.{name})" for name in PRICE_PARTS}
_JOINED = {
    "word": _Join(("LEFT JOIN word {0}_ ON {0}_.id = t.{0}",), ("{0}_.text",)),
    "holder": _Join(
        (
            "LEFT JOIN holder {0}_ ON {0}_.id = t.{0}",
            "LEFT JOIN word {0}_account ON {0}_account.id = {0}_.account",
            "LEFT JOIN word {0}_user ON {0}_user.id = {0}_.user",
        ),
        ("{0}_.account_kind", "{0}_account.text", "{0}_user.text"),
    ),
    "price": _Join(
        ("LEFT JOIN price {0}_ ON {0}_.id = t.{0}",),
        (
            "CASE WHEN {0}_.id IS NOT NULL THEN json_object("
            + ", ".join(f"'{name}', {_PRICE_AS_JSON.get(name, f'{{0}}_.{name}')}" for name in PRICE_COLUMNS)
            + ") END",
        ),
    ),
    "plan": _Join(
        ("LEFT JOIN plan_version {0}_ ON {0}_.id = t.{0}",), ("{0}_.plan", "coalesce({0}_.version, 0)")
    ),
}


def _table(name: str, columns: str, key: str) -> Table:
    kinds = dict(column.partition(":")[::2] for column in columns.split())
    return Table(name, kinds, tuple(key.split()))


TABLES = {
    table.name: table
    for table in (
        _table("plan_version", "plan version origin digest definition:json created_at", "plan version"),
        _table("plan_current", "plan version position", "plan"),
        _table("ledger_catalog", "name published_at", "name"),
        _table("ledger_meter", "name definition:json", "name"),
        _table(
            "subscription",
            "tenant:word account_kind:kind account:word plan version origin anchor created_at interval anchor_nudge seats"
            " trial_started_at trial_ends_at prepaid_until paid_micros paid_until ended_at ended_as past_due_since suspended_at claimed_at"
            " scheduled_at scheduled_reason next_plan next_version next_interval next_seats",
            "tenant account_kind account",
        ),
        _table(
            "subscription_history",
            "id:uuid tenant:word account_kind:kind account:word at action plan version origin anchor created_at interval"
            " anchor_nudge seats trial_started_at trial_ends_at prepaid_until ended_at ended_as past_due_since suspended_at"
            " paid_micros paid_until claimed_at scheduled_at scheduled_reason next_plan next_version next_interval next_seats"
            " charge:json",
            "seq",
        ),
        _table(
            "invoice",
            "tenant:word account_kind:kind account:word number issued_at period_start period_end currency lines:json"
            " closed_at",
            "tenant account_kind account number",
        ),
        _table(
            "payment",
            "tenant:word account_kind:kind account:word number provider reference paid_at",
            "tenant account_kind account number",
        ),
        _table(
            "billing_due", "tenant:word account_kind:kind account:word due_at", "tenant account_kind account"
        ),
        _table(
            "trial", "tenant:word subject:hex kind plan started_at ends_at converted_at", "tenant subject"
        ),
        _table("plan_archived", "plan archived_at", "plan"),
        _table("member", "tenant:word user:word account:word role joined_at", "tenant user"),
        _table("member_removed", "tenant:word user:word account:word tokens_before", "tenant user account"),
        _table(
            "event",
            "id:uuid tenant:word holder:holder event:word plan:plan quantity attributes:json gains:json"
            " source:word occurred_at recorded_at corrects:uuid price:price grants:json",
            "seq",
        ),
        _table(
            "counter",
            "tenant:word start window:word holder:holder meter:word used",
            "tenant start window holder meter",
        ),
        _table(
            "rolling",
            "tenant:word window:word holder:holder meter:word cells:json",
            "tenant window holder meter",
        ),
        _table(
            "rate_cleared",
            "tenant:word window:word holder:holder meter:word at",
            "tenant window holder meter",
        ),
        _table(
            "rollup",
            "tenant:word quarter holder:holder meter:word dimensions:word events quantity",
            "tenant quarter holder meter dimensions",
        ),
        _table(
            "denial",
            "tenant:word hour holder:holder code:word meter:word count",
            "tenant hour holder code meter",
        ),
        _table(
            "response",
            "tenant:word hour holder:holder event:word failed cell count",
            "tenant hour holder event failed cell",
        ),
        _table("dimension", "tenant:word dimensions:word", "tenant dimensions"),
        _table("tenant_size", "tenant:word users dimensions", "tenant"),
        _table("answer", "tenant:word source:word key digest:hex answer at", "seq"),
        _table(
            "limit_override",
            "tenant:word holder:holder meter:word window:word scope maximum expires_at",
            "tenant holder meter window scope",
        ),
        _table(
            "allowance_grant",
            "tenant:word holder:holder id:uuid meter:word window scope quantity starts_at ends_at",
            "tenant holder id",
        ),
        _table("grant_use", "tenant:word id:uuid start quantity", "tenant id start"),
        _table("offer", "tenant:word handle:hex actor digest:hex terms expires_at used_at", "tenant handle"),
        _table(
            "audit",
            "id:uuid tenant:word holder:holder action actor actor_role reason before:json after:json at",
            "seq",
        ),
        _table(
            "reservation",
            "tenant:word id:uuid holder:holder event:word plan:plan quantity attributes:json source:word held:json"
            " reserved_at expires_at digest:hex answer price:price estimated:json",
            "tenant id",
        ),
        _table(
            "hold",
            "tenant:word start window:word holder:holder meter:word reservation:uuid quantity expires_at",
            "tenant start window holder meter reservation",
        ),
        _table(
            "session",
            "tenant:word id:uuid holder:holder plan source:word opened_at expires_at closed_at",
            "tenant id",
        ),
        _table(
            "alert",
            "id:uuid tenant:word holder:holder meter:word window:word start scope threshold severity message"
            " recommendation suggested_plan used maximum created_at read_at",
            "seq",
        ),
        _table(
            "alert_mark",
            "tenant:word start window:word holder:holder meter:word scope subject threshold until",
            "tenant start window holder meter scope subject threshold",
        ),
        _table("alert_setting", "tenant:word holder:holder thresholds:json", "tenant holder"),
        _table(
            "delivery",
            "id:uuid tenant:word event payload:json created_at state attempts next_attempt_at lease last_error ended_at",
            "seq",
        ),
        _table("revocation", "id:uuid tenant subject token_id issued_before at", "seq"),
    )
}
STAYS = frozenset({"word", "holder", "price", "ledger_info", "key_index", "rollup_wide"})
"""What is made anew: the surrogates, what caches go by, the index of the answers, and sums of the rollups."""


def dump(connection: sqlite3.Connection, write: Callable[[bytes], object]) -> Mapping[str, int]:
    """Write every row. Call it within one read transaction."""
    counts = row_counts(connection)
    export = ExportWriter(write)
    export.begin(counts)
    for table in TABLES.values():
        for values in connection.execute(table.select):
            export.row(table.name, _row(table, iter(values)))
    export.end()
    return counts


def row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many rows of each table there are to travel."""
    return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}


def load(connection: sqlite3.Connection, store: Store, stream: BinaryIO) -> Mapping[str, int]:
    """Take over an export; within a write transaction, to be rolled back where it raises."""
    if any(row_counts(connection).values()):
        raise TransferRefused(
            "The ledger has something in it already, and an import needs an empty one. Name a new file in "
            "DATABASE_URL and import there."
        )
    reader = ExportReader(stream)
    if list(reader.counts) != list(TABLES):
        raise reader.damaged()
    loader = _Loader(connection, store)
    try:
        for name, rows in groupby(reader.rows(), itemgetter(0)):
            while some := [row for _, row in islice(rows, ROWS_AT_ONCE)]:
                loader.insert(TABLES[name], some)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, sqlite3.IntegrityError):
        # A line that is JSON and yet no row of ours.
        raise reader.damaged() from None
    loader.index_answers()
    for statement in filling():
        connection.execute(statement)
    connection.execute("UPDATE ledger_info SET value = value + 1 WHERE name = 'plans_revision'")
    store.note_commit(store.last_entry_at())
    return reader.counts


class _Loader:
    """Rows with texts into rows with surrogates."""

    def __init__(self, connection: sqlite3.Connection, store: Store) -> None:
        self._db = connection
        self._store = store

    def insert(self, table: Table, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.keys() != table.fields:
                raise ValueError("these are not the columns")
        self._db.executemany(table.insert, [self._values(table, row) for row in rows])
        if self._store.size > REMEMBERED_MAX:
            self._store.forget()

    def _values(self, table: Table, row: Row) -> list[Any]:
        return [self._value(column, kind, row) for column, kind in table.kinds.items()]

    def _value(self, column: str, kind: str, row: Row) -> Any:
        if kind == "holder":
            account = AccountKey(row["tenant"], cast(AccountKind, row["account_kind"]), row["account"])
            return self._store.tables.holder_made((account, row["user"]))
        if kind == "plan":
            return self._store.tables.plan_id(row["plan"] or "", row["plan_version"])
        value = row[column]
        if value is None:
            return None
        match kind:
            case "word":
                return self._store.tables.word_made(value)
            case "kind":
                return KINDS.index(value)
            case "uuid":
                return UUID(value).bytes
            case "hex":
                return bytes.fromhex(value)
            case "json":
                return encode(value)
            case "price":
                return self._store.tables.price_made(_price(value))
        return value

    def index_answers(self) -> None:
        """Give every idempotency key its place."""
        answers = self._db.execute(
            "SELECT t.text, s.text, a.key, a.seq FROM answer a JOIN word t ON t.id = a.tenant"
            " JOIN word s ON s.id = a.source"
        )
        for *key, seq in answers:
            place = hash_of_key((key[0], key[1], key[2]))
            while not self._db.execute(
                "INSERT OR IGNORE INTO key_index (hash, seq) VALUES (?, ?)", (place, seq)
            ).rowcount:
                place += 1


def _price(value: Row) -> UnitPrice:
    if value.keys() != set(PRICE_COLUMNS):
        raise ValueError("this is no price")
    return price_of_parts(value)


def _row(table: Table, values: Iterator[Any]) -> Row:
    row: Row = {}
    for column, kind in table.kinds.items():
        for name in _names(column, kind):
            row[name] = _outside(kind, name, next(values))
    return row


def _names(column: str, kind: str) -> tuple[str, ...]:
    """What a column is called outside."""
    return {"holder": ("account_kind", "account", "user"), "plan": ("plan", "plan_version")}.get(
        kind, (column,)
    )


def _outside(kind: str, name: str, value: Any) -> Any:
    if value is None and kind in ("word", "holder"):
        raise TransferRefused(
            "A row names something that is not there. `subscription-mcp verify` says which; restore a backup."
        )
    if value is None:
        return None
    if name == "account_kind":
        return KINDS[value]
    match kind:
        case "uuid":
            return str(UUID(bytes=value))
        case "hex":
            return value.hex()
        case "json" | "price":
            return json.loads(value)
    return value
