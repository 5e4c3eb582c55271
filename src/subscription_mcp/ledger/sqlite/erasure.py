"""A user's id taken out of a SQLite ledger, an alias in its place: within the write transaction of the command.

Holders are pointed to the alias, so that events, counters and rollups stay as they are. Texts that name the user are
rewritten, and what only served the user is deleted. Rows of other tenants are left alone: the same id is somebody else
there.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any
from uuid import UUID

from subscription_mcp.domain.catalog import DIMENSIONS
from subscription_mcp.domain.erasure import Redaction, hashed_name
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.pricing import PRICED_BY
from subscription_mcp.domain.usage import has_failed
from subscription_mcp.ledger.commands import UserErased
from subscription_mcp.ledger.sqlite.answers import hash_of_key
from subscription_mcp.ledger.sqlite.events import EVENTS_PER_BLOCK_BITS
from subscription_mcp.ledger.sqlite.prune import free_place
from subscription_mcp.ledger.sqlite.store import Store
from subscription_mcp.ledger.sqlite.transfer import TABLES
from subscription_mcp.ledger.sqlite.wide import filling
from subscription_mcp.ledger.transfer import encode

CATALOG_WORDS = frozenset({"tenant", "event", "meter", "window", "dimensions", "code"})
"""Columns of surrogates that never name a user."""
CATALOG_TABLES = (
    "plan_version",
    "plan_current",
    "plan_archived",
    "ledger_catalog",
    "ledger_meter",
    "ledger_info",
    "price",
)
CATALOG_TEXTS = {
    **dict.fromkeys(CATALOG_TABLES),
    "subscription": {
        "plan",
        "origin",
        "interval",
        "scheduled_reason",
        "next_plan",
        "next_interval",
        "ended_as",
    },
    "subscription_history": {
        "action",
        "plan",
        "origin",
        "interval",
        "ended_as",
        "scheduled_reason",
        "next_plan",
        "next_interval",
        "charge",
    },
    "invoice": {"number", "currency", "lines"},
    "payment": {"number", "provider", "reference"},
    "trial": {"kind", "plan"},
    "member": {"role"},
    "session": {"plan"},
    "limit_override": {"scope"},
    "event": {"gains", "grants"},
    "allowance_grant": {"window", "scope"},
    "rolling": {"cells"},
    "audit": {"action", "actor_role"},
    "answer": {"answer", "key"},  # keys of others', which are theirs to make
    "offer": {"terms"},
    "reservation": {"answer", "estimated"},
    "word": {"text"},  # counted by where they are used
    "revocation": {"tenant"},
    "alert": {"scope", "severity", "message", "recommendation", "suggested_plan"},
    "alert_mark": {"scope", "subject"},
    "alert_setting": {"thresholds"},
    "delivery": {"event", "state", "lease", "last_error"},
}
"""Columns of texts that hold words of the catalog and of ours only; None is all of a table. A user may be called like
one of them. What is not here is looked through, also a column of later."""
SPARED_KEYS = frozenset(
    {
        "plan",
        "next_plan",
        "interval",
        "next_interval",
        "origin",
        "status",
        "scheduled",
        "meter",
        "window",
        "scope",
        "event",
        "event_id",
        "corrects",
        "grant_id",
        "starts_at",
        "source",
        "limit",
        "role",
        "billing_anchor",
        "billing_nudge",
        "next_plan_at",
        "trial_ends_at",
        "prepaid_until",
        "ended_at",
        "past_due_since",
        "suspended_at",
        "expires_at",
        "issued_before",
        "tenant_id",
    }
)
"""Under these an audit entry says words of the catalog, instants and tenants."""
SPARED_IN_MESSAGES = SPARED_KEYS | {
    *("type", "timestamp", "alert_id", "action", "severity", "message", "recommendation", "suggested_plan"),
    "account_kind",
}
"""Under these a message to the webhook does."""
SPARED_ATTRIBUTES = frozenset(DIMENSIONS)
"""What all usage is told apart by."""


def _spared_in(attributes: Mapping[str, Any]) -> frozenset[str]:
    """What stays of the attributes of others, whoever is called like it. That something succeeded is said in our words,
    and counted by them; whatever else a status says, it failed, also under the alias."""
    status = attributes.get("status")
    return SPARED_ATTRIBUTES if status is None or has_failed(status) else SPARED_ATTRIBUTES | {"status"}


class Erasure:
    """One user's erasure: `rename` before anything of the command is saved, `look_again` after."""

    def __init__(
        self, connection: sqlite3.Connection, store: Store, erased: UserErased, now: Instant
    ) -> None:
        self._db = connection
        self._store = store
        self._erased = erased
        self._now = now
        self._user = erased.user
        self._theirs = Redaction(erased.user, erased.alias, theirs=True)
        self._others = Redaction(erased.user, erased.alias, theirs=False)
        tenant = store.tables.word(erased.tenant)
        assert tenant is not None  # the user was found in it
        self._tenant = tenant

    def rename(self) -> None:
        """Take the id out of every row."""
        if self._word is not None:
            self._drop_answers()
            self._drop_reservations()
            self._close_sessions()
            self._strip_events()
            self._rename_dimensions()
            self._leave_groups()
            for tenant in self._tenants:
                self._rename_holders(tenant)
        self._drop_offers()
        self._rename_others_texts()
        for tenant in self._tenants:
            self._rename_audit(tenant)
        self._rename_messages()
        self._hash_revocations()
        self._db.execute("UPDATE ledger_info SET value = value + 1 WHERE name = 'erasures'")
        self._store.forget()

    def look_again(self) -> None:
        """Delete the words nothing uses any more, then look for the id in every column of texts there is."""
        for word in self._words_left:
            if not any(self._uses(word, spared=frozenset())):
                self._db.execute("DELETE FROM word WHERE id = ?", (word,))
        self._store.forget()
        self._run(
            "UPDATE tenant_size SET dimensions = (SELECT count(*) FROM dimension WHERE tenant = :tenant)"
            " WHERE tenant = :tenant"
        )
        self._erased.remaining = sum(self._found())
        self._erased.is_group_too = self._is_group

    # Who it is

    @cached_property
    def _word(self) -> int | None:
        return self._store.tables.word(self._user)

    @cached_property
    def _alias(self) -> int:
        return self._store.tables.word_made(self._erased.alias)

    @cached_property
    def _is_elsewhere(self) -> bool:
        """Whether another tenant has a user of this id."""
        return self._exists(
            "SELECT 1 FROM holder WHERE tenant NOT IN (:tenant, :nobody)"
            " AND (user = :word OR (account_kind = 0 AND account = :word))"
            " UNION ALL SELECT 1 FROM subscription WHERE tenant <> :tenant AND account_kind = 0 AND account = :word"
            " UNION ALL SELECT 1 FROM member WHERE tenant <> :tenant AND user = :word"
        )

    @cached_property
    def _is_group(self) -> bool:
        """Whether the tenant has a group of this id: it is another account."""
        return self._exists(
            "SELECT 1 FROM holder WHERE tenant = :tenant AND account_kind = 1 AND account = :word"
            " UNION ALL SELECT 1 FROM subscription WHERE tenant = :tenant AND account_kind = 1 AND account = :word"
            " UNION ALL SELECT 1 FROM member WHERE tenant = :tenant AND account = :word"
        )

    @cached_property
    def _tenants(self) -> list[int]:
        """The user's, and what is said of no tenant in particular, where that can mean nobody else."""
        nobody = self._store.tables.word("")
        return [self._tenant, *([nobody] if nobody is not None and not self._is_elsewhere else [])]

    @cached_property
    def _holders(self) -> list[int]:
        """Whose events are the user's."""
        return self._column("SELECT id FROM holder WHERE tenant = ? AND user = ?", self._tenant, self._word)

    @cached_property
    def _among(self) -> str:
        return _among(self._holders)

    @cached_property
    def _about(self) -> frozenset[int]:
        """Whom audit entries that are about the user name, once these are the alias's."""
        alias = self._store.tables.word(self._erased.alias)
        found = self._column(
            "SELECT id FROM holder WHERE user = ? OR (account_kind = 0 AND account = ?)", alias, alias
        )
        return frozenset(found)

    # What is theirs

    def _drop_answers(self) -> None:
        """Answers to them as source, and those about events, reservations and sessions of theirs: a key that comes
        again after this is new. Other answers stay, whatever their keys look like: they keep retries from counting."""
        theirs = {str(UUID(bytes=id_)) for id_ in self._ids_of_theirs()}
        rows = self._db.execute(
            "SELECT seq, source, key, answer ->> 0, answer ->> 1 FROM answer WHERE tenant = ?",
            (self._tenant,),
        )
        over = [
            (seq, source, key)
            for seq, source, key, *ids in rows
            if source == self._word or not theirs.isdisjoint(ids)
        ]
        for seq, source, key in over:
            free_place(
                self._db, hash_of_key((self._erased.tenant, self._store.tables.text(source), key)), seq
            )
            self._db.execute("DELETE FROM answer WHERE seq = ?", (seq,))
        self._count("answers", len(over))

    def _ids_of_theirs(self) -> Iterator[bytes]:
        """What an answer may be about."""
        yield from (id_ for _, id_, _ in self._events())
        for table in ("reservation", "session"):
            yield from self._column(
                f"SELECT id FROM {table} WHERE tenant = ? AND holder {self._among}", self._tenant
            )

    def _drop_reservations(self) -> None:
        """They hold nothing for anybody any more."""
        mine = f"SELECT id FROM reservation WHERE tenant = :tenant AND holder {self._among}"
        self._run(f"DELETE FROM hold WHERE tenant = :tenant AND reservation IN ({mine})")
        self._count(
            "reservations",
            self._run(f"DELETE FROM reservation WHERE tenant = :tenant AND holder {self._among}"),
        )

    def _close_sessions(self) -> None:
        self._run(
            f"UPDATE session SET closed_at = :now WHERE tenant = :tenant AND holder {self._among}"
            " AND closed_at IS NULL AND expires_at > :now"
        )
        (sessions,) = self._column(
            f"SELECT count(*) FROM session WHERE tenant = ? AND holder {self._among}", self._tenant
        )
        self._count("sessions", sessions)

    def _events(self) -> Iterator[tuple[int, bytes, str | None]]:
        """Their events, block by block as they are indexed."""
        (last,) = self._column("SELECT coalesce(max(seq), 0) FROM event")
        for block in range((last >> EVENTS_PER_BLOCK_BITS) + 1):
            yield from self._db.execute(
                f"SELECT seq, id, attributes FROM event WHERE seq >> {EVENTS_PER_BLOCK_BITS} = ?"
                f" AND holder {self._among}",
                (block,),
            ).fetchall()

    def _strip_events(self) -> None:
        """Of their attributes what all usage is told apart by stays, rollups are made of it; and how many tokens there were,
        what something cost follows from them."""
        events, kept = 0, []
        for seq, _, attributes in self._events():
            events += 1
            if attributes is not None:
                kept.append((self._stripped(attributes), seq))
        self._db.executemany("UPDATE event SET attributes = ? WHERE seq = ?", kept)
        self._count("events", events)

    def _stripped(self, attributes: str) -> str | None:
        given = json.loads(attributes)
        kept = {name: self._theirs.document(given[name]) for name in DIMENSIONS if name in given}
        kept |= {name: given[name] for name in PRICED_BY if isinstance(given.get(name), int)}
        return encode(kept) if kept else None

    def _rename_dimensions(self) -> None:
        """Where their usage is told apart by a text that names them, so are the rollups."""
        named = self._db.execute(
            "SELECT w.id, w.text FROM dimension d JOIN word w ON w.id = d.dimensions"
            " WHERE d.tenant = ? AND instr(w.text, ?)",
            (self._tenant, self._user),
        ).fetchall()
        for old, text in named:
            event, plan, *told_apart = json.loads(text)
            renamed = self._theirs.document(told_apart)
            if renamed == told_apart:
                continue
            new = self._store.tables.word_made(encode([event, plan, *renamed]))
            values = {"old": old, "new": new}
            if self._run(
                f"UPDATE rollup SET dimensions = :new WHERE tenant = :tenant AND dimensions = :old AND holder {self._among}",
                **values,
            ):
                self._run("INSERT INTO dimension (tenant, dimensions) VALUES (:tenant, :new)", **values)
                self._run(
                    "DELETE FROM rollup_wide WHERE tenant = :tenant AND dimensions IN (:old, :new)", **values
                )
                for statement in filling("tenant = :tenant AND dimensions IN (:old, :new)"):
                    self._run(statement, **values)
            self._run(
                "DELETE FROM dimension WHERE tenant = :tenant AND dimensions = :old AND NOT EXISTS"
                " (SELECT 1 FROM rollup WHERE tenant = :tenant AND dimensions = :old)",
                **values,
            )
            self._words_left.add(old)

    def _leave_groups(self) -> None:
        self._count("memberships", self._run("DELETE FROM member WHERE tenant = :tenant AND user = :word"))
        # Old tokens that name a group must not bring a namesake into it.
        if self._exists("SELECT 1 FROM member_removed WHERE tenant = :tenant AND user = :word"):
            hashed = self._store.tables.word_made(hashed_name(self._user))
            self._run(
                "UPDATE OR REPLACE member_removed SET user = :hashed WHERE tenant = :tenant AND user = :word",
                hashed=hashed,
            )

    def _rename_holders(self, tenant: int) -> None:
        """Also the rows that name them as a source, or as an account."""
        values = {"whose": tenant, "alias": self._alias}
        for table in ("event", "session", "reservation"):
            self._run(
                f"UPDATE {table} SET source = :alias WHERE tenant = :whose AND source = :word", **values
            )
        self._run("UPDATE holder SET user = :alias WHERE tenant = :whose AND user = :word", **values)
        for table in ("holder", "subscription", "subscription_history", "invoice", "payment", "billing_due"):
            self._run(
                f"UPDATE {table} SET account = :alias WHERE tenant = :whose AND account_kind = 0 AND account = :word",
                **values,
            )

    # What names them

    def _drop_offers(self) -> None:
        self._count("offers", self._run("DELETE FROM offer WHERE tenant = :tenant AND actor = :user"))

    def _rename_others_texts(self) -> None:
        """Attributes of what others did, where they name the user."""
        for table, key in (("event", "seq"), ("reservation", "id")):
            rows = self._db.execute(
                f"SELECT {key}, attributes FROM {table} WHERE tenant = ? AND instr(attributes, ?)",
                (self._tenant, self._user),
            ).fetchall()
            for id_, attributes in rows:
                given = json.loads(attributes)
                renamed = encode(self._others.document(given, _spared_in(given)))
                self._db.execute(
                    f"UPDATE {table} SET attributes = ? WHERE tenant = ? AND {key} = ?",
                    (renamed, self._tenant, id_),
                )

    def _rename_audit(self, tenant: int) -> None:
        rows = self._db.execute(
            "SELECT seq, holder, actor, reason, before, after FROM audit WHERE tenant = :tenant AND (instr(actor, :user)"
            " OR instr(reason, :user) OR instr(before, :user) OR instr(after, :user))",
            {"tenant": tenant, "user": self._user},
        ).fetchall()
        renamed = 0
        for seq, holder, *texts in rows:
            actor, reason, before, after = texts
            redaction = self._theirs if actor == self._user or holder in self._about else self._others
            changed = [
                self._erased.alias if actor == self._user else actor,
                None if reason is None else redaction.sentence(reason),
                self._renamed_entry(before, redaction),
                self._renamed_entry(after, redaction),
            ]
            if changed != texts:
                renamed += 1
                self._db.execute(
                    "UPDATE audit SET actor = ?, reason = ?, before = ?, after = ? WHERE seq = ?",
                    (*changed, seq),
                )
        self._count("audit_entries", renamed)

    def _rename_messages(self) -> None:
        """What waits for the webhook, or was sent and is remembered."""
        rows = self._db.execute(
            "SELECT seq, payload FROM delivery WHERE tenant = :tenant AND instr(payload, :user)",
            {"tenant": self._tenant, "user": self._user},
        ).fetchall()
        for seq, payload in rows:
            renamed = encode(self._others.document(json.loads(payload), self._spared_in_messages))
            self._db.execute("UPDATE delivery SET payload = ? WHERE seq = ?", (renamed, seq))
        self._count("messages", len(rows))
        # A trouble of the service names what it is about as it was reported: a model, say.
        for seq, message in self._db.execute(
            "SELECT seq, message FROM alert WHERE tenant = :tenant AND threshold IS NULL AND instr(message, :user)",
            {"tenant": self._tenant, "user": self._user},
        ).fetchall():
            self._db.execute(
                "UPDATE alert SET message = ? WHERE seq = ?", (self._others.sentence(message), seq)
            )
        self._run(
            "UPDATE OR REPLACE alert_mark SET subject = :alias WHERE tenant = :tenant AND subject = :user",
            alias=self._erased.alias,
        )

    def _renamed_entry(self, text: str | None, redaction: Redaction) -> str | None:
        if text is None or self._user not in text:
            return text
        entry: dict[str, Any] = json.loads(text)
        token_id = entry.get("token_id")
        if token_id is not None and redaction.is_part_of(token_id):
            entry["token_id"] = hashed_name(token_id)
        return encode(redaction.document(entry, self._spared))

    @property
    def _spared(self) -> frozenset[str]:
        """An entry that says `account_id` may mean the group of the same id."""
        return SPARED_KEYS | {"account_id"} if self._is_group else SPARED_KEYS

    @property
    def _spared_in_messages(self) -> frozenset[str]:
        return SPARED_IN_MESSAGES | {"account_id"} if self._is_group else SPARED_IN_MESSAGES

    def _hash_revocations(self) -> None:
        """They go on to hold for tokens of this id, which need not stand there for that."""
        hashed = {"hashed": hashed_name(self._user), "named": self._erased.tenant}
        renamed = self._run(
            "UPDATE revocation SET subject = :hashed WHERE subject = :user AND (tenant = :named"
            + (")" if self._is_elsewhere else " OR tenant IS NULL)"),
            **hashed,
        )
        for seq, token_id in self._db.execute(
            "SELECT seq, token_id FROM revocation WHERE instr(token_id, ?)", (self._user,)
        ).fetchall():
            if self._others.is_part_of(token_id):
                renamed += self._run(
                    "UPDATE revocation SET token_id = :hashed WHERE seq = :seq",
                    hashed=hashed_name(token_id),
                    seq=seq,
                )
        self._count("revocations", renamed)

    # What is left

    @cached_property
    def _words_left(self) -> set[int]:
        """Words that may be in use no longer."""
        return set() if self._word is None else {self._word}

    def _uses(self, word: int, *, spared: frozenset[str], tenant: int | None = None) -> Iterator[int]:
        """In how many rows a word stands, column by column; of one tenant where it is given."""
        columns = [
            (table.name, column)
            for table in TABLES.values()
            for column, kind in table.kinds.items()
            if kind == "word" and column not in spared
        ]
        columns += [("holder", column) for column in ("tenant", "account", "user") if column not in spared]
        for table_name, column in columns:
            where = f"{column} = :id" if tenant is None else f"tenant = :whose AND {column} = :id"
            (count,) = self._db.execute(
                f"SELECT count(*) FROM {table_name} WHERE {where}", {"id": word, "whose": tenant}
            ).fetchone()
            yield count

    def _found(self) -> Iterator[int]:
        """In how many places the id still stands, table by table."""
        word = self._store.tables.word(self._user)
        tables = self._column("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for tenant in self._tenants:
            if word is not None:
                yield from self._uses(word, spared=CATALOG_WORDS, tenant=tenant)
            for table in tables:
                for column in self._texts_of(table):
                    yield self._found_in(table, column, tenant)

    def _texts_of(self, table: str) -> list[str]:
        """The columns of a table that may hold a text of anybody's."""
        spared: Iterable[str] | None = CATALOG_TEXTS.get(table, frozenset())
        if spared is None:
            return []
        names = self._column("SELECT name FROM pragma_table_info(?) WHERE type = 'TEXT'", table)
        return [name for name in names if name not in spared]

    def _found_in(self, table: str, column: str, tenant: int) -> int:
        whose: object = tenant
        match self._column("SELECT type FROM pragma_table_info(?) WHERE name = 'tenant'", table):
            case []:
                of_tenant = f":whose = {self._tenant}"
            case ["TEXT"]:
                of_tenant, whose = "coalesce(tenant, '') = :whose", self._store.tables.text(tenant)
            case _:
                of_tenant = "tenant = :whose"
        # The entries they made are the alias's by now.
        theirs = f"actor = :alias OR holder {_among(self._about)}" if table == "audit" else "0"
        rows = self._db.execute(
            f"SELECT {column}, {theirs} FROM {table} WHERE {of_tenant} AND instr({column}, :user)",
            {"whose": whose, "user": self._user, "alias": self._erased.alias},
        )
        return sum(
            self._names(table, column, text, self._theirs if is_theirs else self._others)
            for text, is_theirs in rows
        )

    def _names(self, table: str, column: str, text: str, redaction: Redaction) -> bool:
        match table, column:
            case "audit", "before" | "after":
                return redaction.is_in(json.loads(text), SPARED_KEYS)
            case "delivery", "payload":
                return redaction.is_in(json.loads(text), SPARED_IN_MESSAGES)
            case _, "attributes":
                return redaction.is_in(given := json.loads(text), _spared_in(given))
            case _, "token_id":
                return redaction.is_part_of(text)
            case "reservation", "held":
                return any(user == self._user for _, _, user, _, _ in json.loads(text))
            case _, "actor" | "subject":
                return text == self._user
        return redaction.sentence(text) != text

    # Statements

    def _run(self, statement: str, **values: object) -> int:
        """How many rows it changed."""
        given = {"tenant": self._tenant, "word": self._word, "user": self._user, "now": self._now, **values}
        return self._db.execute(statement, given).rowcount

    def _exists(self, statement: str) -> bool:
        given = {"tenant": self._tenant, "word": self._word, "nobody": self._store.tables.word("") or 0}
        return bool(self._db.execute(f"SELECT EXISTS ({statement})", given).fetchone()[0])

    def _column(self, statement: str, *values: object) -> list[Any]:
        return [value for (value,) in self._db.execute(statement, values)]

    def _count(self, what: str, rows: int) -> None:
        self._erased.counts[what] = self._erased.counts.get(what, 0) + rows


def _among(ids: Iterable[int]) -> str:
    """Of rows that are named by integers of our own."""
    return f"IN ({','.join(map(str, ids))})"
