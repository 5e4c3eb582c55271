"""The examples do what they say. `bedrock_chat.py` is run by test_readme.py, which shows what it prints."""

import json
import subprocess
import sys
from pathlib import Path

from tests.harness import ERAS, ROOT, Place

from subscription_mcp.catalogs import load_catalog


def created(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "create_test_users.py"), *arguments],
        env=place.environment(),
        cwd=place.folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
    )


async def test_each_token_it_prints_has_its_tier(tmp_path: Path) -> None:
    place = Place(tmp_path)
    done = created(place, "--tenant", "globex", "--json")
    assert done.returncode == 0, done.stderr
    users = json.loads(done.stdout)
    assert [user["plan"] for user in users] == list(load_catalog("bedrock-chat").plans)
    for user, mode in zip(users, [*ERAS.values(), "auto"], strict=True):
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
