"""What the README says of a catalog file that is edited under a ledger in use: every row of its table is done here, with
the real server, on a ledger that has subscribers, trials, groups and usage."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.harness import TODAY, Place, Server
from tests.test_readme import table

CATALOG = """
name = "image-studio"
title = "Image studio"
currency = "USD"
default_plan = "free"

[events.image]
attributes = { style = "text" }

[events.note]

[meters.images]
unit = "image"
event = "image"

[meters.fine_images]
unit = "image"
event = "image"
where = { style = "fine" }

[features]
reports = "Usage reports"

[plans.free]
title = "Free"
price = { monthly = "0" }
limits = [{ meter = "images", window = "day", limit = 10 }]

[plans.taster]
title = "Taster"
price = { monthly = "0" }
trial = { days = 7 }
limits = []

[plans.pro]
title = "Pro"
price = { monthly = "12.00" }
limits = [{ meter = "images", window = "day", limit = 100 }]
features = ["reports"]

[plans.team]
title = "Team"
price = { monthly = "30.00" }
limits = []
seats = { max = 3 }
"""
FREE_LIMIT = '{ meter = "images", window = "day", limit = 10 }'
USERS: dict[str, dict[str, Any]] = {
    "frida": {"tier": "free"},
    "paul": {"tier": "pro"},
    "tara": {"tier": "taster"},
    "ann": {"group": "crew", "role": "admin", "tier": "team"},
    "ben": {"group": "crew"},
    "cem": {"group": "crew"},
}
USED = {"frida": 8, "paul": 60}
CONFIGURATION = 2
Edit = tuple[str, str]


class Studio:
    """A ledger in use, and the file it counts by."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder, clock=TODAY, CATALOG="studio.toml")
        self.file = folder / "studio.toml"

    def edit(self, *edits: Edit) -> None:
        text = self.file.read_text("utf-8")
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.file.write_text(text, "utf-8")

    @contextmanager
    def edited(self, *edits: Edit) -> Iterator[Server]:
        """The server on the file with these edits."""
        self.edit(*edits)
        with self.place.serving() as server:
            yield server

    def refused(self, *edits: Edit) -> str:
        """The sentence with which the server does not start; the file is set back."""
        before = self.file.read_text("utf-8")
        self.edit(*edits)
        done = self.place.run("serve", "--port", "0")
        assert (done.returncode, done.stdout) == (CONFIGURATION, ""), done
        self.file.write_text(before, "utf-8")
        return done.stderr.strip().splitlines()[-1]

    def migrate(self, plan: str) -> None:
        done = self.place.run("plans", "migrate", plan, "--reason", "the file was edited")
        assert done.returncode == 0, done.stderr

    async def tier(self, server: Server, user: str, **claims: Any) -> dict[str, Any]:
        async with server.client(self.place.token(user, **{**USERS.get(user, {}), **claims})) as talk:
            return await talk.call("get_tier_info")

    async def use(self, server: Server, user: str, quantity: int = 1) -> dict[str, Any]:
        async with server.client(self.place.token("app", role="service")) as app:
            return await app.call("record_usage", user_id=user, event="image", quantity=quantity)


