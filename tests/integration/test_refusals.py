"""Every refusal of the contract in every shipped system: provoked on a server that runs, over MCP in both eras and over
HTTP, and the same on each: its code, its status, what to do next, what would unlock it; and nothing is counted.

`TABLE` says how each comes about. What a catalog as shipped cannot refuse, an operator's means bring about: plans made
and changed at run time (`MADE`), given for some days (`GIVEN`), and one rule more in a copy of the catalog (`ADDED`).
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
from tests.harness import ERAS, TODAY, Api, Place, Server, Talk, problem_of
from tests.integration.test_containment import SERVER as BREAKING
from tests.platforms import posix

from subscription_mcp.catalogs import shipped_names, shipped_text
from subscription_mcp.domain.errors import HTTP_STATUS

TEN_DAYS_AGO = "2026-11-10T09:00:00Z"
GROUPS = "group-tokens"
"""The one system without personal accounts: everybody is the admin of a group of their own."""

EVENTS: dict[str, dict[str, Any]] = {
    "bedrock-chat": {"event": "message"},
    "notion-agent": {"event": "request", "attributes": {"tokens": 1}},
    "jobs-platform": {"event": "job"},
    "group-tokens": {"event": "llm"},
    "alwrity": {"event": "api_call", "attributes": {"provider": "tavily"}},
}
"""What is used where nothing else is said."""

ADDED = {
    "jobs-platform": '[tools]\nlist_usage_events = "audit_log"\n',
    "group-tokens": '[features]\nusage_log = "Every event"\n[tools]\nlist_usage_events = "usage_log"\n',
    "alwrity": '[features]\nusage_log = "Every event"\n[tools]\nlist_usage_events = "usage_log"\n',
}
"""What these catalogs withhold from smaller plans, as shipped nothing."""


def narrow(meter: str) -> dict[str, Any]:
    """Once a minute, and one session at a time."""
    return {
        "action": "create",
        "plan": {
            "plan": "narrow",
            "title": "Narrow",
            "price": {"monthly": "5.00"},
            "limits": [{"meter": meter, "window": "minute", "limit": 1}],
            "sessions": {"max_concurrent": 1, "max_duration": "PT1H"},
        },
    }


def taster(feature: str) -> dict[str, Any]:
    """A trial, which nobody can move to: it is never offered, whatever it has."""
    return {
        "action": "create",
        "plan": {
            "plan": "taster",
            "title": "Taster",
            "price": {"monthly": "0"},
            "trial": {"days": 1},
            "limits": [],
            "features": [feature],
        },
    }


def logged(plan: str) -> dict[str, Any]:
    return {"action": "update", "plan": {"plan": plan, "features": ["usage_log"]}}


MADE: dict[str, list[dict[str, Any]]] = {
    "bedrock-chat": [narrow("messages"), taster("mcp_access")],
    "notion-agent": [narrow("requests")],
    "jobs-platform": [narrow("jobs"), taster("audit_log")],
    "group-tokens": [narrow("llm_tokens"), taster("usage_log"), logged("professional")],
    "alwrity": [narrow("api_calls"), taster("usage_log"), logged("enterprise")],
}
"""What `manage_plans` makes and changes first."""

GIVEN: dict[str, dict[str, dict[str, Any]]] = {
    "bedrock-chat": {
        "rory": {"plan": "narrow"},
        "tess": {"plan": "taster", "duration_days": 1},
        "paula": {"plan": "advanced"},
    },
    "notion-agent": {
        "tess": {},  # whose first call begins the trial
        "rory": {"plan": "narrow"},
        "sam": {"plan": "narrow"},
        "paula": {"plan": "pro"},
        "ines": {"plan": "pro", "duration_days": 2},
    },
    "jobs-platform": {
        "sam": {"plan": "narrow"},
        "tess": {"plan": "taster", "duration_days": 1},
        "paula": {"plan": "pro"},
    },
    "group-tokens": {
        "vera": {"plan": "basic"},
        "quinn": {"plan": "basic"},
        "rory": {"plan": "narrow"},
        "sam": {"plan": "narrow"},
        "tess": {"plan": "taster", "duration_days": 1},
        "ines": {"plan": "basic", "duration_days": 2},
    },
    "alwrity": {
        "rory": {"plan": "narrow"},
        "sam": {"plan": "narrow"},
        "tess": {"plan": "taster", "duration_days": 1},
        "paula": {"plan": "basic"},
    },
}
"""Who comes ten days ago, and what an operator's `upgrade_tier` gives them then."""

