"""The whole table of permissions against a server that runs: every tool, resource, prompt, completion, route and
command, for every role and target, over MCP in both eras and over HTTP.

What is denied is denied in the same words for what exists and what does not, and what is hidden answers as what
was never there. What is expected stands in `tests/permission_table.py`.
"""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference
from tests.harness import ERAS, ERROR_KEY, TODAY, Api, LegacySession, Place, Server, Talk
from tests.permission_table import (
    ABOUT_NOBODY,
    CALLS,
    COMMANDS,
    COMPLETIONS,
    LASTING,
    LEASE,
    LEASES,
    MESSAGE,
    OF_WHOLE_TENANTS,
    OFFERS,
    ONLY_ACCOUNTS,
    ONLY_TENANTS,
    OR_ELSE,
    ROLES,
    ROUTES,
    ROWS,
    SOMEBODY,
    TARGETS,
)

from subscription_mcp.assembly import Service, catalog_of, make_http_app, make_service, opened
from subscription_mcp.auth import permissions
from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.cli.common import local_operator
from subscription_mcp.cli.main import cli
from subscription_mcp.domain.errors import Refusal, forbidden
from subscription_mcp.ledger.commands import Revocation
from subscription_mcp.server.mcp import build_server
from subscription_mcp.server.offers import listed
from subscription_mcp.server.prompts import PROMPTS
from subscription_mcp.server.resources import RESOURCES
from subscription_mcp.tools.toolbox import TOOLS, UnknownTool

SURFACES = [*ERAS, "http"]
TOOL_PATH = "/api/mcp/tools"


@dataclass(frozen=True)
class Somebody:
    """One caller of the walk: the claims of its token and, of a group, who else is in it."""

    user: str
    claims: Mapping[str, Any]
    colleague: str | None = None

    @property
    def account(self) -> str:
        return str(self.claims.get("group", self.user))


