"""Who is in a group, through the ledger: seats, roles, tokens from before a removal, and how a group is founded."""

import sqlite3
from contextlib import aclosing, closing
from typing import Any
from uuid import UUID

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_limit,
    a_limit_set,
    a_member_change,
    a_plan,
    a_record,
    a_status,
    a_subject,
    an_opening,
    buy,
    code_of,
    decision_of,
    members_of,
    view_of,
)
from tests.contract.test_engine import SqliteStore, arrive, history, one_plan

from subscription_mcp.catalogs import load_catalog
from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.catalog_file import plan_from_definition
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import SECOND, parse_instant
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.domain.wording import overview_sentence
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    ChangeSubscription,
    EraseUser,
    Outcome,
    RenewSession,
    SessionDecided,
    SetStatus,
    Subject,
    UserErased,
)
from subscription_mcp.ledger.queries import MemberPage
from subscription_mcp.ledger.sqlite.members import ADMINS, MEMBERS, USERS
from subscription_mcp.ledger.writer import Ledger

OPERATOR: dict[str, Any] = {"actor": "olivia", "actor_role": "tenant_admin"}
HOLDER: dict[str, Any] = {"actor_role": "holder", "account_kind": "personal"}
REMOVED_AT = parse_instant("2026-11-20T14:03:11.5Z")


def crew(seats: int | None = 3) -> Catalog:
    return one_plan(a_limit(50), a_limit(100, scope="account"), seats=seats)


async def a_team(ledger: Ledger, *members: str) -> None:
    """The group `team` with the administrator ada, and members."""
    await arrive(ledger, user="ada", group="team", group_admin=True)
    for member in members:
        await arrive(ledger, user=member, group="team")


async def members(ledger: Ledger, group: str = "team") -> dict[str, str]:
    rows, more = await ledger.query(MemberPage("acme", group, 200))
    assert not more
    return {row.user: row.role for row in rows}


async def account_of(ledger: Ledger, user: str, **claims: Any) -> tuple[str, str, str | None]:
    standing = view_of(await ledger.rehearse(Arrive(a_subject(user, **claims)))).standing
    return standing.account_kind, standing.account, standing.role


def sentence_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.message


async def same_everywhere(ledger: Ledger) -> None:
    assert (await ledger.engine.verify()).differences == ()


# Adding


async def test_somebody_never_seen_is_added_and_uses_the_groups_pool(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger)
        added = members_of(await ledger.submit_one(a_member_change("add", "bob", reason="hired")))
        assert (added.account.account, added.seats_used, added.seats_max, added.founded) == (
            "team",
            2,
            3,
            False,
        )
        assert await members(ledger) == {"ada": "admin", "bob": "member"}
        assert await account_of(ledger, "bob") == ("group", "team", "member")
        await ledger.submit_one(a_record("bob", quantity=30))
        pool = {s.scope: s.used for s in decision_of(await ledger.submit_one(a_record("ada"))).limits}
        assert pool == {"user": 1, "account": 31}
        (entry,) = await history(ledger, "member.add")
        assert (entry.id, entry.account, entry.user) == (added.audit.id, "team", "bob")
        assert (entry.actor, entry.reason) == (Actor("ada", "admin"), "hired")
        assert (entry.before, entry.after) == (None, {"account_id": "team", "role": "member"})
        await same_everywhere(ledger)


async def test_who_had_an_account_of_their_own_has_the_groups_from_then_on(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger)
        await ledger.submit_one(a_record("bob", quantity=5))
        before, _, after = await ledger.submit(
            [a_record("bob"), a_member_change("add", "bob"), a_record("bob")]
        )
        assert [{s.scope: s.used for s in decision_of(one).limits} for one in (before, after)] == [
            {"user": 6, "account": 6},
            {"user": 1, "account": 1},
        ]


@pytest.mark.parametrize("seats", [3, None])
async def test_a_seat_has_to_be_free_where_the_plan_numbers_them(
    store: SqliteStore, seats: int | None
) -> None:
    async with store.open(catalog=crew(seats)) as ledger:
        await a_team(ledger, "bob")
        outcomes = await ledger.submit([a_member_change("add", user) for user in ("cat", "dan")])
        assert [code_of(one) for one in outcomes] == ["ok", "conflict" if seats else "ok"]
        assert members_of(outcomes[0]).seats_max == seats
        if seats:
            assert sentence_of(outcomes[1]).startswith("All 3 seats")