ALL_OF_IT: dict[str, dict[str, Any]] = {
    "bedrock-chat": {"quantity": 50},
    "notion-agent": {"attributes": {"tokens": 50_000}},
    "jobs-platform": {"quantity": 10},
    "group-tokens": {"quantity": 100_000},
    "alwrity": {"quantity": 2_000},
}
"""What Quinn has used today, under the key `first`."""

ALL_OF_A_MINUTE = {"jobs-platform": {"event": "api_call", "quantity": 60}}
"""What Rory has just used, else once."""

SUSPENDED = ("bedrock-chat", "jobs-platform", "alwrity")
"""Where a plan that has ended is followed by a free one, only this makes an account inactive."""


class Asked(NamedTuple):
    """A call that is refused: how that comes about, who asks what, the words for what to do next, and what would
    unlock it. An `event` is the system's, where usage is asked for and nothing else said."""

    how: str
    who: str
    tool: str
    arguments: dict[str, Any]
    next: str
    unlocks: tuple[str, ...] = ()


def recorded(how: str, user: str, next_: str, *unlocks: str, **more: Any) -> Asked:
    """The service records usage of somebody."""
    return Asked(how, "app", "record_usage", {"user_id": user, **more}, next_, unlocks)


def opened(how: str, next_: str, *unlocks: str) -> Asked:
    return Asked(how, "app", "open_session", {"user_id": "sam"}, next_, unlocks)


@dataclass(frozen=True)
class Row:
    status: int
    cells: Mapping[str, Asked] | Asked
    is_decision: bool = False
    retryable: bool = False

    def cell(self, system: str) -> Asked:
        return self.cells if isinstance(self.cells, Asked) else self.cells[system]


MIDNIGHT, NEXT_MONTH = "wait 2026-11-21T00:00:00Z", "wait 2026-12-01T00:00:00Z"
IN_A_MINUTE, IN_AN_HOUR = "wait 2026-11-20T14:04:11.123456Z", "wait 2026-11-20T15:03:11.123456Z"
FOUR_WEEKS_ON = "wait 2026-12-10T09:00:00Z"
KEY_AGAIN = recorded(
    "a key comes again with another quantity",
    "quinn",
    "Use a new key for a new event",
    quantity=7,
    idempotency_key="first",
)