# acme: the groups crew and rivals, the others by themselves. globex: the group gang, gina and doug by themselves.
CALLERS = {
    "member": Somebody("mia", {"group": "crew"}, "otto"),
    "holder": Somebody("bella", {}),
    "admin": Somebody("ada", {"group": "crew", "role": "admin"}, "otto"),
    "service": Somebody("app", {"role": "service"}),
    "tenant_admin": Somebody("tara", {"role": "tenant_admin"}),
    "superadmin": Somebody("root", {"role": "superadmin"}),
}
OTHERS = [
    ("otto", {"group": "crew"}),
    ("carl", {}),
    ("rita", {"group": "rivals", "role": "admin"}),
    ("gina", {"tenant": "globex"}),
    ("gus", {"tenant": "globex", "group": "gang", "role": "admin"}),
]
ACCOUNTS_OF_ACME = {"crew", "rivals", "bella", "carl", "tara", "root"}
NOT_THERE = "not.there"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("permissions"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        people = [(one.user, one.claims) for one in CALLERS.values() if one.claims.get("role") != "service"]
        # A group's admin comes before its members: its token names the plan.
        for user, claims in sorted([*people, *OTHERS], key=lambda one: "role" not in one[1]):
            path = f"{server.base_url}/api/tenants/{claims.get('tenant', 'acme')}/subscription"
            answer = httpx2.get(path, headers=bearer(token_of(place, user, claims)))
            assert (answer.status_code, answer.json()["plan"]) == (200, "premium"), answer.text
        path, body = (
            f"{server.base_url}{TOOL_PATH}/record_usage",
            {"arguments": {"user_id": "doug", **MESSAGE}},
        )
        service = bearer(place.token("app", tenant="globex", role="service"))
        assert httpx2.post(path, headers=service, json=body).status_code == 200
        yield server
        assert "row in the permission table" not in server.log


def token_of(place: Place, user: str, claims: Mapping[str, Any]) -> str:
    return place.token(user, **{"tier": "premium", **claims})


def bearer(access_token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {access_token}"}


# --- Asking --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What came of something asked: `kind` in one word, `whole` everything that was said, as text."""

    kind: str
    whole: str

    def about(self, *words: str) -> str:
        """The whole answer without the words the caller itself had sent."""
        text = self.whole
        for word in sorted(words, key=len, reverse=True):
            text = text.replace(word, "…")
        return text


Ask = Callable[[str, Mapping[str, Any]], Awaitable[Said]]
YES = {"ok", "quota_exceeded", "rate_limited", "session_limit"}
"""Codes of decisions: whoever may not ask is not told them."""


def kind_of(code: str) -> str:
    return "yes" if code in YES else code


def kind_of_document(document: Mapping[str, Any]) -> str:
    """Of what was asked for one target, also in a batch of one."""
    results = document.get("results", [document])
    return kind_of(results[0].get("code", "ok"))


async def said_of(asked: Awaitable[Any]) -> Said:
    """What an MCP client is answered."""
    try:
        answer = await asked
    except MCPError as fault:
        whole = json.dumps([fault.error.code, fault.error.message, fault.error.data])
        hidden = fault.error.code == -32602 and fault.error.message.startswith("Unknown ")
        return Said("hidden" if hidden else f"{fault.error.code} {fault.error.message}", whole)
    whole = answer.model_dump_json()
    if getattr(answer, "is_error", False):
        return Said(kind_of(answer.meta[ERROR_KEY]["code"]), whole)
    return Said(kind_of_document(getattr(answer, "structured_content", None) or {}), whole)


def said_over_http(response: httpx2.Response) -> Said:
    headers = {
        name: value for name, value in response.headers.items() if name not in ("date", "content-length")
    }
    whole = json.dumps([response.status_code, headers, response.text])
    document = response.json()
    if response.status_code == 404 and document["message"].startswith("No such tool."):
        return Said("hidden", whole)
    return Said(kind_of_document(document.get("result", document)), whole)


@asynccontextmanager
async def asking(place: Place, server: Server, role: str, surface: str) -> AsyncIterator[Ask]:
    """How a role calls tools on a surface, all over one connection."""
    who = CALLERS[role]
    access_token = token_of(place, who.user, who.claims)
    if surface == "http":
        async with server.api(access_token) as api:

            async def over_http(tool: str, arguments: Mapping[str, Any]) -> Said:
                return said_over_http(await api.call(tool, **arguments))

            yield over_http
    else:
        async with server.client(access_token, ERAS[surface]) as talk:

            async def over_mcp(tool: str, arguments: Mapping[str, Any]) -> Said:
                return await said_of(talk.client.call_tool(tool, dict(arguments)))

            yield over_mcp


WITHIN_REACH = ("yes", "not_found", "invalid_request", "forbidden")
"""What may come of somebody who is not there, where one who is would be answered: there it may be told."""

# --- Tools ---------------------------------------------------------------------------------------------------


def targets_of(role: str) -> dict[str, tuple[dict[str, str], dict[str, str] | None]]:
    """Every target of the table that the role has, and the same with somebody who is not there and was never."""
    who, nobody = CALLERS[role], f"nobody.{uuid.uuid4()}"
    targets: dict[str, tuple[dict[str, str], dict[str, str] | None]] = {
        "me": ({}, None),
        "me by name": ({"user_id": who.user}, None),
        "another user": ({"user_id": "carl"}, {"user_id": nobody}),
        "another account": ({"account_id": "carl"}, {"account_id": nobody}),
        "a user of a group": (
            {"account_id": "rivals", "user_id": "rita"},
            {"account_id": nobody, "user_id": "rita"},
        ),
        "the tenant": ({"tenant_id": "acme"}, None),
        "another tenant": ({"tenant_id": "globex"}, {"tenant_id": nobody}),
        "a user elsewhere": (
            {"tenant_id": "globex", "user_id": "gina"},
            {"tenant_id": "globex", "user_id": nobody},
        ),
        "an account elsewhere": (
            {"tenant_id": "globex", "account_id": "gang"},
            {"tenant_id": "globex", "account_id": nobody},
        ),
        "a member elsewhere": (
            {"tenant_id": "globex", "account_id": "gang", "user_id": "gus"},
            {"tenant_id": nobody, "account_id": "gang", "user_id": "gus"},
        ),
    }
    if who.colleague is not None:
        targets["my group"] = {"account_id": who.account}, None
        targets["a colleague"] = {"user_id": who.colleague}, {"user_id": nobody}
    elif role != "service":
        targets["my personal account"] = {"account_id": who.account}, None
    if role in ("member", "holder", "admin"):
        targets["a stranger in mine"] = (
            {"account_id": who.account, "user_id": "carl"},
            {"account_id": who.account, "user_id": nobody},
        )
    return targets


def aimed(arguments: Mapping[str, Any], target: Mapping[str, str]) -> dict[str, Any]:
    """A call about a target: of a batch, each event is."""
    if "events" in arguments:
        return {"events": [{**event, **target} for event in arguments["events"]]}
    return {**arguments, **target}


def is_hidden(tool: str, role: str) -> bool:
    """Whether the role has neither the tool nor any action of it."""
    return all(cells[role] == "NONE" for row, cells in ROWS.items() if row.partition(".")[0] == tool)


def is_misshapen(row: str, target: Mapping[str, str]) -> bool:
    """Whether the arguments as such are refused, whoever calls."""
    whom = target.keys() & {"account_id", "user_id"}
    if row == "manage_accounts.erase":
        return whom != {"user_id"}
    return bool(
        (row in ONLY_TENANTS and whom)
        or (row in ONLY_ACCOUNTS and "user_id" in whom)
        or (row in SOMEBODY and not whom)
    )


def expected(row: str, role: str, target: str, given: Mapping[str, str] | None = None) -> str:
    """What the tables say comes of a call."""
    tool = row.partition(".")[0]
    if is_hidden(tool, role):
        return "hidden"
    if given is not None and is_misshapen(row, given):
        return "invalid_request"
    if ROWS[row][role] == "NONE":
        return "forbidden"
    word = TARGETS[target]["service" if role == "service" else ROWS[row][role]]
    whole = "yes" if row in OF_WHOLE_TENANTS or row in ONLY_TENANTS else "invalid_request"
    return {"yes": "yes", "no": "forbidden", "name": "invalid_request", "whole": whole}[word]


def test_every_tool_that_is_there_has_a_call_and_every_call_a_tool() -> None:
    tools = {tool.name for tool in TOOLS}
    rows = {row for row in ROWS if row.partition(".")[0] in tools}
    assert tools == {row.partition(".")[0] for row in rows}, "each needs its line in ROWS"
    assert rows == set(CALLS), "each needs its smallest call in CALLS"


AIMED = [row for row in CALLS if row not in ABOUT_NOBODY and LEASE not in CALLS[row].values()]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("role", ROLES)
async def test_a_tool_reaches_as_far_as_the_table_says_and_denies_in_the_same_words(
    place: Place, server: Server, role: str, surface: str
) -> None:
    async with asking(place, server, role, surface) as ask:

        async def walk(row: str, name: str, given: dict[str, str], absent: dict[str, str] | None) -> None:
            tool, wanted = row.partition(".")[0], expected(row, role, name, given)
            if wanted == "yes" and row in LASTING:
                return
            answer = await ask(tool, aimed(CALLS[row], given))
            assert answer.kind in (wanted, *(OR_ELSE.get(row, ()) if wanted == "yes" else ())), (
                row,
                name,
                answer.whole,
            )
            if wanted == "hidden":
                unknown = await ask("no_such_tool", aimed(CALLS[row], given))
                assert answer.about(tool) == unknown.about("no_such_tool"), (row, name)
            if absent is None:
                return
            of_nobody = await ask(tool, aimed(CALLS[row], absent))
            if wanted == "yes":
                assert of_nobody.kind in WITHIN_REACH, (row, name, of_nobody.whole)
            else:
                assert of_nobody.about(*absent.values()) == answer.about(*given.values()), (row, name)

        for row in AIMED:
            targets = targets_of(role)
            if expected(row, role, "me") == "hidden":  # whomever it is about
                targets = {name: targets[name] for name in ("me", "another user")}
            await asyncio.gather(
                *(walk(row, name, given, absent) for name, (given, absent) in targets.items())
            )
        for row in ABOUT_NOBODY:
            wanted = "hidden" if is_hidden(row.partition(".")[0], role) else "yes"
            assert (await ask(row.partition(".")[0], CALLS[row])).kind == wanted, row


@pytest.mark.parametrize("role", ROLES)
async def test_the_lists_name_what_the_role_has_and_nothing_else(
    place: Place, server: Server, role: str
) -> None:
    who = CALLERS[role]
    access_token = token_of(place, who.user, who.claims)
    tools = {tool.name for tool in TOOLS if not is_hidden(tool.name, role)}
    async with server.api(access_token) as api:
        assert {tool["name"] for tool in (await api.get(TOOL_PATH)).json()["tools"]} == tools
    offers = {key for key, cells in OFFERS.items() if cells[role] != "no"}
    for mode in ERAS.values():
        async with server.client(access_token, mode) as talk:
            assert set(await talk.tools()) == tools
            resources = (await talk.client.list_resources()).resources
            templates = (await talk.client.list_resource_templates()).resource_templates
            prompts = (await talk.client.list_prompts()).prompts
        shown = {str(resource.uri) for resource in resources} | {prompt.name for prompt in prompts}
        assert shown | {template.uri_template for template in templates} == offers


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("role", ROLES)
async def test_another_persons_session_or_reservation_is_one_that_is_not_there(
    place: Place, server: Server, role: str, surface: str
) -> None:
    who, reach = CALLERS[role], "service" if role == "service" else "SELF"
    async with (
        asking(place, server, role, surface) as ask,
        server.api(place.token("app", role="service")) as app,
        server.api(place.token("app", tenant="globex", role="service")) as elsewhere,
    ):
        holders = {
            "mine": (app, "carl" if role == "service" else who.user),
            "a colleague's": (app, "otto"),
            "another user's": (app, f"lessee.{role}.{surface}"),
            "elsewhere": (elsewhere, f"lessee.{role}.{surface}"),
        }
        for tool in ("renew_session", "settle_usage", "close_session"):
            assert ROWS[tool][role] in ("SELF", "TENANT", "NONE")
            argument = next(name for name, value in CALLS[tool].items() if value == LEASE)
            nobody = await ask(tool, CALLS[tool] | {argument: NOT_THERE})
            assert nobody.kind == ("hidden" if is_hidden(tool, role) else "not_found")
            for name, (service, user) in holders.items():
                lease = await (a_reservation if tool == "settle_usage" else a_session)(service, user)
                answer = await ask(tool, CALLS[tool] | {argument: lease})
                if nobody.kind == "not_found" and LEASES[name][reach] == "yes":
                    assert answer.kind == "yes", (tool, name, answer.whole)
                else:
                    assert answer.about(lease) == nobody.about(NOT_THERE), (tool, name)
                # It is still there, but where the caller was allowed to end it.
                ends: dict[str, Any] = {"release": True} if tool == "settle_usage" else {}
                ending = "settle_usage" if ends else "close_session"
                ended = await service.call(ending, **{argument: lease}, **ends)
                assert ended.status_code == 200 or answer.kind == "yes", (tool, name, ended.text)


async def a_session(service: Api, user: str) -> str:
    answer = await service.call("open_session", user_id=user)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["result"]["session_id"])


async def a_reservation(service: Api, user: str) -> str:
    answer = await service.call("reserve_usage", user_id=user, **MESSAGE)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["result"]["reservation_id"])


