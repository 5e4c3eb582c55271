"""Whether an event costs the same in a ledger that has grown: beside one that has just begun."""

import os
import random
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.builders import Clock

from benchmarks.inprocess import BATCH, Load, collecting_as_a_server, must_be_recorded, opened, timed
from benchmarks.rounds import Measures, Report, at_most, in_turns, ratio
from subscription_mcp.domain.instants import DAY
from subscription_mcp.ledger.commands import RecordUsage

FEW = 100_000
TURN = 20_000
"""Events of a turn; with what comes with them more rows than lie between two checkpoints."""
PACE = 60 * DAY // 10_000_000
"""From one event to the next by the ledger's clock: keys and sums of long ago are taken away while it grows."""
MIDNIGHT = "2026-11-20T00:00:00Z"
PAGE_BYTES = 4096
GROWN_MAX = 1.3


class Growing:
    """A ledger that is given events evenly over the ledger's own clock, 1,000 at a time."""

    def __init__(self, path: Path, seed: int) -> None:
        self.clock = Clock(MIDNIGHT)
        self._path = path
        self._load = Load(random.Random(seed), keys=True)

    @contextmanager
    def filled(self, events: int) -> Iterator["Growing"]:
        """With so many events, the last of them at MIDNIGHT."""
        self.clock.now -= events * PACE
        with (
            opened(self._path, self.clock) as (self._runner, self._ledger),
            closing(Log(self._path)) as self._log,
        ):
            began, told = time.monotonic(), 0
            for done in range(0, events, TURN):
                self._give(self._load.some(min(TURN, events - done)))
                if (done - told) * 20 >= events:
                    told, rate = done, done / (time.monotonic() - began)
                    print(
                        f"growth: {done:,} of {events:,} events, {rate:,.0f}/s", file=sys.stderr, flush=True
                    )
            yield self

    def turn(self) -> Measures:
        commands = self._load.some(TURN)
        logged, written = self._log.pages, _bytes_written()
        spent = timed(lambda: self._give(commands))
        return {
            **spent,
            "pages written/decision": (_bytes_written() - written) / PAGE_BYTES / TURN,
            "of them to the log": (self._log.pages - logged) / TURN,
        }

    def _give(self, commands: list[RecordUsage]) -> int:
        for start in range(0, len(commands), BATCH):
            batch = commands[start : start + BATCH]
            self.clock.now += len(batch) * PACE
            must_be_recorded(self._runner.run(self._ledger.submit(batch)))
            self._log.look()
        return len(commands)


class Log:
    """How many pages a write-ahead log has been given, where somebody looks after every transaction: it begins
    again from its start after a checkpoint, with another salt, over what is left of before."""

    HEADER_BYTES, SALT = 32, slice(16, 24)
    FRAME_HEADER_BYTES, FRAME_SALT = 24, slice(8, 16)

    def __init__(self, database: Path) -> None:
        self._file = os.open(f"{database}-wal", os.O_RDONLY)
        self._seen = (b"", 0)
        self.pages = 0

    def look(self) -> None:
        salt = os.pread(self._file, self.HEADER_BYTES, 0)[self.SALT]
        places = range(os.fstat(self._file).st_size // (self.FRAME_HEADER_BYTES + PAGE_BYTES))
        frames = bisect_left(places, True, key=lambda place: self._salt_at(place) != salt)
        salt_seen, frames_seen = self._seen
        self.pages += frames - (frames_seen if salt == salt_seen else 0)
        self._seen = (salt, frames)

    def _salt_at(self, place: int) -> bytes:
        start = self.HEADER_BYTES + place * (self.FRAME_HEADER_BYTES + PAGE_BYTES)
        return os.pread(self._file, self.FRAME_HEADER_BYTES, start)[self.FRAME_SALT]

    def close(self) -> None:
        os.close(self._file)


def growth(rounds: int, events: int) -> Report:
    """An event among many costs at most 1.3 times the processor time and pages of one among 100,000."""
    many, few = f"after {events:,} events", f"after {FEW:,} events"
    with (
        tempfile.TemporaryDirectory() as folder,
        Growing(Path(folder) / "few.db", seed=1).filled(FEW) as small,
        collecting_as_a_server(),
        Growing(Path(folder) / "many.db", seed=2).filled(events) as large,
    ):
        turns = in_turns({few: small.turn, many: large.turn}, rounds)
    goals = [
        at_most(f"{measure}: {many} / {few}", ratio(turns, many, few, measure), GROWN_MAX, "times")
        for measure in ("CPU µs/decision", "pages written/decision")
    ]
    return Report(
        "growth: a ledger that has grown",
        "Batches of 1,000 *msg*, a key each, by 10,000 users, at a pace of ten million events in 60 days of the ledger's "
        f"clock, which is the same in both; {TURN:,} events in each turn. A page is 4 KiB handed to the system, for the "
        "log, the database and temporary files.",
        turns,
        goals,
    )


def _bytes_written() -> int:
    """What this process has handed to the system to write so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text("utf-8").splitlines())
    return int(lines["wchar"])
