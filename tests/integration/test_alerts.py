"""Alerts as people meet them: a tool, a resource and its updates, over both transports and in both eras."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking
from tests.integration.test_live_updates import listening, record

# A client of the legacy era calls what the SDK's client calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:resources/:mcp.MCPDeprecationWarning")

combinations = pytest.mark.parametrize(
    ("transport", "era"), [(transport, era) for transport in ("stdio", "http") for era in ERAS]
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("alerts"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


@combinations
async def test_who_nears_a_limit_is_told_reads_it_and_marks_it_as_read(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"near.{transport}.{era}"
    access_token = place.token(user)
    async with (
        listening(place, server, transport, era, access_token, "alerts://me") as ear,
        talking(place, server, transport, access_token, ERAS[era]) as talk,
    ):
        nothing = await talk.call("list_alerts")
        assert (nothing["alerts"], nothing["thresholds"]) == ([], [80, 90, 100])
        assert nothing["text"] == (
            "There are no alerts.\nThis account is alerted at 80 %, 90 %, 100 % of a limit."
        )
        await record(place, server, user, 39)
        assert ear.heard.empty()
        await record(place, server, user, 6)
        assert await ear.next() == "alerts://me"
        ninety, eighty = (await talk.call("list_alerts"))["alerts"]
        assert re.fullmatch(r"[0-9a-f-]{36}", ninety.pop("alert_id"))
        assert ninety == {
            "account_id": user,
            "user_id": user,
            "meter": "messages",
            "window": "day",
            "threshold_percent": 90,
            "severity": "warning",
            "message": "Basic plan: 45 of 50 messages used today; 90 % is reached.",
            "recommendation": (
                "No other plan is needed as long as the 5 messages left will do. It resets 2026-11-21 00:00 UTC."
            ),
            "suggested_plan": None,
            "read": False,
            "created_at": TODAY,
        }
        marked = await talk.call("list_alerts", mark_read=[eighty["alert_id"]], unread_only=True)
        assert [one["threshold_percent"] for one in marked["alerts"]] == [90]
        assert marked["text"].startswith("1 alert marked as read.\n2026-11-20 14:03 UTC, warning: Basic plan")
        assert await ear.next() == "alerts://me"
        (read,) = (await talk.client.read_resource("alerts://me")).contents
        shown = json.loads(read.text)  # type: ignore[union-attr]
        assert [(one["threshold_percent"], one["read"]) for one in shown["alerts"]] == [
            (90, False),
            (80, True),
        ]
        assert ear.heard.empty()


async def test_an_account_chooses_its_own_thresholds(place: Place, server: Server) -> None:
    async with server.api(place.token("chooser")) as api:
        answer = await api.call("list_alerts", thresholds=[50])
        assert answer.json()["result"] == {"alerts": [], "next_cursor": None, "thresholds": [50]}
        await record(place, server, "chooser", 25)
        (alert,) = (await api.call("list_alerts")).json()["result"]["alerts"]
        assert (alert["threshold_percent"], alert["severity"]) == (50, "info")
        back = await api.call("list_alerts", thresholds="plan")
        assert back.json()["result"]["thresholds"] == [80, 90, 100]
        for wrong in ([0], [90, 80], [80, 80], [1001], list(range(1, 12))):
            problem_of(await api.call("list_alerts", thresholds=wrong), 422, "invalid_request")


async def test_wrong_thresholds_are_told_in_words_of_the_argument(place: Place, server: Server) -> None:
    kinds = 'thresholds must be a list of whole percents, or "plan".'
    async with server.api(place.token("chooser")) as api:
        for wrong, said in (
            ([0], "thresholds must be whole percents from 1 to 1000."),
            ([90, 80], "thresholds must be at most 10 different percents, smallest first."),
            (["80"], kinds),
            ("all", kinds),
            (80, kinds),
        ):
            problem = problem_of(await api.call("list_alerts", thresholds=wrong), 422, "invalid_request")
            assert (problem["detail"], [one["field"] for one in problem["fields"]]) == (said, ["thresholds"])


async def test_a_list_of_many_says_whose_each_is_and_that_there_are_older_ones(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    with place.serving() as server:
        async with server.api(place.token("tara", role="tenant_admin")) as api:
            for number in range(33):
                await record(place, server, f"user{number}", 50)
            few = (await api.call("list_alerts", tenant_id="acme")).json()
            assert (len(few["result"]["alerts"]), few["result"]["next_cursor"]) == (99, None)
            first = few["result"]["alerts"][0]
            assert few["text"].startswith(
                "2026-11-20 14:03 UTC, critical, user32: Basic plan: 50 of 50 messages"
            )
            assert f" [{first['alert_id']}]\n" in few["text"]
            assert "And 79 older alerts." in few["text"]
            await record(place, server, "user33", 50)
            many = (await api.call("list_alerts", tenant_id="acme")).json()
            assert len(many["result"]["alerts"]) == 100
            assert "And more than 80 older alerts." in many["text"]
            cursor = many["result"]["next_cursor"]
            older = (await api.call("list_alerts", tenant_id="acme", cursor=cursor)).json()["result"]
            assert (len(older["alerts"]), older["next_cursor"]) == (2, None)
            shown = [one["alert_id"] for one in (*many["result"]["alerts"], *older["alerts"])]
            assert len({*shown}) == 102
            for other in ({"tenant_id": "acme", "unread_only": True}, {"user_id": "user1"}):
                wrong = await api.call("list_alerts", cursor=cursor, **other)
                assert problem_of(wrong, 422, "invalid_request")["fields"][0]["field"] == "cursor"


async def test_nobody_reads_or_marks_what_is_anothers(place: Place, server: Server) -> None:
    await record(place, server, "owner", 40)
    async with server.api(place.token("owner")) as owner, server.api(place.token("spy")) as spy:
        (alert,) = (await owner.call("list_alerts")).json()["result"]["alerts"]
        problem_of(await spy.call("list_alerts", user_id="owner"), 403, "forbidden")
        problem_of(await spy.call("list_alerts", mark_read=[alert["alert_id"]]), 404, "not_found")
    async with server.api(place.token("app", role="service")) as app:
        seen = (await app.call("list_alerts", user_id="owner")).json()["result"]["alerts"]
        assert [one["alert_id"] for one in seen] == [alert["alert_id"]]
        denied = await app.call("list_alerts", user_id="owner", mark_read=[alert["alert_id"]])
        problem_of(denied, 403, "forbidden")
    async with server.api(place.token("tara", role="tenant_admin")) as tara:
        whole = (await tara.call("list_alerts", tenant_id="acme")).json()["result"]
        assert whole["thresholds"] is None
        assert ("owner", 80) in {(one["account_id"], one["threshold_percent"]) for one in whole["alerts"]}


async def test_the_log_tells_of_each_alert(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    with place.serving() as server:
        await record(place, server, "told", 50)
    told = [line for line in server.log.splitlines() if "alert " in line]
    assert len(told) == 3
    assert (
        "alert critical of tenant 'acme', account 'told': Basic plan: 50 of 50 messages used today"
        in told[-1]
    )
