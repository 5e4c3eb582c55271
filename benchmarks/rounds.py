"""Comparing two or more sides on one machine that does other things too.

The sides take turns within a round, and each round begins with another side, so that what disturbs the machine
disturbs all of them alike. What counts is the ratio of two sides within a round, and the median over the rounds.

sides = {"ours": lambda: {"calls/s": 900.0}, "bare": lambda: {"calls/s": 1_000.0}}
taken = in_turns(sides, rounds=5)
ratio(taken, "ours", "bare", "calls/s").median
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

Measures = Mapping[str, float]
"""What one turn of one side came to, by name; the name says the unit."""
Turns = dict[str, list[Measures]]
"""By side, its turns in the order of the rounds."""


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def shown(self, unit: str = "") -> str:
        return f"{shown(self.median)}{unit} ({shown(self.least)}–{shown(self.most)})"


@dataclass(frozen=True)
class Goal:
    """One thing that has to hold: `holds` says whether it did, None that nobody could measure it; `reached` and
    `wanted` are for people."""

    what: str
    wanted: str
    reached: str
    holds: bool | None


VERDICTS = {True: "holds", False: "**missed**", None: "not measured"}


@dataclass
class Report:
    """What a benchmark has to say: what it did, its table, and what became of its goals."""

    title: str
    about: str
    turns: Turns = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)


def in_turns(sides: Mapping[str, Callable[[], Measures]], rounds: int) -> Turns:
    """Every side once in each round, the first of a round being the second of the next."""
    taken: Turns = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(sides[name]())
    return taken


def spread(turns: Turns, side: str, measure: str) -> Spread:
    return Spread.of([turn[measure] for turn in turns[side]])


def ratio(turns: Turns, side: str, other: str, measure: str) -> Spread:
    """How much of the other's measure a side has, round by round."""
    pairs = zip(turns[side], turns[other], strict=True)
    return Spread.of([mine[measure] / theirs[measure] for mine, theirs in pairs])


def difference(turns: Turns, side: str, other: str, measure: str) -> Spread:
    """By how much a side's measure is more than the other's, round by round."""
    pairs = zip(turns[side], turns[other], strict=True)
    return Spread.of([mine[measure] - theirs[measure] for mine, theirs in pairs])


def at_least(what: str, reached: Spread, wanted: float) -> Goal:
    return Goal(what, f"≥ {shown(wanted)}", reached.shown(), reached.median >= wanted)


def at_most(what: str, reached: Spread, wanted: float, unit: str) -> Goal:
    return Goal(what, f"≤ {shown(wanted)} {unit}", f"{reached.shown()} {unit}", reached.median <= wanted)


def not_measured(what: str, wanted: float, why: str) -> Goal:
    return Goal(what, f"≥ {shown(wanted)}", why, None)


def markdown(report: Report) -> str:
    """The report as a section with its tables."""
    lines = [f"## {report.title}", "", report.about, ""]
    if report.turns:
        measures = list(dict.fromkeys(name for turns in report.turns.values() for name in turns[0]))
        lines += [f"| | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
        for side, turns in report.turns.items():
            cells = [
                spread(report.turns, side, name).shown() if name in turns[0] else "–" for name in measures
            ]
            lines.append(f"| {side} | {' | '.join(cells)} |")
        lines.append("")
    if report.goals:
        lines += ["| goal | wanted | reached | |", "|---|---|---|---|"]
        lines += [
            f"| {goal.what} | {goal.wanted} | {goal.reached} | {VERDICTS[goal.holds]} |"
            for goal in report.goals
        ]
        lines.append("")
    return "\n".join(lines)


def shown(number: float) -> str:
    """Three digits that say something, with thousands apart."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def machine() -> str:
    """The shape of the machine: what a reader needs to judge absolute numbers, and nothing that names it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {os.uname().sysname}, Python {version}"


# What the system knows about a process


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; the system counts in ticks, mostly of 10 ms."""
    after_name = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """What a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
