"""`plans try`: what a draft of the catalog would have meant for a past period of the ledger."""

from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import click

from subscription_mcp.auth.tokens import DEFAULT_TENANT
from subscription_mcp.catalogs import load_catalog
from subscription_mcp.cli.acting import an_id
from subscription_mcp.cli.common import json_option, print_json, settings_of
from subscription_mcp.cli.dates import instant_option
from subscription_mcp.cli.keeping import existing_ledger, on_the_open_ledger
from subscription_mcp.domain.catalog import UNLIMITED, Catalog
from subscription_mcp.domain.instants import DAY, Instant, format_instant
from subscription_mcp.domain.money import format_amount
from subscription_mcp.domain.windows import Period
from subscription_mcp.domain.wording import clock_time, counted, per_window
from subscription_mcp.ledger.what_if import (
    AccountTried,
    PlanTried,
    RefusingLimit,
    Tried,
    UnknownPlan,
    WhatIf,
    what_if,
)
from subscription_mcp.ledger.writer import Ledger

DAYS = 30
ACCOUNTS_SHOWN = 10
COLUMNS = (
    *("plan", "in the draft", "accounts", "events", "events refused", "accounts refused"),
    *("earned", "draft earns"),
)
TO_KNOW = """\
To know:
- People are taken to do what they did. What was refused then is not in the ledger, so a higher limit shows no more usage.
- Grants count as they were made, limits set by hand as they are now. Sessions and seats are not tried.
- Usage that was counted whatever the limit, or settled late or for more than was reserved, is tried like any other: the
  plans of then may refuse some of it, too.
- Amounts are the plans' prices, spread over the time they were held, and what was used beyond limits: before taxes, and
  without trials."""


