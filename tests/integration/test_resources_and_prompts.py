"""What clients read, complete and put before a model: the caller's own numbers, for who may see them."""

from collections.abc import Iterator

import pytest
from tests.harness import ERAS, TODAY, Place, Server, Talk, talking

FIXED = {"subscription://plans", "subscription://me", "quota://me", "alerts://me", "pricing://models"}
OF_BASIC = {
    "subscription://plans/{plan}",
    "pricing://models/{+model}",
    "quota://me/{meter}",
    "quota://accounts/{account_id}",
}
WITH_ANALYTICS = {"usage://me/{period}", "usage://accounts/{account_id}/{period}"}
PROMPTS = {"quota", "compare_plans", "explain_denial"}
PERIODS = ["billing_period", "today", "this_month", "last_7_days", "last_30_days", "last_6_months"]
CACHEABLE = {
    "server/discover": {},
    "tools/list": {},
    "prompts/list": {},
    "resources/list": {},
    "resources/templates/list": {},
    "resources/read": {"uri": "quota://me"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("resources"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


async def listed(talk: Talk) -> tuple[set[str], set[str], set[str]]:
    """URIs, templates and prompts as the caller sees them."""
    client = talk.client
    return (
        {str(found.uri) for found in (await client.list_resources()).resources},
        {found.uri_template for found in (await client.list_resource_templates()).resource_templates},
        {found.name for found in (await client.list_prompts()).prompts},
    )


async def record(place: Place, server: Server, user: str, quantity: int) -> None:
    async with server.api(place.token("app", role="service")) as app:
        answer = await app.call("record_usage", user_id=user, event="message", quantity=quantity)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_prompts_carry_the_callers_numbers(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"prompted.{transport}.{era}"
    await record(place, server, user, 48)
    async with talking(place, server, transport, place.token(user), ERAS[era]) as talk:
        for prompt in (await talk.client.list_prompts()).prompts:
            assert prompt.title and prompt.description
            assert all(argument.description for argument in prompt.arguments or ())
        used = "48 of 50 used today, 2 left, resets 2026-11-21 00:00 UTC"
        assert used in await talk.prompt("quota")
        compared = await talk.prompt("compare_plans")
        assert used in compared
        assert all(price in compared for price in ("free", "29.00 USD a month", "99.00 USD a month"))
        assert "Advanced" not in await talk.prompt("compare_plans", plans="basic, premium")
        denied = await talk.prompt("explain_denial", event="message", quantity="3")
        assert "message x3 is refused (quota_exceeded)" in denied
        assert "Advanced has 200 a day" in denied
        assert "message x1 would be allowed now" in await talk.prompt(
            "explain_denial", event="message", quantity=" "
        )
        missing = await talk.prompt("explain_denial", feature="mcp_access")
        assert "Plans with it: advanced, premium." in missing


BAD_PROMPTS = [
    ("nope", {}, "Unknown prompt: nope"),
    ("quota", {"of": "x"}, "quota takes no arguments."),
    ("compare_plans", {"plans": "basic,gold"}, "plans must name plans"),
    ("compare_plans", {"plans": ","}, "plans must name plans"),
    ("explain_denial", {}, "explain_denial needs event or feature."),
    ("explain_denial", {"quantity": "3"}, "explain_denial needs event or feature."),
    ("explain_denial", {"feature": "mcp_access", "quantity": "3"}, "quantity goes with event."),
    ("explain_denial", {"event": "massage"}, "Unknown event."),
    ("explain_denial", {"event": "message", "quantity": "many"}, "quantity must be an integer."),
    ("explain_denial", {"event": "message", "quantity": "0"}, "The quantity must be an integer from 1"),
    ("explain_denial", {"event": "message", "quantity": "9" * 5000}, "quantity must be an integer."),
    ("explain_denial", {"feature": "gold"}, "Unknown feature"),
]


@pytest.mark.parametrize("era", ERAS)
async def test_a_prompt_that_cannot_be_is_invalid_params(place: Place, server: Server, era: str) -> None:
    async with server.client(place.token("prompter"), ERAS[era]) as talk:
        for name, arguments, words in BAD_PROMPTS:
            code, message, _ = await talk.fault(talk.client.get_prompt(name, arguments))
            assert (code, message[: len(words)]) == (-32602, words)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("era", ERAS)
async def test_everybody_is_shown_what_is_theirs(place: Place, server: Server, era: str) -> None:
    mode = ERAS[era]
    async with server.client(place.token("newcomer"), mode) as newcomer:
        assert await listed(newcomer) == (FIXED, OF_BASIC, PROMPTS)
    async with server.client(place.token("regular", tier="advanced"), mode) as regular:
        assert await listed(regular) == (FIXED, OF_BASIC | WITH_ANALYTICS, PROMPTS)
    async with server.client(place.token("worker", group="crew", tier="advanced"), mode) as worker:
        of_member = {
            "subscription://plans/{plan}",
            "pricing://models/{+model}",
            "quota://me/{meter}",
            "usage://me/{period}",
        }
        assert await listed(worker) == (FIXED, of_member, PROMPTS)
    async with server.client(place.token("app", role="service"), mode) as app:
        assert await listed(app) == (
            {"subscription://plans", "pricing://models"},
            {"subscription://plans/{plan}", "pricing://models/{+model}"},
            {"compare_plans"},
        )
        assert "29.00 USD" in await app.prompt("compare_plans")
        for name in ("quota", "explain_denial"):
            assert await app.fault(app.client.get_prompt(name, {})) == (
                -32602,
                f"Unknown prompt: {name}",
                None,
            )


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_documents_are_those_of_the_tools(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"reader.{transport}.{era}"
    await record(place, server, user, 7)
    async with talking(place, server, transport, place.token(user, tier="advanced"), ERAS[era]) as talk:
        plans = (await talk.call("list_plans"))["plans"]
        for plan in plans:
            assert await talk.resource(f"subscription://plans/{plan['plan']}") == plan
        info = await talk.call("get_tier_info")
        assert (await talk.resource(f"quota://accounts/{user}"))["limits"] == info["limits"]
        for period in PERIODS:
            report = await talk.call("get_usage_analytics", period=period)
            del report["text"]
            assert await talk.resource(f"usage://me/{period}") == report
            assert await talk.resource(f"usage://accounts/{user}/{period}") == report


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_hidden_is_unknown(place: Place, server: Server, era: str) -> None:
    await record(place, server, "somebody", 1)
    unknown = [
        "subscription://plans/gold",
        "subscription://plans/",
        "quota://me/gold",
        "usage://me/yesterday",
        "quota://accounts/somebody",
        "quota://accounts/nobody",
        "quota://accounts/..",
        "quota://accounts/a%20b",
        "usage://accounts/somebody/today",
        "alerts://nobody",
        "file:///etc/passwd",
        f"quota://accounts/{'x' * 400}",
    ]
    async with server.client(place.token("curious", tier="advanced"), ERAS[era]) as talk:
        for uri in unknown:
            code, message, data = await talk.fault(talk.client.read_resource(uri))
            assert (code, message, data) == (-32602, f"Unknown resource: {uri[:256]}", {"uri": uri[:256]})
    async with server.client(place.token("worker", group="crew"), ERAS[era]) as worker:
        for uri in ("quota://accounts/crew", "quota://accounts/nobody"):
            assert (await worker.fault(worker.client.read_resource(uri)))[0] == -32602
    async with server.client(place.token("app", role="service"), ERAS[era]) as app:
        for uri in ("quota://me", "subscription://me", "quota://me/messages", "quota://accounts/somebody"):
            assert (await app.fault(app.client.read_resource(uri)))[0] == -32602


@pytest.mark.parametrize("era", ERAS)
async def test_what_the_plan_withholds_says_what_would_unlock_it(
    place: Place, server: Server, era: str
) -> None:
    async with server.client(place.token("poor"), ERAS[era]) as talk:
        code, message, data = await talk.fault(talk.client.read_resource("usage://me/today"))
    assert (code, data["code"]) == (403, "feature_not_in_plan")
    assert data["unlocks"] == [{"action": "upgrade_tier", "plan": "advanced"}]
    assert "Advanced or Premium" in message


@pytest.mark.parametrize("era", ERAS)
async def test_who_answers_for_accounts_reads_and_completes_them(
    place: Place, server: Server, era: str
) -> None:
    tenant, mode = f"globex-{era}", ERAS[era]
    async with server.api(place.token("app", tenant=tenant, role="service")) as app:
        for user in ("amy", "anna", "bob"):
            recorded = await app.call("record_usage", user_id=user, event="message", quantity=3)
            assert recorded.status_code == 200
    async with server.client(place.token("tara", tenant=tenant, role="tenant_admin"), mode) as tara:
        used = (await tara.resource("quota://accounts/amy"))["limits"][0]["used"]
        totals = (await tara.resource("usage://accounts/amy/today"))["totals"]
        assert (used, totals[0]["quantity"]) == (3, 3)
        assert (await tara.fault(tara.client.read_resource("quota://accounts/zoe")))[0] == -32602
        template = "quota://accounts/{account_id}"
        assert await tara.completions(template, "account_id", "a") == ["amy", "anna"]
        assert await tara.completions("usage://accounts/{account_id}/{period}", "account_id", "b") == ["bob"]
        for typed in ("%", "a%", "\x00", "ä", "x" * 200):
            assert await tara.completions(template, "account_id", typed) == []
    async with server.client(place.token("tess", tenant="initech", role="tenant_admin"), mode) as tess:
        assert await tess.completions(template, "account_id", "a") == []
    async with server.client(place.token("amy", tenant=tenant), mode) as amy:
        assert await amy.completions(template, "account_id") == ["amy"]
        assert await amy.completions(template, "account_id", "b") == []


@pytest.mark.parametrize("era", ERAS)
async def test_every_variable_is_completed(place: Place, server: Server, era: str) -> None:
    async with server.client(place.token("typist", tier="advanced"), ERAS[era]) as talk:
        assert await talk.completions("subscription://plans/{plan}", "plan") == [
            "basic",
            "advanced",
            "premium",
        ]
        assert await talk.completions("subscription://plans/{plan}", "plan", "P") == ["premium"]
        assert "messages" in await talk.completions("quota://me/{meter}", "meter", "m")
        assert await talk.completions("usage://me/{period}", "period") == PERIODS
        assert await talk.completions("usage://accounts/{account_id}/{period}", "period", "t") == [
            "today",
            "this_month",
        ]
        assert await talk.completions("compare_plans", "plans", "basic, p") == ["basic,premium"]
        assert await talk.completions("explain_denial", "event", "me") == ["message"]
        assert await talk.completions("explain_denial", "feature") == ["mcp_access"]
        for ref, argument in (
            ("explain_denial", "quantity"),
            ("explain_denial", "plan"),
            ("quota", "plan"),
            ("nope", "plan"),
            ("subscription://plans/{plan}", "meter"),
            ("nope://{plan}", "plan"),
        ):
            assert await talk.completions(ref, argument) == []
    async with server.client(place.token("poor"), ERAS[era]) as talk:
        assert await talk.completions("usage://me/{period}", "period") == []
    async with server.client(place.token("worker", group="crew"), ERAS[era]) as worker:
        assert await worker.completions("quota://accounts/{account_id}", "account_id") == []


async def test_nothing_is_cached_or_shared(place: Place, server: Server) -> None:
    access_token = place.token("wire")
    for method, params in CACHEABLE.items():
        result = (await server.modern(access_token, method, params))["result"]
        assert (result["ttlMs"], result["cacheScope"]) == (0, "private"), method


async def test_without_a_token_lists_are_those_of_a_newcomer(place: Place, server: Server) -> None:
    async with place.over_stdio(None) as nobody:
        uris, templates, prompts = await listed(nobody)
        assert (uris, prompts) == (FIXED, PROMPTS)
        assert templates == {"subscription://plans/{plan}", "pricing://models/{+model}", "quota://me/{meter}"}
        for asked in (
            nobody.client.get_prompt("quota", {}),
            nobody.client.read_resource("quota://me"),
            nobody.completions("explain_denial", "event"),
        ):
            code, _, data = await nobody.fault(asked)
            assert (code, data["code"]) == (401, "unauthenticated")
