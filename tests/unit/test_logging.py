"""What the server logs, and what it does not."""

import logging
from collections.abc import Iterator

import pytest
from anyio import ClosedResourceError

from subscription_mcp.cli.common import log_to_stderr


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("mcp", "uvicorn")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.mark.parametrize(
    ("logger", "error", "is_logged"),
    [
        ("mcp.server.streamable_http", ClosedResourceError(), False),
        ("mcp.server.streamable_http", BaseExceptionGroup("tasks", [ClosedResourceError()]), False),
        ("mcp.server.streamable_http", ExceptionGroup("tasks", [ClosedResourceError(), ValueError()]), True),
        ("mcp.server.streamable_http", RuntimeError("a defect"), True),
        ("subscription_mcp.web.guard", ClosedResourceError(), True),
    ],
)
def test_a_client_that_went_away_is_no_line_in_the_log(
    capsys: pytest.CaptureFixture[str], logger: str, error: Exception, is_logged: bool
) -> None:
    log_to_stderr()
    try:
        raise error
    except Exception:
        logging.getLogger(logger).exception("it was raised")
    assert ("it was raised" in capsys.readouterr().err) is is_logged
