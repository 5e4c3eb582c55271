"""What every test run has: the repository root on the path, a seed, and longer runs on request."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that `tests.builders` is found from wherever pytest was started
    sys.path.insert(0, str(ROOT))

pytest.register_assert_rewrite("tests.chaos")  # so that its parts, too, say what differs

EFFORTS = ("short", "middle", "long")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--effort",
        choices=EFFORTS,
        default="short",
        help="how much chaos: short is part of every run, middle minutes, long as long as it takes",
    )
    parser.addoption("--seed", type=int, help="the number all chaos follows from; without it a new one")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(10**9)


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos: effort {config.option.effort}; the same again with --seed {config.option.seed}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if terminalreporter.stats.get("failed"):  # the header may be far away by now
        terminalreporter.write_line(pytest_report_header(config))


@pytest.fixture
def effort(pytestconfig: pytest.Config) -> Callable[[int, int, int], int]:
    """Picks how often something is done in a short, a middle and a long run."""
    return lambda *times: times[EFFORTS.index(pytestconfig.option.effort)]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """What a test's dice follow from: the run's seed and the test's own name."""
    return f"{request.config.option.seed} {request.node.name}"


@pytest.fixture
def dice(seed: str) -> random.Random:
    return random.Random(seed)