MALFORMED: list[dict[str, Any]] = [
    {"arguments": "text"},
    {"arguments": [1]},
    {"arguments": 5},
    {"arguments": {"event": 1.5}},
    {"arguments": {}, "inputResponses": 5},
    {"arguments": {}, "inputResponses": {"confirm": {"action": "accept", "content": {"confirm": True}}}},
    {"arguments": {}, "requestState": "of nobody"},
    {"arguments": {}, "requestState": 5},
    {"arguments": {}, "task": 5},
    {"arguments": {}, "more": None},
]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("role", ["holder", "service"])
async def test_what_is_hidden_is_not_betrayed_by_a_call_that_is_wrong(
    place: Place, server: Server, role: str, era: str
) -> None:
    who = CALLERS[role]
    hidden = {
        "tools/call": [row for row in CALLS if "." not in row and is_hidden(row, role)],
        "prompts/get": [key for key, cells in OFFERS.items() if "://" not in key and cells[role] == "no"],
    }
    assert hidden["tools/call"]
    access_token = token_of(place, who.user, who.claims)
    async with server.api(access_token) as api:
        session = await LegacySession.begun(api) if era == "legacy" else None

        async def raw(method: str, params: Mapping[str, Any]) -> str:
            if session is None:
                return json.dumps(await server.modern(access_token, method, params))
            answer = await session.post(method, id=1, params=params)
            return next(line for line in answer.splitlines() if line.startswith("data: {"))

        for method, names in hidden.items():
            for wrong in MALFORMED:
                unknown = await raw(method, {"name": NOT_THERE, **wrong})
                assert str(-32602) in unknown, unknown
                for name in names:
                    answer = await raw(method, {"name": name, **wrong})
                    assert answer.replace(name, NOT_THERE) == unknown, (name, wrong)


