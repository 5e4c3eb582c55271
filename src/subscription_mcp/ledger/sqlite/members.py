"""Who is in which group, as SQL."""

from subscription_mcp.domain.erasure import hashed_name
from subscription_mcp.domain.instants import Instant
from subscription_mcp.domain.subscriptions import Membership
from subscription_mcp.ledger.machine.facts import Changes, GroupSize
from subscription_mcp.ledger.queries import MemberPage, MemberRow
from subscription_mcp.ledger.sqlite.tables import Tables

USERS = "SELECT count(*) FROM member INDEXED BY member_by_account WHERE tenant = ? AND account = ?"
ADMINS = (
    "SELECT count(*) FROM member INDEXED BY member_admin WHERE tenant = ? AND account = ? AND role = 'admin'"
)
MEMBERS = (
    "SELECT user, role, joined_at FROM member INDEXED BY member_by_account"
    " WHERE tenant = ? AND account = ? AND user > ? ORDER BY user"
)


# Facts


def read_membership(tables: Tables, key: tuple[str, str]) -> Membership | None:
    tenant, user = tables.word(key[0]), tables.word(key[1])
    row = tables.one(
        "SELECT account, role, joined_at FROM member WHERE tenant = ? AND user = ?", tenant, user
    )
    return None if row is None else Membership(tables.text(row[0]), *row[1:])


def read_removed(tables: Tables, key: tuple[str, str, str]) -> Instant | None:
    tenant, user, account = key
    row = tables.one(  # of who was erased since only a hash is kept
        "SELECT max(tokens_before) FROM member_removed WHERE tenant = ? AND account = ? AND user IN (?, ?)",
        tables.word(tenant),
        tables.word(account),
        tables.word(user),
        tables.word(hashed_name(user)),
    )
    found: Instant | None = row[0]
    return found


def read_group_size(tables: Tables, key: tuple[str, str]) -> GroupSize:
    tenant, account = tables.word(key[0]), tables.word(key[1])
    (users,), (admins,) = tables.one(USERS, tenant, account), tables.one(ADMINS, tenant, account)
    return GroupSize(users, admins)


def read_is_named(tables: Tables, key: tuple[str, str]) -> bool:
    tenant, user = tables.word(key[0]), tables.word(key[1])
    row = tables.one(
        "SELECT EXISTS (SELECT 1 FROM holder WHERE tenant = ?1 AND user = ?2"
        " UNION ALL SELECT 1 FROM subscription WHERE tenant = ?1 AND account_kind = 0 AND account = ?2"
        " UNION ALL SELECT 1 FROM member WHERE tenant = ?1 AND user = ?2"
        " UNION ALL SELECT 1 FROM audit WHERE tenant = ?1 AND actor = ?3)",
        tenant,
        user,
        key[1],
    )
    return bool(row[0])


# Changes


def save_members(tables: Tables, changes: Changes) -> None:
    tables.many(
        "DELETE FROM member WHERE tenant = ? AND user = ?",
        [(tables.word(t), tables.word(u)) for (t, u), one in changes.members.items() if one is None],
    )
    tables.many(
        "INSERT OR REPLACE INTO member (tenant, user, account, role, joined_at) VALUES (?, ?, ?, ?, ?)",
        [
            (tables.word_made(t), tables.word_made(u), tables.word_made(one.account), one.role, one.joined_at)
            for (t, u), one in changes.members.items()
            if one is not None
        ],
    )
    tables.many(
        "DELETE FROM member_removed WHERE tenant = ? AND user = ? AND account = ?",
        [[tables.word(text) for text in key] for key, at in changes.removed.items() if at is None],
    )
    tables.many(
        "INSERT OR REPLACE INTO member_removed (tenant, user, account, tokens_before) VALUES (?, ?, ?, ?)",
        [
            (*(tables.word_made(text) for text in key), at)
            for key, at in changes.removed.items()
            if at is not None
        ],
    )


# Questions


def member_page(tables: Tables, question: MemberPage) -> tuple[list[MemberRow], bool]:
    """In the order in which their names came into the ledger: as the index has them."""
    rows = tables.database.execute(
        f"{MEMBERS} LIMIT ?",
        (tables.word(question.tenant), tables.word(question.account), question.after, question.size + 1),
    ).fetchall()
    found = [MemberRow(place, tables.text(place), role, joined_at) for place, role, joined_at in rows]
    return found[: question.size], len(found) > question.size
