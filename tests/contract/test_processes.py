"""Several real processes on one ledger file: limits stay exact, and nothing that was answered is ever lost.

`--cycles 100` kills more often.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.builders import a_ledger, a_record, decision_of
from tests.contract.recording_process import SystemClock, open_catalog

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def a_process(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.contract.recording_process", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_three_processes_share_a_limit_exactly(tmp_path: Path) -> None:
    with (
        a_process("calls", tmp_path, 200) as one,
        a_process("calls", tmp_path, 200) as two,
        a_process("calls", tmp_path, 200) as three,
    ):
        processes = (one, two, three)
        assert [process.stdout.readline() for process in processes] == ["open\n"] * 3
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        counted = sum((Counter(json.loads(process.stdout.readline())) for process in processes), Counter())
    assert counted == {"ok": 50, "quota_exceeded": 550}
    assert audit(tmp_path / "ledger.db") == 50


async def test_what_was_answered_is_there_exactly_once_after_every_kill(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    dice = random.Random()
    answered: dict[str, str] = {}
    for cycle in range(pytestconfig.getoption("--cycles")):
        with (
            a_process("endless", tmp_path, f"left{cycle}") as left,
            a_process("endless", tmp_path, f"right{cycle}") as right,
        ):
            # Both are at work; then one after the other dies in the middle of whatever it is doing.
            said = [left.stdout.readline(), right.stdout.readline()]
            for process in (left, right):
                said += [process.stdout.readline() for _ in range(dice.randrange(50, 800))]
                process.kill()
                said += process.stdout.readlines()
        answered.update(line.split() for line in said if line.endswith("\n"))
        events = audit(tmp_path / "ledger.db")
        assert set(answered.items()) <= set(answers_of(tmp_path / "ledger.db").items())
        assert events >= len(answered)
    async with a_ledger(tmp_path, catalog=open_catalog(), clock=SystemClock()) as ledger:
        for key in dice.sample(sorted(answered), 50):
            number = int(key.partition("-")[2])
            again = a_record(f"user{number % 10}", quantity=number % 7 + 1, key=key)
            decision = decision_of(await ledger.submit_one(again))
            assert (decision.replayed, decision.event_id) == (True, answered[key])


def answers_of(path: Path) -> dict[str, str]:
    """The event behind every idempotency key, where that event is recorded."""
    with closing(sqlite3.connect(path)) as connection:
        recorded = {str(UUID(bytes=id_)) for (id_,) in connection.execute("SELECT id FROM event")}
        rows = connection.execute("SELECT key, answer FROM answer").fetchall()
    answers = {key: json.loads(answer)[0] for key, answer in rows}
    return {key: event for key, event in answers.items() if event in recorded}


def start_of(window: str, at: int) -> int:
    """The start of a window in UTC, worked out without the product."""
    moment = datetime.fromtimestamp(at // 1_000_000, UTC)
    first = {
        "quarter": moment.replace(minute=moment.minute // 15 * 15, second=0),
        "hour": moment.replace(minute=0, second=0),
        "day": moment.replace(hour=0, minute=0, second=0),
        "month": moment.replace(day=1, hour=0, minute=0, second=0),
        "lifetime": datetime(1970, 1, 1, tzinfo=UTC),
    }
    return int(first[window].timestamp()) * 1_000_000


def audit(path: Path) -> int:
    """Add everything up again from the events, with nothing but SQL; how many events there are."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        words = dict(connection.execute("SELECT id, text FROM word"))
        holders = {
            row[0]: row[1:]
            for row in connection.execute("SELECT id, tenant, account_kind, account, user FROM holder")
        }
        events = connection.execute("SELECT id, tenant, holder, gains, occurred_at FROM event").fetchall()
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
        keys = connection.execute("SELECT count(*), count(DISTINCT seq) FROM key_index").fetchone()
        answers = connection.execute("SELECT count(*) FROM answer").fetchone()[0]
    group_as_a_whole = {
        (tenant, account): holder
        for holder, (tenant, kind, account, user) in holders.items()
        if kind == 1 and words[user] == ""
    }
    expected: Counter[tuple[object, ...]] = Counter()
    cells: dict[tuple[object, ...], tuple[int, int]] = {}
    # Which of them a plan limits, and so are kept: for users, for whole groups.
    kept = {(window, holder in group_as_a_whole.values()) for _, _, window, holder, _ in counters}
    for _, tenant, holder, gains, at in events:
        _, kind, account, _ = holders[holder]
        whose = [holder, group_as_a_whole[(tenant, account)]] if kind == 1 else [holder]
        for meter, gain in json.loads(gains).items():
            for window, whole in kept:
                for counted in whose:
                    if whole is (counted in group_as_a_whole.values()):
                        expected[(words[tenant], start_of(window, at), window, counted, meter)] += gain
            cell = (words[tenant], start_of("quarter", at), holder, meter)
            count, quantity = cells.get(cell, (0, 0))
            cells[cell] = (count + 1, quantity + gain)
    assert counters == expected
    assert rollups == cells
    assert keys == (answers, answers)
    assert len({id_ for id_, *_ in events}) == len(events)
    return len(events)