# --- Resources, prompts, completions -------------------------------------------------------------------------

VARIABLES = {"plan": "basic", "model": "openai/gpt-4o", "meter": "messages", "period": "today"}
ARGUMENTS = {"explain_denial": MESSAGE}
"""What a prompt needs beside its name."""


async def read(talk: Talk, key: str, **variables: str) -> Said:
    """A resource or prompt."""
    if "://" in key:
        return await said_of(talk.client.read_resource(uri_of(key, **variables)))
    return await said_of(talk.client.get_prompt(key, ARGUMENTS.get(key, {})))


def uri_of(key: str, **variables: str) -> str:
    return key.replace("{+", "{").format(**{**VARIABLES, **variables})


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("role", ROLES)
async def test_what_is_read_and_prompted_is_the_roles_own_or_not_there(
    place: Place, server: Server, role: str, era: str
) -> None:
    who = CALLERS[role]
    others = [*ACCOUNTS_OF_ACME - {who.account}]
    async with server.client(token_of(place, who.user, who.claims), ERAS[era]) as talk:
        no_resource = await said_of(talk.client.read_resource("no://such/thing"))
        no_prompt = await said_of(talk.client.get_prompt("no_such_prompt"))
        assert no_resource.kind == no_prompt.kind == "hidden"
        for key, cells in OFFERS.items():
            word = cells[role]
            if "{account_id}" not in key:
                answer = await read(talk, key)
                assert answer.kind == ("yes" if word == "yes" else "hidden"), (key, answer.whole)
                if word == "no" and "://" in key:
                    assert answer.about(uri_of(key)) == no_resource.about("no://such/thing"), key
                elif word == "no":
                    assert answer.about(key) == no_prompt.about("no_such_prompt"), key
                continue
            within = {"no": [], "mine": [who.account], "tenant": [*ACCOUNTS_OF_ACME]}[word]
            beyond = {"no": [who.account, *others], "mine": others, "tenant": []}[word]
            for account in within:
                assert (await read(talk, key, account_id=account)).kind == "yes", (key, account)
            for account in [*beyond, "gang", "gina", NOT_THERE, "no id", "%2e%2e"]:
                uri = uri_of(key, account_id=account)
                answer = await read(talk, key, account_id=account)
                assert answer.about(uri) == no_resource.about("no://such/thing"), (key, account)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("role", ROLES)
