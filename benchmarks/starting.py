"""How long a client waits for a stdio server: from the start of the process to the first answer of a tool."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from tests.harness import MODERN, Place

from benchmarks.load import CannotMeasure
from benchmarks.places import bare_place, our_place
from benchmarks.rounds import Measures, Report, at_most, difference, in_turns

STARTS_MIN = 7
ANSWER_WITHIN_SECONDS = 30
EXTRA_MILLISECONDS_MAX = 150
LEGACY = "2025-11-25"
ERAS = ("modern", "legacy")
CALLS: Mapping[str, dict[str, Any]] = {
    "ours": {"name": "get_tier_info", "arguments": {}},
    "bare SDK": {"name": "record_usage", "arguments": {"event": "message"}},
}


def start(rounds: int) -> Report:
    """A stdio server of ours starts at most 150 ms later than a bare one of the SDK."""
    with ExitStack() as stack:
        ours, bare = stack.enter_context(our_place()), stack.enter_context(bare_place("mcp"))
        environments = {
            "ours": (ours, ours.environment(TOKEN=ours.token("ann"))),
            "bare SDK": (bare, bare.environment()),
        }
        sides: dict[str, Callable[[], Measures]] = {}
        for era in ERAS:
            for name, (place, environment) in environments.items():
                lines = _conversation(era, CALLS[name])
                sides[f"{name}, {era}"] = lambda place=place, environment=environment, lines=lines: _started(
                    place, environment, lines
                )
        for first in sides.values():  # makes the ledger, and has every file read once
            first()
        turns = in_turns(sides, max(rounds, STARTS_MIN))
    goals = [
        at_most(
            f"{era}: later than bare",
            difference(turns, f"ours, {era}", f"bare SDK, {era}", "first answer ms"),
            EXTRA_MILLISECONDS_MAX,
            "ms",
        )
        for era in ERAS
    ]
    return Report(
        "start: a stdio server's first answer",
        "From the start of the process to the first answer of a tool, on a ledger that is there, in both protocol eras.",
        turns,
        goals,
    )


def _conversation(era: str, call: dict[str, Any]) -> list[dict[str, Any]]:
    """What a client sends; it waits for each answer. The last is the call."""
    if era == "modern":
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        return [_request(1, "tools/call", {**call, "_meta": meta})]
    hello = {
        "protocolVersion": LEGACY,
        "capabilities": {},
        "clientInfo": {"name": "start", "version": "1"},
    }
    return [
        _request(1, "initialize", hello),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        _request(2, "tools/call", call),
    ]


def _request(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _started(place: Place, environment: Mapping[str, str], lines: list[dict[str, Any]]) -> Measures:
    began = time.perf_counter()
    process = subprocess.Popen(
        [*place.command, "stdio"],
        env=dict(environment),
        cwd=place.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        answer: dict[str, Any] = {}
        for line in lines:
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            if "id" in line:
                answer = json.loads(process.stdout.readline() or b"{}")
        took = time.perf_counter() - began
        process.stdin.close()
        process.wait(ANSWER_WITHIN_SECONDS)
    finally:
        process.kill()
        process.wait()
    if answer.get("result", {}).get("isError", True):
        raise CannotMeasure(f"The first call was not answered: {answer}")
    return {"first answer ms": took * 1000}
