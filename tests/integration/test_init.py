"""`init`: what it writes works as it is, in whatever folder, and what it prints can be typed."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import Place

from subscription_mcp.catalogs import shipped_names, shipped_text

OK, CONFIGURATION = 0, 2


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Without the settings a test usually has in its environment."""
    place = Place(tmp_path)
    place.variables.clear()
    return place


def typed(place: Place, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", line],
        env=place.environment(),
        cwd=place.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My product", "my-product"), ("nested/it's-mine", "it-s-mine"), ("2nd", "my-product")],
)
def test_the_printed_commands_work_as_they_are_typed(place: Place, folder: str, name: str) -> None:
    done = place.run("init", folder)
    assert (done.returncode, done.stdout) == (OK, ""), done.stderr
    assert files_in(place.folder / folder) == ["catalog.toml", "subscription.toml"]
    doctor, mint, serve = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    checked = typed(place, doctor)
    assert checked.returncode == OK, checked.stdout
    assert f"{name}: free, pro" in checked.stdout
    minted = typed(place, mint)
    assert minted.returncode == OK, minted.stderr
    token = minted.stdout.strip()
    shown = typed(place, doctor.replace("doctor", f"token inspect {token}"))
    assert shown.returncode == OK, shown.stdout
    # Its own help proves that the last one is understood; the next test has a server run.
    assert typed(place, f"{serve} --help").returncode == OK


async def test_the_folder_can_be_served_moved_and_served_again(place: Place) -> None:
    assert place.run("init", "my product").returncode == OK
    for folder, used in (("my product", 0), ("moved", 1)):
        if folder == "moved":
            (place.folder / "my product").rename(place.folder / folder)
        place.variables["CONFIG"] = f"{folder}/subscription.toml"
        checked = place.run("catalog", "check")
        assert checked.returncode == OK and f"{folder}/catalog.toml: fine, 2 plans" in checked.stderr
        mine = place.run("token", "mint", "--user", "me").stdout.strip()
        service = place.run("token", "mint", "--user", "app", "--role", "service").stdout.strip()
        async with place.over_stdio(mine) as me:
            assert (await me.call("check_quota", event="request"))["limits"][0]["used"] == used
        with place.serving() as server:
            async with server.client(service) as app:
                recorded = await app.call("record_usage", user_id="me", event="request")
        assert recorded["limits"][0]["used"] == used + 1
        assert (place.folder / folder / "ledger.db").is_file()


def test_without_a_folder_it_is_this_one(place: Place) -> None:
    assert place.run("init").returncode == OK
    assert files_in(place.folder) == ["catalog.toml", "subscription.toml"]


def test_who_started_before_the_catalog_was_theirs_goes_on_with_it(place: Place) -> None:
    """The template's ledger counts by a catalog of the folder's name, and so does the one that replaces it."""
    place.run("init", "image-studio")
    place.variables["CONFIG"] = "image-studio/subscription.toml"
    assert place.run("usage", "--user", "me").returncode == OK
    mine = shipped_text("jobs-platform").replace('name = "jobs-platform"', 'name = "image-studio"')
    (place.folder / "image-studio" / "catalog.toml").write_text(mine, "utf-8")
    with place.serving():
        assert "0 of 10 used this month" in place.run("usage", "--user", "me").stdout


@pytest.mark.parametrize("there", ["subscription.toml", "catalog.toml"])
def test_what_is_there_is_never_overwritten(place: Place, there: str) -> None:
    (place.folder / there).write_text("mine", "utf-8")
    done = place.run("init")
    assert (done.returncode, done.stdout) == (CONFIGURATION, "")
    assert done.stderr.startswith(f"Error: {there} is there already")
    assert files_in(place.folder) == [there]
    assert (place.folder / there).read_text("utf-8") == "mine"


def test_a_link_that_leads_nowhere_is_not_written_through(place: Place) -> None:
    (place.folder / "catalog.toml").symlink_to(place.folder / "elsewhere")
    assert place.run("init").returncode == CONFIGURATION
    assert files_in(place.folder) == ["catalog.toml"]


def test_a_folder_that_cannot_be_made_is_named(place: Place) -> None:
    (place.folder / "file").write_text("")
    for folder in ("file", "file/below"):
        done = place.run("init", folder)
        assert done.returncode == CONFIGURATION
        assert done.stderr.startswith(f"Error: {folder} ")


@pytest.mark.parametrize("name", shipped_names())
def test_it_begins_with_a_copy_of_a_shipped_catalog(place: Place, name: str) -> None:
    done = place.run("init", name, "--catalog", name)
    assert done.returncode == OK, done.stderr
    assert (place.folder / name / "catalog.toml").read_text("utf-8") == shipped_text(name)
    checked = place.run("--config", f"{name}/subscription.toml", "doctor")
    assert checked.returncode == OK, checked.stdout
    assert f" {name}: " in checked.stdout


def test_an_unknown_catalog_is_refused_with_those_there_are(place: Place) -> None:
    done = place.run("init", "--catalog", "notion")
    assert done.returncode == CONFIGURATION
    assert "'notion-agent'" in done.stderr
    assert files_in(place.folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")
def test_the_configuration_is_for_its_owner_only(place: Place) -> None:
    assert place.run("init").returncode == OK
    assert (place.folder / "subscription.toml").stat().st_mode & 0o777 == 0o600