async def test_only_what_the_role_may_know_is_completed(
    place: Place, server: Server, role: str, era: str
) -> None:
    who = CALLERS[role]

    async def values(talk: Talk, argument: str, key: str, typed: str = "") -> list[str]:
        ref = ResourceTemplateReference(uri=key) if "://" in key else PromptReference(name=key)
        return (await talk.client.complete(ref, {"name": argument, "value": typed})).completion.values

    async with server.client(token_of(place, who.user, who.claims), ERAS[era]) as talk:
        assert await values(talk, "plan", "no://such/{plan}") == []
        for row, cells in COMPLETIONS.items():
            argument, key = row.split(" of ")
            found = await values(talk, argument, key)
            match cells[role]:
                case "yes":
                    assert found, row
                case "no":
                    assert found == [], row
                case "mine":
                    assert found == [who.account], row
                case "tenant":
                    assert set(found) >= ACCOUNTS_OF_ACME, row
            assert not {"gang", "gina"} & set(found), row
            assert await values(talk, "no_such_argument", key) == [], row
            if argument == "account_id":
                assert await values(talk, argument, key, "ga") == [], row


@pytest.mark.filterwarnings("ignore:resources/:mcp.MCPDeprecationWarning")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("role", ["member", "holder", "admin", "service"])
async def test_nobody_listens_to_what_is_hidden_from_the_role(
    place: Place, server: Server, role: str, era: str
) -> None:
    who = CALLERS[role]
    access_token = token_of(place, who.user, who.claims)
    async with server.client(access_token, ERAS[era]) as talk:

        async def fault(uri: str) -> str:
            if era == "legacy":
                code, message, data = await talk.fault(talk.client.subscribe_resource(uri))
            else:
                asked = {"notifications": {"resourceSubscriptions": [uri]}}
                error = (await server.modern(access_token, "subscriptions/listen", asked))["error"]
                code, message, data = error["code"], error["message"], error.get("data")
            return json.dumps([code, message, data]).replace(uri, "…")

        unknown = await fault("no://such/thing")
        accounts = [*ACCOUNTS_OF_ACME - {who.account}, "gang", "gina", NOT_THERE]
        uris = [f"quota://accounts/{account}" for account in accounts]
        uris += ["quota://me", "subscription://me"] if role == "service" else []
        assert {await fault(uri) for uri in uris} == {unknown}


