"""What every test run has: the repository root on the path, a seed, workers where they are worth their start, and
longer runs on request."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that `tests.builders` is found from wherever pytest was started
    sys.path.insert(0, str(ROOT))

pytest.register_assert_rewrite("tests.chaos")  # so that its parts, too, say what differs

# How long an example takes says how busy the machine is, and speed is never asserted in a test.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

EFFORTS = ("short", "middle", "long")
WORKERS_MIN, WORKERS_MAX = 2, 8
"""One worker waits for its servers to start while the other computes; past eight they wait for the disk."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--effort",
        choices=EFFORTS,
        default="short",
        help="how much chaos: short is part of every run, middle minutes, long as long as it takes",
    )
    parser.addoption("--seed", type=int, help="the number all chaos follows from; without it a new one")


def pytest_configure(config: pytest.Config) -> None:
    handed_over = getattr(config, "workerinput", {})  # a worker rolls the dice of the run, not its own
    if config.option.seed is None:
        config.option.seed = handed_over.get("seed", random.SystemRandom().randrange(10**9))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["seed"] = node.config.option.seed


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` of `dev.py test` stands for: no worker where somebody looks on or has chosen a few tests."""
    looks_on = (
        config.getoption("capture") == "no" or config.getoption("trace") or config.getoption("collectonly")
    )
    chosen = any(config.getoption(name, None) for name in ("keyword", "lf", "stepwise"))
    if looks_on or chosen or not any(Path(argument).is_dir() for argument in config.args):
        return 0
    return max(WORKERS_MIN, min(WORKERS_MAX, os.cpu_count() or 1))


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
