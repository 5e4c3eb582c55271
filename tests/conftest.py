"""What every test run has: the repository root on the path, and a longer run on request."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that `tests.builders` is found from wherever pytest was started
    sys.path.insert(0, str(ROOT))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cycles", type=int, default=5, help="how often a process is killed while it writes (default 5)"
    )
