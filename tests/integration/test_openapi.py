"""The OpenAPI document is true: it names what is served, all of it, and the server does what it says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.harness import TODAY, Place, Server
from tests.priced import a_priced_catalog

from subscription_mcp.assembly import catalog_of, make_service
from subscription_mcp.auth.jwks import KeysHealth
from subscription_mcp.domain.errors import HTTP_STATUS
from subscription_mcp.tools.toolbox import TOOLS
from subscription_mcp.web.api import ToolCalls, api_routes
from subscription_mcp.web.guard import PUBLIC_PATHS

TOOL_ROUTE = "/api/mcp/tools/{tool_name}"
RUN_SECONDS = 300
CONFIGURATION = """
# What no schema can say (start and end go together, an instant 35 days back at most) is 422; what the catalog
# and the ledger decide is 402, 409 and 429.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "402", "403", "404", "409", "422", "429"]
"""
CALLERS: dict[str, dict[str, Any]] = {
    "service": {"user": "app", "role": "service"},
    "member": {"user": "sam", "tier": "premium"},
    "super-admin": {"user": "root", "role": "superadmin"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("openapi")
    return Place(folder, clock=TODAY, CATALOG=a_priced_catalog(folder))


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    response = httpx2.get(f"{server.base_url}/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def healthy() -> KeysHealth:
    return "ok"


def test_every_route_is_in_the_document_and_nothing_else(place: Place, document: dict[str, Any]) -> None:
    settings = place.settings()
    service = make_service(settings, catalog_of(settings))
    served = {
        route.path: set(route.methods or ()) - {"HEAD"}
        for route in api_routes(service.toolbox, ToolCalls(service.toolbox), healthy, {}, "")
    }
    assert served.pop(TOOL_ROUTE) == {"POST"}
    served |= {TOOL_ROUTE.format(tool_name=tool.name): {"POST"} for tool in TOOLS}
    served["/mcp"] = {"GET", "POST", "DELETE"}
    assert {path: {method.upper() for method in item} for path, item in document["paths"].items()} == served


def test_what_needs_no_token_says_so(document: dict[str, Any]) -> None:
    public = {
        path
        for path, item in document["paths"].items()
        if all(operation.get("security") == [] for operation in item.values())
    }
    assert public == PUBLIC_PATHS


def test_every_code_stands_at_its_status(document: dict[str, Any]) -> None:
    told: dict[str, set[int]] = {}
    for response in document["components"]["responses"].values():
        (content,) = response["content"].values()
        narrowed = content["schema"]["allOf"][1]["properties"]
        for code in narrowed["code"]["enum"]:
            told.setdefault(code, set()).add(narrowed["status"]["const"])
    for code, status in HTTP_STATUS.items():
        if code != "ok":
            assert status in told[code]


def test_no_reference_leads_nowhere_and_nothing_stands_unused(document: dict[str, Any]) -> None:
    used: set[str] = set()

    def follow(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                follow(item)
        elif isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str) and reference not in used:
                used.add(reference)
                found: Any = document
                for part in reference.removeprefix("#/").split("/"):
                    found = found[part]
                follow(found)
            for value in node.values():
                follow(value)

    follow(document["paths"])
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in document["components"][kind]
    }
    assert there == used


@pytest.mark.parametrize("who", CALLERS)
def test_schemathesis_finds_nothing(place: Place, server: Server, tmp_path: Path, who: str) -> None:
    """Every check there is, with right and wrong requests made from the document, from one seed."""
    program = Path(sys.executable).with_name("schemathesis")
    assert program.exists(), "schemathesis is in the dev group: python3 dev.py setup"
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    identity = dict(CALLERS[who])
    token = place.token(identity.pop("user"), **identity)
    before = place.rows()["event"]
    done = subprocess.run(
        [
            *(program, "run", f"{server.base_url}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", "all", "--mode", "all", "--max-examples", "10", "--generation-deterministic"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--no-color"),
            # Its messages are the protocol's, judged by MCP's own conformance suite.
            *("--exclude-path", "/mcp"),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if who == "service":  # what is right was answered, not only refused
        assert place.rows()["event"] > before
