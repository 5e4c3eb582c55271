"""What the server holds in memory: beside a bare one, and after many calls."""

from contextlib import ExitStack

from benchmarks.load import load
from benchmarks.places import SERVICE, bare_place, our_place, over_http, over_mcp
from benchmarks.rounds import Report, Spread, at_most, resident_mib

EXTRA_MIB_MAX = 25
GROWTH_MIB_MAX = 5


def memory(seconds: int, calls: int) -> Report:
    """At most 25 MiB over a bare server of the SDK, and flat over many calls with idempotency keys."""
    with ExitStack() as stack:
        place = stack.enter_context(our_place())
        ours = stack.enter_context(place.serving())
        bare = stack.enter_context(stack.enter_context(bare_place("mcp")).serving())
        token = place.token(SERVICE, role="service")
        load(bare.base_url, bare.process.pid, over_mcp(None), seconds)
        load(ours.base_url, ours.process.pid, over_mcp(token), seconds)
        bare_mib, warm_mib = resident_mib(bare.process.pid), resident_mib(ours.process.pid)
        done, held = 0, {0: warm_mib}
        while done < calls:
            turn = load(ours.base_url, ours.process.pid, over_http(token, with_key=True), seconds)
            done += int(turn["calls"])
            held[done] = resident_mib(ours.process.pid)
    late = [mib for count, mib in held.items() if count >= done / 2]
    turns = {
        "bare SDK, warm": [{"MiB": bare_mib}],
        "ours, warm": [{"MiB": warm_mib}],
        **{
            f"ours after {count:,} calls": [{"MiB": held[count]}]
            for share in (1, 2, 3, 4)
            for count in [min(n for n in held if n >= done * share / 4)]
        },
    }
    goals = [
        at_most("warm, over bare", Spread.of([warm_mib - bare_mib]), EXTRA_MIB_MAX, "MiB"),
        at_most(
            f"growth over the second half of {done:,} calls",
            Spread.of([late[-1] - late[0]]),
            GROWTH_MIB_MAX,
            "MiB",
        ),
    ]
    return Report(
        "memory: what the server holds",
        "Both servers after the same seconds of calls over MCP; then ours over calls of `record_usage` through the HTTP "
        "API, each with a fresh idempotency key, by 1,000 users.",
        turns,
        goals,
    )