# --- Routes --------------------------------------------------------------------------------------------------


def requested(route: str, tool: str = "get_tier_info") -> tuple[str, str]:
    """Method and path of a row."""
    method, _, path = route.partition("#")[0].rpartition(" ")
    return method or "GET", path.format(tool_name=tool, tenant_id="acme")


@pytest.mark.parametrize("who", ["nobody", "member", "service"])
async def test_a_route_answers_with_the_status_of_the_table(place: Place, server: Server, who: str) -> None:
    somebody = CALLERS.get(who)
    access_token = token_of(place, somebody.user, somebody.claims) if somebody else None
    async with server.api(access_token) as api:
        for route, cells in ROUTES.items():
            if cells[who] != "-":
                method, path = requested(route)
                body = {"arguments": {"user_id": "mia"}} if method == "POST" else None
                answer = await api.send(method, path, json=body)
                assert answer.status_code == int(cells[who]), (route, answer.text)
        nowhere = await api.get("/api/nowhere")
        assert nowhere.status_code == (404 if somebody else 401)


async def test_nobody_is_told_nothing_but_how_to_become_somebody(server: Server) -> None:
    """Over HTTP what is asked for is not even looked at."""
    async with server.api() as api:
        asked = [("POST", f"{TOOL_PATH}/{name}") for name in [*(tool.name for tool in TOOLS), "no_such_tool"]]
        asked += [requested(route) for route, cells in ROUTES.items() if cells["nobody"] == "401"]
        asked += [("GET", f"/api/tenants/{tenant}/subscription") for tenant in ("globex", NOT_THERE)]
        asked += [("GET", "/api/nowhere"), ("POST", "/mcp"), ("DELETE", "/mcp")]
        answers = [
            await api.send(method, path, json={} if method == "POST" else None) for method, path in asked
        ]
    assert {said_over_http(answer).kind for answer in answers} == {"unauthenticated"}
    assert len({said_over_http(answer).whole for answer in answers}) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_over_stdio_nobody_is_told_how_to_become_somebody_by_everything(place: Place, era: str) -> None:
    async with place.over_stdio(None, ERAS[era]) as talk:
        for row, arguments in CALLS.items():
            tool = row.partition(".")[0]
            assert (await said_of(talk.client.call_tool(tool, arguments))).kind == "unauthenticated"
        unknown = await said_of(talk.client.call_tool("no_such_tool", {}))
        assert unknown.kind == "hidden"
        for key in OFFERS:
            answers = [await read(talk, key, account_id=account) for account in ("crew", NOT_THERE)]
            assert {answer.kind.partition(" ")[0] for answer in answers} == {"401"}, key
            assert answers[0].whole == answers[1].whole
        for row in COMPLETIONS:
            argument, key = row.split(" of ")
            code, _, _ = await talk.fault(talk.completions(key, argument))
            assert code == 401, row


