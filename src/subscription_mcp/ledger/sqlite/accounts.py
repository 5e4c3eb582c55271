"""What operators ask about the accounts of a tenant, as SQL: pages of them, how many there are, who is near a limit."""

from collections.abc import Iterable
from typing import Any

from subscription_mcp.domain.catalog import UNLIMITED, Limit, Plan
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import DAY
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.domain.windows import BillingPeriod, rolling_length
from subscription_mcp.ledger.machine.facts import NO_ANCHOR
from subscription_mcp.ledger.queries import (
    AccountCount,
    AccountIds,
    AccountPage,
    FullestHolders,
    TenantActivity,
    TenantSummary,
)
from subscription_mcp.ledger.sqlite.plans import load_plans
from subscription_mcp.ledger.sqlite.subscriptions import PLAN_NOW, STATUS_NOW, VERSION_NOW
from subscription_mcp.ledger.sqlite.tables import Tables

WORDS_SEEN_MAX = 10_000
"""How many texts that begin like what somebody types are looked at, of which only some are accounts of the tenant."""
ACCOUNT_IDS = (
    "SELECT w.text FROM (SELECT id, text FROM word WHERE text >= ? AND text < ? || char(0x10FFFF)"
    " ORDER BY text LIMIT ?) w WHERE EXISTS (SELECT 1 FROM subscription s WHERE s.tenant = ?"
    " AND s.account_kind IN (0, 1) AND s.account = w.id) LIMIT ?"
)
_USERS = (
    "CASE s.account_kind WHEN 0 THEN 1 ELSE"
    " (SELECT count(*) FROM member m WHERE m.tenant = s.tenant AND m.account = s.account) END"
)
# Whose subscription has ended, and who is in the group no more, is near to nothing.
_IS_ALIVE = (
    f"{STATUS_NOW} NOT IN ('canceled', 'expired') AND (h.account_kind = 0 OR u.text = '' OR EXISTS"
    " (SELECT 1 FROM member m WHERE m.tenant = h.tenant AND m.account = h.account AND m.user = h.user))"
)
_SUBSCRIBED = (
    " JOIN word u ON u.id = h.user JOIN subscription s ON s.tenant = h.tenant"
    " AND s.account_kind = h.account_kind AND s.account = h.account"
)
KIND_NUMBERS: dict[AccountKind, int] = {"personal": 0, "group": 1}
_KINDS: dict[int, AccountKind] = {number: kind for kind, number in KIND_NUMBERS.items()}


def account_page(
    tables: Tables, question: AccountPage
) -> tuple[list[tuple[tuple[int, int], AccountKey]], bool]:
    """Accounts in the order of their first sight, people before groups, and whether there are more."""
    kind, place = question.after or (-1, 0)
    values: dict[str, Any] = {
        "tenant": tables.word(question.tenant),
        "now": question.now,
        "kind": kind,
        "place": place,
        "size": question.size + 1,
    }
    where = ""
    if question.account_kind is not None:
        where += f" AND s.account_kind = {KIND_NUMBERS[question.account_kind]}"
    if question.plan is not None:
        where += f" AND {PLAN_NOW} = :plan"
        values["plan"] = question.plan
    if question.status is not None:
        where += f" AND {STATUS_NOW} = :status"
        values["status"] = question.status
    for number, part in enumerate(question.parts):
        values[f"part_{number}"] = part.lower()
        where += (
            f" AND (instr(lower(w.text), :part_{number}) OR (s.account_kind = 1 AND EXISTS (SELECT 1 FROM member m"
            " JOIN word u ON u.id = m.user WHERE m.tenant = s.tenant AND m.account = s.account"
            f" AND instr(lower(u.text), :part_{number}))))"
        )
    rows = tables.rows(
        "SELECT s.account_kind, s.account, w.text FROM subscription s CROSS JOIN word w ON w.id = s.account"
        f" WHERE s.tenant = :tenant AND (s.account_kind, s.account) > (:kind, :place){where}"
        " ORDER BY s.account_kind, s.account LIMIT :size",
        values,
    )
    found = [
        ((kind, account), AccountKey(question.tenant, _KINDS[kind], text)) for kind, account, text in rows
    ]
    return found[: question.size], len(found) > question.size


def account_ids(tables: Tables, question: AccountIds) -> list[str]:
    """Ids that begin so."""
    rows = tables.database.execute(
        ACCOUNT_IDS,
        (question.prefix, question.prefix, WORDS_SEEN_MAX, tables.word(question.tenant), question.size),
    )
    return [text for (text,) in rows]


def tenant_summary(tables: Tables, question: TenantSummary) -> list[AccountCount]:
    rows = tables.rows(
        f"SELECT {PLAN_NOW} AS plan_now, {STATUS_NOW} AS status_now, count(*), sum({_USERS}),"
        " sum(s.created_at >= :since) FROM subscription s WHERE s.tenant = :tenant GROUP BY plan_now, status_now",
        {"tenant": tables.word(question.tenant), "now": question.now, "since": question.since},
    )
    return [AccountCount(*row) for row in rows]


