"""The tables over one connection, and the numbers that stand in them for names, holders, plans and prices."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.pricing import UnitPrice
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.machine.facts import CounterKey, Dimensions, Holder, HolderKey
from subscription_mcp.ledger.queries import Whose
from subscription_mcp.ledger.sqlite.rows import KINDS, PRICE_COLUMNS, json_text, price_of_row, price_values

Place = tuple[int, int, int, int, int]
"""Tenant, start, window, holder and meter of a counter as they are stored."""


class Tables:
    """One connection and the numbers it has handed out or seen; no transaction control.

    `word` and `holder` look for what may not be there, `word_made` and `holder_made` make it where it is not."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.known_words: dict[str, int] = {}
        """Looked into directly where events are saved: a call for each name of each event would be felt."""
        self.known_dimensions: dict[Dimensions, int] = {}
        self._texts: dict[int, str] = {}
        self._holders: dict[HolderKey, int] = {}
        self._plan_ids: dict[tuple[str, int], int] = {}
        self._price_ids: dict[UnitPrice, int] = {}
        self._prices: dict[int, UnitPrice] = {}

    @property
    def size(self) -> int:
        """How many numbers are remembered."""
        known = (
            self.known_words,
            self._texts,
            self._holders,
            self.known_dimensions,
            self._price_ids,
            self._prices,
        )
        return sum(len(one) for one in known)

    def forget(self) -> None:
        """Drop every number handed out: a transaction that rolled back took them with it."""
        self.known_words.clear()
        self._texts.clear()
        self._holders.clear()
        self._plan_ids.clear()
        self.known_dimensions.clear()
        self._price_ids.clear()
        self._prices.clear()

    # Statements

    def rows(self, statement: str, values: Mapping[str, Any] | Sequence[object] = ()) -> list[Any]:
        return self.database.execute(statement, values).fetchall()

    def one(self, statement: str, *values: object) -> Any:
        # A word nobody ever stored is NULL here, and NULL equals nothing.
        return self.database.execute(statement, values).fetchone()

    def run(self, statement: str, *values: object) -> None:
        self.database.execute(statement, values)

    def many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self.database.executemany(statement, rows)

    # Numbers

    def word(self, text: str) -> int | None:
        found = self.known_words.get(text)
        if found is None:
            row = self.database.execute("SELECT id FROM word WHERE text = ?", (text,)).fetchone()
            if row is None:
                return None
            found = self.known_words[text] = row[0]
        return found

    def word_made(self, text: str) -> int:
        found = self.word(text)
        if found is None:
            found = self.database.execute("INSERT INTO word (text) VALUES (?)", (text,)).lastrowid
            assert found is not None
            self.known_words[text] = found
        return found

    def text(self, word: int) -> str:
        found = self._texts.get(word)
        if found is None:
            (found,) = self.database.execute("SELECT text FROM word WHERE id = ?", (word,)).fetchone()
            self._texts[word] = cast(str, found)
        return cast(str, found)

    def holder(self, key: HolderKey) -> int | None:
        found = self._holders.get(key)
        if found is None:
            account, user = key
            words = (self.word(account.tenant), self.word(account.account), self.word(user))
            if None in words:
                return None
            row = self.database.execute(
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
            found = self.database.execute(
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
            (found,) = self.database.execute(
                "SELECT id FROM plan_version WHERE plan = ? AND version = ?", (plan, version)
            ).fetchone()
            self._plan_ids[(plan, version)] = cast(int, found)
        return cast(int, found)

    def price_made(self, price: UnitPrice) -> int:
        """The number of a price; each is kept once."""
        found = self._price_ids.get(price)
        if found is None:
            values = price_values(price)
            same = " AND ".join(f"{name} IS ?" for name in PRICE_COLUMNS)
            row = self.database.execute(f"SELECT id FROM price WHERE {same}", values).fetchone()
            if row is None:
                places = ", ".join("?" * len(values))
                statement = f"INSERT INTO price ({', '.join(PRICE_COLUMNS)}) VALUES ({places})"
                row = (self.database.execute(statement, values).lastrowid,)
            found = self._price_ids[price] = cast(int, row[0])
        return found

    def price(self, number: int | None) -> UnitPrice | None:
        """The price of a number; None of none."""
        if number is None:
            return None
        found = self._prices.get(number)
        if found is None:
            row = self.one(f"SELECT {', '.join(PRICE_COLUMNS)} FROM price WHERE id = ?", number)
            found = self._prices[number] = price_of_row(row)
        return found

    def dimensions_made(self, dimensions: Dimensions) -> int:
        found = self.known_dimensions.get(dimensions)
        if found is None:
            found = self.known_dimensions[dimensions] = self.word_made(json_text(dimensions))
        return found

    def place_of(self, key: CounterKey) -> Place | None:
        """Where a counter stands; None where it cannot be yet."""
        holder = self.holder((account_of(key), key.user))
        tenant, window, meter = self.word(key.tenant), self.word(key.window_key), self.word(key.meter)
        if holder is None or tenant is None or window is None or meter is None:
            return None
        return tenant, key.start, window, holder, meter

    def place_made(self, key: CounterKey) -> Place:
        return (
            self.word_made(key.tenant),
            key.start,
            self.word_made(key.window_key),
            self.holder_made((account_of(key), key.user)),
            self.word_made(key.meter),
        )

    def holder_number(self, holder: Holder) -> int:
        """Its number, which it bears from now on."""
        holder.place = place = self.holder_made(holder.key)
        return place

    # Whom a question is about

    def holders_of(self, whose: Whose) -> list[int] | None:
        """The holders asked about; None is every holder of the tenant."""
        if whose.account is None or whose.account_kind is None:
            return None
        account = AccountKey(whose.tenant, whose.account_kind, whose.account)
        if whose.user is not None:
            found = self.holder((account, whose.user))
            return [] if found is None else [found]
        rows = self.database.execute(
            "SELECT id FROM holder WHERE tenant = ? AND account_kind = ? AND account = ?",
            (self.word(whose.tenant), KINDS.index(whose.account_kind), self.word(whose.account)),
        )
        return [row[0] for row in rows]

    def holder_names(self, holder: int) -> tuple[str, str]:
        account, user = self.database.execute(
            "SELECT account, user FROM holder WHERE id = ?", (holder,)
        ).fetchone()
        return self.text(account), self.text(user)


def account_of(key: CounterKey) -> AccountKey:
    return AccountKey(key.tenant, cast(AccountKind, key.account_kind), key.account)


def among(holders: list[int] | None, column: str = "holder") -> str:
    """The condition that picks the holders; they are our own integers."""
    return "" if holders is None else f" AND {column} IN ({','.join(map(str, holders))})"
