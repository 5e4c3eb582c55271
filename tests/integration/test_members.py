"""People in groups as they meet the server: members, roles and seats, how a group is founded, and pools with caps."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.subscriptions import ResourceUpdated
from tests.harness import ERAS, TODAY, Api, Place, Server, Talk, problem_of, talking

from subscription_mcp.catalogs import __file__ as catalogs

TRANSPORTS = ("stdio", "http")
LATER = "2026-11-30T12:00:00Z"
SOON = 10
"""Seconds in which an update must have come."""


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Plans for one person and for teams."""
    return Place(tmp_path_factory.mktemp("teams"), clock=TODAY, CATALOG="notion-agent")


@pytest.fixture(scope="module")
def teams_server(teams: Place) -> Iterator[Server]:
    with teams.serving() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Groups that share tokens, of up to 10, 50 and 200 users."""
    return Place(tmp_path_factory.mktemp("groups"), clock=TODAY, CATALOG="group-tokens")


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


def in_group(place: Place, user: str, group: str, *, role: str | None = None, **claims: Any) -> str:
    return place.token(user, role=role, **{"group": group, "tier": "basic", **claims})


async def a_group(place: Place, server: Server, group: str, *members: str) -> str:
    """A group with its administrator, whose token is returned, and members who joined by their own tokens."""
    admin = in_group(place, f"{group}-admin", group, role="admin")
    for token in (admin, *(in_group(place, member, group) for member in members)):
        async with server.api(token) as person:
            assert (await person.call("get_tier_info")).status_code == 200
    return admin


def users(answer: dict[str, Any]) -> dict[str, str]:
    return {member["user_id"]: member["role"] for member in answer["members"]}


# The story


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_person_founds_a_group_and_manages_its_members(
    teams: Place, teams_server: Server, transport: str, era: str
) -> None:
    mode, name = ERAS[era], f"{transport}.{era}"
    ada_id, bob_id = f"ada.{name}", f"bob.{name}"
    async with (
        talking(teams, teams_server, transport, teams.token(ada_id), mode) as ada,
        talking(teams, teams_server, transport, teams.token(bob_id), mode) as bob,
        talking(teams, teams_server, transport, teams.token("app", role="service"), mode) as app,
    ):
        # Somebody on trial has nobody to manage
        assert (await bob.call("get_tier_info"))["plan"] == "trial"
        assert "manage_members" not in await ada.tools()
        withheld = await ada.refusal("manage_members", action="list")
        assert (withheld["code"], withheld["unlocks"]) == (
            "feature_not_in_plan",
            [{"action": "upgrade_tier", "plan": "teams"}],
        )

        # Two seats, one's own among them
        assert (await ada.buy("teams", seats=2))["status"] == "applied"
        await app.call("record_usage", user_id=ada_id, event="request", attributes={"tokens": 700})
        alone = await ada.call("manage_members", action="list")
        assert (alone["account_id"], alone["account_kind"]) == (ada_id, "personal")
        assert (users(alone), alone["seats"]) == ({ada_id: "admin"}, {"used": 1, "max": 2})

        # The first member founds the group
        founded = await ada.call("manage_members", action="add", user_id=bob_id, reason="hired")
        assert founded["audit_id"]
        team = founded["account_id"]
        assert team != ada_id and founded["account_kind"] == "group"
        assert (users(founded), founded["seats"]) == (
            {ada_id: "admin", bob_id: "member"},
            {"used": 2, "max": 2},
        )
        assert "begins with nothing used" in founded["text"]
        for who in (ada, bob):
            info = await who.call("get_tier_info")
            assert (info["account_kind"], info["account_id"], info["plan"]) == ("group", team, "teams")
            assert info["seats"] == {"used": 2, "max": 2}
            assert [limit["used"] for limit in info["limits"]] == [0, 0]
        full = await ada.refusal("manage_members", action="add", user_id="cat")
        assert full["code"] == "conflict"
        assert "manage_subscription" in full["message"]

        # One pool, and a member who manages nobody
        await app.call("record_usage", user_id=bob_id, event="request", attributes={"tokens": 40})
        used = {limit["meter"]: limit["used"] for limit in (await ada.call("get_tier_info"))["limits"]}
        assert used == {"requests": 1, "tokens": 40}
        assert "manage_members" not in await bob.tools()
        assert (await bob.rpc_error("manage_members", action="list"))[0] == -32602

        # Roles, and the last administrator
        last = await ada.refusal("manage_members", action="remove", user_id=ada_id)
        assert last["code"] == "conflict"
        await ada.call("manage_members", action="set_role", user_id=bob_id, role="admin")
        assert users(await bob.call("manage_members", action="list")) == {ada_id: "admin", bob_id: "admin"}

        # Gone, and back in an account of their own
        gone = await bob.call("manage_members", action="remove", user_id=ada_id, reason="moved on")
        assert (users(gone), gone["seats"]) == ({bob_id: "admin"}, {"used": 1, "max": 2})
        info = await ada.call("get_tier_info")
        assert (info["account_kind"], info["status"]) == ("personal", "canceled")
        assert {limit["meter"]: limit["used"] for limit in info["limits"]} == {"requests": 1, "tokens": 700}
        assert (await app.call("check_quota", user_id=ada_id, event="request"))["code"] == (
            "subscription_inactive"
        )


async def test_members_who_are_added_at_once_are_in_the_one_group_that_is_founded(
    teams: Place, teams_server: Server
) -> None:
    for number in range(5):
        async with teams_server.client(teams.token(f"flo-{number}")) as flo:
            assert (await flo.buy("teams", seats=5))["status"] == "applied"
        async with teams_server.api(teams.token(f"flo-{number}")) as flo:
            calls = [{"action": "add", "user_id": f"flo-{number}-{friend}"} for friend in range(4)]
            assert await statuses(flo, *calls) == [200] * 4
            listed = (await flo.call("manage_members", action="list")).json()["result"]
        assert (len(listed["members"]), listed["account_kind"]) == (5, "group")


# Who may


async def test_an_administrator_reaches_the_own_group_only_and_learns_of_no_other(
    place: Place, server: Server
) -> None:
    await a_group(place, server, "north", "nora")
    async with server.api(await a_group(place, server, "south", "sue")) as admin:
        said = set()
        for target in (
            {"account_id": "north"},
            {"account_id": "nowhere"},
            {"account_id": "sue"},
            {"tenant_id": "globex"},
            {"tenant_id": "globex", "account_id": "south"},
        ):
            for change in (
                {"action": "list"},
                {"action": "add", "user_id": "nora"},
                {"action": "remove", "user_id": "nora"},
                {"action": "set_role", "user_id": "nora", "role": "admin"},
            ):
                answer = await admin.call("manage_members", **change, **target)
                said.add(problem_of(answer, 403, "forbidden")["message"])
        for user in ("nora", "nobody"):
            answer = await admin.call("manage_members", action="remove", user_id=user)
            said.add(problem_of(answer, 403, "forbidden")["message"])
        assert len(said) == 1
        own = (await admin.call("manage_members", action="list", account_id="south")).json()["result"]
        assert users(own) == {"south-admin": "admin", "sue": "member"}
    assert len(place.select("SELECT * FROM member WHERE role = 'admin'")) >= 2


async def test_a_holder_of_an_account_of_their_own_reaches_no_group(place: Place, server: Server) -> None:
    await a_group(place, server, "walled", "wanda")
    async with server.api(place.token("loner", tier="basic")) as loner:
        for action in ("list", "add"):
            user = {} if action == "list" else {"user_id": "wanda"}
            answer = await loner.call("manage_members", action=action, account_id="walled", **user)
            problem_of(answer, 403, "forbidden")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_operator_manages_any_group_of_the_tenant(
    place: Place, server: Server, transport: str, era: str
) -> None:
    group, user = f"run.{transport}.{era}", f"ron.{transport}.{era}"
    await a_group(place, server, group)
    token = place.token("tara", role="tenant_admin")
    async with talking(place, server, transport, token, ERAS[era]) as tara:
        added = await tara.call("manage_members", action="add", user_id=user, account_id=group, role="admin")
        assert users(added)[user] == "admin"
        assert (await tara.call("manage_members", action="list", account_id=group))["seats"] == {
            "used": 2,
            "max": 10,
        }
        await tara.call("manage_members", action="remove", user_id=user, account_id=group, reason="wrong")
        again = await tara.refusal("manage_members", action="remove", user_id=user, account_id=group)
        assert again["code"] == "not_found"
        unknown = await tara.refusal("manage_members", action="list", account_id="nowhere")
        assert unknown["code"] == "not_found"
        whose = await tara.refusal("manage_members", action="list", tenant_id="acme")
        assert (whose["code"], whose["fields"][0]["field"]) == ("invalid_request", "account_id")
        other = await tara.refusal("manage_members", action="list", tenant_id="globex", account_id=group)
        assert other["code"] == "forbidden"
    entries = place.select(
        "SELECT action, actor, actor_role, reason FROM audit WHERE actor = 'tara' AND holder IN"
        " (SELECT h.id FROM holder h JOIN word w ON w.id = h.user AND w.text = ?) ORDER BY seq",
        user,
    )
    assert entries == [
        ("member.add", "tara", "tenant_admin", None),
        ("member.remove", "tara", "tenant_admin", "wrong"),
    ]


async def test_a_plan_for_one_person_says_which_plans_have_room(teams: Place, teams_server: Server) -> None:
    async with (
        teams_server.api(teams.token("otto")) as otto,
        teams_server.api(teams.token("tara", role="tenant_admin")) as tara,
    ):
        assert (await otto.call("get_tier_info")).status_code == 200
        answer = await tara.call("manage_members", action="add", user_id="bob", account_id="otto")
    assert problem_of(answer, 409, "conflict")["message"] == (
        "The Trial plan has no room for members; Teams has. Nothing was changed."
    )


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"action": "add"}, "add needs user_id"),
        ({"action": "set_role", "user_id": "bob"}, "set_role needs role"),
        ({"action": "list", "user_id": "bob"}, "list takes no user_id"),
        ({"action": "remove", "user_id": "bob", "role": "admin"}, "remove takes no role"),
        ({"action": "add", "user_id": "bob", "cursor": "x"}, "add takes no cursor"),
        ({"action": "add", "user_id": "bob", "role": "tenant_admin"}, "role"),
        ({"action": "add", "user_id": "no spaces"}, "user_id"),
        ({"action": "add", "user_id": "bob", "reason": "a\nb"}, "reason"),
        ({"action": "list", "page_size": 201}, "page_size"),
        ({"action": "list", "cursor": "bm9uZQ"}, "cursor"),
        ({"action": "invite", "user_id": "bob"}, "action"),
        ({"action": "list", "seats": 3}, "seats"),
    ],
)
async def test_arguments_that_do_not_go_together_are_refused(
    place: Place, server: Server, arguments: dict[str, Any], field: str
) -> None:
    async with server.client(in_group(place, "picky-admin", "picky", role="admin")) as admin:
        refusal = await admin.refusal("manage_members", **arguments)
    assert refusal["code"] == "invalid_request"
    assert field in f"{refusal['message']} {refusal.get('fields')}"


async def test_a_large_group_is_listed_page_by_page(place: Place, server: Server) -> None:
    names = [f"page-{number}" for number in range(7)]
    admin_token = await a_group(place, server, "paged", *names)
    await a_group(place, server, "other-pages")
    async with server.client(admin_token) as admin:
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await admin.call("manage_members", action="list", page_size=3, **cursor)
            seen += users(page)
            assert page["seats"] == {"used": 8, "max": 10}
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == ["paged-admin", *names]
    async with server.client(in_group(place, "other-pages-admin", "other-pages", role="admin")) as stranger:
        elsewhere = await stranger.refusal("manage_members", action="list", **cursor)
    assert elsewhere["code"] == "invalid_request"


# Tokens from before a removal


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_from_before_the_removal_does_not_join_again(
    place: Place, server: Server, transport: str, era: str
) -> None:
    """The ledger's clock stands a long time before the machine's, by which tokens are issued."""
    group, user, mode = f"out.{transport}.{era}", f"olga.{transport}.{era}", ERAS[era]
    old = in_group(place, user, group)
    async with server.client(await a_group(place, server, group, user)) as admin:
        await admin.call("manage_members", action="remove", user_id=user)
        async with talking(place, server, transport, old, mode) as olga:
            refusal = await olga.refusal("get_tier_info")
            assert refusal["code"] == "forbidden"
            assert "Sign in again" in refusal["message"]
        assert user not in users(await admin.call("manage_members", action="list"))
        # By a service nothing but their own account is left to them.
        async with server.api(place.token("app", role="service")) as app:
            answer = await app.call("check_quota", user_id=user, event="llm")
            assert answer.json()["result"]["code"] == "payment_required"
        await admin.call("manage_members", action="add", user_id=user)
        async with talking(place, server, transport, old, mode) as olga:
            assert (await olga.call("get_tier_info"))["account_id"] == group
        await admin.call("manage_members", action="remove", user_id=user)
        async with talking(
            place, server, transport, in_group(place, user, group, issued_ago_seconds=-2), mode
        ) as olga:
            assert (await olga.call("get_tier_info"))["account_id"] == group


# Standing still


async def test_while_the_subscription_stands_still_its_people_may_only_list(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY, CATALOG="notion-agent")
    ada_token, tara_token = place.token("ada"), place.token("tara", role="tenant_admin")
    with place.serving() as server:
        async with server.client(ada_token) as ada, server.client(tara_token) as tara:
            await ada.call("get_tier_info")
            await tara.buy("teams", seats=3, duration_days=5, user_id="ada")
            team = (await ada.call("manage_members", action="add", user_id="bob"))["account_id"]
    with place.serving(CLOCK=LATER) as server:
        async with server.client(ada_token) as ada, server.client(tara_token) as tara:
            assert users(await ada.call("manage_members", action="list")) == {"ada": "admin", "bob": "member"}
            for action, user in (("add", "cat"), ("remove", "bob")):
                refusal = await ada.refusal("manage_members", action=action, user_id=user)
                assert refusal["code"] == "subscription_inactive"
            await tara.call("manage_members", action="remove", user_id="bob", account_id=team)
            added = await tara.call("manage_members", action="add", user_id="cat", account_id=team)
            assert users(added) == {"ada": "admin", "cat": "member"}


# At once


async def statuses(api: Api, *calls: dict[str, Any]) -> list[int]:
    answers = await asyncio.gather(*(api.call("manage_members", **call) for call in calls))
    return [answer.status_code for answer in answers]


async def test_of_twenty_added_at_once_as_many_come_in_as_seats_are_free(
    place: Place, server: Server
) -> None:
    admin_token = await a_group(place, server, "rush", *(f"early-{number}" for number in range(6)))
    async with server.api(admin_token) as admin:
        calls = [{"action": "add", "user_id": f"late-{number}"} for number in range(20)]
        assert sorted(await statuses(admin, *calls)) == [200] * 3 + [409] * 17
        listed = (await admin.call("manage_members", action="list")).json()["result"]
    assert (len(listed["members"]), listed["seats"]) == (10, {"used": 10, "max": 10})


async def test_of_two_administrators_who_remove_each_other_at_once_one_stays(
    place: Place, server: Server
) -> None:
    for number in range(5):
        group = f"duel-{number}"
        one = await a_group(place, server, group)
        other = in_group(place, f"{group}-other", group, role="admin")
        async with server.api(one) as ann, server.api(other) as ben:
            assert (await ben.call("get_tier_info")).status_code == 200
            first, second = await asyncio.gather(
                statuses(ann, {"action": "remove", "user_id": f"{group}-other"}),
                statuses(ben, {"action": "remove", "user_id": f"{group}-admin"}),
            )
        # Who was removed first is refused: as nobody there any more, or for a token from before.
        assert sorted([*first, *second]) in ([200, 403], [200, 404])
        roles = place.select(
            "SELECT m.role FROM member m JOIN word w ON w.id = m.account WHERE w.text = ?", group
        )
        assert roles == [("admin",)]


async def test_a_claim_and_an_administrator_do_not_both_take_the_last_seat(
    place: Place, server: Server
) -> None:
    for number in range(5):
        group = f"last-{number}"
        admin_token = await a_group(place, server, group, *(f"{group}-{n}" for n in range(8)))
        claimed = in_group(place, f"{group}-claims", group)
        async with server.api(admin_token) as admin, server.api(claimed) as claims:
            added, joined = await asyncio.gather(
                statuses(admin, {"action": "add", "user_id": f"{group}-added"}),
                claims.call("get_tier_info"),
            )
            listed = (await admin.call("manage_members", action="list")).json()["result"]
        assert sorted([*added, joined.status_code]) == [200, 409]
        assert (len(listed["members"]), listed["seats"]["used"]) == (10, 10)


# Who listens


async def test_who_listens_hears_of_being_added_and_removed_and_so_does_the_group(
    place: Place, server: Server
) -> None:
    admin_token = await a_group(place, server, "heard")
    async with (
        server.api(admin_token) as admin,
        server.client(admin_token) as ada,
        server.client(place.token("lis")) as lis,
        ada.client.listen(resource_subscriptions=["quota://accounts/heard"]) as of_group,
        lis.client.listen(resource_subscriptions=["quota://me"]) as of_member,
    ):
        group, member = aiter(of_group), aiter(of_member)
        for action in ("add", "remove"):
            assert await statuses(admin, {"action": action, "user_id": "lis"}) == [200]
            for heard, uri in ((member, "quota://me"), (group, "quota://accounts/heard")):
                assert await asyncio.wait_for(anext(heard), SOON) == ResourceUpdated(uri=uri)


# Pools with caps


def with_both_limits(folder: Path) -> Path:
    """The catalog for groups, its smallest plan with a cap for each user inside the pool."""
    text = (Path(catalogs).parent / "group-tokens.toml").read_text("utf-8")
    pool = '  { meter = "llm_tokens", window = "billing_period", limit = 100_000, scope = "account" },\n'
    assert pool in text
    cap = '  { meter = "llm_tokens", window = "billing_period", limit = 1_000, scope = "user" },\n'
    path = folder / "both.toml"
    path.write_text(text.replace(pool, pool + cap), "utf-8")
    return path


WORDS = {
    "user": "1,000 of 1,000 LLM tokens used this billing period by this member",
    "account": "100,000 of 100,000 LLM tokens used this billing period by the whole account",
}
COMBINATIONS: dict[str, tuple[int, int, set[str]]] = {
    "neither": (10, 10, set()),
    "the cap": (1_000, 10, {"user"}),
    "the pool": (10, 99_990, {"account"}),
    "both": (1_000, 99_000, {"user", "account"}),
}


@pytest.mark.parametrize("by_plan", [False, True], ids=["a cap set by hand", "a plan with both"])
async def test_a_refusal_says_whether_the_cap_or_the_pool_is_used_up(tmp_path: Path, by_plan: bool) -> None:
    catalog = str(with_both_limits(tmp_path)) if by_plan else "group-tokens"
    place = Place(tmp_path, clock=TODAY, CATALOG=catalog)
    with place.serving() as server:
        for transport in TRANSPORTS:
            for era, mode in ERAS.items():
                token = place.token("app", role="service")
                async with talking(place, server, transport, token, mode) as app:
                    for name, (own, others, refused) in COMBINATIONS.items():
                        group = f"{name.replace(' ', '-')}.{transport}.{era}"
                        await a_capped_pool(place, server, group, by_hand=not by_plan)
                        for user, quantity in ((f"{group}-bob", own), (f"{group}-admin", others)):
                            await app.call(
                                "record_usage", user_id=user, event="llm", quantity=quantity, enforce=False
                            )
                        await says_what_refuses(app, f"{group}-bob", refused)


async def a_capped_pool(place: Place, server: Server, group: str, *, by_hand: bool) -> None:
    async with server.api(await a_group(place, server, group, f"{group}-bob")) as admin:
        if by_hand:
            cap = {"meter": "llm_tokens", "window": "billing_period", "limit": 1_000, "reason": "share"}
            answer = await admin.call("manage_limits", action="set", user_id=f"{group}-bob", **cap)
            assert answer.status_code == 200, answer.text
            # No more than the plan has: that is for whoever runs the service.
            cap["limit"] = 100_001
            answer = await admin.call("manage_limits", action="set", user_id=f"{group}-bob", **cap)
            problem_of(answer, 403, "forbidden")


async def says_what_refuses(app: Talk, user: str, refused: set[str]) -> None:
    info = await app.call("get_tier_info", user_id=user)
    assert sorted(limit["scope"] for limit in info["limits"] if limit["meter"] == "llm_tokens") == [
        "account",
        "user",
    ]
    assert "by this member" in info["text"]
    for tool in ("check_quota", "record_usage", "reserve_usage"):
        decision = await app.call(tool, user_id=user, event="llm")
        assert {limit["scope"] for limit in decision["limits"] if limit["refused"]} == refused
        assert {limit["scope"] for limit in decision["limits"]} == {"user", "account"}
        assert decision["code"] == ("quota_exceeded" if refused else "ok")
        assert {scope for scope, words in WORDS.items() if words in decision["text"]} == refused


@pytest.mark.parametrize("era", ERAS)
async def test_an_administrator_reads_who_changed_people_and_plan_and_why(
    place: Place, server: Server, era: str
) -> None:
    group, boss, mate = f"annals.{era}", f"boss.{era}", f"mate.{era}"
    async with server.client(place.token(boss, group=group, role="admin"), ERAS[era]) as lead:
        await lead.call("get_tier_info")
        await lead.buy("basic", reason="we grow")
        await lead.call("manage_members", action="add", user_id=mate, reason="hired")
        await lead.call("manage_members", action="set_role", user_id=mate, role="admin", reason="deputy")
        told = await lead.call("manage_members", action="history")
    entries = [(one["action"], one["actor"], one["user_id"], one["reason"]) for one in told["history"]]
    assert entries[:3] == [
        ("member.role", boss, mate, "deputy"),
        ("member.add", boss, mate, "hired"),
        ("subscription.start", boss, None, "we grow"),
    ]
    assert (told["history"][2]["before"], told["history"][2]["after"]["plan"]) == (None, "basic")
    first, *_ = told["text"].splitlines()
    assert f"{boss} (admin) member.role {mate}: role member -> admin. deputy" in first
    async with server.client(place.token(mate), ERAS[era]) as other:
        assert len((await other.call("manage_members", action="history"))["history"]) == len(entries)
