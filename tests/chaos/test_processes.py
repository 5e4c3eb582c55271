"""Several real processes on one ledger file: limits stay exact, nobody starves, and nothing that was answered
is ever lost or counted twice."""

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from tests.builders import Clock, a_ledger, a_record, a_subject, code_of, view_of
from tests.chaos.recording_process import (
    CALLS,
    TTL_SECONDS,
    USERS,
    SystemClock,
    limited_catalog,
    open_catalog,
    the_request,
)
from tests.chaos.recount import answers_of, recount
from tests.chaos.telling import facts_of
from tests.platforms import posix

from subscription_mcp.ledger.commands import Arrive
from subscription_mcp.ledger.port import LedgerUnusable

fcntl = posix("fcntl")
ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 16
LOG_BYTES_MAX = 64 << 20
KILLS_PER_FILE = 20
Effort = Callable[[int, int, int], int]


class Nursery:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._living: list[int] = []
        self._said: list[TextIO] = []

    def start(self, kind: str, place: Path, name: str) -> tuple[int, TextIO]:
        """A process's number, and what it says."""
        os.mkfifo(place / name)
        number = int(self._ask(f"{kind} {place} {name}"))
        self._living.append(number)
        said = (place / name).open()
        self._said.append(said)
        return number, said

    def kill(self, number: int) -> None:
        assert self._ask(f"kill {number}") == "dead"
        self._living.remove(number)

    def kill_all(self) -> None:
        for number in list(self._living):
            self.kill(number)
        for said in self._said:
            said.close()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def a_nursery() -> Iterator[Nursery]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.recording_process"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        nursery = Nursery(process)
        try:
            yield nursery
        finally:
            nursery.kill_all()
            process.kill()


def codes(passed: int, asked: int) -> dict[str, int]:
    return {"ok": passed, "quota_exceeded": asked - passed}


def test_16_processes_share_limits_of_100_and_1000_exactly(tmp_path: Path) -> None:
    counted: dict[str, Counter[str]] = {"message": Counter(), "tool_call": Counter()}
    with (tmp_path / "go").open("w") as go, a_nursery() as nursery:
        fcntl.flock(go, fcntl.LOCK_EX)
        processes = [nursery.start("calls", tmp_path, f"process{n}") for n in range(PROCESSES)]
        assert [said.readline() for _, said in processes] == ["open\n"] * PROCESSES
        fcntl.flock(go, fcntl.LOCK_UN)
        for _, said in processes:
            with said:
                for event, code, count in json.loads(said.readline()):
                    counted[event][code] += count
    assert counted["message"] == codes(100, PROCESSES * CALLS)
    assert counted["tool_call"] == codes(1_000, PROCESSES * CALLS)
    assert recount(tmp_path / "ledger.db") == 1_100


async def test_640_concurrent_callers_share_them_exactly(tmp_path: Path) -> None:
    async with a_ledger(tmp_path, catalog=limited_catalog()) as ledger:
        for event, passed in (("message", 100), ("tool_call", 640), ("tool_call", 360)):
            outcomes = await asyncio.gather(*[ledger.submit_one(a_record("bob", event)) for _ in range(640)])
            assert Counter(map(code_of, outcomes)) == Counter(codes(passed, 640))
    assert recount(tmp_path / "ledger.db") == 1_100


async def test_what_was_answered_is_there_exactly_once_after_every_kill(
    tmp_path: Path, effort: Effort, dice: random.Random
) -> None:
    kills = effort(6, 200, 2_000)
    with a_nursery() as nursery:
        for number in range(0, kills, KILLS_PER_FILE):
            place = tmp_path / f"file{number}"
            place.mkdir()
            answered = kill_again_and_again(nursery, place, dice, min(KILLS_PER_FILE, kills - number))
            await look_after_the_kills(place, answered, dice)


