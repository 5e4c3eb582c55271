"""The machine asks for facts until it has them, and not for ever."""

import pytest
from tests.builders import a_catalog, a_record

from subscription_mcp.ledger import machine
from subscription_mcp.ledger.machine.facts import Changes, Facts, Turn


def test_a_loader_that_brings_nothing_is_not_asked_for_ever() -> None:
    asked = []

    def load(facts: Facts) -> None:
        asked.append(dict(facts.missing))
        facts.missing = {}

    turn = Turn(Facts(a_catalog()), Changes(), 0, lambda: "id")
    with pytest.raises(AssertionError, match="RecordUsage still misses members after 100 loads"):
        machine.run(turn, [a_record()], load)
    assert len(asked) == machine.ROUNDS_MAX
