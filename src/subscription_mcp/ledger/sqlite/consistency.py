"""What rows name is there, holds are those of open reservations, and every answer is found by its key."""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from uuid import UUID

from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.windows import Level, window_of_key
from subscription_mcp.ledger.sqlite.answers import hash_of_key
from subscription_mcp.ledger.sqlite.rows import KINDS
from subscription_mcp.ledger.sqlite.transfer import TABLES

REMEMBERED_MAX = 50_000


class Holder(NamedTuple):
    tenant: int
    account_kind: AccountKind
    account: str
    user: str
    whole: int | None
    """The holder of its group as a whole."""


class Names:
    """Texts and holders of a ledger, remembered for a while."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._texts: dict[int, str] = {}
        self._words: dict[str, int] = {}
        self._holders: dict[int, Holder] = {}

    def text(self, word: int) -> str:
        found = self._texts.get(word)
        if found is None:
            make_room(self._texts)
            (found,) = self._db.execute("SELECT text FROM word WHERE id = ?", (word,)).fetchone()
            self._texts[word] = cast(str, found)
        return cast(str, found)

    def word(self, text: str) -> int:
        """Its number; one that no row can have where nobody ever stored it."""
        found = self._words.get(text)
        if found is None:
            make_room(self._words)
            row = self._db.execute("SELECT id FROM word WHERE text = ?", (text,)).fetchone()
            if row is None:
                return -1
            found = self._words[text] = cast(int, row[0])
        return found

    def holder(self, number: int) -> Holder:
        found = self._holders.get(number)
        if found is None:
            make_room(self._holders)
            tenant, kind, account, user = self._db.execute(
                "SELECT tenant, account_kind, account, user FROM holder WHERE id = ?", (number,)
            ).fetchone()
            whole = self._db.execute(
                "SELECT h.id FROM holder h JOIN word w ON w.id = h.user AND w.text = ''"
                " WHERE h.tenant = ? AND h.account_kind = ? AND h.account = ?",
                (tenant, kind, account),
            ).fetchone()
            found = self._holders[number] = Holder(
                tenant,
                KINDS[kind],
                self.text(account),
                self.text(user),
                whole[0] if whole is not None and kind else None,
            )
        return found

    def whose(self, number: int) -> str:
        """A holder in words."""
        holder = self.holder(number)
        who = holder.user or "everybody"
        where = "" if holder.account_kind == "personal" else f" in group {holder.account}"
        return f"{who}{where} of tenant {self.text(holder.tenant)}"


def make_room(remembered: dict[Any, Any]) -> None:
    if len(remembered) >= REMEMBERED_MAX:
        remembered.clear()


def dangling(connection: sqlite3.Connection) -> Iterator[str]:
    """Rows that name what is not there."""
    targets = {"word": "word", "holder": "holder", "plan": "plan_version", "price": "price"}
    none = {"plan": "<> 0", "price": "IS NOT NULL"}
    for table in TABLES.values():
        for column, kind in table.kinds.items():
            target = targets.get(kind)
            if target is None:
                continue
            optional = f"t.{column} {none[kind]} AND " if kind in none else ""
            (count,) = connection.execute(
                f"SELECT count(*) FROM {table.name} t WHERE {optional}"
                f"NOT EXISTS (SELECT 1 FROM {target} o WHERE o.id = t.{column})"
            ).fetchone()
            if count:
                yield f"{count:,} rows of {table.name} name a {column} that is not there."
    for table_name, column in (("holder", "tenant"), ("holder", "account"), ("holder", "user")):
        (count,) = connection.execute(
            f"SELECT count(*) FROM {table_name} t WHERE NOT EXISTS (SELECT 1 FROM word w WHERE w.id = t.{column})"
        ).fetchone()
        if count:
            yield f"{count:,} holders name a {column} that is not there."
    for (window,) in connection.execute(
        "SELECT text FROM word WHERE id IN (SELECT window FROM counter UNION SELECT window FROM rolling"
        " UNION SELECT window FROM rate_cleared UNION SELECT window FROM alert_mark)"
    ):
        try:
            window_of_key(window)
        except ValueError:
            yield f"There are counters of a window {window}, which this version does not know."
    for plan, version in connection.execute(
        "SELECT plan, version FROM plan_current UNION SELECT plan, version FROM subscription"
        " UNION SELECT next_plan, next_version FROM subscription WHERE next_plan IS NOT NULL"
        " UNION SELECT plan, version FROM subscription_history"
        " UNION SELECT next_plan, next_version FROM subscription_history WHERE next_plan IS NOT NULL"
        " EXCEPT SELECT plan, version FROM plan_version"
    ):
        yield f"Version {version} of plan {plan} is or was held, or is on offer, and is not there."


def holds(connection: sqlite3.Connection, names: Names, now: Instant) -> Iterator[str]:
    """How the holds differ from what the open reservations say they hold."""
    for (
        id_,
        quantity,
        expires_at,
        start,
        window,
        holder,
        meter,
        settled,
        held,
        held_until,
    ) in connection.execute(
        "SELECT h.reservation, h.quantity, h.expires_at, h.start, h.window, h.holder, h.meter, r.answer IS NOT NULL,"
        " r.held, r.expires_at FROM hold h LEFT JOIN reservation r ON r.tenant = h.tenant AND r.id = h.reservation"
    ):
        one = f"The hold of reservation {UUID(bytes=id_)} on {names.text(meter)} of {names.whose(holder)}"
        place = [start, names.text(window), names.holder(holder).user, names.text(meter), quantity]
        if held is None:
            yield f"{one} belongs to no reservation."
        elif settled:
            yield f"{one} is still there, and the reservation was settled."
        elif place not in json.loads(held) or expires_at != held_until:
            yield f"{one} is not what was reserved."
    for id_, held, count in connection.execute(
        "SELECT r.id, r.held, coalesce(c.holds, 0) FROM reservation r LEFT JOIN"
        " (SELECT tenant, reservation, count(*) AS holds FROM hold GROUP BY tenant, reservation) c"
        " ON c.tenant = r.tenant AND c.reservation = r.id WHERE r.answer IS NULL AND r.expires_at > ?",
        (now,),
    ):
        wanted = sum(1 for *_, quantity in json.loads(held) if quantity)
        if count != wanted:
            yield f"Reservation {UUID(bytes=id_)} is open and has {count} of its {wanted} holds."


def alerts(connection: sqlite3.Connection, names: Names) -> Iterator[str]:
    """Alerts whose threshold was not reached, by what they say themselves and by what was counted. What is in no counter
    proves nothing: it was pruned, or it is a rolling window or a level, which have fallen since."""
    for threshold, meter, holder, used, maximum in connection.execute(
        "SELECT threshold, meter, holder, used, maximum FROM alert WHERE threshold IS NOT NULL"
        " AND (used < 1 OR used * 100 < threshold * maximum) ORDER BY seq"
    ):
        yield (
            f"An alert of {names.whose(holder)} says {threshold} % of {maximum:,} {names.text(meter)} are reached by "
            f"{used:,}."
        )
    lowered: dict[int, bool] = {}
    for threshold, meter, holder, used, counted in connection.execute(
        "SELECT a.threshold, a.meter, a.holder, a.used, c.used FROM alert a JOIN counter c ON c.tenant = a.tenant"
        " AND c.start = a.start AND c.window = a.window AND c.holder = a.holder AND c.meter = a.meter"
        " JOIN word w ON w.id = a.window WHERE c.used < a.used AND w.text <> ? ORDER BY a.seq",
        (Level.name,),
    ).fetchall():
        if meter not in lowered:  # it looks at every event: once for each meter
            lowered[meter] = _was_lowered(connection, names.text(meter))
        if not lowered[meter]:
            yield (
                f"An alert of {names.whose(holder)} at {threshold} % says {used:,} {names.text(meter)} were used, and only "
                f"{counted:,} were counted."
            )


def _was_lowered(connection: sqlite3.Connection, meter: str) -> bool:
    """Whether something of a meter was ever taken back."""
    (found,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM event, json_each(event.gains) g WHERE g.key = ? AND g.value < 0)",
        (meter,),
    ).fetchone()
    return bool(found)


def sizes(connection: sqlite3.Connection, names: Names) -> Iterator[str]:
    """How what is kept of each tenant's size differs from the rows: users may have been more, never fewer."""
    for (tenant,) in connection.execute(
        "SELECT DISTINCT tenant FROM rollup r WHERE NOT EXISTS"
        " (SELECT 1 FROM dimension d WHERE d.tenant = r.tenant AND d.dimensions = r.dimensions)"
    ):
        yield f"Usage of tenant {names.text(tenant)} is grouped by what is not among its dimensions."
    for tenant, users, dimensions, users_kept, dimensions_kept in connection.execute(
        "WITH known AS (SELECT tenant, 1 AS user, 0 AS dimension FROM subscription WHERE account_kind = 0"
        " UNION ALL SELECT tenant, 1, 0 FROM member UNION ALL SELECT tenant, 0, 1 FROM dimension"
        " UNION ALL SELECT tenant, 0, 0 FROM tenant_size)"
        " SELECT k.tenant, sum(k.user), sum(k.dimension), s.users, s.dimensions FROM known k"
        " LEFT JOIN tenant_size s ON s.tenant = k.tenant GROUP BY k.tenant"
    ):
        of_tenant = f"Tenant {names.text(tenant)} has {users:,} users and {dimensions:,} groups of usage"
        if users_kept is None:
            yield f"{of_tenant}, and its size is missing."
        elif users_kept < users or dimensions_kept != dimensions:
            yield f"{of_tenant}; its size says {users_kept:,} and {dimensions_kept:,}."


def answers(connection: sqlite3.Connection) -> Iterator[str]:
    """How the index of the idempotency keys differs from the answers."""
    (answers,) = connection.execute("SELECT count(*) FROM answer").fetchone()
    indexed, distinct = connection.execute("SELECT count(*), count(DISTINCT seq) FROM key_index").fetchone()
    if not answers == indexed == distinct:
        yield f"There are {answers:,} answers, and {indexed:,} idempotency keys name {distinct:,} of them."
    for place, tenant, source, key in connection.execute(
        "SELECT k.hash, t.text, s.text, a.key FROM key_index k LEFT JOIN answer a ON a.seq = k.seq"
        " LEFT JOIN word t ON t.id = a.tenant LEFT JOIN word s ON s.id = a.source"
    ):
        if key is None:
            yield "An idempotency key names an answer that is not there."
            continue
        home = hash_of_key((tenant, source, key))
        # One of another key's hash stands behind it, without a gap.
        between = range(home, place) if place - home < REMEMBERED_MAX else range(1)
        if place < home or not all(
            connection.execute("SELECT 1 FROM key_index WHERE hash = ?", (one,)).fetchone() for one in between
        ):
            yield f"The idempotency key {key} of {source} in tenant {tenant} is not where it is looked for."