async def test_of_twenty_at_once_three_find_the_three_free_seats(store: SqliteStore) -> None:
    async with store.open(catalog=crew(4)) as ledger:
        await a_team(ledger)
        outcomes = await ledger.submit([a_member_change("add", f"user-{n}") for n in range(20)])
        assert sorted(code_of(one) for one in outcomes) == ["conflict"] * 17 + ["ok"] * 3
        assert len(await members(ledger)) == 4


async def test_a_member_here_or_elsewhere_is_a_conflict_that_names_no_group(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        await arrive(ledger, user="eve", group="rivals")
        here, elsewhere = await ledger.submit([a_member_change("add", user) for user in ("bob", "eve")])
        assert (code_of(here), code_of(elsewhere)) == ("conflict", "conflict")
        assert "rivals" not in sentence_of(elsewhere)
        assert await account_of(ledger, "eve") == ("group", "rivals", "member")


async def test_a_tenant_with_as_many_users_as_it_may_have_gets_no_more(store: SqliteStore) -> None:
    async with store.open(catalog=crew(), bounds=Bounds(users=2)) as ledger:
        await a_team(ledger)
        commands = [
            a_member_change("add", "bob"),
            a_member_change("add", "cat"),
            a_member_change("remove", "bob"),
            a_member_change("add", "cat"),
            a_member_change("add", "bob"),
        ]
        outcomes = await ledger.submit(commands)
        # Who was removed was counted once, and takes nobody's place by coming back.
        assert [code_of(one) for one in outcomes] == ["ok", "conflict", "ok", "conflict", "ok"]
        assert "2 users" in sentence_of(outcomes[1])
        await same_everywhere(ledger)


# Removing


async def test_who_is_removed_has_an_account_of_their_own_again_and_the_seat_is_free(
    store: SqliteStore,
) -> None:
    async with store.open(catalog=crew(2)) as ledger:
        await a_team(ledger, "bob")
        await ledger.submit_one(a_record("bob", quantity=7))
        removed = members_of(await ledger.submit_one(a_member_change("remove", "bob", reason="left")))
        assert (removed.seats_used, removed.seats_max) == (1, 2)
        assert await account_of(ledger, "bob") == ("personal", "bob", "holder")
        used = {s.scope: s.used for s in decision_of(await ledger.submit_one(a_record("bob"))).limits}
        assert used == {"user": 1, "account": 1}
        assert code_of(await ledger.submit_one(a_member_change("add", "cat"))) == "ok"
        (entry,) = await history(ledger, "member.remove")
        assert (entry.user, entry.reason, entry.after) == ("bob", "left", None)
        assert entry.before == {"account_id": "team", "role": "member"}
        await same_everywhere(ledger)


@pytest.mark.parametrize(
    ("issued_at", "code"),
    [
        (None, "forbidden"),
        (REMOVED_AT // SECOND - 1, "forbidden"),
        (REMOVED_AT // SECOND, "forbidden"),
        (REMOVED_AT // SECOND + 1, "ok"),
    ],
    ids=["unsaid", "before", "in the same second", "after"],
)
async def test_only_a_token_issued_after_the_removal_joins_again(
    store: SqliteStore, issued_at: int | None, code: str
) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        claim = Arrive(a_subject("bob", group="team", claimed_at=issued_at))
        assert code_of(await ledger.submit_one(claim)) == "ok"
        await ledger.submit_one(a_member_change("remove", "bob", tokens_before=REMOVED_AT))
        again = await ledger.submit_one(claim)
        assert code_of(again) == code
        if code == "forbidden":
            assert "Sign in again" in sentence_of(again)
        assert ("bob" in await members(ledger)) == (code == "ok")
        # Without the claim it is the account of one's own, whatever the token's age.
        others = Arrive(a_subject("bob", claimed_at=issued_at))
        assert view_of(await ledger.rehearse(others)).standing.account == ("team" if code == "ok" else "bob")


async def test_an_old_token_does_not_join_again_by_way_of_another_group(store: SqliteStore) -> None:
    at = REMOVED_AT // SECOND
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        await ledger.submit_one(a_member_change("remove", "bob", tokens_before=REMOVED_AT))
        for group, issued_at, code in (
            ("team", at + 1, "ok"),
            ("other", at - 5, "ok"),
            ("team", at - 5, "forbidden"),
        ):
            claim = Arrive(a_subject("bob", group=group, claimed_at=issued_at))
            assert code_of(await ledger.submit_one(claim)) == code


async def test_being_added_again_lifts_the_removal(store: SqliteStore) -> None:
    old = Arrive(a_subject("bob", group="team", claimed_at=1))
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        await ledger.submit([a_member_change("remove", "bob", tokens_before=REMOVED_AT)])
        assert store.rows()["member_removed"] == 1
        assert code_of(await ledger.submit_one(old)) == "forbidden"
        added, seen = await ledger.submit([a_member_change("add", "bob"), old])
        assert (code_of(added), code_of(seen)) == ("ok", "ok")
        assert store.rows()["member_removed"] == 0


async def test_a_removal_is_there_after_reopening_and_in_another_process(store: SqliteStore) -> None:
    old = Arrive(a_subject("bob", group="team", claimed_at=1))
    async with store.open(catalog=crew()) as first, store.open(catalog=crew()) as second:
        await a_team(first, "bob")
        assert code_of(await second.rehearse(old)) == "ok"
        await first.submit_one(a_member_change("remove", "bob", tokens_before=REMOVED_AT))
        assert code_of(await second.submit_one(old)) == "forbidden"
    async with store.open(catalog=crew()) as again:
        assert code_of(await again.submit_one(old)) == "forbidden"
        assert await members(again) == {"ada": "admin"}


async def test_who_was_demoted_is_no_administrator_again_by_way_of_another_group(store: SqliteStore) -> None:
    at = REMOVED_AT // SECOND
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        given = a_member_change("set_role", "bob", role="admin")
        taken = a_member_change("set_role", "bob", tokens_before=REMOVED_AT)
        assert [code_of(one) for one in await ledger.submit([given, taken])] == ["ok", "ok"]
        # While they are a member, the token at hand is as good as any.
        old = Arrive(a_subject("bob", group="team", group_admin=True, claimed_at=at - 5))
        assert view_of(await ledger.submit_one(old)).standing.role == "member"
        assert code_of(await ledger.submit_one(Arrive(a_subject("bob", group="other")))) == "ok"
        refused = await ledger.submit_one(old)
        assert code_of(refused) == "forbidden"
        assert "no longer its administrator" in sentence_of(refused)
        newer = Arrive(a_subject("bob", group="team", group_admin=True, claimed_at=at + 1))
        assert view_of(await ledger.submit_one(newer)).standing.role == "admin"


@pytest.mark.parametrize("by_claim", [False, True], ids=["removed", "by claim"])
async def test_who_leaves_has_no_session_left_in_the_group(store: SqliteStore, by_claim: bool) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        sessions = {}
        for user in ("ada", "bob"):
            decided = await ledger.submit_one(an_opening(a_subject(user)))
            assert isinstance(decided, SessionDecided) and decided.session is not None
            sessions[user] = decided.session.id
        leaves = Arrive(a_subject("bob", group="other")) if by_claim else a_member_change("remove", "bob")
        assert code_of(await ledger.submit_one(leaves)) == "ok"
        for user, code in (("bob", "not_found"), ("ada", "ok")):
            assert code_of(await ledger.submit_one(RenewSession("acme", sessions[user], user))) == code
        group = view_of(await ledger.rehearse(Arrive(Subject("acme", None, "team", "group"))))
        assert group.sessions_active == 1
        await same_everywhere(ledger)


async def test_the_group_that_is_left_by_a_claim_has_it_in_its_own_trail(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        # The last administrator as well: who is in which group is the issuer's word.
        assert code_of(await ledger.submit_one(Arrive(a_subject("ada", group="other")))) == "ok"
        (entry,) = await history(ledger, "member.leave")
        assert (entry.account_kind, entry.account, entry.user) == ("group", "team", "ada")
        assert (entry.actor, entry.before) == (Actor("ada", "token"), {"account_id": "team", "role": "admin"})
        assert (entry.after, entry.reason) == (None, None)
        # An operator names another.
        named = a_member_change("set_role", "bob", role="admin", **OPERATOR)
        assert code_of(await ledger.submit_one(named)) == "ok"
        assert await members(ledger) == {"bob": "admin"}


# Roles


async def test_a_role_is_given_and_taken_and_the_day_of_joining_stays(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=crew(), clock=clock) as ledger:
        await a_team(ledger, "bob")
        joined_at = clock.now
        clock.advance(days=3)
        given = a_member_change("set_role", "bob", role="admin", reason="stands in")
        assert code_of(await ledger.submit_one(given)) == "ok"
        assert code_of(await ledger.submit_one(given)) == "conflict"
        rows, _ = await ledger.query(MemberPage("acme", "team", 10))
        assert [(row.user, row.role, row.joined_at) for row in rows] == [
            ("ada", "admin", joined_at),
            ("bob", "admin", joined_at),
        ]
        assert await account_of(ledger, "bob") == ("group", "team", "admin")
        by_bob = a_member_change("set_role", "ada", actor="bob")
        assert code_of(await ledger.submit_one(by_bob)) == "ok"
        taken, given_ = await history(ledger, "member.role")
        assert [(one.user, one.before, one.after) for one in (given_, taken)] == [
            ("bob", {"account_id": "team", "role": "member"}, {"account_id": "team", "role": "admin"}),
            ("ada", {"account_id": "team", "role": "admin"}, {"account_id": "team", "role": "member"}),
        ]


@pytest.mark.parametrize("action", ["remove", "set_role"])
@pytest.mark.parametrize("who", [{}, OPERATOR], ids=["admin", "operator"])
async def test_the_last_administrator_stays(store: SqliteStore, action: Any, who: dict[str, Any]) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        refused = await ledger.submit_one(a_member_change(action, "ada", **who))
        assert code_of(refused) == "conflict"
        assert "last administrator" in sentence_of(refused)
        await ledger.submit_one(a_member_change("set_role", "bob", role="admin"))
        assert code_of(await ledger.submit_one(a_member_change(action, "ada", **who))) == "ok"


async def test_of_two_administrators_who_remove_each_other_one_stays(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        await ledger.submit_one(a_member_change("set_role", "bob", role="admin"))
        commands = [a_member_change("remove", "bob"), a_member_change("remove", "ada", actor="bob")]
        assert [code_of(one) for one in await ledger.submit(commands)] == ["ok", "forbidden"]
        assert await members(ledger) == {"ada": "admin"}


async def test_an_administrator_who_comes_and_goes_by_claims_is_counted(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger)
        cat = a_subject("cat", group="team", group_admin=True)
        joined, ada_goes = await ledger.submit([Arrive(cat), a_member_change("remove", "ada", actor="cat")])
        assert (code_of(joined), code_of(ada_goes)) == ("ok", "ok")
        elsewhere = Arrive(a_subject("cat", group="other"))
        await ledger.submit([a_member_change("add", "bob", role="admin", actor="cat"), elsewhere])
        assert code_of(await ledger.submit_one(a_member_change("remove", "bob", **OPERATOR))) == "conflict"


@pytest.mark.parametrize("action", ["remove", "set_role"])
@pytest.mark.parametrize(("who", "code"), [({}, "forbidden"), (OPERATOR, "not_found")])
async def test_who_is_no_member_is_the_same_as_nobody(
    store: SqliteStore, action: Any, who: dict[str, Any], code: str
) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger)
        await arrive(ledger, user="eve", group="rivals")
        await arrive(ledger, user="bob")
        outcomes = await ledger.submit([a_member_change(action, u, **who) for u in ("eve", "bob", "nobody")])
        assert {code_of(one) for one in outcomes} == {code}
        assert len({sentence_of(one) for one in outcomes}) == 1


async def test_who_is_no_administrator_any_more_changes_nothing(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        for action, user in (("add", "cat"), ("remove", "ada"), ("set_role", "ada")):
            assert code_of(await ledger.submit_one(a_member_change(action, user, actor="bob"))) == "forbidden"


# Who pays for a plan of their own


def with_pro() -> Catalog:
    crew_plan = a_plan(a_limit(50), a_limit(100, scope="account"), seats=5)
    return a_catalog(crew_plan, a_plan(a_limit(1_000), key="pro", monthly="29.00", seats=5))


@pytest.mark.parametrize("who", [{}, OPERATOR], ids=["admin", "operator"])
async def test_who_pays_for_a_plan_of_their_own_is_added_when_it_has_ended(
    store: SqliteStore, who: dict[str, Any]
) -> None:
    clock = Clock()
    async with store.open(catalog=with_pro(), clock=clock) as ledger:
        await a_team(ledger)
        await buy(ledger, "pro", "bob", actor="bob")
        add = a_member_change("add", "bob", **who)
        cancel = ChangeSubscription(
            a_subject("bob"), Actor("bob", "holder"), "cancel", b"cancel", offer="handle"
        )
        assert code_of(await ledger.submit_one(cancel)) == "ok"
        cancel.confirmation = "handle"
        assert code_of(await ledger.submit_one(cancel)) == "ok"
        refused = await ledger.submit_one(add)  # it is paid for until the end of the month
        assert (code_of(refused), sentence_of(refused)) == (
            "conflict",
            "This user has a paid plan of their own. It has to end first, or their token has to name the group.",
        )
        assert await account_of(ledger, "bob") == ("personal", "bob", "holder")
        clock.advance(days=32)
        assert code_of(await ledger.submit_one(add)) == "ok"


async def test_a_token_that_names_the_group_brings_also_who_pays(store: SqliteStore) -> None:
    async with store.open(catalog=with_pro()) as ledger:
        await a_team(ledger)
        await buy(ledger, "pro", "bob", actor="bob")
        assert code_of(await ledger.submit_one(Arrive(a_subject("bob", group="team")))) == "ok"
        assert await account_of(ledger, "bob") == ("group", "team", "member")


async def test_a_group_is_not_founded_with_who_pays_for_a_plan_of_their_own(store: SqliteStore) -> None:
    async with store.open(catalog=with_pro()) as ledger:
        for user in ("ada", "bob"):
            await buy(ledger, "pro", user, actor=user)
        assert code_of(await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER))) == "conflict"
        assert code_of(await ledger.submit_one(a_member_change("add", "cat", "ada", **HOLDER))) == "ok"


async def test_a_trial_is_nothing_that_is_paid_for(store: SqliteStore) -> None:
    async with store.open(catalog=load_catalog("notion-agent")) as ledger:
        await on_teams(ledger, Clock(), 3)
        view = await arrive(ledger, user="bob")
        assert view.subscription is not None and view.subscription.is_trial
        assert code_of(await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER))) == "ok"


# While the subscription stands still


async def test_while_it_stands_still_only_operators_change_members(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        team = Subject("acme", None, "team", "group")
        await ledger.submit_one(SetStatus(team, Actor("root", "superadmin"), "suspend", "abuse"))
        commands = [
            a_member_change(action, user, **who)
            for who in ({}, OPERATOR)
            for action, user in (("add", "cat"), ("remove", "bob"), ("set_role", "cat"))
        ]
        commands[-1].role = "admin"
        outcomes = [code_of(one) for one in await ledger.submit(commands)]
        assert outcomes == ["subscription_inactive"] * 3 + ["ok"] * 3
        assert await members(ledger) == {"ada": "admin", "cat": "admin"}


@pytest.mark.parametrize("action", ["suspend", "activate", "payment_failed", "payment_received"])
async def test_a_status_is_of_the_group_and_not_of_one_user_in_it(store: SqliteStore, action: Any) -> None:
    async with store.open(catalog=with_pro()) as ledger:
        await a_team(ledger, "bob")
        assert code_of(await buy(ledger, "pro", "ada", actor="ada")) == "ok"
        for subject in (a_subject("bob"), a_subject("bob", account="team")):
            refused = await ledger.submit_one(a_status(action, subject))
            assert code_of(refused) == "invalid_request"
            assert sentence_of(refused) == "This user is in a group: name it in account_id."
        team = view_of(await ledger.rehearse(Arrive(Subject("acme", None, "team", "group"))))
        assert team.subscription is not None and team.subscription.status_at(team.as_of) == "active"
        assert code_of(await buy(ledger, "pro", "cat", actor="cat")) == "ok"
        first = {"activate": "suspend", "payment_received": "payment_failed"}.get(action)
        for one in (first, action):
            if one is not None:
                assert code_of(await ledger.submit_one(a_status(one, "cat"))) == "ok"


async def test_limits_are_the_operators_while_the_subscription_stands_still(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger, "bob")
        await ledger.submit_one(a_limit_set(10, a_subject("bob", account="team")))
        team = Subject("acme", None, "team", "group")
        await ledger.submit_one(a_status("suspend", team))
        for actor, code in ((Actor("ada", "admin"), "subscription_inactive"), (None, "ok")):
            for maximum in (5, None):
                change = a_limit_set(maximum, a_subject("bob", account="team"))
                change.actor = actor or change.actor
                change.within_plan = actor is not None
                assert code_of(await ledger.submit_one(change)) == code


# Founding a group


async def on_teams(ledger: Ledger, clock: Clock, seats: int, holder: str = "ada") -> None:
    """A person who has bought the plan for teams, with seats."""
    await arrive(ledger, user=holder)
    assert code_of(await buy(ledger, "teams", holder, actor=holder, seats=seats)) == "ok"


async def test_who_adds_a_member_to_an_account_of_their_own_founds_a_group(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=load_catalog("notion-agent"), clock=clock) as ledger:
        await on_teams(ledger, clock, 3)
        fewer = ChangeSubscription(
            a_subject("ada"), Actor("ada", "holder"), "set_seats", b"fewer", 2, offer="handle"
        )
        await ledger.submit_one(fewer)
        fewer.confirmation = "handle"
        assert code_of(await ledger.submit_one(fewer)) == "ok"
        before = view_of(await ledger.rehearse(Arrive(a_subject("ada")))).subscription
        await ledger.submit_one(a_record("ada", "request", attributes={"tokens": 900}))
        clock.advance(days=2)
        add = a_member_change("add", "bob", "ada", reason="a team", **HOLDER)
        founded = members_of(await ledger.submit_one(add))
        group = founded.account.account
        assert (founded.account[:2], founded.founded) == (("acme", "group"), True)
        assert str(UUID(group)) == group
        assert (founded.seats_used, founded.seats_max) == (2, 3)
        assert await members(ledger, group) == {"ada": "admin", "bob": "member"}

        # The subscription goes on as it was, and the group's pool begins with nothing used.
        view = view_of(await ledger.rehearse(Arrive(a_subject("ada"))))
        assert (view.standing.account_kind, view.standing.account) == ("group", group)
        assert view.subscription == before
        assert [state.used for state in view.limits] == [0, 0]
        person = await ledger.rehearse(Arrive(Subject("acme", None, "ada", "personal")))
        own = view_of(person)
        assert own.subscription is not None
        assert own.subscription.status_at(clock.now) == "canceled"
        assert {state.meter: state.used for state in own.limits} == {"requests": 1, "tokens": 900}

        for action in ("subscription.move", "member.add"):
            one, other = await history(ledger, action)
            assert (one.reason, other.reason, one.actor) == ("a team", "a team", Actor("ada", "holder"))
        moved = {entry.account_kind: entry for entry in await history(ledger, "subscription.move")}
        assert moved["personal"].before == moved["group"].after
        assert moved["group"].before is None
        assert moved["personal"].after is not None and moved["personal"].after["status"] == "canceled"
        assert {entry.user for entry in await history(ledger, "member.add")} == {"ada", "bob"}
        await ledger.submit_one(a_record("bob", "request", attributes={"tokens": 5}))
        await same_everywhere(ledger)


async def test_two_who_are_added_at_once_are_in_one_group(store: SqliteStore) -> None:
    async with store.open(catalog=load_catalog("notion-agent")) as ledger:
        await on_teams(ledger, Clock(), 3)
        subject = Subject("acme", "ada")
        adds = [a_member_change("add", user, "ada", actor_role="holder") for user in ("bob", "cat", "dan")]
        for add in adds:
            add.subject = subject
        outcomes = await ledger.submit(adds)
        assert [code_of(one) for one in outcomes] == ["ok", "ok", "conflict"]
        assert [members_of(one).founded for one in outcomes[:2]] == [True, False]


async def test_the_person_falls_back_to_a_default_plan_that_is_free(store: SqliteStore) -> None:
    pro = a_plan(a_limit(1_000), key="pro", monthly="29.00", seats=5)
    async with store.open(catalog=a_catalog(a_plan(a_limit(5), seats=1), pro)) as ledger:
        await arrive(ledger, user="ada", tier="pro")
        founded = members_of(await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER)))
        own = view_of(await ledger.rehearse(Arrive(Subject("acme", None, "ada", "personal"))))
        assert own.subscription is not None
        assert (own.subscription.plan, own.subscription.status_at(own.as_of)) == ("basic", "active")
        # The token that named the plan named it for what has moved.
        group = founded.account.account
        await ledger.submit([a_member_change("set_role", "bob", group, role="admin"), *removed("ada", group)])
        assert (await arrive(ledger, user="ada", tier="pro")).subscription.plan == "basic"


def removed(user: str, group: str) -> list[Any]:
    return [a_member_change("remove", user, group, actor="bob")]


async def test_a_trial_that_moves_stays_one_trial_and_was_not_bought(store: SqliteStore) -> None:
    trial = load_catalog("notion-agent").plans["trial"]
    definition = {**trial.definition, "seats": {"max": "unlimited"}}
    catalog = a_catalog(plan_from_definition("trial", 0, definition), default_plan="trial")
    async with store.open(catalog=catalog) as ledger:
        await arrive(ledger, user="ada")
        assert code_of(await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER))) == "ok"
        group = view_of(await ledger.rehearse(Arrive(a_subject("bob"))))
        assert group.subscription is not None and group.subscription.is_trial
    with closing(sqlite3.connect(store.path)) as database:
        rows = database.execute("SELECT kind, converted_at FROM trial ORDER BY kind").fetchall()
    assert rows == [("founder", None), ("group", None)]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ("trial", "The Trial plan has no room for members; Teams has. Nothing was changed."),
        ("pro", "The Pro plan has no room for members; Teams has. Nothing was changed."),
        ("teams", "The one seat"),
    ],
)
async def test_without_room_for_members_the_plans_that_have_it_are_named(
    store: SqliteStore, plan: str, sentence: str
) -> None:
    async with store.open(catalog=load_catalog("notion-agent")) as ledger:
        await arrive(ledger, user="ada")
        if plan != "trial":
            await buy(ledger, plan, "ada", actor="ada")
        refused = await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER))
        assert code_of(refused) == "conflict"
        assert sentence_of(refused).startswith(sentence)
        assert (await account_of(ledger, "bob"))[0] == "personal"


