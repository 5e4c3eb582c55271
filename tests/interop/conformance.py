"""A run of the conformance suite against a server, and what became of each check."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interop.node import PACKAGES, run_node

SUITE = PACKAGES / "conformance" / "dist" / "index.js"
RESULT = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")
TOTAL = re.compile(r"^Total: (\d+) passed, (\d+) failed$", re.MULTILINE)
FINE = ("SUCCESS", "INFO")


@dataclass(frozen=True, slots=True)
class Check:
    scenario: str
    id: str
    status: str
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """All checks of a run; one id may be checked several times."""

    checks: tuple[Check, ...]

    @property
    def scenarios(self) -> set[str]:
        return {check.scenario for check in self.checks}

    def of(self, scenarios: Iterable[str]) -> "Run":
        return Run(tuple(check for check in self.checks if check.scenario in set(scenarios)))

    @property
    def passed(self) -> "Counter[tuple[str, str]]":
        return Counter((check.scenario, check.id) for check in self.checks if check.status == "SUCCESS")

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "FAILURE"]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Scenarios, checks passed, checks failed."""
        return len(self.scenarios), self.passed.total(), len(self.failed)

    @property
    def not_fine(self) -> list[Check]:
        """Failures, and what is less: unmet recommendations and what could not be checked."""
        return [check for check in self.checks if check.status not in FINE]


def run_suite(url: str, spec_version: str, folder: Path) -> Run:
    """Every scenario the suite has for one revision of the protocol."""
    done = run_node(
        folder,
        SUITE,
        *("server", "--url", url, "--suite", "all", "--spec-version", spec_version),
        *("--output-dir", str(folder)),
    )
    run = Run(tuple(_checks(folder)))
    total = TOTAL.search(done.stdout)
    assert total is not None, done.stdout + done.stderr
    # What the files say is what the suite says.
    assert (run.passed.total(), len(run.failed)) == (int(total[1]), int(total[2])), done.stdout
    return run


def _checks(folder: Path) -> Iterator[Check]:
    for result in sorted(folder.iterdir()):
        found = RESULT.fullmatch(result.name)
        if found is None:
            continue
        file = result / "checks.json"
        if not file.exists():
            yield Check(found["scenario"], found["scenario"], "FAILURE", "the scenario itself broke")
            continue
        for check in json.loads(file.read_text("utf-8")):
            yield Check(found["scenario"], check["id"], check["status"], check.get("errorMessage"))