@pytest.fixture(scope="module")
def in_use(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody on every plan, a group that is full, a trial that runs, and usage."""
    folder = tmp_path_factory.mktemp("in-use")
    (folder / "studio.toml").write_text(CATALOG, "utf-8")
    studio = Studio(folder)

    async def begin(server: Server) -> None:
        for user in USERS:
            await studio.tier(server, user)
        for user, quantity in USED.items():
            assert (await studio.use(server, user, quantity))["allowed"]

    with studio.place.serving() as server:
        asyncio.run(begin(server))
    return folder


@pytest.fixture
def studio(in_use: Path, tmp_path: Path) -> Studio:
    shutil.copytree(in_use, tmp_path, dirs_exist_ok=True)
    return Studio(tmp_path)


Row = Callable[[Studio], Awaitable[None]]
ROWS: dict[str, Row] = {}


def row(says: str) -> Callable[[Row], Row]:
    def add(function: Row) -> Row:
        ROWS[says] = function
        return function

    return add


def only(limits: list[dict[str, Any]]) -> dict[str, Any]:
    (limit,) = limits
    return limit


def test_every_row_of_the_table_is_done_here() -> None:
    assert [says for says, _ in table("in the file")] == list(ROWS)


@pytest.mark.parametrize("says", ROWS)
async def test_what_the_readme_says_of_an_edited_catalog(studio: Studio, says: str) -> None:
    await ROWS[says](studio)


@row("a plan's title, price, limits, features, seats, sessions, time zone or `changes_to`")
async def a_plan_edited(studio: Studio) -> None:
    with studio.edited(
        ('"12.00"', '"15.00"'),
        ("limit = 100", "limit = 200"),
        ('title = "Pro"', 'title = "Pro"\ntimezone = "Asia/Tokyo"'),
    ) as server:
        server.wait_for_log("1 account(s) stay on version 1 of plan 'pro' (the newest is 2)")
        assert "subscription-mcp plans migrate pro" in server.log
        old, new = await studio.tier(server, "paul"), await studio.tier(server, "pia", tier="pro")
        assert [one["price"]["monthly"]["amount"] for one in (old, new)] == ["12.00", "15.00"]
        assert [only(one["limits"])["limit"] for one in (old, new)] == [100, 200]
        assert [only(one["limits"])["timezone"] for one in (old, new)] == ["UTC", "Asia/Tokyo"]
        studio.migrate("pro")
        moved = await studio.tier(server, "paul")
        assert (moved["price"]["monthly"]["amount"], moved["period"]) == ("15.00", old["period"])
        # 14:03 UTC is 23:03 in Tokyo: what was used is of the same day there.
        assert (only(moved["limits"])["limit"], only(moved["limits"])["used"]) == (200, 60)


@row("a limit lowered below what was used")
async def a_limit_lowered(studio: Studio) -> None:
    with studio.edited((FREE_LIMIT, FREE_LIMIT.replace("10", "5"))) as server:
        assert (await studio.use(server, "frida"))["allowed"]
        studio.migrate("free")
        refused = await studio.use(server, "frida")
        assert refused["message"].startswith(
            "Free plan: 9 of 5 images used today. Resets 2026-11-21 00:00 UTC. Pro has 100 a day."
        )
        assert (only(refused["limits"])["remaining"], refused["code"]) == (0, "quota_exceeded")
    with studio.place.serving(CLOCK="2026-11-21T00:00:00Z") as server:
        assert (await studio.use(server, "frida", 5))["allowed"]


@row("the window of a limit")
async def a_window_changed(studio: Studio) -> None:
    windows = ("rolling:PT5H", "billing_period")
    limits = ", ".join(f'{{ meter = "images", window = "{window}", limit = 9 }}' for window in windows)
    with studio.edited((FREE_LIMIT, limits)) as server:
        studio.migrate("free")
        for limit in (await studio.tier(server, "frida"))["limits"]:
            assert (limit["window"] in windows, limit["used"]) == (True, 8)
        assert (await studio.use(server, "frida"))["allowed"]
        assert (await studio.use(server, "frida"))["code"] == "quota_exceeded"


@row("a trial added, taken away or of another length")
async def a_trial_changed(studio: Studio) -> None:
    with studio.place.serving() as server:
        before = (await studio.tier(server, "tara"))["trial"]
    for edit, then in (
        (("days = 7", "days = 30"), "2026-12-20"),
        (("trial = { days = 30 }\n", ""), None),
    ):
        with studio.edited(edit) as server:
            newcomer = (await studio.tier(server, f"newcomer-{then}", tier="taster"))["trial"]
            assert (newcomer["ends_at"][:10] if newcomer else None) == then
            assert (await studio.tier(server, "tara"))["trial"] == before
            studio.migrate("taster")
            assert (await studio.tier(server, "tara"))["trial"] == before
    with studio.edited(('title = "Free"', 'title = "Free"\ntrial = { days = 3 }')) as server:
        studio.migrate("free")
        frida = await studio.tier(server, "frida")
        assert (frida["trial"], frida["status"]) == (None, "active")


@row("seats lowered below the users of a group")
async def seats_lowered(studio: Studio) -> None:
    with studio.edited(("max = 3", "max = 2")) as server:
        studio.migrate("team")
        assert (await studio.tier(server, "cem"))["seats"] == {"used": 3, "max": 2}
        async with server.api(studio.place.token("dora", group="crew")) as dora:
            answer = await dora.call("get_tier_info")
            assert (answer.status_code, "All 2 seats" in answer.text) == (409, True)


@row("a plan taken away or renamed")
async def a_plan_renamed(studio: Studio) -> None:
    with studio.edited(("[plans.pro]", "[plans.professional]")) as server:
        server.wait_for_log("1 account(s) stay on version 1 of plan 'pro' (it is no longer offered)")
        paul = await studio.tier(server, "paul")
        assert (paul["plan"], only(paul["limits"])["used"]) == ("pro", 60)
        async with server.api() as nobody:
            plans = [plan["plan"] for plan in (await nobody.get("/api/plans")).json()["plans"]]
        assert plans == ["free", "taster", "professional", "team"]


@row("`default_plan`")
async def the_default_plan_changed(studio: Studio) -> None:
    with studio.edited(
        ('default_plan = "free"', 'default_plan = "gratis"'), ("[plans.free]", "[plans.gratis]")
    ) as server:
        assert (await studio.tier(server, "nora"))["plan"] == "gratis"
        assert (await studio.tier(server, "frida"))["plan"] == "free"
    refused = studio.refused(('default_plan = "gratis"', 'default_plan = "pro"'))
    assert "studio.toml: default_plan: plan 'pro' is not free" in refused


@row("a feature taken away or renamed")
async def a_feature_gone(studio: Studio) -> None:
    feature = ('[features]\nreports = "Usage reports"', ""), ('features = ["reports"]', "")
    with studio.edited(*feature) as server:
        paul = await studio.tier(server, "paul")
        assert (paul["plan"], paul["features"]) == ("pro", {})
        async with server.client(studio.place.token("paul")) as talk:
            said = await talk.refusal("has_feature", feature="reports")
            assert said["code"] == "invalid_request"
    studio.file.write_text(CATALOG, "utf-8")
    with studio.place.serving() as server:
        assert (await studio.tier(server, "paul"))["features"] == {"reports": True}


@row("a meter or an event added; an event without meters taken away")
async def an_event_added(studio: Studio) -> None:
    added = '[events.video]\n\n[meters.videos]\nunit = "video"\nevent = "video"\n\n[features]'
    with studio.edited(("[events.note]\n", ""), ("[features]", added)) as server:
        async with server.client(studio.place.token("app", role="service")) as app:
            assert (await app.call("record_usage", user_id="frida", event="video"))["allowed"]
            gone = await app.refusal("record_usage", user_id="frida", event="note")
            assert gone["code"] == "invalid_request"


@row("a meter taken away or renamed that nobody's plan limits")
async def a_meter_gone(studio: Studio) -> None:
    with studio.edited(("[meters.fine_images]", "[meters.finest_images]")) as server:
        async with server.client(studio.place.token("frida")) as talk:
            report = await talk.call("get_usage_analytics", period="today")
            assert {total["meter"]: total["quantity"] for total in report["totals"]} == {"images": 8}
        assert (await studio.use(server, "frida"))["allowed"]


@row("a meter taken away or renamed that somebody's plan limits")
async def a_limited_meter_gone(studio: Studio) -> None:
    renamed = [
        ("[meters.images]", "[meters.pictures]"),
        (FREE_LIMIT, ""),
        (FREE_LIMIT.replace("10", "100"), ""),
    ]
    refused = studio.refused(*renamed)
    assert (
        "studio.toml: meters.images: is gone, but version 1 of plan 'free', which 1 account holds" in refused
    )
    assert "subscription-mcp plans migrate free" in refused
    with studio.edited(*renamed[1:]):
        for plan in ("free", "pro"):
            studio.migrate(plan)
    with studio.edited(renamed[0]) as server:
        assert (await studio.use(server, "frida", 99))["allowed"]


@row("the event, aggregate, attribute, filter or unit of a meter that was used")
async def a_meter_counts_otherwise(studio: Studio) -> None:
    fine = '[meters.images]\nunit = "image"\nevent = "image"'
    for key, edits in {
        "unit": [(fine, fine.replace('unit = "image"', 'unit = "picture"'))],
        "event": [(fine, fine.replace('event = "image"', 'event = "note"'))],
        "aggregate": [(fine, f'{fine}\naggregate = "count"')],
        "where": [(fine, f'{fine}\nwhere = {{ style = "raw" }}')],
    }.items():
        refused = studio.refused(*edits)
        assert f"studio.toml: meters.images.{key}: {key} of this meter changed after it was used" in refused
    studio.edit((fine, fine.replace('unit = "image"', 'unit = "picture"')))
    done = studio.place.run("catalog", "publish", "--yes")
    assert done.returncode == 0, done.stderr
    with studio.place.serving() as server:
        limit = only((await studio.tier(server, "frida"))["limits"])
        assert (limit["unit"], limit["used"]) == ("picture", 8)
    # Nothing fine was ever used, so what that is may still be said otherwise.
    with studio.edited(('style = "fine"', 'style = "finest"')):
        pass


@row("`currency`, while somebody pays")
async def the_currency_changed(studio: Studio) -> None:
    refused = studio.refused(('currency = "USD"', 'currency = "EUR"'))
    assert "studio.toml: currency: is EUR now, but version 1 of plan 'pro', which 1 account holds" in refused
    assert studio.place.run("catalog", "publish", "--yes").returncode == 0  # as it was, it fits


@row("`name`")
async def the_name_changed(studio: Studio) -> None:
    refused = studio.refused(('name = "image-studio"', 'name = "atelier"'))
    assert "This ledger counts by the catalog 'image-studio', not by 'atelier'" in refused


@row("a second server with an older file")
async def two_servers(studio: Studio) -> None:
    newer = studio.place.folder / "newer.toml"
    newer.write_text(CATALOG.replace("limit = 100", "limit = 200"), "utf-8")

    async def limit_of(server: Server, user: str) -> int:
        maximum: int = only((await studio.tier(server, user, tier="pro"))["limits"])["limit"]
        return maximum

    with studio.place.serving() as old:
        with studio.place.serving(CATALOG="newer.toml") as new:
            assert [await limit_of(server, f"p{n}") for n, server in enumerate((old, new, old))] == [200] * 3
            old.wait_for_log("the plans on offer were changed elsewhere")
            assert old.log.count("the plans on offer were changed elsewhere") == 1
            assert "changed elsewhere" not in new.log
        with studio.place.serving() as again:
            again.wait_for_log("the catalog file brings version 1 of plan 'pro' back")
            assert await limit_of(again, "p9") == 100
    versions = studio.place.select("SELECT version FROM plan_version WHERE plan = 'pro'")
    assert sorted(versions) == [(1,), (2,)]


async def test_a_server_with_an_older_file_says_what_it_does_not_count(studio: Studio) -> None:
    newer = studio.place.folder / "newer.toml"
    videos = '[events.video]\n\n[meters.videos]\nunit = "video"\nevent = "video"\n\n[features]'
    limits = f'{FREE_LIMIT}, {{ meter = "videos", window = "day", limit = 1 }}'
    newer.write_text(CATALOG.replace("[features]", videos).replace(FREE_LIMIT, limits), "utf-8")
    with studio.place.serving() as old, studio.place.serving(CATALOG="newer.toml"):
        await studio.tier(old, "nora")
        old.wait_for_log("without what others know of videos")
        (line,) = [line for line in old.log.splitlines() if "without what others know" in line]
        assert json.loads(line)["levelname"] == "ERROR"