async def test_a_group_that_is_called_like_the_person_is_not_in_the_way(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await arrive(ledger, user="ada")
        await arrive(ledger, user="eve", group="ada")
        founded = members_of(await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER)))
        assert await members(ledger, "ada") == {"eve": "member"}
        assert await members(ledger, founded.account.account) == {"ada": "admin", "bob": "member"}
        await same_everywhere(ledger)


async def test_who_founded_a_group_and_was_removed_may_buy_and_found_again(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=load_catalog("notion-agent"), clock=clock) as ledger:
        groups = []
        for friend in ("bob", "cat"):
            await on_teams(ledger, clock, 2)
            founded = members_of(await ledger.submit_one(a_member_change("add", friend, "ada", **HOLDER)))
            groups.append(founded.account.account)
            given = a_member_change("set_role", friend, groups[-1], role="admin")
            gone = a_member_change("remove", "ada", groups[-1], actor=friend)
            assert [code_of(one) for one in await ledger.submit([given, gone])] == ["ok", "ok"]
        assert [await members(ledger, group) for group in groups] == [{"bob": "admin"}, {"cat": "admin"}]
        await same_everywhere(ledger)


async def test_the_group_of_a_founder_who_is_erased_does_not_have_their_name(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=load_catalog("notion-agent"), clock=clock) as ledger:
        await on_teams(ledger, clock, 2)
        group = members_of(
            await ledger.submit_one(a_member_change("add", "bob", "ada", **HOLDER))
        ).account.account
        await ledger.submit_one(a_member_change("set_role", "bob", group, role="admin"))
        erased = await ledger.submit_one(
            EraseUser("acme", "ada", "erased-1", Actor("root", "superadmin"), "asked")
        )
        assert isinstance(erased, UserErased) and erased.remaining == 0
        assert await account_of(ledger, "bob") == ("group", group, "admin")
        assert "ada" not in group


