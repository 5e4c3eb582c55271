"""Half a year of a service for writers: costs, a cap, alerts, a grant, a correction, invoices, and what finance asks then.

    .venv/bin/python examples/alwrity_six_months.py [FOLDER]

It starts a server of its own for each month, on a new ledger in FOLDER (a temporary one unless given). The setting `CLOCK`
stops the ledger's clock at a date; access tokens are judged by the real one.

Catalog: alwrity.
"""
# ruff: noqa: T201

import asyncio
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from stage import Caller, Stage

PREFIX = "SUBSCRIPTION_MCP_"
FLASH = {"model": "gemini-2.5-flash", "input_tokens": 2_000, "output_tokens": 4_000}
CHAPTER = {"model": "gemini-2.5-pro", "input_tokens": 8_000, "output_tokens": 100_000}
REVIEW = {"model": "claude-opus-4-1", "input_tokens": 1_000, "output_tokens": 30_000, "response_ms": 9_000}
DRAFT = {"model": "gpt-4o", "input_tokens": 2_000, "output_tokens": 70_000}
BOOK = {"model": "gemini-2.5-pro", "input_tokens": 80_000, "output_tokens": 190_000}
NEW_MODEL = {"provider": "openai", "model": "gpt-of-tomorrow", "input_tokens": 10, "output_tokens": 10}
OF_WREN: dict[str, Any] = {"user_id": "wren"}
MARCH = {
    "tenant_id": "acme",
    "start": "2026-03-01T00:00:00Z",
    "end": "2026-04-01T00:00:00Z",
    "meters": ["cost"],
}


def in_short(words: str) -> str:
    """Without what each answer says about fourteen limits: costs are what this is about."""
    lines = [line.partition(" Then: ")[0] for line in words.splitlines()]
    return "\n".join(line for line in lines if line.count(", resets ") < 2)