TABLE: dict[str, Row] = {
    "quota_exceeded": Row(
        429,
        {
            "bedrock-chat": recorded(
                "the day's 50 messages are used up",
                "quinn",
                "Advanced has 200 a day.",
                "upgrade_tier advanced",
                MIDNIGHT,
            ),
            "notion-agent": recorded(
                "the trial's tokens are used up",
                "quinn",
                "Pro has 1,000,000 a billing period.",
                "upgrade_tier pro",
            ),
            "jobs-platform": recorded(
                "the month's 10 jobs are used up",
                "quinn",
                "Pro has 500 a month.",
                "upgrade_tier pro",
                NEXT_MONTH,
            ),
            "group-tokens": recorded(
                "the group's tokens are used up",
                "quinn",
                "Standard has 500,000 a billing period.",
                "upgrade_tier standard",
                FOUR_WEEKS_ON,
            ),
            "alwrity": recorded(
                "the month's 2.00 USD are used up",
                "quinn",
                "Basic has 50.00 USD a month.",
                "upgrade_tier basic",
                NEXT_MONTH,
            ),
        },
        is_decision=True,
    ),
    "rate_limited": Row(
        429,
        {
            "bedrock-chat": recorded(
                "a plan made with one message a minute",
                "rory",
                "Comes back in 60 s.",
                "upgrade_tier advanced",
                IN_A_MINUTE,
            ),
            "notion-agent": recorded(
                "a plan made with one request a minute",
                "rory",
                "Comes back in 60 s.",
                "upgrade_tier pro",
                IN_A_MINUTE,
            ),
            "jobs-platform": recorded(
                "more than 60 calls a minute",
                "rory",
                "Comes back in 60 s.",
                "upgrade_tier narrow",
                IN_A_MINUTE,
                event="api_call",
            ),
            "group-tokens": recorded(
                "a plan made with one token a minute",
                "rory",
                "Comes back in 60 s.",
                "upgrade_tier basic",
                IN_A_MINUTE,
            ),
            "alwrity": recorded(
                "a plan made with one call a minute",
                "rory",
                "Comes back in 60 s.",
                "upgrade_tier basic",
                IN_A_MINUTE,
            ),
        },
        is_decision=True,
        retryable=True,
    ),
    "session_limit": Row(
        429,
        {
            "bedrock-chat": opened(
                "Basic has one session",
                "ends 2026-11-20 14:33 UTC. Advanced has 3.",
                "upgrade_tier advanced",
                "wait 2026-11-20T14:33:11.123456Z",
            ),
            "notion-agent": opened(
                "a plan made with one session", "Pro has no limit.", "upgrade_tier pro", IN_AN_HOUR
            ),
            "jobs-platform": opened(
                "a plan made with one session", "Pro has no limit.", "upgrade_tier pro", IN_AN_HOUR
            ),
            **dict.fromkeys(
                ("group-tokens", "alwrity"),
                opened(
                    "a plan made with one session", "Basic has no limit.", "upgrade_tier basic", IN_AN_HOUR
                ),
            ),
        },
        is_decision=True,
    ),
    "trial_expired": Row(
        402,
        {
            "bedrock-chat": recorded(
                "a trial made and given for a day",
                "tess",
                "call upgrade_tier: Basic costs 0.00 USD",
                "upgrade_tier basic",
            ),
            "notion-agent": recorded(
                "the seven days are over",
                "tess",
                "call upgrade_tier: Pro costs 10.00 USD",
                "upgrade_tier pro",
            ),
            **dict.fromkeys(
                ("jobs-platform", "alwrity"),
                recorded(
                    "a trial made and given for a day",
                    "tess",
                    "call upgrade_tier: Free costs 0.00 USD",
                    "upgrade_tier free",
                ),
            ),
            "group-tokens": recorded(
                "a trial made and given for a day",
                "tess",
                "call upgrade_tier: Narrow costs 5.00 USD",
                "upgrade_tier narrow",
            ),
        },
        is_decision=True,
    ),
    "payment_required": Row(
        402,
        {
            **dict.fromkeys(
                ("bedrock-chat", "notion-agent", "jobs-platform", "alwrity"),
                recorded("a payment is overdue for ten days", "paula", "It goes on as soon as it is paid."),
            ),
            "group-tokens": recorded(
                "the group bought nothing", "paula", "Choose a plan first", "upgrade_tier narrow"
            ),
        },
        is_decision=True,
    ),
    "feature_not_in_plan": Row(
        403,
        {
            "bedrock-chat": Asked(
                "Basic has no mcp_access",
                "quinn",
                "get_usage_analytics",
                {},
                "It comes with Advanced or Premium; upgrade_tier changes the plan.",
                ("upgrade_tier advanced",),
            ),
            "notion-agent": Asked(
                "a trial has no team_members",
                "quinn",
                "manage_members",
                {"action": "list"},
                "It comes with Teams; upgrade_tier changes the plan.",
                ("upgrade_tier teams",),
            ),
            "jobs-platform": Asked(
                "a rule added for audit_log",
                "quinn",
                "list_usage_events",
                {},
                "It comes with Enterprise; upgrade_tier changes the plan.",
                ("upgrade_tier enterprise",),
            ),
            "group-tokens": Asked(
                "a rule added, its feature given to Professional",
                "quinn",
                "list_usage_events",
                {},
                "It comes with Professional; upgrade_tier changes the plan.",
                ("upgrade_tier professional",),
            ),
            "alwrity": Asked(
                "a rule added, its feature given to Enterprise",
                "quinn",
                "list_usage_events",
                {},
                "It comes with Enterprise; upgrade_tier changes the plan.",
                ("upgrade_tier enterprise",),
            ),
        },
    ),
    "subscription_inactive": Row(
        403,
        {
            **dict.fromkeys(
                SUSPENDED,
                recorded(
                    "the account is suspended", "ines", "only the operator of this service can activate it"
                ),
            ),
            "notion-agent": recorded(
                "a plan given for two days is over",
                "ines",
                "call upgrade_tier: Narrow costs 5.00 USD",
                "upgrade_tier narrow",
            ),
            "group-tokens": recorded(
                "a plan given for two days is over",
                "ines",
                "call upgrade_tier: Narrow costs 5.00 USD",
                "upgrade_tier narrow",
            ),
        },
        is_decision=True,
    ),
    "forbidden": Row(
        403,
        Asked(
            "somebody asks about somebody else",
            "vera",
            "get_tier_info",
            {"user_id": "quinn"},
            "Ask an administrator of the account.",
        ),
    ),
    "unauthenticated": Row(
        401, Asked("there is no access token", "nobody", "get_tier_info", {}, "access token")
    ),
    "not_found": Row(
        404,
        {
            **dict.fromkeys(
                ("bedrock-chat", "alwrity"),
                Asked(
                    "no such session",
                    "app",
                    "close_session",
                    {"session_id": "s-0"},
                    "Open one with open_session.",
                ),
            ),
            "notion-agent": Asked(
                "no such reservation", "app", "settle_usage", {"reservation_id": "r-0"}, "Reserve again."
            ),
            "jobs-platform": Asked(
                "no such account",
                "root",
                "manage_accounts",
                {"action": "show", "account_id": "nobody"},
                "it appears with its first call",
            ),
            "group-tokens": Asked(
                "no such plan",
                "root",
                "manage_plans",
                {"action": "archive", "plan": "basics", "reason": "x"},
                "Did you mean 'basic'?",
            ),
        },
    ),
    "invalid_request": Row(
        422,
        {
            name: recorded("a misspelt event", "vera", f"Did you mean '{EVENTS[name]['event']}'?", event=typo)
            for name, typo in (
                ("bedrock-chat", "mesage"),
                ("notion-agent", "reqest"),
                ("jobs-platform", "jobb"),
                ("group-tokens", "lm"),
                ("alwrity", "api_cal"),
            )
        },
    ),
    "conflict": Row(
        409,
        {
            **dict.fromkeys(("bedrock-chat", "jobs-platform", "group-tokens", "alwrity"), KEY_AGAIN),
            "notion-agent": Asked(
                "a plan to which no way leads",
                "quinn",
                "upgrade_tier",
                {"plan": "narrow"},
                "From Trial you can move to Pro, Plus or Teams, not to Narrow.",
            ),
        },
    ),
    "unavailable": Row(503, recorded("the disk is full", "vera", "Try again shortly."), retryable=True),
    "internal": Row(
        500,
        Asked(
            "a defect of ours",
            "app",
            "check_quota",
            {"user_id": "vera", "attributes": {"raise": "RuntimeError"}},
            "tell the operator of this server",
        ),
    ),
}
"""Code → status, and how it comes about: in each system, or in all alike."""


