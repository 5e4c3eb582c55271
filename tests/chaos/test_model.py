"""Whatever happens in whatever order, every number is what a naive recount says it must be."""

import ast
import asyncio
import random
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.builders import Clock
from tests.chaos.steps import AROUND, BUYING, COMMANDS, DELIVERIES, SPENDING, WEIGHTS, Choices, Story
from tests.chaos.world import DEFAULTS, ZONES, World

from subscription_mcp.ledger.sqlite import engine as sqlite_engine

LEDGERS = 2
STEPS = 60
KINDS: dict[str, Choices] = COMMANDS | AROUND
HOW: Choices = {"ledger": tuple(range(LEDGERS)), "delivery": DELIVERIES, "split": (False, True)}
STARTS = (
    "2026-01-30T22:10:00Z",  # before the end of a long month
    "2026-03-08T04:10:00Z",  # hours before New York's clocks go forward
    "2026-03-28T22:10:00Z",  # … Berlin's
    "2026-10-24T21:10:00Z",  # … back
    "2026-11-01T03:10:00Z",  # … New York's
    "2027-12-31T20:10:00Z",
    "2028-02-28T22:10:00Z",
)
ORDERS = tuple(permutations(ZONES))
"""Which plan is in which time zone."""


@pytest.fixture(autouse=True)
def _checkpoints_often_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_ROWS", 40)
    monkeypatch.setattr(sqlite_engine, "CACHED_FACTS_MAX", 150)


class Machine(RuleBasedStateMachine):
    """One world for each story hypothesis tells; every kind of step is a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.world: World | None = None

    @initialize(
        start=st.sampled_from(STARTS), zones=st.sampled_from(ORDERS), default=st.sampled_from(DEFAULTS)
    )
    def begin(self, start: str, zones: tuple[str, ...], default: str) -> None:
        self.world = World(Path(self.folder.name), 0, Clock(start), zones, default)
        self.story = Story(self.world)
        self.runner.run(self.world.open(LEDGERS))

    def teardown(self) -> None:
        try:
            if self.world is not None:
                self.runner.run(self.world.close())
        finally:
            self.runner.close()
            self.folder.cleanup()


def _rule_of(kind: str, choices: Choices) -> Callable[..., None]:
    def step(self: Machine, how: dict, **drawn) -> None:
        self.runner.run(self.story.step(kind, drawn, **how))

    step.__name__ = kind
    how = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in HOW.items()})
    return rule(how=how, **{name: st.sampled_from(values) for name, values in choices.items()})(step)


for _kind, _choices in KINDS.items():
    setattr(Machine, f"{_kind}_", _rule_of(_kind, _choices))


def test_any_story_hypothesis_can_think_of(effort, pytestconfig: pytest.Config) -> None:
    run_state_machine_as_test(
        seeded(pytestconfig.option.seed)(Machine),
        settings=settings(
            max_examples=effort(8, 60, 2_000),
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_model_is_small_and_has_none_of_the_product_s_rules() -> None:
    for path in (*Path(__file__).parent.glob("model*.py"), Path(__file__).with_name("periods.py")):
        source = path.read_text("utf-8")
        assert source.count("\n") <= 150, path.name
        imports = [
            node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        ours = {ast.unparse(node) for node in imports if "subscription_mcp" in ast.unparse(node)}
        shapes = ("UNLIMITED", "Plan")
        assert ours <= {f"from subscription_mcp.domain.catalog import {shape}" for shape in shapes}, path.name


async def test_a_seeded_simulation_of_crashes_clock_jumps_and_repeats(effort, seed: str) -> None:
    for number in range(effort(8, 80, 5_000)):
        await simulate(f"{seed} {number}", STEPS)


async def simulate(seed: str, steps: int) -> None:
    dice = random.Random(seed)
    with TemporaryDirectory() as folder:
        start, zones, default = dice.choice(STARTS), dice.choice(ORDERS), dice.choice(DEFAULTS)
        world = World(Path(folder), seed, Clock(start), zones, default)
        story = Story(world)
        await world.open(dice.randrange(1, 4))
        kinds, weights = list(KINDS), dice.choice((WEIGHTS, BUYING, SPENDING, SPENDING))
        try:
            if weights is SPENDING:
                await story.buy(dice)
            for _ in range(steps):
                (kind,) = dice.choices(kinds, [weights.get(kind, 1) for kind in kinds])
                drawn = {name: dice.choice(values) for name, values in KINDS[kind].items()}
                how = {name: dice.choice(values) for name, values in HOW.items()}
                await story.step(kind, drawn, **how)
            await world.grow_old()
        except BaseException:
            print(f"seed {seed!r}", *world.said, sep="\n")  # noqa: T201
            raise
        finally:
            await world.close()