class Cast:
    """Who plays: the writer Wren, the back end that calls the providers for her and for Finch, and finance."""

    def __init__(self, date: str, wren: Caller, back_end: Caller, finance: Caller) -> None:
        self.wren, self.back_end, self.finance = wren, back_end, finance
        self._month, self._days = date[:8], int(date[8:]) - 1

    async def record(self, user: str, calls: int, call: dict[str, Any]) -> None:
        """So many calls, spread over the days of this month until yesterday."""
        events = [
            {
                "user_id": user,
                "event": "api_call",
                "attributes": call,
                "occurred_at": f"{self._month}{day:02}T09:00:00Z",
            }
            for day in sorted(1 + number % self._days for number in range(calls))
        ]
        _, told = await self.back_end("record_usage_batch", events=events)
        refused = [one["message"] for one in told["results"] if not one["allowed"]]
        print(f"back end: {calls} calls of {call['model']} for {user}")
        print(f"{calls - len(refused)} counted" + (f"; then: {refused[0]}" if refused else ""), end="\n\n")

    async def ask(self, line: str, caller: Caller, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call, and print the answer in short."""
        words, data = await caller(tool, **arguments)
        print(f"{line}\n{in_short(words)}\n")
        return data

    async def buy(self, line: str, **wanted: Any) -> None:
        """Wren changes her plan: she is shown what it costs, and says yes."""
        offer = await self.ask(line, self.wren, "upgrade_tier", **wanted)
        await self.ask("yes", self.wren, "upgrade_tier", **wanted, confirmation=offer["confirmation"])


async def january(cast: Cast) -> None:
    await cast.record("wren", 20, FLASH)
    call = {**OF_WREN, "event": "api_call"}
    await cast.ask(
        "back end: a model nobody knows", cast.back_end, "record_usage", attributes=NEW_MODEL, **call
    )
    await cast.ask("back end: can she afford a book?", cast.back_end, "check_quota", attributes=BOOK, **call)
    await cast.buy("wren: Pro, then", plan="pro")
    await cast.ask("back end: and now?", cast.back_end, "check_quota", attributes=BOOK, **call)
    await cast.ask("back end: the book", cast.back_end, "record_usage", attributes=BOOK, **call)


async def february(cast: Cast) -> None:
    await cast.record("wren", 30, CHAPTER)
    await cast.record("finch", 20, FLASH)
    await cast.ask(
        "wren: how is it going?", cast.wren, "get_usage_analytics", period="this_month", meters=["cost"]
    )


async def march(cast: Cast) -> None:
    await cast.record("finch", 60, FLASH)
    for calls, call in ((75, CHAPTER), (25, REVIEW), (25, DRAFT)):
        await cast.record("wren", calls, call)
    covers = {**OF_WREN, "event": "api_call", "attributes": {"provider": "stability"}, "quantity": 20}
    await cast.ask("back end: 20 covers", cast.back_end, "record_usage", **covers)
    _, told = await cast.wren("list_alerts", unread_only=True)
    print("wren: what has happened?")
    for alert in told["alerts"]:
        print(f"{alert['severity']}: {alert['message']} {alert['recommendation']}")
    print()
    read = [alert["alert_id"] for alert in told["alerts"]]
    await cast.ask("wren: seen", cast.wren, "list_alerts", mark_read=read, unread_only=True)
    await cast.ask(
        "finance: 10 USD more, in March only",
        cast.finance,
        "manage_limits",
        action="grant",
        meter="cost",
        window="month",
        quantity="10.00",
        expires_at=MARCH["end"],
        reason="the spring catalogue",
        **OF_WREN,
    )
    await cast.ask("back end: 20 covers", cast.back_end, "record_usage", **covers)


async def april(cast: Cast) -> None:
    await cast.record("wren", 30, CHAPTER)
    _, told = await cast.wren("list_usage_events", page_size=1)
    twice = told["events"][0]["event_id"]
    given = {"action": "correct", "event_id": twice, "reason": "it was recorded twice"}
    await cast.ask("finance: the last one was no call", cast.finance, "manage_limits", **given, **OF_WREN)
    await cast.ask("wren: and now?", cast.wren, "get_usage_analytics", period="this_month", meters=["cost"])


async def may(cast: Cast) -> None:
    await cast.record("wren", 40, CHAPTER)
    await cast.buy("wren: I stay, by the year", plan="pro", interval="yearly")


async def june(cast: Cast) -> None:
    await cast.record("wren", 60, CHAPTER)
    await cast.ask(
        "wren: will it be enough?", cast.wren, "get_usage_analytics", period="this_month", meters=["cost"]
    )
    half_a_year = {"period": "last_6_months", "granularity": "month", "meters": ["cost"]}
    await cast.ask("wren: and since January?", cast.wren, "get_usage_analytics", **half_a_year)
    for by in ("model", "user"):
        line = f"finance: what did March cost by {by}?"
        await cast.ask(line, cast.finance, "get_usage_analytics", group_by=[by], **MARCH)
    await cast.ask("finance: what did Wren pay, and why?", cast.finance, "get_billing_history", **OF_WREN)


MONTHS: dict[str, Callable[[Cast], Awaitable[None]]] = {
    "2026-01-12": january,
    "2026-02-20": february,
    "2026-03-20": march,
    "2026-04-15": april,
    "2026-05-12": may,
    "2026-06-20": june,
}


@contextmanager
def serving(date: str) -> Iterator[str]:
    """The URL of a server whose ledger's clock stands at noon of this date."""
    command = [sys.executable, "-m", "subscription_mcp", "serve", "--port", "0"]
    environment = {**os.environ, f"{PREFIX}CLOCK": f"{date}T12:00:00Z"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as server:
        assert server.stderr is not None
        try:
            log = ""
            for line in server.stderr:
                log += line
                if found := re.match(r"MCP +(http://\S+)", line):
                    yield found[1]
                    return
            sys.exit(log)
        finally:
            server.terminate()
            server.communicate()


@asynccontextmanager
async def everybody(date: str) -> AsyncIterator[Cast]:
    with serving(date) as url:
        async with AsyncExitStack() as stack:
            stage = Stage(stack, url)
            yield Cast(
                date,
                await stage.enter("--user", "wren"),
                await stage.enter("--user", "writing-backend", "--role", "service"),
                await stage.enter("--user", "finance", "--role", "tenant_admin"),
            )


async def story() -> None:
    for date, month in MONTHS.items():
        print(f"--- {date}\n")
        async with everybody(date) as cast:
            await month(cast)


def play(folder: Path) -> None:
    """Play it on a new ledger in this folder, with no settings but its own."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder.resolve() / "ledger.db"
    if ledger.exists():
        sys.exit(f"{ledger} is there already. Give a new folder: the story begins in January.")
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    own = {"CATALOG": "alwrity", "DATABASE_URL": f"sqlite:///{ledger}", "AUTH__SECRET": secrets.token_hex(32)}
    os.environ.update({f"{PREFIX}{name}": value for name, value in own.items()})
    asyncio.run(story())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        play(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            play(Path(temporary))