@dataclass(frozen=True)
class System:
    name: str
    place: Place
    server: Server

    def access_token(self, who: str) -> str | None:
        return access_token(self.name, self.place, who)


def access_token(system: str, place: Place, who: str) -> str | None:
    match who:
        case "nobody":
            return None
        case "app":
            return place.token(who, role="service")
        case "root":
            return place.token(who, role="superadmin")
        case _ if system == GROUPS:
            return place.token(who, role="admin", group=f"{who}-crew")
        case _:
            return place.token(who)


def account_of(system: str, who: str) -> dict[str, str]:
    return {"account_id": f"{who}-crew"} if system == GROUPS else {"user_id": who}


async def done(api: Api, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await api.call(tool, **arguments)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


async def ten_days_ago(system: str, place: Place, server: Server) -> None:
    """Plans are made and given, and a payment fails."""
    async with server.api(access_token(system, place, "root")) as root:
        for plan in MADE[system]:
            await done(root, "manage_plans", **plan)
        for who, given in GIVEN[system].items():
            async with server.api(access_token(system, place, who)) as somebody:
                await done(somebody, "get_tier_info")
            if given:
                asked = given | account_of(system, who)
                offered = await done(root, "upgrade_tier", **asked)
                await done(root, "upgrade_tier", **asked, confirmation=offered["confirmation"])
        if "paula" in GIVEN[system]:
            failed = {"action": "payment_failed", "reason": "no funds"}
            await done(root, "manage_accounts", **failed, **account_of(system, "paula"))


async def today(system: str, place: Place, server: Server) -> None:
    """Everybody has come; what can be used up is used up."""
    for who in ("vera", "quinn", "rory", "sam", "tess", "paula", "ines"):
        async with server.api(access_token(system, place, who)) as somebody:
            await done(somebody, "get_tier_info")
    async with (
        server.api(access_token(system, place, "app")) as app,
        server.api(access_token(system, place, "root")) as root,
    ):
        used_up = EVENTS[system] | ALL_OF_IT[system]
        await done(app, "record_usage", user_id="quinn", idempotency_key="first", **used_up)
        await done(app, "record_usage", user_id="rory", **ALL_OF_A_MINUTE.get(system, EVENTS[system]))
        await done(app, "open_session", user_id="sam")
        if system in SUSPENDED:
            await done(root, "manage_accounts", action="suspend", user_id="ines", reason="fraud?")


@pytest.fixture(scope="module", params=EVENTS)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    name: str = request.param
    folder, catalog = tmp_path_factory.mktemp(name), name
    if name in ADDED:
        copy = folder / "catalog.toml"
        copy.write_text(f"{shipped_text(name)}\n{ADDED[name]}", "utf-8")
        catalog = str(copy)
    place = Place(folder, clock=TODAY, CATALOG=catalog)
    with place.serving(CLOCK=TEN_DAYS_AGO) as server:
        asyncio.run(ten_days_ago(name, place, server))
    with place.serving() as server:
        asyncio.run(today(name, place, server))
        yield System(name, place, server)


@contextmanager
def a_full_disk(server: Server) -> Iterator[Server]:
    resource = posix("resource")
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield server
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)


