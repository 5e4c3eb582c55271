"""The stores every contract test runs on."""

from pathlib import Path

import pytest
from tests.contract.test_engine import STORES, SqliteStore


@pytest.fixture(params=STORES, ids=lambda store: store.engine)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SqliteStore:
    return request.param(tmp_path)
