"""Two busy processes on one file, beside one of them alone.

As a program, `sharing PATH SEED SECONDS`, it is one of the two: it says `ready`, takes its turn at each line it
is sent, and says in JSON what it came to.
"""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.inprocess import COMMANDS_A_SECOND, Load, opened, turn, warm
from benchmarks.load import CannotMeasure
from benchmarks.rounds import Measures, Report, Spread, at_least, in_turns, ratio
from subscription_mcp.assembly import system_clock

ALONE, TOGETHER = "one alone", "two together"
TOGETHER_MIN, SHARE_MIN = 0.4, 0.45


class Sharer:
    """One of the processes."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def wait_until_ready(self) -> None:
        self._read("ready")

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._read("{"))
        self.wait_until_ready()
        return found

    def _read(self, beginning: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(beginning):
            raise CannotMeasure(f"One of two processes on a file said {line!r} and not {beginning!r}.")
        return line


def sharing(rounds: int, seconds: int) -> Report:
    """Two busy processes get through at least 40 % of what one does, and take turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with _sharer(path, 1, seconds) as one, _sharer(path, 2, seconds) as other:

            def alone() -> Measures:
                one.begin()
                return one.result()

            def together() -> Measures:
                for each in (one, other):
                    each.begin()
                results = [one.result(), other.result()]
                rates = [result["decisions/s"] for result in results]
                costs = [result["CPU µs/decision"] * result["decisions/s"] for result in results]
                return {
                    "decisions/s": sum(rates),
                    "CPU µs/decision": sum(costs) / sum(rates),
                    "share of the slower": min(rates) / sum(rates),
                }

            turns = in_turns({ALONE: alone, TOGETHER: together}, rounds)
    shares = Spread.of([turn["share of the slower"] for turn in turns[TOGETHER]])
    return Report(
        "processes: two on one file",
        "In each process 256 callers send *msg*, a key each; both processes have the ledger open all the time.",
        turns,
        [
            at_least(
                f"decisions/s: {TOGETHER} / {ALONE}",
                ratio(turns, TOGETHER, ALONE, "decisions/s"),
                TOGETHER_MIN,
            ),
            at_least("share of the slower of two", shares, SHARE_MIN),
        ],
    )


@contextmanager
def _sharer(path: Path, seed: int, seconds: int) -> Iterator[Sharer]:
    words = [sys.executable, "-m", "benchmarks.sharing", str(path), str(seed), str(seconds)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            sharer = Sharer(process)
            sharer.wait_until_ready()
            yield sharer
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        finally:
            process.kill()


def main() -> None:
    path, seed, seconds = Path(sys.argv[1]), *map(int, sys.argv[2:])
    load = Load(random.Random(seed), keys=True)
    with opened(path, system_clock) as (runner, ledger):
        runner.run(warm(ledger, load))
        while True:
            commands = load.some(COMMANDS_A_SECOND * seconds)
            print("ready", flush=True)
            if not sys.stdin.readline():
                return
            print(json.dumps(turn(runner, ledger, commands, seconds=seconds)), flush=True)


if __name__ == "__main__":
    main()