def tenant_activity(tables: Tables, question: TenantActivity) -> tuple[int, int, int, int]:
    """Trials started, running and converted, and sessions open. That of a group counts once, not for its founder too."""
    values = {"tenant": tables.word(question.tenant), "now": question.now}
    ((started, running, converted),) = tables.rows(
        "SELECT count(*), coalesce(sum(converted_at IS NULL AND ends_at > :now), 0), count(converted_at) FROM trial"
        " WHERE tenant = :tenant AND kind <> 'founder'",
        values,
    )
    ((sessions,),) = tables.rows(
        "SELECT count(*) FROM session WHERE tenant = :tenant AND closed_at IS NULL AND expires_at > :now",
        values,
    )
    return started, running, converted, sessions


def fullest_holders(tables: Tables, question: FullestHolders) -> list[tuple[AccountKey, str]]:
    """Who may be near a limit of their plan, the fullest first, and all whose limits were set by hand: to be looked
    at one by one, because only that says what counts now."""
    tenant = tables.word(question.tenant)
    values = {"tenant": tenant, "now": question.now}
    held = tables.rows(
        f"SELECT DISTINCT {PLAN_NOW}, {VERSION_NOW} FROM subscription s WHERE s.tenant = :tenant", values
    )
    plans = load_plans(tables.database, {}).plans
    fullest: dict[int, int] = {}
    for version in held:
        for limit in plans[version].limits:
            for holder, permille in _near(tables, question, tenant, plans[version], limit):
                fullest[holder] = max(permille, fullest.get(holder, 0))
    ordered = sorted(fullest, key=lambda holder: -fullest[holder])[: question.size]
    by_hand = tables.rows(
        f"SELECT DISTINCT o.holder FROM limit_override o JOIN holder h ON h.id = o.holder{_SUBSCRIBED}"
        " WHERE o.tenant = :tenant AND o.maximum IS NOT NULL"
        f" AND (o.expires_at IS NULL OR o.expires_at > :now) AND {_IS_ALIVE} LIMIT :size",
        {**values, "size": question.size},
    )
    return _keys_of(tables, question.tenant, dict.fromkeys([*ordered, *(holder for (holder,) in by_hand)]))


def _near(
    tables: Tables, question: FullestHolders, tenant: int | None, plan: Plan, limit: Limit
) -> Iterable[tuple[int, int]]:
    """The holders of a plan that have used so much of one limit, with tenths of a percent."""
    window, maximum = limit.window, limit.maximum
    if maximum is UNLIMITED or maximum == 0:
        return []
    values = {
        "tenant": tenant,
        "now": question.now,
        "window": tables.word(window.key),
        "meter": tables.word(limit.meter),
        "maximum": maximum,
        "permille": question.permille,
        "plan": plan.key,
        "version": plan.version,
        "size": question.size,
    }
    length = rolling_length(window.key)
    if length is not None:
        values["began"] = question.now - length
        rows = (
            "SELECT holder, (SELECT coalesce(sum(j.value ->> 1), 0) FROM json_each(cells) j WHERE j.value ->> 0 > :began)"
            " AS used, 0 AS start FROM rolling WHERE tenant = :tenant AND window = :window AND meter = :meter"
        )
        began = ""
    elif isinstance(window, BillingPeriod):
        # Each account's begins at an instant of its own; of several that may be the last one, it is the newest.
        values |= {"month": question.now - 31 * DAY, "year": question.now - 366 * DAY}
        rows = (
            "SELECT holder, used, max(start) AS start FROM counter WHERE tenant = :tenant AND start > :year"
            " AND start <= :now AND window = :window AND meter = :meter GROUP BY holder"
        )
        began = " AND c.start > CASE s.interval WHEN 'yearly' THEN :year ELSE :month END"
    else:
        values["start"] = window.period_at(question.now, NO_ANCHOR).start
        rows = (
            "SELECT holder, used, start FROM counter"
            " WHERE tenant = :tenant AND start = :start AND window = :window AND meter = :meter"
        )
        began = ""
    # A personal account is its one user; of a group the whole has a holder of its own.
    whole = f"u.text {'=' if limit.scope == 'account' else '<>'} ''"
    return tables.rows(
        f"SELECT c.holder, c.used * 1000 / :maximum AS permille FROM ({rows}) c JOIN holder h ON h.id = c.holder{_SUBSCRIBED}"
        f" WHERE c.used * 1000 / :maximum >= :permille AND (h.account_kind = 0 OR {whole}){began}"
        f" AND {PLAN_NOW} = :plan AND {VERSION_NOW} = :version AND {_IS_ALIVE} ORDER BY permille DESC LIMIT :size",
        values,
    )


def _keys_of(tables: Tables, tenant: str, holders: Iterable[int]) -> list[tuple[AccountKey, str]]:
    found = []
    for holder in holders:
        ((kind, account, user),) = tables.rows(
            "SELECT account_kind, account, user FROM holder WHERE id = :holder", {"holder": holder}
        )
        found.append((AccountKey(tenant, _KINDS[kind], tables.text(account)), tables.text(user)))
    return found
