"""Adds everything in a ledger's file up again from its events, with nothing but SQL and a calendar."""

import json
import sqlite3
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path
from uuid import UUID

from tests.chaos.periods import NAMES, SECOND, SLIDING, period

DAY = 86_400 * SECOND


def period_of(window: str, at: int) -> tuple[int, int | None]:
    """The period of the window a key names, `day@Europe/Berlin` say, worked out without the product."""
    name, _, zone = window.partition("@")
    return period(name, zone or "UTC", at)


def answers_of(path: Path) -> dict[str, str]:
    """The event, reservation or session behind every idempotency key, where that is there."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT id FROM event UNION SELECT id FROM reservation UNION SELECT id FROM session"
        )
        there = {str(UUID(bytes=id_)) for (id_,) in rows}
        answers = [
            (key, json.loads(text)) for key, text in connection.execute("SELECT key, answer FROM answer")
        ]
    made = {key: event or reservation for key, (event, reservation, *_) in answers}
    return {key: id_ for key, id_ in made.items() if id_ in there}


def kept_since(versions: list[tuple[str, int]]) -> dict[tuple[str, str, str], int]:
    """Since when each meter is counted in a window and scope: since the first plan that limits it there."""
    kept: dict[tuple[str, str, str], int] = {}
    for definition, created_at in versions:
        definition = json.loads(definition)
        for limit in definition["limits"]:
            if limit["window"] in (*NAMES, *SLIDING, "lifetime", "level"):
                is_utc = definition["timezone"] == "UTC" or limit["window"] not in ("day", "week", "month")
                window = limit["window"] if is_utc else f"{limit['window']}@{definition['timezone']}"
                # What is charged beyond a limit is counted beside it.
                for meter in (limit["meter"], *([f"{limit['meter']}:overage"] if "overage" in limit else ())):
                    place = (meter, window, limit["scope"])
                    kept[place] = min(created_at, kept.get(place, created_at))
    return kept


def recount(path: Path, opened: sqlite3.Connection | None = None) -> int:
    """Hold events, counters, rollups, keys and holds against each other; how many events there are. Billing
    periods hang on a subscription's history and are left to the reference model."""
    with nullcontext(opened) if opened else closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        words = dict(connection.execute("SELECT id, text FROM word"))
        holders = {
            row[0]: row[1:]
            for row in connection.execute("SELECT id, tenant, account_kind, account, user FROM holder")
        }
        events = connection.execute(
            "SELECT id, tenant, holder, gains, occurred_at, recorded_at FROM event"
        ).fetchall()
        versions = connection.execute("SELECT definition, created_at FROM plan_version").fetchall()
        counters = {
            (words[tenant], start, words[window], holder, words[meter]): used
            for tenant, start, window, holder, meter, used in connection.execute("SELECT * FROM counter")
        }
        rollups = {
            (words[row[0]], row[1], row[2], words[row[3]]): row[4:]
            for row in connection.execute(
                "SELECT tenant, quarter, holder, meter, sum(events), sum(quantity) FROM rollup"
                " GROUP BY tenant, quarter, holder, meter"
            )
        }
        rolling = connection.execute("SELECT tenant, holder, window, meter, cells FROM rolling").fetchall()
        cleared = {
            tuple(place): at
            for *place, at in connection.execute("SELECT tenant, holder, window, meter, at FROM rate_cleared")
        }
        (now,) = connection.execute(
            "SELECT max(value, coalesce((SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1), 0))"
            " FROM ledger_info WHERE name = 'last_commit_at'"
        ).fetchone()
        keys = connection.execute("SELECT count(*), count(DISTINCT seq) FROM key_index").fetchone()
        answers = connection.execute("SELECT count(*) FROM answer").fetchone()[0]
        lost = connection.execute(
            "SELECT count(*) FROM hold h LEFT JOIN reservation r ON r.tenant = h.tenant AND r.id = h.reservation"
            " WHERE r.id IS NULL OR r.answer IS NOT NULL"
        ).fetchone()
        connection.execute("COMMIT")
    group_as_a_whole = {
        (tenant, account): holder
        for holder, (tenant, kind, account, user) in holders.items()
        if kind == 1 and words[user] == ""
    }
    counters = {key: used for key, used in counters.items() if key[2] != "billing_period"}
    expected: Counter[tuple[object, ...]] = Counter()
    cells: dict[tuple[object, ...], tuple[int, int]] = {}
    kept = kept_since(versions)
    made: set[tuple[object, ...]] = set()
    for _, tenant, holder, gains, at, recorded_at in events:
        _, kind, account, _ = holders[holder]
        whole = group_as_a_whole.get((tenant, account)) if kind == 1 else holder
        for meter, gain in json.loads(gains).items():
            # A person is their whole account, and counted once.
            places: dict[tuple[str, int], int] = {}
            for (one, window, scope), since in kept.items():
                if one == meter and window not in SLIDING:
                    place = (window, whole if scope == "account" else holder)
                    places[place] = min(since, places.get(place, since))
            for (window, counted), since in places.items():
                start, end = period_of(window, at)
                key = (words[tenant], start, window, counted, meter)
                expected[key] += gain
                # Where a plan came to limit a meter later, a total is made with the first event after that; 400
                # days after its end it may be deleted.
                if recorded_at > since and (end is None or now - end < 400 * DAY):
                    made.add(key)
            cell = (words[tenant], at - at % (900 * SECOND), holder, meter)
            count, quantity = cells.get(cell, (0, 0))
            cells[cell] = (count + 1, quantity + gain)
    wanted = {key: used for key, used in expected.items() if key in made or key in counters}
    assert sorted(counters.items() ^ wanted.items()) == []
    assert rollups == cells
    for tenant, holder, window, meter, packed in rolling:
        start = now - SLIDING[words[window]]
        holders_summed = {h for h, (t, k, a, _) in holders.items() if (t, k, a) == holders[holder][:3]}
        mine = holders_summed if holder in group_as_a_whole.values() else {holder}
        came_at = max(since for place, since in kept.items() if place[:2] == (words[meter], words[window]))
        # What was used before the window was kept is known by the quarter of an hour, and may be 5 minutes ahead.
        forgotten = cleared.get((tenant, holder, window, meter), 0) - 1
        slack = 1200 * SECOND if came_at >= min(recorded_at for *_, recorded_at in events) else 0
        least, most = (
            sum(
                json.loads(gains).get(words[meter], 0)
                for _, _, h, gains, at, recorded_at in events
                if h in mine and min(at, recorded_at) > max(since, forgotten)
            )
            for since in (start, start - slack)
        )
        assert least <= sum(quantity for at, quantity in json.loads(packed) if at > start) <= most
    assert keys == (answers, answers)
    assert lost == (0,)
    assert len({id_ for id_, *_ in events}) == len(events)
    return len(events)