@contextmanager
def a_defect(place: Place) -> Iterator[Server]:
    broken = Place(place.folder, command=BREAKING, **place.variables)
    with broken.serving() as server:
        yield server
        assert server.stop() == 0, server.log  # what was raised stands in its log


SAID = ("code", "message", "retryable")


def comparable(said: Mapping[str, Any]) -> dict[str, Any]:
    """What every surface says alike."""
    unlocks = [" ".join(unlock.values()) for unlock in said.get("unlocks", ())]
    return {name: said[name] for name in SAID} | {"unlocks": unlocks}


async def said_over_http(server: Server, token: str | None, asked: Asked, code: str, row: Row) -> Any:
    async with server.api(token) as api:
        answer = await api.call(asked.tool, **asked.arguments)
    problem = problem_of(answer, row.status, code)
    # Also for headers: who is told to wait is told how long.
    waits = row.retryable or any(unlock.startswith("wait") for unlock in asked.unlocks)
    assert ("retry-after" in answer.headers) is waits
    assert ("www-authenticate" in answer.headers) is (row.status == 401)
    if not row.is_decision:
        assert "decision" not in problem
        return comparable(problem)
    decision = problem["decision"]
    assert not decision["allowed"]
    assert [problem[name] for name in SAID] == [decision[name] for name in SAID]
    return comparable(decision)


async def said_over_mcp(talk: Talk, asked: Asked, row: Row) -> Any:
    if not row.is_decision:
        return comparable(await talk.refusal(asked.tool, **asked.arguments))
    decision = await talk.call(asked.tool, **asked.arguments)
    assert (decision["allowed"], decision["text"]) == (False, decision["message"])
    return comparable(decision)


def test_the_table_is_whole() -> None:
    assert {code: row.status for code, row in TABLE.items()} | {"ok": 200} == HTTP_STATUS
    assert sorted(EVENTS) == sorted(shipped_names())
    for row in TABLE.values():
        assert isinstance(row.cells, Asked) or sorted(row.cells) == sorted(EVENTS)


async def said_everywhere(system: System, code: str, row: Row, asked: Asked) -> None:
    """The same over HTTP and over MCP in both eras; nothing is counted."""
    token, before = system.access_token(asked.who), system.place.rows()
    with ExitStack() as stack:
        server = system.server
        if code == "unavailable":
            stack.enter_context(a_full_disk(server))
        elif code == "internal":
            server = stack.enter_context(a_defect(system.place))
        said = [await said_over_http(server, token, asked, code, row)]
        for mode in ERAS.values():
            # Without a token only stdio gets as far as a tool.
            talking = system.place.over_stdio(None, mode) if token is None else server.client(token, mode)
            async with talking as talk:
                said.append(await said_over_mcp(talk, asked, row))
    assert system.place.rows() == before
    for one in said:
        # Without a token each transport says where it belongs.
        assert asked.next in one["message"]
        assert one["message"] == said[0]["message"] or token is None
        assert (one["code"], one["retryable"], one["unlocks"]) == (code, row.retryable, list(asked.unlocks))


@pytest.mark.parametrize("code", TABLE)
async def test_what_is_refused_says_so_on_every_surface_and_counts_nothing(system: System, code: str) -> None:
    asked = TABLE[code].cell(system.name)
    if asked.tool in ("record_usage", "check_quota"):
        asked = asked._replace(arguments=EVENTS[system.name] | asked.arguments)
    await said_everywhere(system, code, TABLE[code], asked)


@pytest.mark.parametrize("code", ["trial_expired", "payment_required", "subscription_inactive"])
async def test_who_changes_a_subscription_that_stands_still_is_told_the_same(
    system: System, code: str
) -> None:
    decided = TABLE[code].cell(system.name)
    tool, arguments = "manage_subscription", {"action": "cancel"}
    if code == "payment_required" and system.name != GROUPS:  # what is overdue may be canceled
        tool, arguments = "upgrade_tier", {"plan": "narrow"}
    asked = decided._replace(who=decided.arguments["user_id"], tool=tool, arguments=arguments)
    await said_everywhere(system, code, replace(TABLE[code], is_decision=False), asked)


async def test_a_trial_that_was_made_is_not_among_the_next_plans(system: System) -> None:
    async with system.server.api(system.access_token("vera")) as vera:
        next_plans = (await done(vera, "get_tier_info"))["next_plans"]
    assert next_plans
    assert "taster" not in next_plans
