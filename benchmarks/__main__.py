"""Benchmarks: each is a ratio, its sides taking turns on this machine. All of them unless named."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import checking, growth, ledger, memory, pricing, reports, serving, sharing, starting, waiting
from benchmarks.load import CannotMeasure
from benchmarks.rounds import Report, machine, markdown

ROOT = Path(__file__).resolve().parents[1]
LATEST = ROOT / "benchmarks" / "results" / "latest.md"
PUBLISHED = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

How fast it is: beside servers that do nothing (the SDK's, and a Starlette route), beside itself in other circumstances,
and beside another ledger. `python3 dev.py bench` measures it anew; `--publish` writes this page. The sides of a table took
turns within each round; a cell is the median of the rounds with the least and the most. Absolute numbers belong to the
machine and to what else it did; the ratios travel.

"""
BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "mcp": lambda given: serving.mcp(given.rounds, given.seconds),
    "rest": lambda given: serving.rest(given.rounds, given.seconds),
    "ledger": lambda given: ledger.ledger(given.rounds, given.seconds),
    "pricing": lambda given: pricing.pricing(given.rounds, given.seconds),
    "growth": lambda given: growth.growth(given.rounds, given.events),
    "reports": lambda given: reports.reports(given.rounds, given.events),
    "check": lambda given: checking.checking(given.rounds, given.seconds),
    "processes": lambda given: sharing.sharing(given.rounds, given.seconds),
    "waiting": lambda given: waiting.waiting(given.rounds),
    "start": lambda given: starting.start(given.rounds),
    "memory": lambda given: memory.memory(given.seconds, given.calls),
}


def main() -> int:
    """Run what is named, print the tables and keep them; 1 where a goal is missed or could not be measured, 2 where
    nothing was measured."""
    given = arguments()
    sections = []
    missed = False
    for name in given.names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            report = BENCHMARKS[name](given)
        except CannotMeasure as problem:
            print(problem, file=sys.stderr)
            return 2
        missed |= not all(goal.holds for goal in report.goals)
        sections.append(markdown(report))
        print(sections[-1], flush=True)
    page = f"{HEAD}{machine()}; {given.rounds} rounds of {given.seconds} s.\n\n" + "\n".join(sections)
    LATEST.parent.mkdir(exist_ok=True)
    for path in (LATEST, *([PUBLISHED] if given.publish else [])):
        path.write_text(page, "utf-8")
    return 1 if missed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--rounds", type=int, default=9, help="turns of each side (default 9; 7 starts at least)"
    )
    parser.add_argument("--seconds", type=int, default=1, help="length of a turn under load (default 1)")
    parser.add_argument(
        "--calls", type=int, default=100_000, help="calls that memory makes (default 100,000)"
    )
    parser.add_argument(
        "--events",
        type=int,
        default=300_000,
        help="events that growth grows to and reports are made of (default 300,000)",
    )
    parser.add_argument(
        "--publish", action="store_true", help=f"write {PUBLISHED.relative_to(ROOT).as_posix()} too"
    )
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if given.publish and given.names:
        parser.error("--publish is for all benchmarks together")
    return given


if __name__ == "__main__":
    sys.exit(main())
