"""What every interoperability run has: a table at the end of what was held against what."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

HEADINGS = ("what", "era", "transport", "scenarios", "passed", "failed")
COUNTS_FROM = HEADINGS.index("scenarios")


@dataclass(slots=True)
class Tally:
    """How many scenarios a run had, and how its checks came out."""

    scenarios: int = 1
    passed: int = 0
    failed: int = 0


Report = Callable[[str, str, str], AbstractContextManager[Tally]]
LINE = "a line of the table of interoperability"


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Runs what stands in its block as part of one line of the table: what, era, transport."""

    @contextmanager
    def counted(what: str, era: str, transport: str) -> Iterator[Tally]:
        tally = Tally()
        try:
            yield tally
        except BaseException:
            tally.failed = tally.failed or 1
            raise
        finally:  # with the test's report it comes from the worker that ran it to whoever prints the table
            counts = (tally.scenarios, tally.passed, tally.failed)
            request.node.user_properties.append((LINE, ((what, era, transport), counts)))

    return counted


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines: dict[tuple[str, str, str], list[tuple[int, int, int]]] = {}
    for outcome in ("passed", "failed"):
        for told in terminalreporter.stats.get(outcome, ()):
            for name, line in told.user_properties if told.when == "call" else ():
                if name == LINE:
                    named, counts = line
                    lines.setdefault(tuple(named), []).append(tuple(counts))
    rows = [HEADINGS]
    for named, counts in sorted(lines.items()):
        rows.append((*named, *(str(sum(column)) for column in zip(*counts, strict=True))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("interoperability")
    for row in rows:
        cells = [
            cell.ljust(width) if column < COUNTS_FROM else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        terminalreporter.write_line("  ".join(cells))
