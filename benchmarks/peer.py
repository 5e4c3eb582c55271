"""mcp-billing, which does the same for other people's servers: decide, record and commit, one call at a time.

It is installed the first time it is measured, into a folder of its own, and is no dependency of anything.
"""

import importlib
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dev

from benchmarks.inprocess import timed
from benchmarks.load import CannotMeasure
from benchmarks.rounds import Measures

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements-peer.txt"
FOLDER = HERE / ".peer"
NAME = REQUIREMENTS.read_text("utf-8").split()[0].replace("==", " ")
KEY, TOOL = "a-key", "a_tool"
ENOUGH = 10**12


class Peer:
    """Its guard with one customer, who has a limit for the month and has made so many calls in it."""

    def __init__(self, path: Path, events: int) -> None:
        guards, prices = _package("guard"), _package("pricing")
        tier = prices.PricingTier("enough", monthly_cap=ENOUGH)
        self._guard = guards.BillingGuard(path, [tier])
        self._guard.register_key(KEY, tier.name)
        with closing(sqlite3.connect(path)) as database, database:
            database.executemany(
                "INSERT INTO usage_log (api_key, tool_name, timestamp) VALUES (?, ?, ?)",
                [(KEY, TOOL, time.time())] * events,
            )

    def turn(self, seconds: float) -> Measures:
        """What its decorator does around a tool, again and again."""

        def calls() -> int:
            done, until = 0, time.monotonic() + seconds
            while time.monotonic() < until:
                if not self._guard.check_access(KEY, TOOL).allowed:
                    raise CannotMeasure(f"{NAME} did not allow a call.")
                self._guard.record_usage(KEY, TOOL)
                done += 1
            return done

        return timed(calls)

    def close(self) -> None:
        self._guard.close()


@contextmanager
def peer(path: Path, events: int) -> Iterator[Peer | None]:
    """None where it cannot be installed, which is said."""
    try:
        _install()
    except dev.CannotGoOn as problem:
        print(f"{NAME} cannot be installed, so it is not measured.\n{problem}", file=sys.stderr)
        yield None
        return
    with closing(Peer(path, events)) as made:
        yield made


def _install() -> None:
    """Without what it depends on: its guard needs nothing but Python."""
    stamp, wanted = FOLDER / dev.STAMP.name, REQUIREMENTS.read_text("utf-8")
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    dev.attempt(
        *dev.installer(), "--quiet", "--no-deps", "--target", FOLDER, "--require-hashes", "-r", REQUIREMENTS
    )
    stamp.write_text(wanted, "utf-8")


def _package(module: str) -> Any:
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(f"mcp_billing.{module}")
