"""Whatever happens in whatever order, every number is what a naive recount says it must be."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.builders import Clock
from tests.chaos.steps import AROUND, COMMANDS, WEIGHTS, Choices, Story
from tests.chaos.world import World

from subscription_mcp.ledger import sqlite as sqlite_engine

LEDGERS = 2
STEPS = 60
KINDS: dict[str, Choices] = COMMANDS | AROUND
HOW: Choices = {"ledger": tuple(range(LEDGERS)), "hold_back": (False, False, True), "split": (False, True)}


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
        self.world = World(Path(self.folder.name), 0, Clock("2026-01-30T22:10:00Z"))
        self.story = Story(self.world)
        self.runner.run(self.world.open(LEDGERS))

    def teardown(self) -> None:
        try:
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


async def test_a_seeded_simulation_of_crashes_clock_jumps_and_repeats(effort, seed: str) -> None:
    for number in range(effort(8, 80, 5_000)):
        await simulate(f"{seed} {number}", STEPS)


async def simulate(seed: str, steps: int) -> None:
    dice = random.Random(seed)
    with TemporaryDirectory() as folder:
        world = World(Path(folder), seed, Clock("2026-01-30T22:10:00Z"))
        story = Story(world)
        await world.open(dice.randrange(1, 4))
        kinds = list(KINDS)
        try:
            for _ in range(steps):
                (kind,) = dice.choices(kinds, [WEIGHTS.get(kind, 1) for kind in kinds])
                drawn = {name: dice.choice(values) for name, values in KINDS[kind].items()}
                how = {name: dice.choice(values) for name, values in HOW.items()}
                await story.step(kind, drawn, **how)
        except BaseException:
            print(f"seed {seed!r}", *world.said, sep="\n")  # noqa: T201
            raise
        finally:
            await world.close()
