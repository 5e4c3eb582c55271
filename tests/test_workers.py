"""How `dev.py test` runs: with workers where they are worth their start, and with one seed for all of them."""

import re
import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT
from tests.test_readme import what_dev_would_run

A_TEST = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number: int, seed: str, worker_id: str) -> None:
    Path(__file__).with_name(f"{number}.seen").write_text(f"{worker_id} {seed}")
    assert number
"""


def workers_and_seeds(folder: Path, what: Path) -> tuple[set[str], set[str]]:
    """Who ran a test that fails once, and with which seeds: that of the header, that of the end, and theirs."""
    (folder / "test_it.py").write_text(A_TEST, "utf-8")
    _, *words = what_dev_would_run(
        "test", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", str(what)
    )
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    header, beneath_what_failed = re.findall(r"--seed (\d+)", done.stdout)
    seen = [path.read_text("utf-8").split() for path in folder.glob("*.seen")]
    return {worker for worker, *_ in seen}, {header, beneath_what_failed, *(seed for _, seed, _ in seen)}


def test_many_tests_are_shared_out_and_every_worker_rolls_the_dice_of_the_run(tmp_path: Path) -> None:
    workers, seeds = workers_and_seeds(tmp_path, tmp_path)
    assert len(workers) > 1 and len(seeds) == 1


def test_a_file_that_is_named_is_run_without_workers(tmp_path: Path) -> None:
    workers, seeds = workers_and_seeds(tmp_path, tmp_path / "test_it.py")
    assert workers == {"master"} and len(seeds) == 1