@pytest.mark.parametrize(
    ("action", "user", "code"),
    [
        ("add", "ada", "conflict"),
        ("add", "eve", "conflict"),
        ("remove", "ada", "conflict"),
        ("remove", "bob", "forbidden"),
        ("set_role", "bob", "forbidden"),
    ],
)
async def test_a_person_alone_has_nobody_to_remove(
    store: SqliteStore, action: Any, user: str, code: str
) -> None:
    async with store.open(catalog=crew()) as ledger:
        await arrive(ledger, user="ada")
        await arrive(ledger, user="eve", group="rivals")
        assert code_of(await ledger.submit_one(a_member_change(action, user, "ada", **HOLDER))) == code


async def test_without_a_subscription_there_is_no_group_to_found(store: SqliteStore) -> None:
    async with store.open(catalog=load_catalog("group-tokens")) as ledger:
        await arrive(ledger, user="ada")
        add = a_member_change("add", "bob", "ada", actor_role="holder")
        add.subject = a_subject("ada")
        assert code_of(await ledger.submit_one(add)) == "payment_required"


# Who is told, and lists


async def test_the_member_and_the_account_are_told(store: SqliteStore) -> None:
    async with store.open(catalog=crew()) as ledger:
        await a_team(ledger)
        async with aclosing(ledger.engine.changes()) as changes:
            await anext(changes)
            for action in ("add", "set_role", "remove"):
                await ledger.submit_one(
                    a_member_change(action, "bob", role="admin" if action == "set_role" else "member")
                )
                touched = await anext(changes)
                assert touched is not None
                assert {("acme", "bob"), ("acme", "team")} <= touched


