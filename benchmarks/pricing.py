"""What it costs a recorded call that it has a price: from the attributes to the commit, with and without a meter of costs."""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.inprocess import BATCH, must_be_recorded, quarter_clock, timed
from benchmarks.rounds import Goal, Measures, Report, at_most, difference, in_turns
from subscription_mcp.catalogs import load_catalog
from subscription_mcp.domain.catalog import Catalog, Limit, Plan
from subscription_mcp.domain.catalog_file import plan_digest
from subscription_mcp.domain.windows import parse_window
from subscription_mcp.ledger.commands import PublishPlans, RecordUsage, Subject
from subscription_mcp.ledger.sqlite.engine import SqliteEngine
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.prices import Prices

CPU = "CPU µs/decision"
USERS = 1_000
UNPRICED = "no meter of costs"
MODELS = {"priced by the catalog": "gemini-2.5-flash", "priced by the library": "gpt-4o"}
ADDED_MAX_MICROSECONDS = 100.0


def pricing(rounds: int, seconds: int) -> Report:
    """Calls in batches of 1,000, of the catalog alwrity with and without its costs."""
    whole = load_catalog("alwrity")
    meters = {name: meter for name, meter in whole.meters.items() if not meter.is_cost}
    sides: dict[str, Callable[[], Measures]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner() as runner,
        _opened(runner, Path(folder) / "plain.db", replace(whole, meters=meters)) as plain,
        _opened(runner, Path(folder) / "priced.db", whole) as priced,
    ):
        sides[UNPRICED] = _loading(runner, plain, "gemini-2.5-flash", seconds)
        for name, model in MODELS.items():
            sides[name] = _loading(runner, priced, model, seconds)
        for side in sides.values():
            side()  # nothing that comes later is seen for the first time
        turns = in_turns(sides, rounds)
    goals: list[Goal] = [
        at_most(
            f"added to a call: {name}", difference(turns, name, UNPRICED, CPU), ADDED_MAX_MICROSECONDS, "µs"
        )
        for name in MODELS
    ]
    return Report(
        "pricing: what a price adds to a recorded call",
        "Calls of one model by 1,000 users of the catalog `alwrity` in batches of 1,000: provider and price are looked up, "
        "the call is decided and committed with the price it was counted by. Beside it the same catalog without its meter "
        "of costs.",
        turns,
        goals,
    )


@contextmanager
def _opened(runner: asyncio.Runner, path: Path, catalog: Catalog) -> Iterator[Ledger]:
    """A ledger whose one plan has room for everything."""
    plan = next(iter(catalog.plans.values()))
    month = parse_window("month", "UTC")
    limits = tuple(
        Limit(name, month, 10**15)
        for name in ("cost", "gemini_calls", "openai_calls")
        if name in catalog.meters
    )
    definition = {**plan.definition, "limits": [_as_written(limit) for limit in limits]}
    roomy: Plan = replace(plan, limits=limits, definition=definition)
    catalog = replace(catalog, plans={roomy.key: roomy})
    engine = SqliteEngine(path, catalog, clock=quarter_clock(), random_bits=random.getrandbits)
    ledger = Ledger(engine)
    runner.run(ledger.open())
    try:
        published = PublishPlans(catalog.name, [roomy], {roomy.key: plan_digest(definition)})
        runner.run(ledger.submit([published]))
        yield ledger
    finally:
        runner.run(ledger.close())


def _as_written(limit: Limit) -> dict[str, object]:
    return {"meter": limit.meter, "window": limit.window.name, "limit": limit.maximum, "scope": limit.scope}


def _loading(runner: asyncio.Runner, ledger: Ledger, model: str, seconds: int) -> Callable[[], Measures]:
    prices, dice = Prices(ledger.engine.catalog), random.Random(1)

    def call() -> RecordUsage:
        said = {
            "model": model,
            "input_tokens": dice.randrange(10_000),
            "output_tokens": dice.randrange(2_000),
        }
        attributes = prices.named(said)
        price = prices.of_event("api_call", attributes, ledger.now())
        subject = Subject("acme", f"user-{dice.randrange(USERS)}")
        return RecordUsage(subject, "api_call", "app", attributes=attributes, price=price)

    async def calls() -> int:
        until, done = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            must_be_recorded(await ledger.submit([call() for _ in range(BATCH)]))
            done += BATCH
        return done

    return lambda: timed(lambda: runner.run(calls()))
