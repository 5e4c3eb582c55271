"""Invoices as people meet them: what was charged and why, over MCP in both eras and over HTTP, while a server closes and
has them paid and while nobody does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, Place, Server, Talk, problem_of

BEGIN, MIDDLE, NEXT, LATER = (
    "2026-11-01T00:00:00Z",
    "2026-11-16T00:00:00Z",
    "2026-12-01T00:00:00Z",
    "2027-01-31T12:00:00Z",
)
eras = pytest.mark.parametrize("era", ERAS)


async def until_paid(talk: Talk, invoices: int) -> dict[str, Any]:
    """The history as soon as so many invoices are paid."""
    async with asyncio.timeout(30):
        while True:
            answer = await talk.call("get_billing_history")
            if [invoice["status"] for invoice in answer["invoices"]] == ["paid"] * invoices:
                return answer


def totals(answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["issued_at"][:10], one["total"], one["status"]) for one in answer["invoices"]]


@eras
async def test_a_month_is_charged_closed_and_paid_and_reads_the_same_before(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path, clock=BEGIN, CATALOG="notion-agent")
    token, mode = place.token("bella"), ERAS[era]
    async with place.over_stdio(token, mode) as talk:
        empty = await talk.call("get_billing_history")
        assert (empty["invoices"], empty["upcoming"], empty["credit"]) == ([], None, [])
        assert (await talk.buy("pro"))["status"] == "applied"
        opened = await talk.call("get_billing_history")
        assert totals(opened) == [("2026-11-01", opened["invoices"][0]["total"], "open")]

    with place.serving() as server:
        async with server.client(token, mode) as talk:
            paid = await until_paid(talk, 1)
    (before,), (after,) = opened["invoices"], paid["invoices"]
    assert after == {**before, "status": "paid", "closed_at": BEGIN, "paid_at": BEGIN}

    async with place.over_stdio(token, mode, CLOCK=LATER) as talk:
        due = await talk.call("get_billing_history")
        assert [one[2] for one in totals(due)] == ["open", "open", "paid"]
    with place.serving(CLOCK=LATER) as server:
        async with server.client(token, mode) as talk:
            done = await until_paid(talk, 3)
            assert [one["lines"] for one in done["invoices"]] == [one["lines"] for one in due["invoices"]]
            assert done["upcoming"]["issued_at"] == "2027-02-01T00:00:00Z"
            december = await talk.call("get_billing_history", period="2026-12")
            assert [one["issued_at"] for one in december["invoices"]] == [NEXT]
            no_year = (await talk.result("get_billing_history", {"period": "2025"})).content[0].text  # type: ignore[union-attr]
            assert no_year.startswith("No invoices in 2025.\nNext invoice, 2027-02-01 00:00 UTC: ")
            text = (await talk.result("get_billing_history")).content[0].text  # type: ignore[union-attr]
            assert f", paid {LATER[:10]} 12:00 UTC\n" in text
            for given in ({"period": "12/2026"}, {"cursor": "AAAA"}):
                assert (await talk.refusal("get_billing_history", **given))["code"] == "invalid_request"
    assert place.run("verify").returncode == 0


@eras
async def test_why_an_invoice_is_what_it_is_can_be_read_from_its_lines(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path, clock=BEGIN, CATALOG="notion-agent")
    token, mode = place.token("bella"), ERAS[era]
    async with place.over_stdio(token, mode) as talk:
        await talk.buy("pro")
    async with place.over_stdio(token, mode, CLOCK=MIDDLE) as talk:
        offered = await talk.call("upgrade_tier", plan="teams", seats=3, dry_run=True)
        await talk.buy("teams", seats=3)
        answer = await talk.call("get_billing_history")
        text = (await talk.result("get_billing_history")).content[0].text  # type: ignore[union-attr]
    change, first = answer["invoices"]
    assert change["total"] == offered["price_now"]["amount"]
    assert [(line["kind"], line["description"]) for line in (*first["lines"], *change["lines"])] == [
        ("base", f"Pro plan at {PRO} USD, 2026-11-01 00:00 UTC to 2026-12-01 00:00 UTC"),
        ("proration", f"Teams plan, {REST}, part of a billing period at {TEAMS} USD"),
        ("proration", f"Teams, 3 seats, {REST}, part of a billing period at {SEAT} USD each"),
        ("proration", f"Given back: Pro plan not used, {REST}, part of a billing period at {PRO} USD"),
    ]
    assert [line["kind"] for line in answer["upcoming"]["lines"]] == ["base", "seats"]
    for line in (line for invoice in answer["invoices"] for line in invoice["lines"]):
        assert f"{line['amount']} USD  {line['description']}" in text
    assert f"Invoice {first['number']} of 2026-11-01 00:00 UTC: {PRO} USD, not closed yet\n" in text
    assert "Next invoice, 2026-12-01 00:00 UTC: 85.00 USD so far\n" in text


REST = "2026-11-16 00:00 UTC to 2026-12-01 00:00 UTC"
PRO, TEAMS, SEAT = "10.00", "49.00", "12.00"


async def test_an_overdue_account_pays_when_its_payment_is_received(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=BEGIN, CATALOG="notion-agent")
    token, root = place.token("bella"), place.token("root", role="superadmin")
    given = {"user_id": "bella", "reason": "the card was declined"}
    async with place.over_stdio(token) as talk:
        await talk.buy("pro")
    async with place.over_stdio(root) as talk:
        await talk.call("manage_accounts", action="payment_failed", **given)
    with place.serving() as server:
        async with server.client(token) as bella, server.client(root) as operator:
            async with asyncio.timeout(30):
                while (answer := await bella.call("get_billing_history"))["invoices"][0]["status"] == "open":
                    pass
            assert answer["invoices"][0]["status"] == "closed"
            await operator.call("manage_accounts", action="payment_received", **given)
            await until_paid(bella, 1)
            seen = await operator.call("get_billing_history", user_id="bella")
            assert [one["status"] for one in seen["invoices"]] == ["paid"]


async def test_invoices_are_read_over_http_and_by_nobody_else(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=BEGIN, CATALOG="notion-agent")
    async with place.over_stdio(place.token("bella")) as talk:
        await talk.buy("pro")
    with place.serving() as server:
        async with server.api(place.token("bella")) as bella:
            answer = await bella.call("get_billing_history")
            assert answer.json()["result"]["invoices"][0]["lines"][0]["unit_price"] == PRO
            assert f"{PRO} USD" in answer.json()["text"]
        async with server.api(place.token("carl")) as carl:
            problem_of(await carl.call("get_billing_history", user_id="bella"), 403, "forbidden")
            assert (await carl.call("get_billing_history")).json()["result"]["invoices"] == []
        async with server.api(place.token("tara", role="tenant_admin")) as tara:
            seen = (await tara.call("get_billing_history", user_id="bella")).json()["result"]
            assert seen["account_id"] == "bella" and len(seen["invoices"]) == 1
            problem_of(await tara.call("get_billing_history", tenant_id="acme"), 422, "invalid_request")


async def test_two_servers_close_each_invoice_once(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=BEGIN, CATALOG="notion-agent")
    users = [f"user{number}" for number in range(5)]
    for user in users:
        async with place.over_stdio(place.token(user)) as talk:
            await talk.buy("pro")
    with place.serving(CLOCK=LATER) as one, place.serving(CLOCK=LATER) as two:
        servers: tuple[Server, ...] = (one, two)
        for user, server in zip(users, servers * 3, strict=False):
            async with server.client(place.token(user)) as talk:
                await until_paid(talk, 3)
    for table in ("invoice", "payment"):
        assert place.select(f"SELECT count(*) FROM {table}") == [(3 * len(users),)]
    assert place.run("verify").returncode == 0
