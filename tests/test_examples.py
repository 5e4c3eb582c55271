"""The examples do what they say. `bedrock_chat.py` and `call.py` are run by test_readme.py, which shows what they print."""

import json
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
from tests import forked
from tests.harness import ERAS, ROOT, Place

from subscription_mcp.catalogs import load_catalog, shipped_names


def run(place: Place, example: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [forked.python(), str(ROOT / "examples" / example), *arguments],
        env=place.environment(**variables),
        cwd=place.folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def created(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(place, "create_test_users.py", *arguments)


@pytest.mark.parametrize("catalog", shipped_names())
async def test_each_token_it_prints_has_its_tier(tmp_path: Path, catalog: str) -> None:
    place = Place(tmp_path, CATALOG=catalog)
    done = created(place, "--tenant", "globex", "--json")
    assert done.returncode == 0, done.stderr
    users = json.loads(done.stdout)
    assert [user["plan"] for user in users] == list(load_catalog(catalog).plans)
    for user, mode in zip(users, cycle(ERAS.values())):
        async with place.over_stdio(user["token"], mode) as talk:
            told = await talk.call("get_tier_info")
        assert (told["tenant_id"], told["user_id"], told["plan"]) == ("globex", user["user"], user["plan"])
        assert told["origin"] == "token"


def test_it_prints_a_line_for_each_and_may_be_run_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for _ in range(2):
        done = created(place)
        assert done.returncode == 0, done.stderr
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["test-basic", "basic"],
            ["test-advanced", "advanced"],
            ["test-premium", "premium"],
        ]


def test_it_says_in_a_sentence_what_is_wrong(tmp_path: Path) -> None:
    done = created(Place(tmp_path, CATALOG="bedrok-chat"))
    assert done.returncode == 2 and done.stdout == ""
    assert "did you mean 'bedrock-chat'?" in done.stderr and "Traceback" not in done.stderr


def test_a_call_says_in_words_what_came_of_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    service = place.token("app", role="service")
    with place.serving() as server:
        url = f"--url={server.base_url}/mcp"

        def call(*words: str, token: str = service) -> tuple[int, str]:
            done = run(place, "call.py", url, *words, TOKEN=token)
            return done.returncode, done.stdout + done.stderr

        code, told = call("record_usage", "user_id=bella", "event=message", "quantity=50")
        assert code == 0 and told.startswith("Basic plan: 50 of 50 messages")
        assert call("record_usage", "user_id=bella", "event=mail")[0] == 1
        assert call("no_such_tool") == (1, "Unknown tool: no_such_tool\n")
        assert "is the token one of its own?" in call("get_tier_info", token="nonsense")[1]
        # Nobody is there to answer: nothing is changed.
        assert call("upgrade_tier", "plan=advanced", token=place.token("bella"))[1].endswith(
            "Declined: nothing was changed.\n"
        )


def test_who_has_read_enough_is_left_in_peace(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.serving() as server:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "examples" / "call.py"),
                f"--url={server.base_url}/mcp",
                "get_tier_info",
            ],
            env=place.environment(TOKEN=place.token("bella")),
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=120,
        )
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


STORIES = {
    "bedrock-chat": ["50 allowed", "Advanced plan: 51 of 200 messages used today"],
    "notion-agent": [
        "Trial: 7 days left",
        "there is one for each user.",
        "Done: the plan is Plus",
        "From Plus you can move to Teams, not to Pro. Nothing was changed.",
        "All 3 seats of this group are taken on the Teams plan",
        "by this member",
        "Scheduled for",
        "Preview: keeping Teams",
    ],
    "jobs-platform": [
        "and 20 more would pass the limit",
        "Free plan: 60 of 60 API calls used in the last minute",
        "Done: the plan is Enterprise",
        "was suspended",
        "Enterprise plan: 501 jobs used this month, no limit.",
    ],
    "alwrity": [
        "Affordable: ",
        "What it costs is not known",
        "and 3.00 more would pass the limit",
        "Gemini 2.5 Flash (gemini gemini-2.5-flash) would fit.",
        "Done: the plan is Pro",
        "of 150.00 USD used this month",
    ],
    "group-tokens": [
        "There is no subscription for this account yet.",
        "Done: the plan is Starter",
        "The Starter plan is already held; nothing was changed.",
        "Approaching the limit. Basic has 100,000 a billing period.",
        "1,070 of 1,000 LLM tokens used",
        "1,070 of 2,000 LLM tokens used",
    ],
}
"""What each says at least, in this order."""


