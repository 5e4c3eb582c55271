"""`manage_accounts`: its body, its words, its documents."""

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.instants import format_instant
from subscription_mcp.domain.wording import counted, line_of
from subscription_mcp.operations import AccountView, Operations, UserErased
from subscription_mcp.operations.access import Caller
from subscription_mcp.operations.accounts import AccountShown, TenantStatistics
from subscription_mcp.tools import documents, texts
from subscription_mcp.tools.accounts_wire import ManageAccountsArguments, ManageAccountsResult
from subscription_mcp.tools.bodies import Answer, target_of
from subscription_mcp.tools.documents import Document

_NOTHING: Document = dict.fromkeys(ManageAccountsResult.model_fields)


async def manage_accounts(do: Operations, caller: Caller, given: ManageAccountsArguments) -> Answer:
    accounts, catalog, target = do.accounts, do.plans.catalog, target_of(given)
    match given.action:
        case "search":
            page = await accounts.search(caller, target, given.query, given.cursor, given.page_size)
            found = {
                "accounts": [found_document(view) for view in page.views],
                "next_cursor": page.next_cursor,
            }
            return Answer(found_text(page.views, page.next_cursor), _NOTHING | found)
        case "show":
            shown = await accounts.show(caller, target)
            return Answer(shown_text(shown), _NOTHING | {"account": shown_document(shown, catalog)})
        case "statistics":
            statistics = await accounts.statistics(caller, target)
            document = statistics_document(statistics)
            return Answer(statistics_text(statistics), _NOTHING | {"statistics": document})
        case "end_sessions":
            ended, shown, entry = await accounts.end_sessions(caller, target, given.reason)
            said = f"{counted(ended, 'open session')} ended."
            more: Document = {"sessions_ended": ended}
        case "erase":
            erased = await accounts.erase(caller, target, given.reason)
            document = _NOTHING | {"erased": erased_document(erased), "audit_id": erased.audit.id}
            return Answer(erased_text(erased), document)
        case action:
            shown, entry = await accounts.set_status(caller, target, action, given.reason)
            said, more = f"Done, effective at once ({action}).", {}
    changed = {"account": shown_document(shown, catalog), "audit_id": entry.id}
    return Answer(f"{said} {texts.tier_info(shown.view)}", _NOTHING | more | changed)


# In words


def found_text(views: list[AccountView], next_cursor: str | None) -> str:
    if not views:
        return "No account matches."
    more = f"\nMore with cursor {next_cursor}" if next_cursor else ""
    return "\n".join(_line(view) for view in views) + more


def _line(view: AccountView) -> str:
    document = found_document(view)
    fullest = f", {line_of(view.limits[0])}" if view.limits else ""
    return (
        f"{document['account_id']} ({document['account_kind']}, {counted(document['users'], 'user')}): "
        f"{document['plan']}, {document['status']}{fullest}."
    )


def shown_text(shown: AccountShown) -> str:
    parts = [texts.tier_info(shown.view)]
    if shown.members is not None:
        names = ", ".join(f"{one.user} ({one.role})" for one in shown.members)
        parts.append(f"Members: {names or 'none'}.")
    parts.append(f"{counted(len(shown.sessions), 'session')} open.")
    parts += [
        f"{format_instant(entry.at)} {entry.actor.user} ({entry.actor.role}) {entry.action}. {entry.reason or ''}".rstrip()
        for entry in shown.entries
    ]
    return "\n".join(parts)


def statistics_text(statistics: TenantStatistics) -> str:
    permille = statistics.conversion_permille
    rate = "" if permille is None else f" ({permille / 10} %)"
    lines = [
        f"{statistics.tenant}: {counted(statistics.accounts, 'account')} with {counted(statistics.users, 'user')}, "
        f"{statistics.inactive:,} more whose subscription has ended, {counted(statistics.sessions_open, 'session')} open.",
        *(
            f"{plan.plan}: {counted(plan.accounts, 'account')}, {counted(plan.users, 'user')}, "
            f"{plan.began:,} began in the last 30 days."
            for plan in statistics.plans
        ),
        f"Trials: {statistics.trials_started:,} started, {statistics.trials_running:,} running, "
        f"{statistics.trials_converted:,} converted{rate}, {statistics.trials_expired:,} expired.",
        *(
            f"Near its limit: {near.view.standing.account}, {line_of(near.state)}."
            for near in statistics.near_limits
        ),
    ]
    return "\n".join(lines)


def erased_text(erased: UserErased) -> str:
    rows = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in erased.counts.items() if count)
    group = " A group of the same id is another account and keeps it." if erased.is_group_too else ""
    return (
        f"Erased: {erased.alias} stands for the user now, and totals are as they were ({rows or 'nothing'} concerned). "
        f"The id was found in {counted(erased.remaining or 0, 'place')} afterwards.{group} Backups made before still have it."
    )


# As documents


def found_document(view: AccountView) -> Document:
    subscription = view.subscription
    return {
        "account_id": view.standing.account,
        "account_kind": view.standing.account_kind,
        "plan": view.plan.key if view.plan is not None else None,
        "status": subscription.status_at(view.as_of) if subscription is not None else None,
        "origin": subscription.origin if subscription is not None else None,
        "users": 1 if view.seats_used is None else view.seats_used,
        "usage_status": documents.usage_status(view.limits),
        "limits": documents.limits(view.limits),
        "created_at": format_instant(subscription.created_at) if subscription is not None else None,
    }


def shown_document(shown: AccountShown, catalog: Catalog) -> Document:
    return {
        **documents.tier_info(shown.view, catalog),
        "members": None if shown.members is None else [documents.member(one) for one in shown.members],
        "open_sessions": [
            {
                "session_id": session.id,
                "session_key": session.key,
                "user_id": session.user,
                "opened_at": format_instant(session.opened_at),
                "expires_at": format_instant(session.expires_at),
            }
            for session in shown.sessions
        ],
        "audit": [documents.audit_entry(entry) for entry in shown.entries],
    }


def statistics_document(statistics: TenantStatistics) -> Document:
    permille = statistics.conversion_permille
    return {
        "tenant_id": statistics.tenant,
        "accounts": statistics.accounts,
        "users": statistics.users,
        "inactive": statistics.inactive,
        "plans": [
            {"plan": of.plan, "accounts": of.accounts, "users": of.users, "began_last_30_days": of.began}
            for of in statistics.plans
        ],
        "by_status": dict(statistics.by_status),
        "trials": {
            "started": statistics.trials_started,
            "running": statistics.trials_running,
            "converted": statistics.trials_converted,
            "expired": statistics.trials_expired,
            "conversion_percent": None if permille is None else permille / 10,  # shown, never calculated with
        },
        "sessions_open": statistics.sessions_open,
        "near_limits": [
            {
                "account_id": near.view.standing.account,
                "account_kind": near.view.standing.account_kind,
                "user_id": near.view.standing.user,
                "plan": near.view.plan.key if near.view.plan is not None else None,
                "limit": near.state.as_dict(with_refused=False),
            }
            for near in statistics.near_limits
        ],
        "as_of": format_instant(statistics.as_of),
    }


def erased_document(erased: UserErased) -> Document:
    assert erased.remaining is not None  # it was written
    return {
        "tenant_id": erased.tenant,
        "alias": erased.alias,
        "counts": dict(erased.counts),
        "remaining": erased.remaining,
    }
