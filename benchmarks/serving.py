"""What a recorded, decided and durable event costs over HTTP, beside servers that do nothing."""

from collections.abc import Callable
from contextlib import ExitStack

from tests.harness import Place, Server

from benchmarks.load import CannotMeasure, Measures, Request, load
from benchmarks.places import SERVICE, bare_place, our_place, over_http, over_mcp
from benchmarks.rounds import Report, at_least, in_turns, ratio

OURS, OURS_WITH_KEY = "record_usage", "record_usage with a key"
BARE_TOOL, BARE_TOOL_IN_JSON = "bare SDK tool", "bare SDK tool, JSON mode"
BARE_ROUTE = "bare Starlette route"
MCP_PATH = "record_usage at /mcp"


def mcp(rounds: int, seconds: int) -> Report:
    """`record_usage` at `/mcp`: at least 75 % of a bare tool of the SDK that answers in the same mode."""
    with ExitStack() as stack:
        place, ours = _ours(stack)
        token = place.token(SERVICE, role="service")
        sides = {
            OURS: (ours, over_mcp(token)),
            OURS_WITH_KEY: (ours, over_mcp(token, with_key=True)),
            BARE_TOOL: (_bare(stack, "mcp"), over_mcp(None)),
            BARE_TOOL_IN_JSON: (_bare(stack, "mcp-json"), over_mcp(None)),
        }
        turns = in_turns({name: _loading(*side, seconds) for name, side in sides.items()}, rounds)
        _check_events(place, turns, (OURS, OURS_WITH_KEY))
    goals = [
        at_least(
            f"calls/s: {name} / {BARE_TOOL_IN_JSON}", ratio(turns, name, BARE_TOOL_IN_JSON, "calls/s"), 0.75
        )
        for name in (OURS, OURS_WITH_KEY)
    ]
    return Report(
        "mcp: record_usage over MCP",
        "Streamable HTTP of 2026-07-28, 16 connections, 1,000 users. Ours verifies the token, decides and commits "
        "durably (`synchronous=FULL`); the bare tool of the SDK does nothing, for anybody. All answer with one JSON "
        "document: ours in the SDK's JSON mode, and so it is held against the bare tool in that mode; the SDK as it is "
        "uses the mode that could also stream, which costs more.",
        turns,
        goals,
    )


def rest(rounds: int, seconds: int) -> Report:
    """`record_usage` at `/api`: at least 50 % of an empty route, and twice the rate of `/mcp`."""
    with ExitStack() as stack:
        place, ours = _ours(stack)
        token = place.token(SERVICE, role="service")
        sides = {
            OURS: (ours, over_http(token)),
            OURS_WITH_KEY: (ours, over_http(token, with_key=True)),
            MCP_PATH: (ours, over_mcp(token)),
            BARE_ROUTE: (_bare(stack, "route"), over_http(None)),
        }
        turns = in_turns({name: _loading(*side, seconds) for name, side in sides.items()}, rounds)
        _check_events(place, turns, (OURS, OURS_WITH_KEY, MCP_PATH))
    goals = [
        *[
            at_least(f"calls/s: {name} / {BARE_ROUTE}", ratio(turns, name, BARE_ROUTE, "calls/s"), 0.5)
            for name in (OURS, OURS_WITH_KEY)
        ],
        at_least(f"calls/s: {OURS} / {MCP_PATH}", ratio(turns, OURS, MCP_PATH, "calls/s"), 2),
    ]
    return Report(
        "rest: record_usage over the HTTP API",
        "`POST /api/mcp/tools/record_usage`, 16 connections, 1,000 users, against a Starlette route that parses its "
        "body and answers four fields, and against the same event over MCP.",
        turns,
        goals,
    )


def _bare(stack: ExitStack, kind: str) -> Server:
    return stack.enter_context(stack.enter_context(bare_place(kind)).serving())


def _ours(stack: ExitStack) -> tuple[Place, Server]:
    place = stack.enter_context(our_place())
    return place, stack.enter_context(place.serving())


def _loading(server: Server, request: Request, seconds: int) -> Callable[[], Measures]:
    return lambda: load(server.base_url, server.process.pid, request, seconds)


def _check_events(place: Place, turns: dict[str, list[Measures]], sides: tuple[str, ...]) -> None:
    """Every answer counted is an event on disk; at the end of a turn a few more may be, not yet answered."""
    answered = sum(turn["calls"] for side in sides for turn in turns[side])
    if place.rows()["event"] < answered:
        raise CannotMeasure(f"{answered:,.0f} calls were answered, but fewer events recorded.")