def kill_again_and_again(nursery: Nursery, place: Path, dice: random.Random, kills: int) -> dict[str, str]:
    """Two processes at a time, one after the other killed in the middle of whatever it is doing."""
    answered: dict[str, str] = {}
    for cycle in range(0, kills, 2):
        both = [nursery.start("endless", place, f"{side}{cycle}") for side in ("left", "right")]
        said = [pipe.readline() for _, pipe in both]
        for number, pipe in both:
            said += [pipe.readline() for _ in range(dice.randrange(10, 800))]
            nursery.kill(number)
            with pipe:
                said += pipe.readlines()
        answered.update(line.split() for line in said if line.endswith("\n"))
        recount(place / "ledger.db")
        keyed = {key: id_ for key, id_ in answered.items() if not key.startswith("settled-")}
        assert keyed.items() <= answers_of(place / "ledger.db").items()
        with closing(sqlite3.connect(place / "ledger.db")) as connection:
            events = {id_ for (id_,) in connection.execute("SELECT lower(hex(id)) FROM event")}
        settled = {id_.replace("-", "") for key, id_ in answered.items() if key not in keyed}
        assert settled <= events
    assert answered
    return answered


async def look_after_the_kills(place: Path, answered: dict[str, str], dice: random.Random) -> None:
    """Whoever asks again hears the same; what was held or open ends by time, with nobody to end it."""
    clock = Clock()
    clock.now = SystemClock()()
    keys = sorted(key for key in answered if not key.startswith("settled-"))
    async with a_ledger(place, catalog=open_catalog(), clock=clock) as ledger:
        for key in dice.sample(keys, min(50, len(keys))):
            outcome = await ledger.submit_one(the_request(int(key.partition("-")[2]), key))
            found = facts_of(outcome)
            assert (found["replayed"], found["thing"]) == (True, answered[key])
        users = [a_subject(f"user{number}") for number in range(USERS)]
        for later, is_open in ((0, True), (TTL_SECONDS, False)):
            clock.advance(seconds=later)
            views = [view_of(await ledger.rehearse(Arrive(user))) for user in users]
            assert (sum(view.sessions_active for view in views) > 0) == is_open
            assert (sum(view.limits[0].held for view in views) > 0) == is_open


async def test_a_killed_process_leaves_a_ledger_that_opens_unless_its_log_is_deleted(tmp_path: Path) -> None:
    place, whole, lost = (tmp_path / name for name in ("place", "whole", "lost"))
    place.mkdir()
    with a_nursery() as nursery:
        number, pipe = nursery.start("endless", place, "one")
        with pipe, closing(sqlite3.connect(place / "ledger.db", isolation_level=None)) as reader:
            pipe.readline()
            reader.execute("BEGIN")  # what comes now is not brought into the file while somebody reads
            reader.execute("SELECT count(*) FROM event").fetchone()
            for _ in range(200):
                pipe.readline()
            nursery.kill(number)
            for copy in (whole, lost):
                shutil.copytree(place, copy, ignore=lambda *_: ["one"])
    # Closing folds the log in: all there is in the file, none of it in a log, and nothing missing.
    assert not (place / "ledger.db-wal").exists()
    for one in (whole, place):
        async with a_ledger(one, catalog=open_catalog(), clock=SystemClock()) as ledger:
            assert (await ledger.engine.verify()).differences == ()
    (lost / "ledger.db-wal").unlink()
    with pytest.raises(LedgerUnusable, match="its -wal was deleted"):
        async with a_ledger(lost, catalog=open_catalog(), clock=SystemClock()):
            pass


def test_two_processes_that_write_and_checkpoint_all_the_time_both_get_their_turn(
    tmp_path: Path, effort: Effort
) -> None:
    seconds = effort(3, 60, 600)
    with a_nursery() as nursery:
        both = [nursery.start("endless", tmp_path, side) for side in ("left", "right")]
        assert all(pipe.readline() for _, pipe in both)
        until = time.monotonic() + seconds

        def answers(pipe: TextIO) -> int:
            count = 0
            while time.monotonic() < until and pipe.readline():
                count += 1
            return count

        with ThreadPoolExecutor(2) as readers:
            left, right = readers.map(answers, [pipe for _, pipe in both])
        assert (tmp_path / "ledger.db-wal").stat().st_size < LOG_BYTES_MAX
        nursery.kill_all()
        for _, pipe in both:
            pipe.close()
    assert min(left, right) >= 0.4 * (left + right), (left, right)
    assert recount(tmp_path / "ledger.db") > 0