@pytest.mark.parametrize("role", ROLES)
async def test_the_subscription_route_reaches_as_far_as_the_table_says(
    place: Place, server: Server, role: str
) -> None:
    who = CALLERS[role]

    async def ask(api: Api, target: Mapping[str, str]) -> Said:
        query = {name: value for name, value in target.items() if name != "tenant_id"}
        tenant = target.get("tenant_id", "acme")
        return said_over_http(await api.get(f"/api/tenants/{tenant}/subscription", params=query))

    async with server.api(token_of(place, who.user, who.claims)) as api:
        for name, (given, absent) in targets_of(role).items():
            if name == "the tenant":
                continue  # the path of "me"
            answer, wanted = await ask(api, given), expected("get_tier_info", role, name)
            if name == "another tenant" and ROWS["tenant_summary"][role] == "ALL":
                wanted = "yes"
            assert answer.kind == wanted, (name, answer.whole)
            if wanted == "yes":
                sums_up = ROWS["tenant_summary"][role] != "NONE"
                assert ('"tenant":' in json.loads(answer.whole)[2]) == sums_up, name
            elif absent is not None:
                of_nobody = await ask(api, absent)
                assert of_nobody.about(*absent.values()) == answer.about(*given.values()), name


@pytest.mark.parametrize("role", ROLES)
async def test_a_tenant_beside_the_arguments_reaches_no_further_than_one_among_them(
    place: Place, server: Server, role: str
) -> None:
    who = CALLERS[role]
    async with server.api(token_of(place, who.user, who.claims)) as api:
        for row, arguments in CALLS.items():
            tool = row.partition(".")[0]
            for target in ({}, {"user_id": "gina"}):
                if target and row not in AIMED:
                    continue
                given = aimed(arguments, target)
                name = "a user elsewhere" if target else "another tenant"
                wanted = expected(row, role, name, target) if row in AIMED else "forbidden"
                if wanted == "yes" and row in LASTING:
                    continue
                there, nowhere = [
                    said_over_http(
                        await api.send(
                            "POST", f"{TOOL_PATH}/{tool}", json={"tenant_id": tenant, "arguments": given}
                        )
                    )
                    for tenant in ("globex", NOT_THERE)
                ]
                wanted = "hidden" if is_hidden(tool, role) else wanted
                assert there.kind in (wanted, *(OR_ELSE.get(row, ()) if wanted == "yes" else ())), (
                    row,
                    there.whole,
                )
                if wanted != "yes":
                    assert there.about("globex") == nowhere.about(NOT_THERE), row


def an_event_of(place: Place, user: str) -> str:
    (id_,) = place.select(
        "SELECT e.id FROM event e JOIN holder h ON h.id = e.holder JOIN word w ON w.id = h.user"
        " WHERE w.text = ? LIMIT 1",
        user,
    )[0]
    return str(uuid.UUID(bytes=id_))