@pytest.mark.parametrize("catalog", STORIES)
def test_a_story_is_played_against_a_server_with_its_catalog(tmp_path: Path, catalog: str) -> None:
    place = Place(tmp_path, CATALOG=catalog)
    script = ROOT / "examples" / f"{catalog.replace('-', '_')}.py"
    with place.serving() as server:
        for _ in range(2):  # everybody in it is new each time
            done = subprocess.run(
                [forked.python(), str(script), f"{server.base_url}/mcp"],
                env=place.environment(),
                cwd=place.folder,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            told = 0
            for words in STORIES[catalog]:
                assert words in done.stdout[told:], (words, done.stdout)
                told = done.stdout.index(words, told)


def test_every_shipped_catalog_has_its_story() -> None:
    assert set(STORIES) == set(shipped_names())


HALF_A_YEAR = [
    "--- 2026-01-12",
    "What it costs is not known",
    "Free plan: 0.035 of 2.00 USD used this month, and 2.00 more would pass the limit.",
    "Done: the plan is Pro since 2026-01-12",
    "Affordable: 36 calls like this, or 9,800,000 output tokens in this one; what binds is Gemini tokens a month.",
    "--- 2026-02-20",
    "At the pace of the last 14 days 42.56 USD by 2026-03-01 00:00 UTC, 28 % of 150.00.",
    "--- 2026-03-20",
    "Pro plan: 150.00 of 150.00 USD used this month. Resets 2026-04-01 00:00 UTC. Enterprise has 500.00 USD a month.",
    "critical: Pro plan: 150.00 of 150.00 USD used this month; the limit is reached.",
    "Call upgrade_tier with plan enterprise.",
    "90 % is reached.",
    "80 % is reached.",
    "4 alerts marked as read.\nThere are no alerts.",
    "limit.grant cost per month: 10.00 USD more until",
    "Pro plan: 150.80 of 160.00 USD used this month",
    "--- 2026-04-15",
    "taken back. it was recorded twice",
    "29.29 USD used.",
    "--- 2026-05-12",
    "Charged 711.00 USD, 790.00 USD at each renewal.",
    "--- 2026-06-20",
    "From 2026-01-01: 2.035 USD, 1 event (cost unpriced).\nFrom 2026-02-01: 30.30 USD.\nFrom 2026-03-01: 150.80 USD.\n",
    "From 2026-04-01: 29.29 USD.\nFrom 2026-05-01: 40.40 USD.\nFrom 2026-06-01: 60.60 USD.\n",
    "by model?",
    "model gemini-2.5-pro: 75.75 USD",
    "by user?",
    "user wren: 150.80 USD",
    "711.00 USD, paid",
    "  790.00 USD  Pro plan at 790.00 USD",
    "  -79.00 USD  Given back: Pro plan not used",
    *[f"2026-0{month}-12 12:00 UTC: 79.00 USD, paid" for month in (5, 4, 3, 2, 1)],
    "Next invoice, 2027-05-12 12:00 UTC: 790.00 USD so far",
]
"""What the story of half a year says at least, in this order."""


def test_half_a_year_is_played_on_a_ledger_of_its_own(tmp_path: Path) -> None:
    place, script = Place(tmp_path, CATALOG="bedrock-chat"), "alwrity_six_months.py"
    done = run(place, script, "story")
    assert done.returncode == 0, done.stderr
    told = 0
    for words in HALF_A_YEAR:
        assert words in done.stdout[told:], (words, done.stdout)
        told = done.stdout.index(words, told) + len(words)
    # Nothing went to the ledger this person has, and January does not come again.
    assert not place.database.exists()
    own = {"DATABASE_URL": f"sqlite:///{tmp_path / 'story' / 'ledger.db'}", "CATALOG": "alwrity"}
    assert place.run("verify", **own).returncode == 0
    again = run(place, script, "story")
    assert again.returncode == 1 and "Give a new folder" in again.stderr
