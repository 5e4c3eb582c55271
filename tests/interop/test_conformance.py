"""The conformance suite against the product, and against a server with one of everything: as the SDK serves it, and
behind our guard and hooks with every call metered. What is put around a server must not show."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness import TODAY, Place, Server, audit
from tests.interop.conformance import Check, Run, run_suite
from tests.interop.conftest import Report

HERE = Path(__file__).parent
ERAS = {"2026-07-28": "modern", "2025-11-25": "legacy"}

# Scenarios that ask nothing of a server but the protocol.
OF_ANY_SERVER = {
    *("server-initialize", "server-session-lifecycle", "server-stateless", "ping", "completion-complete"),
    *("tools-list", "prompts-list", "resources-list", "server-sse-multiple-streams", "caching"),
    *("sep-2164-resource-not-found", "dns-rebinding-protection", "http-header-validation"),
    "input-required-result-unsupported-methods",
}
# Scenarios about what a server need not have, by what it is; some pass where it is missing, and tell nothing. The
# everything server has it all.
OF_FIXTURES = {
    "a tool of the scenario's name": {
        *("tools-call-simple-text", "tools-call-image", "tools-call-audio", "tools-call-embedded-resource"),
        *("tools-call-mixed-content", "tools-call-with-logging", "tools-call-error", "json-schema-2020-12"),
        *("tools-call-with-progress", "tools-call-sampling", "tools-call-elicitation"),
        *("elicitation-sep1034-defaults", "elicitation-sep1330-enums"),
        *("input-required-result-basic-elicitation", "input-required-result-basic-sampling"),
        *("input-required-result-basic-list-roots", "input-required-result-request-state"),
        *("input-required-result-multiple-input-requests", "input-required-result-multi-round"),
        *("input-required-result-missing-input-response", "input-required-result-result-type"),
        *("input-required-result-tampered-state", "input-required-result-capability-check"),
        *("input-required-result-ignore-extra-params", "input-required-result-validate-input"),
    },
    "a prompt of the scenario's name": {
        *("prompts-get-simple", "prompts-get-with-args", "prompts-get-embedded-resource"),
        *("prompts-get-with-image", "input-required-result-non-tool-request"),
    },
    "a resource of the scenario's name": {
        *("resources-read-text", "resources-read-binary", "resources-templates-read"),
        *("resources-subscribe", "resources-unsubscribe"),
    },
    "a tool argument with x-mcp-header: ours have none": {"http-custom-header-server-validation"},
    "a tool that closes its own stream, on a server that keeps what it sent": {"server-sse-polling"},
    "logging over MCP, which the protocol deprecates: ours is on stderr": {"logging-set-level"},
}
# The parts of `server-stateless` that call a tool of the suite's own name.
STATELESS_FIXTURES = {
    ("sep-2575-server-rejects-undeclared-capability", "FAILURE"): "test_missing_capability",
    ("sep-2575-missing-capability-http-400", "FAILURE"): "test_missing_capability",
    ("sep-2575-http-server-no-independent-requests-on-stream", "FAILURE"): "test_streaming_elicitation",
    ("sep-2575-server-no-log-without-loglevel", "FAILURE"): "test_logging_tool",
    ("sep-2575-server-sends-prompts-list-changed-on-subscription", "WARNING"): "test_trigger_prompt_change",
    ("sep-2575-server-sends-tools-list-changed-on-subscription", "WARNING"): "test_trigger_tool_change",
}


@contextmanager
def serving(folder: Path, script: str, **variables: str) -> Iterator[Server]:
    """A server of this folder; the suite sends no token, so a premium user's is added to each request."""
    folder.mkdir()
    place = Place(folder, clock=TODAY, command=(sys.executable, str(HERE / script)), **variables)
    with place.serving(TOKEN=place.token("conny", tier="premium")) as server:
        yield server
        server.kill()  # its log holds the traceback of the tool that always breaks


def run_against(server: Server, version: str) -> Run:
    results = server.place.folder / "results"
    results.mkdir()
    return run_suite(f"{server.base_url}/mcp", version, results)


def lines(checks: list[Check]) -> str:
    return "\n".join(f"{check.status} {check.scenario} {check.id}: {check.message}" for check in checks)


@pytest.mark.parametrize("version", ERAS)
def test_the_product_passes_every_scenario_that_applies_to_it(
    tmp_path: Path, version: str, report: Report
) -> None:
    with report("conformance, product", ERAS[version], "http") as tally:
        with serving(tmp_path / "product", "served_with_token.py") as server:
            run = run_against(server, version)
            assert "Traceback" not in server.log, server.log
        unknown = run.scenarios.difference(OF_ANY_SERVER, *OF_FIXTURES.values())
        assert not unknown, f"in neither table: {unknown}"
        applying = run.of(OF_ANY_SERVER)
        left_open = {("server-stateless", *known) for known in STATELESS_FIXTURES}
        found = {(check.scenario, check.id, check.status) for check in applying.not_fine}
        tally.scenarios, tally.passed = len(applying.scenarios), applying.passed.total()
        tally.failed = len(found - left_open)
        assert found == (left_open if "server-stateless" in run.scenarios else set()), lines(
            applying.not_fine
        )


@pytest.mark.parametrize("version", ERAS)
def test_a_server_behind_our_stack_answers_the_suite_as_it_does_bare(
    tmp_path: Path, version: str, report: Report
) -> None:
    with report("conformance, everything server, bare", ERAS[version], "http") as tally:
        with serving(tmp_path / "bare", "everything_bare.py") as server:
            bare = run_against(server, version)
        tally.scenarios, tally.passed, tally.failed = bare.counts
        assert not bare.not_fine, lines(bare.not_fine)
    with report("conformance, everything server, metered", ERAS[version], "http") as tally:
        metering = {"CATALOG": str(HERE / "catalog.toml"), "METERING__MEMBERS_MAY_RECORD": "true"}
        with serving(tmp_path / "metered", "everything_metered.py", **metering) as server:
            metered = run_against(server, version)
        tally.scenarios, tally.passed, tally.failed = metered.counts
        assert not metered.not_fine, lines(metered.not_fine)
        assert metered.passed == bare.passed
    settled = server.place.select("SELECT answer FROM reservation")
    events = [event for (answer,) in settled if (event := json.loads(answer)[0]) is not None]
    assert 0 < len(events) < len(settled)  # some calls ask back first, one always fails
    assert audit(server.place) == len(events)
    assert server.place.select("SELECT count(*) FROM hold") == [(0,)]