# --- Commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [line for line, cells in COMMANDS.items() if cells["row"] != "files only"])
def test_a_command_does_in_any_tenant_what_its_row_gives_a_superadmin(
    place: Place, server: Server, line: str
) -> None:
    assert ROWS[COMMANDS[line]["row"]]["superadmin"] == "ALL"
    limits = '[{ meter = "messages", window = "minute", limit = 9 }]'
    for plan in ("basic", "extra"):
        price = 'price = { monthly = "0" }'
        (place.folder / f"{plan}.toml").write_text(
            f'plan = "{plan}"\ntitle = "{plan.title()}"\n{price}\nlimits = {limits}\n', "utf-8"
        )
    # Whose access token lies about is nothing to it.
    typed = COMMANDS[line]["typed"].replace("EVENT", an_event_of(place, "doug"))
    done = place.run(*line.split(), *typed.split(), TOKEN=place.token("mia", group="crew"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"\S", done.stdout + done.stderr)


# --- What has no row -----------------------------------------------------------------------------------------


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The tables of permissions, to be changed as one test needs them."""
    remembered = [permissions.reach, permissions.rows_of_tool, permissions.row_of_action]
    for function in remembered:
        function.cache_clear()
    yield monkeypatch
    for function in remembered:
        function.cache_clear()


@asynccontextmanager
async def a_service(place: Place) -> AsyncIterator[Service]:
    settings = place.settings()
    catalog = catalog_of(settings)
    async with opened(make_service(settings, catalog), catalog) as service:
        yield service


async def test_a_tool_without_a_row_is_there_for_nobody(tmp_path: Path, rows: pytest.MonkeyPatch) -> None:
    rows.delitem(permissions.REACH, "list_plans")
    async with a_service(Place(tmp_path)) as service:
        with pytest.raises(UnknownTool):
            await service.toolbox.call(local_operator("acme"), "list_plans", {})
        mine = await service.toolbox.listed(local_operator("acme"))
        assert "list_plans" not in {tool.name for tool in [*mine, *service.toolbox.listed_for_nobody()]}


async def test_an_action_beyond_the_role_is_forbidden_where_others_of_the_tool_are_not(
    tmp_path: Path, rows: pytest.MonkeyPatch
) -> None:
    row = permissions.REACH["manage_plans"]
    rows.setitem(permissions.REACH, "get_tier_info.list", row)
    rows.setitem(permissions.REACH, "manage_limits.list", row)
    tara = replace(local_operator("acme"), roles=frozenset({"member", "tenant_admin"}))
    bella = replace(local_operator("acme"), roles=frozenset({"member"}))
    async with a_service(Place(tmp_path)) as service:
        call = service.toolbox.call
        await call(local_operator("acme"), "manage_limits", {"action": "list"})
        await call(tara, "manage_limits", {"action": "history"})
        await call(tara, "get_tier_info", {})
        assert "manage_limits" in {tool.name for tool in await service.toolbox.listed(tara)}
        for target in ({}, {"user_id": NOT_THERE}, {"tenant_id": "globex"}):
            with pytest.raises(Refusal) as refused:
                await call(tara, "manage_limits", {"action": "list", **target})
            assert refused.value.as_dict() == forbidden().as_dict()
        rows.delitem(permissions.REACH, "manage_limits")
        permissions.reach.cache_clear()
        permissions.rows_of_tool.cache_clear()
        with pytest.raises(UnknownTool):
            await call(bella, "manage_limits", {"action": "history"})
        with pytest.raises(Refusal) as refused:
            await call(local_operator("acme"), "manage_limits", {"action": "history"})
        assert refused.value.code == "forbidden"


async def test_a_resource_prompt_or_completion_without_a_row_is_there_for_nobody(
    tmp_path: Path, rows: pytest.MonkeyPatch
) -> None:
    async with a_service(Place(tmp_path)) as service:
        access = service.operations.access
        caller = await access.caller(local_operator("acme"))
        for among, table, key in (
            (RESOURCES, permissions.RESOURCES, "quota://me"),
            (PROMPTS, permissions.PROMPTS, "quota"),
        ):
            assert key in listed(among, caller, access) & listed(among, None, access)
            rows.delitem(table, key)
            assert key not in listed(among, caller, access) | listed(among, None, access)
        rows.delitem(permissions.COMPLETIONS, "plans of compare_plans")
        server = build_server(
            service.toolbox, identify_as(local_operator("acme")), Revocations(no_revocations)
        )
        async with Client(server) as client:
            ref = PromptReference(name="compare_plans")
            answer = await client.complete(ref, {"name": "plans", "value": ""})
            assert answer.completion.values == []


def identify_as(principal: Principal) -> Callable[[], Awaitable[Principal]]:
    async def identify() -> Principal:
        return principal

    return identify


async def no_revocations(position: int) -> list[Revocation]:
    return []


async def test_a_route_without_a_row_is_there_for_nobody(
    tmp_path: Path, rows: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows.delitem(permissions.ROUTES, "GET /api/mcp/tools")
    place = Place(tmp_path)
    async with a_service(place) as service:
        app: Any = make_http_app(place.settings(), service, "http://127.0.0.1")
        headers = bearer(place.token("root", role="superadmin"))
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers
        ) as http:
            statuses = [(await http.get(path)).status_code for path in (TOOL_PATH, "/api/plans")]
    assert statuses == [404, 200]
    assert "not served, for want of a row in the permission table: GET /api/mcp/tools" in caplog.text


def test_a_command_without_a_row_is_there_for_nobody(rows: pytest.MonkeyPatch) -> None:
    context = click.Context(cli)
    rows.delitem(permissions.COMMANDS, "usage")
    rows.delitem(permissions.COMMANDS, "token mint")
    rows.setitem(permissions.COMMANDS, "token revoke", "record_usage")  # which no superadmin does
    assert cli.get_command(context, "usage") is None
    token = cli.get_command(context, "token")
    assert isinstance(token, click.Group)
    assert set(token.commands) == {"inspect"}
