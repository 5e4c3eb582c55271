"""What reports ask beside sums of usage, as SQL: refusals, response times, sessions."""

import json
from typing import Any

from subscription_mcp.domain.instants import HOUR, Instant
from subscription_mcp.ledger.machine.reporting import whole_tenant
from subscription_mcp.ledger.queries import Conversions, Denials, Responses, SessionSpans
from subscription_mcp.ledger.sqlite.tables import Tables, among


def denials(tables: Tables, question: Denials) -> list[tuple[str, str, int]]:
    """Code, meter and how often, the most first."""
    rows = _by_hour(tables, question, "code, meter", "denial", among(tables.holders_of(question.whose)))
    return [(tables.text(code), tables.text(meter), count) for code, meter, count in rows]


def responses(tables: Tables, question: Responses) -> list[tuple[str, bool, int, int]]:
    """Event, whether it failed, cell and how often."""
    holders = tables.holders_of(question.whose)
    if holders is None:
        whole = tables.holder(whole_tenant(question.whose.tenant))
        holders = [] if whole is None else [whole]
    rows = _by_hour(tables, question, "event, failed, cell", "response", among(holders))
    return [(tables.text(event), bool(failed), cell, count) for event, failed, cell, count in rows]


def _by_hour(
    tables: Tables, question: Denials | Responses, columns: str, table: str, where: str
) -> list[Any]:
    """Sums of the hours that begin in the period, or in which it begins."""
    values: dict[str, Any] = {
        "tenant": tables.word(question.whose.tenant),
        "start": question.start - question.start % HOUR,
        "end": question.end,
    }
    if where:
        # A few holders among a tenant's many: one seek for each hour.
        source = (
            "WITH RECURSIVE step (at) AS (SELECT :start WHERE :start < :end"
            f" UNION ALL SELECT at + {HOUR} FROM step WHERE at + {HOUR} < :end)"
            f" SELECT {columns}, sum(count) FROM step CROSS JOIN {table} WHERE tenant = :tenant AND hour = at{where}"
        )
    else:
        source = f"SELECT {columns}, sum(count) FROM {table} WHERE tenant = :tenant AND hour >= :start AND hour < :end"
    return tables.rows(f"{source} GROUP BY {columns} ORDER BY sum(count) DESC, {columns}", values)


def conversions(tables: Tables, question: Conversions) -> tuple[int, int]:
    """How many accounts began to pay after a trial, and after a plan for nothing."""
    values: dict[str, Any] = {
        "tenant": tables.word(question.tenant),
        "start": question.start,
        "end": question.end,
        "free": json.dumps(sorted(question.free)),
    }
    ((trials,),) = tables.rows(
        "SELECT count(*) FROM trial WHERE tenant = :tenant AND kind <> 'founder'"
        " AND converted_at >= :start AND converted_at < :end",
        values,
    )
    # The trail is in order of time: the first entry of the period is found by halves.
    values["first"] = _first_audit(tables, question.start)
    ((free,),) = tables.rows(
        "SELECT count(DISTINCT holder) FROM audit WHERE seq >= :first AND tenant = :tenant AND at < :end"
        " AND action LIKE 'subscription.%' AND before ->> 'status' IN ('active', 'past_due')"
        " AND before ->> 'plan' IN (SELECT value FROM json_each(:free))"
        " AND after ->> 'plan' NOT IN (SELECT value FROM json_each(:free)) AND after ->> 'status' = 'active'",
        values,
    )
    return trials, free


def _first_audit(tables: Tables, at: Instant) -> int:
    ((low, high),) = tables.rows("SELECT 0, coalesce(max(seq), 0) + 1 FROM audit", {})
    while low < high:
        middle = (low + high) // 2
        found = tables.rows("SELECT at FROM audit WHERE seq >= :seq ORDER BY seq LIMIT 1", {"seq": middle})
        if found and found[0][0] < at:
            low = middle + 1
        else:
            high = middle
    return int(low)


def session_spans(tables: Tables, question: SessionSpans) -> list[tuple[Instant, Instant | None]]:
    """When each session that was open in the period was opened, and when it ended, None while it lasts."""
    return tables.rows(
        "SELECT opened_at, CASE WHEN ended_at <= :now THEN ended_at END FROM"
        " (SELECT opened_at, min(expires_at, coalesce(closed_at, expires_at)) AS ended_at FROM session"
        f" WHERE tenant = :tenant{among(tables.holders_of(question.whose))} ORDER BY id DESC)"
        " WHERE opened_at < :end AND ended_at > :start LIMIT :size",
        {
            "tenant": tables.word(question.whose.tenant),
            "start": question.start,
            "end": question.end,
            "now": question.now,
            "size": question.size,
        },
    )