async def test_members_are_listed_page_by_page_each_once(store: SqliteStore) -> None:
    async with store.open(catalog=crew(None)) as ledger:
        await a_team(ledger)
        await arrive(ledger, user="eve", group="rivals")
        await ledger.submit([a_member_change("add", f"user-{n}") for n in range(9)])
        seen: list[str] = []
        after, more = 0, True
        while more:
            page, more = await ledger.query(MemberPage("acme", "team", 4, after))
            assert len(page) == 4 or not more
            seen += [row.user for row in page]
            after = page[-1].place
        assert seen == ["ada", *(f"user-{n}" for n in range(9))]


async def test_what_is_asked_about_a_group_is_found_in_its_index(store: SqliteStore) -> None:
    async with store.open():
        pass
    with closing(sqlite3.connect(store.path)) as database:
        for statement in (USERS, ADMINS, MEMBERS):
            values = (1,) * statement.count("?")
            (how,) = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert "(tenant=? AND account=?" in how


# Caps of members in the group's pool


@pytest.mark.parametrize("by_plan", [True, False], ids=["a plan with both", "a cap set by hand"])
@pytest.mark.parametrize(
    ("own", "others", "refused"),
    [(2, 3, set()), (10, 3, {"user"}), (2, 28, {"account"}), (10, 20, {"user", "account"})],
    ids=["neither", "the cap", "the pool", "both"],
)
async def test_a_refusal_says_whether_it_was_the_cap_or_the_pool(
    store: SqliteStore, by_plan: bool, own: int, others: int, refused: set[str]
) -> None:
    pool = a_limit(30, scope="account")
    limits = (a_limit(10), pool) if by_plan else (pool,)
    said = {
        "user": "10 of 10 messages used today by this member",
        "account": "30 of 30 messages used today by the whole account",
    }
    async with store.open(catalog=a_catalog(a_plan(*limits))) as ledger:
        await a_team(ledger, "bob")
        if not by_plan:
            await ledger.submit_one(a_limit_set(10, a_subject("bob", account="team")))
        await ledger.submit([a_record("bob", quantity=own), a_record("ada", quantity=others, enforce=False)])
        decision = decision_of(await ledger.submit_one(a_record("bob")))
        assert {state.scope for state in decision.limits} == {"user", "account"}
        assert {state.scope for state in decision.limits if state.refused} == refused
        assert {scope for scope, words in said.items() if words in decision.message} == refused
        assert decision.allowed == (not refused)
        over = decision_of(await ledger.submit_one(a_record("bob", enforce=False)))
        assert {state.scope for state in over.limits if state.refused} == refused
        view = view_of(await ledger.rehearse(Arrive(a_subject("bob"))))
        assert "today by this member, " in overview_sentence(view.plan, view.limits)
