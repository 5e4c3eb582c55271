"""`doctor`, live: it starts the server and asks one that runs, and changes nothing anywhere."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.harness import COMMAND, TODAY, Place

import subscription_mcp

OK, FAILED = 0, 1
OTHER_SECRET = "another-secret-for-tests-only-0123456789"


FORKING = (sys.executable, str(Path(subscription_mcp.__file__).with_name("__main__.py")))
"""What starts as a script has its server forked, too, where it does not matter how that starts: see tests/forked.py."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, clock=TODAY, command=FORKING)


def found(
    place: Place, *arguments: str, expect: int = OK, **variables: str | None
) -> dict[str, dict[str, Any]]:
    """Every finding by the name of its check."""
    done = place.run("doctor", "--json", *arguments, **variables)
    assert done.returncode == expect, done.stdout
    document = json.loads(done.stdout)
    assert document["ok"] == (expect == OK)
    return {finding["check"]: finding for finding in document["findings"]}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_configured_and_live_are_told_apart(place: Place) -> None:
    place.command = COMMAND
    findings = found(place, TOKEN=place.token("bella"))
    kinds = {name: finding["kind"] for name, finding in findings.items()}
    assert kinds == {
        **dict.fromkeys(("versions", "settings", "key", "catalog", "token"), "configured"),
        **dict.fromkeys(("database", "stdio"), "live"),
    }
    assert "stdout clean" in findings["stdio"]["seen"]
    lines = place.run("doctor").stdout.splitlines()
    assert any(line.startswith("ok    live        stdio") for line in lines)


def test_nothing_is_made_not_even_a_key(place: Place) -> None:
    before = files_in(place.folder)
    findings = found(place, AUTH__SECRET=None, DATABASE_URL=None)
    assert findings["key"]["seen"] == "a local key will be made at the first use"
    assert findings["stdio"]["state"] == "ok"
    foreign = found(place, expect=FAILED, TOKEN=place.token("bella"), AUTH__SECRET=None, DATABASE_URL=None)
    assert foreign["token"]["state"] == "FAIL"
    assert files_in(place.folder) == before


def test_a_ledger_that_is_there_is_opened_and_left_as_it_was(place: Place) -> None:
    place.run("migrate")
    before = (place.database.read_bytes(), place.database.stat().st_mtime_ns)
    findings = found(place)
    assert "opened for reading" in findings["database"]["seen"]
    assert (place.database.read_bytes(), place.database.stat().st_mtime_ns) == before


def test_something_that_prints_to_stdout_is_found(place: Place) -> None:
    place.command = COMMAND
    folder = place.folder / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\nif 'stdio' in sys.orig_argv: print('hello there')\n"
    )
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = place.environment

    def with_site(**more: str | None) -> dict[str, str]:
        return {**environment(**more), "PYTHONPATH": path}

    place.environment = with_site  # type: ignore[method-assign]
    findings = found(place, expect=FAILED)
    assert findings["stdio"]["state"] == "FAIL"
    assert "hello there" in findings["stdio"]["seen"]


def test_nothing_is_started_where_something_is_wrong_already(place: Place) -> None:
    findings = found(place, expect=FAILED, CATALOG="bedrok-chat")
    assert findings["stdio"]["state"] == "skip"


def test_a_server_that_runs_and_takes_the_token(place: Place) -> None:
    with place.serving() as server:
        for url in (server.base_url, f"{server.base_url}/mcp", f"{server.base_url}/"):
            findings = found(place, "--url", url, TOKEN=place.token("bella"))
            assert findings["server"]["state"] == "ok"
            assert "the token is accepted" in findings["access"]["seen"]
        without = found(place, "--url", server.base_url)
        assert without["access"]["state"] == "warn"
        assert "401" in without["access"]["seen"]
    assert place.rows()["subscription"] == 0


def test_why_a_token_is_refused(place: Place, tmp_path: Path) -> None:
    with place.serving(AUTH__SECRET=OTHER_SECRET) as server:
        findings = found(place, "--url", server.base_url, expect=FAILED, TOKEN=place.token("bella"))
        assert "401" in findings["access"]["seen"]
        assert "another key" in findings["access"]["fix"]
        expired = place.token("bella", ttl_seconds=60, issued_ago_seconds=600)
        findings = found(place, "--url", server.base_url, expect=FAILED, TOKEN=expired)
        assert findings["token"]["state"] == "FAIL"
        assert "get a new one" in findings["access"]["fix"]


def test_a_host_the_server_does_not_answer_for_is_told_with_the_fix(place: Place) -> None:
    with answering(421, "{}") as url:
        findings = found(place, "--url", url, expect=FAILED)
    assert "421" in findings["server"]["seen"]
    assert f"SUBSCRIPTION_MCP_PUBLIC_URL={url}" in findings["server"]["fix"]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            503,
            '{"status": "unavailable", "message": "The ledger cannot be written."}',
            "The ledger cannot be",
        ),
        (503, "Bad gateway", "which is not this server's"),
        (200, "<html>", "which is not this server's"),
        (404, "", "which is not this server's"),
        (302, "", "which is not this server's"),
    ],
)
def test_a_server_that_is_ill_or_another_one(place: Place, status: int, body: str, expected: str) -> None:
    with answering(status, body) as url:
        findings = found(place, "--url", url, expect=FAILED)
    assert expected in findings["server"]["seen"]
    assert findings["server"]["fix"]
    assert "access" not in findings


def test_a_server_that_is_degraded_is_a_warning_and_its_token_is_tried(place: Place) -> None:
    with answering(200, '{"status": "degraded", "message": "The keys cannot be fetched."}') as url:
        findings = found(place, "--url", url, expect=FAILED, TOKEN=place.token("bella"))
    assert findings["server"]["state"] == "warn"
    assert "The keys cannot be fetched." in findings["server"]["seen"]
    assert findings["access"]["state"] == "FAIL"  # what answers here knows no tools


def test_a_server_that_is_not_there(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        findings = found(place, "--url", f"http://127.0.0.1:{taken.getsockname()[1]}", expect=FAILED)
    assert "cannot be reached" in findings["server"]["seen"]
    assert "serve" in findings["server"]["fix"]
    assert found(place, "--url", "nonsense", expect=FAILED)["server"]["state"] == "FAIL"


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Something on HTTP that always answers the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
