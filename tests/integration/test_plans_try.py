"""`plans try` as a product manager types it: on the ledger of a chat, with a draft of its catalog."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.harness import TODAY, Place

from subscription_mcp.catalogs import load_catalog, shipped_text
from subscription_mcp.cli.plans_try import text_of
from subscription_mcp.domain.instants import DAY
from subscription_mcp.domain.windows import Period
from subscription_mcp.ledger.what_if import PlanTried, Tried

OK, CONFIGURATION, CANNOT_REACH = 0, 2, 5
ACME = ("--tenant", "acme")


async def use(place: Place) -> None:
    """Fourteen people of acme use one message more than the one before, the first two of them; ada is on Premium."""
    users = [f"user-{number:02}" for number in range(1, 14)]
    with place.serving() as server:
        async with server.api(place.token("ada", tier="premium")) as ada:
            assert (await ada.call("get_tier_info")).status_code == 200
        async with server.api(place.token("app", role="service")) as app:
            for count, user in enumerate((*users, "ada"), 2):
                events = [{"user_id": user, "event": "message"}] * count
                answer = await app.call("record_usage_batch", events=events)
                assert all(result["allowed"] for result in answer.json()["result"]["results"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("plans-try"), clock=TODAY)
    asyncio.run(use(place))
    return place


def draft(place: Place, *changes: tuple[str, str]) -> str:
    text = shipped_text("bedrock-chat")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (place.folder / "draft.toml").write_text(text, "utf-8")
    return "draft.toml"


TIGHTER = ('window = "day", limit = 50 }', 'window = "day", limit = 10 }')


def tried(place: Place, *arguments: str) -> dict[str, Any]:
    done = place.run("plans", "try", *arguments, *ACME, "--json")
    assert done.returncode == OK, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_table_and_sentences_say_who_would_have_been_refused(place: Place) -> None:
    done = place.run("plans", "try", draft(place, TIGHTER), *ACME)
    assert done.returncode == OK and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].endswith("2026-11-20 14:03 UTC: 119 events of 14 accounts.")
    assert [re.split(" {2,}", line) for line in lines[2:5]] == [
        [
            "plan",
            "in the draft",
            "accounts",
            "events",
            "events refused",
            "accounts refused",
            "earned",
            "draft earns",
        ],
        ["basic", "basic", "13", "104", "10", "4", "0.00 USD", "0.00 USD"],
        ["premium", "premium", "1", "15", "0", "0", "0.00 USD", "0.00 USD"],
    ]
    assert "The draft would have refused 10 events (8.4 %) of 4 accounts, the first on" in done.stdout
    assert "  messages on basic, at most 10 messages a day: 10 events of 4 accounts" in lines
    assert "user-13 (basic): 4 of 14 events refused, first on 2026-11-20 14:03 UTC" in done.stdout
    assert "The draft would have earned 0.00 USD, the plans of then earned 0.00 USD: the same." in lines
    assert "whoever issues the token" not in done.stdout


def test_what_is_beyond_limits_and_what_others_charge_is_told_apart() -> None:
    plan = PlanTried("pro", "pro", 2, 7)
    plan.currency = plan.draft_currency = "USD"
    plan.earned_micros, plan.draft_earned_micros = 29_000_000, 25_000_000
    plan.earned_overage_micros, plan.draft_overage_micros = 500_000, 3_000_000
    plan.by_issuer_micros, plan.draft_by_issuer_micros = 58_000_000, 50_000_000
    said = text_of(Tried(Period(0, DAY), 2, [plan], [], {}, {}), [], load_catalog("bedrock-chat"), "acme")
    assert "The draft would have earned 28.00 USD, the plans of then earned 29.50 USD: 1.50 USD less." in said
    assert "Of that for usage beyond limits: 3.00 USD in the draft, 0.50 USD then." in said
    assert "whoever issues the token charges for them: 50.00 USD in the draft, 58.00 USD then" in said


def test_json_has_all_of_it_and_as_many_accounts_as_are_asked_for(place: Place) -> None:
    file = draft(place, ('window = "day", limit = 50 }', 'window = "day", limit = 1 }'))
    few = tried(place, file)
    assert (len(few["accounts"]), few["accounts_left_out"], few["refused_accounts"]) == (10, 3, 13)
    everybody = tried(place, file, "--all")
    assert (len(everybody["accounts"]), everybody["accounts_left_out"]) == (13, 0)
    first = everybody["accounts"][0]
    assert (first["account_id"], first["events"], first["refused_events"]) == ("user-13", 14, 13)
    assert first["limits"] == [{**first["first_limit"], "refused_events": 13}]
    assert sum(one["refused_events"] for one in everybody["accounts"]) == everybody["refused_events"]
    assert sum(plan["refused_events"] for plan in everybody["plans"]) == everybody["refused_events"]
    assert place.run("plans", "try", file, *ACME).stdout.count("… and 3 more; --all shows everybody.") == 1


def test_the_catalog_that_counted_refuses_nobody(place: Place) -> None:
    found = tried(place, "bedrock-chat")
    assert (found["events"], found["refused_events"], found["account_count"]) == (119, 0, 14)
    assert "The draft would have refused nobody." in place.run("plans", "try", "bedrock-chat", *ACME).stdout


def test_a_period_with_nothing_in_it_says_so(place: Place) -> None:
    done = place.run("plans", "try", "bedrock-chat", *ACME, "--from", "2026-01-01", "--to", "2026-02-01")
    assert done.returncode == OK and "Nothing was used in that time." in done.stdout


def test_a_plan_of_another_name_is_said_to_stand_for_it(place: Place) -> None:
    file = draft(place, ("[plans.basic]", "[plans.starter]"), ('"basic"', '"starter"'))
    done = place.run("plans", "try", file, *ACME)
    assert done.returncode == CONFIGURATION and done.stdout == ""
    assert "has no plan 'basic', which was held in that time" in done.stderr
    found = tried(place, file, "--plan", "basic=starter")
    assert [(plan["plan"], plan["draft_plan"]) for plan in found["plans"]] == [
        ("basic", "starter"),
        ("premium", "premium"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such.toml",), "no such file"),
        (("bedrock-chat", "--plan", "basic"), "must be OLD=NEW"),
        (("bedrock-chat", "--plan", "basic=basik"), "has no plan 'basik'"),
        (("bedrock-chat", "--from", "yesterday"), "or a day like 2026-11-20"),
        (("bedrock-chat", "--from", "2026-11-02", "--to", "2026-11-01"), "--to must lie after --from"),
        (("bedrock-chat", "--tenant", "no such tenant"), "--tenant"),
    ],
)
def test_a_wrong_choice_is_told_in_a_sentence(place: Place, arguments: tuple[str, ...], said: str) -> None:
    done = place.run("plans", "try", *arguments)
    assert done.returncode == CONFIGURATION and said in " ".join(done.stderr.split()), done.stderr


def test_it_works_beside_a_server_and_changes_nothing(place: Place) -> None:
    before = place.rows()
    with place.serving():
        assert tried(place, draft(place, TIGHTER))["refused_events"] == 10
    assert place.rows() == before


def test_without_a_ledger_it_says_so(tmp_path: Path) -> None:
    done = Place(tmp_path).run("plans", "try", "bedrock-chat")
    assert done.returncode == CANNOT_REACH and "There is no ledger" in done.stderr
    assert list(tmp_path.iterdir()) == []