def _renaming(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    renamed = {}
    for value in values:
        old, sign, new = value.partition("=")
        if not (old and sign and new):
            raise click.BadParameter(
                "must be OLD=NEW: a plan of the ledger, and one of the draft", ctx, param
            )
        renamed[old] = new
    return renamed


@click.command("try")
@click.argument("file")
@instant_option(
    "--from", "start", help_=f"From then on: RFC 3339, or a day in UTC; {DAYS} days unless given."
)
@instant_option("--to", "end", help_="Up to then, and not with it; now unless given.")
@click.option("--tenant", callback=an_id, help="The tenant; 'default' unless given.")
@click.option(
    "--plan",
    "renamed",
    multiple=True,
    metavar="OLD=NEW",
    callback=_renaming,
    help="A plan of the draft in place of one of another name.",
)
@click.option(
    "--all", "everybody", is_flag=True, help="Everybody who would have been refused, not only the first few."
)
@json_option
@click.pass_context
def try_plans(
    ctx: click.Context,
    file: str,
    start: Instant | None,
    end: Instant | None,
    tenant: str | None,
    renamed: dict[str, str],
    everybody: bool,
    as_json: bool,
) -> None:
    """Tell a past period of the ledger again under a draft of the catalog: who would have been refused, when first and by
    which limit, and what it would have earned. Changes nothing."""
    settings = settings_of(ctx)
    existing_ledger(settings)
    draft = load_catalog(file)
    _must_be_plans(renamed, draft)

    async def try_once(ledger: Ledger) -> Tried:
        now = ledger.now()
        until = now + 1 if end is None else end
        period = Period(until - DAYS * DAY if start is None else start, until)
        if until <= period.start:
            raise click.UsageError("--to must lie after --from.")
        asked = WhatIf(draft, tenant or DEFAULT_TENANT, period, renamed)
        return await ledger.engine.read_aside(lambda ask: what_if(ask, asked, now))

    try:
        tried = on_the_open_ledger(settings, try_once)
    except UnknownPlan as unknown:
        raise _no_such_plan(unknown.plan, draft) from None
    shown = tried.accounts if everybody else tried.accounts[:ACCOUNTS_SHOWN]
    if as_json:
        print_json(document_of(tried, shown, draft, tenant or DEFAULT_TENANT))
    else:
        click.echo(text_of(tried, shown, draft, tenant or DEFAULT_TENANT))


def _must_be_plans(renamed: dict[str, str], draft: Catalog) -> None:
    for new in renamed.values():
        if new not in draft.plans:
            raise click.BadParameter(
                f"{draft.source} has no plan '{new}'; there are {', '.join(draft.plans)}", param_hint="--plan"
            )


def _no_such_plan(plan: str, draft: Catalog) -> click.UsageError:
    there = ", ".join(draft.plans)
    if not plan:
        return click.UsageError(
            f"Something was recorded for nobody's plan, and {draft.source} has no default plan to try it on."
        )
    nearest = get_close_matches(plan, draft.plans, n=1)
    example = nearest[0] if nearest else next(iter(draft.plans))
    return click.UsageError(
        f"{draft.source} has no plan '{plan}', which was held in that time. Say which one stands in its place, "
        f"like --plan {plan}={example}; there are {there}."
    )


# In words


def text_of(tried: Tried, shown: list[AccountTried], draft: Catalog, tenant: str) -> str:
    """A table of the plans, and sentences that say what is in it."""
    period = tried.period
    assert period.end is not None
    lines = [
        f"{draft.title} ({draft.source}) on {tenant}, {clock_time(period.start, 'UTC')} to "
        f"{clock_time(period.end, 'UTC')}: {counted(tried.events, 'event')} of {counted(tried.account_count, 'account')}.",
        "",
        *_table([COLUMNS, *map(_cells, tried.plans)]),
        "",
        _verdict(tried),
    ]
    lines += [
        f"  {_limit_words(limit)}: {counted(events, 'event')} of {counted(of, 'account')}"
        for limit, (events, of) in tried.limits.items()
    ]
    lines += ["", "By account, the most refused first:", *map(_account_words, shown)] if shown else []
    if len(shown) < len(tried.accounts):
        lines.append(f"  … and {len(tried.accounts) - len(shown):,} more; --all shows everybody.")
    lines += ["", *_earnings(tried)]
    lines += [
        f"{counted(count, 'event')} '{event}' could not be tried: {reason}"
        for (event, reason), count in tried.misfits.items()
    ]
    return "\n".join([*lines, "", TO_KNOW])


def _cells(plan: PlanTried) -> tuple[str, ...]:
    return (
        plan.plan or "none",
        plan.draft_plan,
        f"{plan.accounts:,}",
        f"{plan.events:,}",
        f"{plan.refused_events:,}",
        f"{plan.refused_accounts:,}",
        _money(plan.earned_micros + plan.earned_overage_micros, plan.currency),
        _money(plan.draft_earned_micros + plan.draft_overage_micros, plan.draft_currency),
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _verdict(tried: Tried) -> str:
    if not tried.events:
        return "Nothing was used in that time."
    if not tried.refused_events:
        return "The draft would have refused nobody."
    permille = tried.refused_events * 1000 // tried.events
    first = min(tried.accounts, key=lambda one: one.first_refused_at)
    return (
        f"The draft would have refused {counted(tried.refused_events, 'event')} ({permille / 10} %) of "
        f"{counted(tried.refused_accounts, 'account')}, the first on {clock_time(first.first_refused_at, 'UTC')}. By limit:"
    )


def _limit_words(limit: RefusingLimit) -> str:
    held = limit.limit
    most = "unlimited" if held.maximum is UNLIMITED else counted(held.maximum, limit.unit)
    scope = " for the whole account" if held.scope == "account" else ""
    return f"{held.meter} on {limit.plan}, at most {most} {per_window(held.window)}{scope}"


def _account_words(one: AccountTried) -> str:
    group = "group " if one.account.account_kind == "group" else ""
    return (
        f"  {group}{one.account.account} ({one.plan or 'no plan'}): {one.refused_events:,} of {counted(one.events, 'event')} "
        f"refused, first on {clock_time(one.first_refused_at, 'UTC')} by {_limit_words(one.first_limit)}"
    )


def _earnings(tried: Tried) -> list[str]:
    """What the draft would have earned beside what was, by currency."""
    earned: dict[str, _Sums] = defaultdict(_Sums)
    for plan in tried.plans:
        earned[plan.currency].then(plan.earned_micros, plan.earned_overage_micros, plan.by_issuer_micros)
        earned[plan.draft_currency].in_draft(
            plan.draft_earned_micros, plan.draft_overage_micros, plan.draft_by_issuer_micros
        )
    return [line for currency, sums in earned.items() for line in sums.lines(currency)]


@dataclass(slots=True)
class _Sums:
    """What was earned in one currency, and what the draft would have, in micro-units."""

    all_then: int = 0
    all_draft: int = 0
    beyond_then: int = 0
    beyond_draft: int = 0
    by_issuer_then: int = 0
    by_issuer_draft: int = 0

    def then(self, base: int, beyond: int, by_issuer: int) -> None:
        self.all_then += base + beyond
        self.beyond_then += beyond
        self.by_issuer_then += by_issuer

    def in_draft(self, base: int, beyond: int, by_issuer: int) -> None:
        self.all_draft += base + beyond
        self.beyond_draft += beyond
        self.by_issuer_draft += by_issuer

    def lines(self, currency: str) -> list[str]:
        change = self.all_draft - self.all_then
        more = f"{_money(abs(change), currency)} {'more' if change > 0 else 'less'}" if change else "the same"
        lines = [
            f"The draft would have earned {_money(self.all_draft, currency)}, the plans of then earned "
            f"{_money(self.all_then, currency)}: {more}."
        ]
        if self.beyond_then or self.beyond_draft:
            lines.append(
                f"  Of that for usage beyond limits: {_money(self.beyond_draft, currency)} in the draft, "
                f"{_money(self.beyond_then, currency)} then."
            )
        if self.by_issuer_then or self.by_issuer_draft:
            lines.append(
                "  Not among it are plans that an access token names; whoever issues the token charges for them: "
                f"{_money(self.by_issuer_draft, currency)} in the draft, {_money(self.by_issuer_then, currency)} then, "
                "without usage beyond limits."
            )
        return lines


def _money(micros: int, currency: str) -> str:
    return f"{format_amount(micros, currency)} {currency}"


# As JSON


def document_of(tried: Tried, shown: list[AccountTried], draft: Catalog, tenant: str) -> dict[str, Any]:
    period = tried.period
    assert period.end is not None
    return {
        "catalog": draft.name,
        "file": draft.source,
        "tenant_id": tenant,
        "period": {"start": format_instant(period.start), "end": format_instant(period.end)},
        "events": tried.events,
        "refused_events": tried.refused_events,
        "account_count": tried.account_count,
        "refused_accounts": tried.refused_accounts,
        "plans": [_plan_document(plan) for plan in tried.plans],
        "limits": [
            {**_limit_document(limit), "refused_events": events, "refused_accounts": accounts}
            for limit, (events, accounts) in tried.limits.items()
        ],
        "accounts": [_account_document(one) for one in shown],
        "accounts_left_out": len(tried.accounts) - len(shown),
        "not_tried": [
            {"event": event, "reason": reason, "events": count}
            for (event, reason), count in tried.misfits.items()
        ],
    }


def _plan_document(plan: PlanTried) -> dict[str, Any]:
    def amount(micros: int, currency: str) -> dict[str, str]:
        return {"amount": format_amount(micros, currency), "currency": currency}

    return {
        "plan": plan.plan or None,
        "draft_plan": plan.draft_plan,
        "accounts": plan.accounts,
        "events": plan.events,
        "refused_events": plan.refused_events,
        "refused_accounts": plan.refused_accounts,
        "first_refused_at": None if plan.first_refused_at is None else format_instant(plan.first_refused_at),
        "earned": {
            "base": amount(plan.earned_micros, plan.currency),
            "overage": amount(plan.earned_overage_micros, plan.currency),
            "by_issuer": amount(plan.by_issuer_micros, plan.currency),
        },
        "would_earn": {
            "base": amount(plan.draft_earned_micros, plan.draft_currency),
            "overage": amount(plan.draft_overage_micros, plan.draft_currency),
            "by_issuer": amount(plan.draft_by_issuer_micros, plan.draft_currency),
        },
    }


def _limit_document(limit: RefusingLimit) -> dict[str, Any]:
    return {
        "draft_plan": limit.plan,
        "meter": limit.limit.meter,
        "window": limit.limit.window.name,
        "scope": limit.limit.scope,
        "unit": limit.unit,
        "limit": None if limit.limit.maximum is UNLIMITED else limit.limit.maximum,
    }


def _account_document(one: AccountTried) -> dict[str, Any]:
    return {
        "account_id": one.account.account,
        "account_kind": one.account.account_kind,
        "plan": one.plan or None,
        "draft_plan": one.draft_plan,
        "events": one.events,
        "refused_events": one.refused_events,
        "first_refused_at": format_instant(one.first_refused_at),
        "first_event": one.first_event,
        "first_event_id": one.first_event_id,
        "first_limit": _limit_document(one.first_limit),
        "limits": [
            {**_limit_document(limit), "refused_events": count} for limit, count in one.limits.items()
        ],
    }
