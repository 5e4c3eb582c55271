"""Facts, changes and questions of the ledger over one SQLite connection: which module reads, saves or answers what."""

import sqlite3
from collections.abc import Callable
from typing import Any, cast

from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.machine.facts import Changes, Facts
from subscription_mcp.ledger.queries import (
    AccountIds,
    AccountPage,
    AccountsToBill,
    AlertPage,
    AuditTrail,
    BillingOf,
    Conversions,
    DeliveriesDue,
    DeliveryCounts,
    DeliveryPage,
    Denials,
    EventPage,
    FullestHolders,
    GrantsOf,
    MemberPage,
    NewestEvent,
    OpenSessions,
    OverridesOf,
    PlanHolders,
    PlanRecords,
    Query,
    Responses,
    RevocationsSince,
    SessionSpans,
    StatementOf,
    TenantActivity,
    TenantSummary,
    UsageTotals,
)
from subscription_mcp.ledger.sqlite.accounts import (
    account_ids,
    account_page,
    fullest_holders,
    tenant_activity,
    tenant_summary,
)
from subscription_mcp.ledger.sqlite.alerts import (
    alert_page,
    deliveries_due,
    delivery_counts,
    delivery_page,
    read_alert,
    read_dead,
    read_delivery,
    read_due,
    read_marks,
    read_setting,
    save_alerts,
)
from subscription_mcp.ledger.sqlite.anchors import read_anchors
from subscription_mcp.ledger.sqlite.answers import Answers
from subscription_mcp.ledger.sqlite.audit import audit_trail, revocations_since, save_audits, save_revocations
from subscription_mcp.ledger.sqlite.billing import (
    accounts_to_bill,
    billing_of,
    last_row_of,
    read_history,
    save_billing,
    statement_for,
    unsettled_billing_of,
)
from subscription_mcp.ledger.sqlite.counters import Counters, save_counters
from subscription_mcp.ledger.sqlite.events import event_page, newest_event, read_event, save_events
from subscription_mcp.ledger.sqlite.limits import (
    read_all_grants,
    read_grants,
    read_grants_of_old,
    read_overrides,
    save_grants,
    save_override,
    save_rates_cleared,
)
from subscription_mcp.ledger.sqlite.members import (
    member_page,
    read_group_size,
    read_is_named,
    read_membership,
    read_removed,
    save_members,
)
from subscription_mcp.ledger.sqlite.offers import read_offer, read_pending_offers, save_offers
from subscription_mcp.ledger.sqlite.plans import plan_records, read_plan, save_plans
from subscription_mcp.ledger.sqlite.reports import conversions, denials, responses, session_spans
from subscription_mcp.ledger.sqlite.reservations import read_reservation, save_holds, save_reservations
from subscription_mcp.ledger.sqlite.rollups import (
    read_dimensions,
    read_meter_used,
    read_tenant_size,
    save_denials,
    save_dimensions,
    save_responses,
    save_rollups,
    save_tenant_sizes,
)
from subscription_mcp.ledger.sqlite.schema import committed_at
from subscription_mcp.ledger.sqlite.sessions import (
    read_open_sessions,
    read_session,
    save_sessions,
    sessions_open,
)
from subscription_mcp.ledger.sqlite.subscriptions import (
    plan_holders,
    read_holdings,
    read_subscription,
    read_to_migrate,
    read_trial,
    save_subscriptions,
    save_trials,
)
from subscription_mcp.ledger.sqlite.tables import Tables
from subscription_mcp.ledger.sqlite.wide import usage_totals

_READ: dict[str, Callable[[Tables, Any], Any]] = {
    "alert_marks": read_marks,
    "alert_settings": read_setting,
    "alerts": read_alert,
    "anchors": read_anchors,
    "billing": unsettled_billing_of,
    "deliveries": read_delivery,
    "deliveries_dead": read_dead,
    "dimensions": read_dimensions,
    "events": read_event,
    "grants_of_old": read_grants_of_old,
    "groups": read_group_size,
    "last_rows": last_row_of,
    "members": read_membership,
    "meters_used": read_meter_used,
    "named": read_is_named,
    "offers": read_offer,
    "overrides": read_overrides,
    "plans": read_plan,
    "removed": read_removed,
    "reservations": read_reservation,
    "sessions": read_session,
    "subscriptions": read_subscription,
    "tenants": read_tenant_size,
    "trials": read_trial,
}
_READ_AS_OF_NOW: dict[str, Callable[[Tables, Any, Instant], Any]] = {
    "deliveries_due": read_due,
    "grants": read_grants,
    "histories": read_history,
    "holdings": read_holdings,
    "open_sessions": read_open_sessions,
    "pending_offers": read_pending_offers,
    "to_migrate": read_to_migrate,
}
"""Facts that depend on the instant: of some only what has not expired need be loaded."""
OF_ALL_ACCOUNTS = frozenset(
    {"holdings", "meters_used", "to_migrate", "billing", "deliveries_due", "deliveries_dead", "histories"}
)
"""Facts that must be asked of what is saved: what a batch has changed so far has to be among it."""


class Store:
    """Facts, changes and questions as SQL over one connection; no transaction control."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.tables = Tables(connection)
        self._db = connection
        self._answers = Answers(self.tables)
        self._counters = Counters(self.tables)
        self._erasures: int | None = None

    @property
    def size(self) -> int:
        """How many numbers are remembered."""
        return self.tables.size

    def forget(self) -> None:
        """Drop whatever is remembered: a transaction that rolled back took it with it."""
        self.tables.forget()
        self._answers.forget_places()

    def notice_erasures(self) -> None:
        """Drop every number where a user was erased since they were handed out, by whichever process."""
        (erasures,) = self._db.execute("SELECT value FROM ledger_info WHERE name = 'erasures'").fetchone()
        if erasures != self._erasures:
            self.forget()
            self._erasures = erasures

    def forget_places(self) -> None:
        """Forget where answers that were looked for in vain would stand: somebody else may take the place."""
        self._answers.forget_places()

    def last_commit_at(self) -> Instant:
        """When something was last written, by the clock of whoever did."""
        return committed_at(self._db)

    def last_entry_at(self) -> Instant:
        """The newest instant in what is kept; 0 where there is nothing."""
        (at,) = self._db.execute(
            "SELECT max(coalesce((SELECT max(recorded_at) FROM event), 0), coalesce((SELECT max(at) FROM audit), 0),"
            " coalesce((SELECT max(at) FROM answer), 0), coalesce((SELECT max(reserved_at) FROM reservation), 0),"
            " coalesce((SELECT max(coalesce(closed_at, opened_at)) FROM session), 0))"
        ).fetchone()
        return cast(Instant, at)

    def note_commit(self, now: Instant) -> None:
        """Remember when something was written; where that was an event there is no need to."""
        self._db.execute("UPDATE ledger_info SET value = ? WHERE name = 'last_commit_at'", (now,))

    # Facts

    def load(self, facts: Facts) -> None:
        """Bring what `facts.missing` names; what does not exist becomes None, 0 or empty."""
        missing, facts.missing = facts.missing, {}
        for table, keys in missing.items():
            known: dict[Any, Any] = getattr(facts, table)
            if table == "answers":
                known.update(self._answers.read(keys))
            elif table == "counters":
                for key in keys:
                    known[key] = self._counters.read(key, facts)
            elif table in _READ_AS_OF_NOW:
                for key in keys:
                    known[key] = _READ_AS_OF_NOW[table](self.tables, key, facts.now)
            else:
                for key in keys:
                    known[key] = _READ[table](self.tables, key)

    def adds_up(self, facts: Facts) -> bool:
        """Whether a total that is missing may be added up from what was recorded before."""
        return self._counters.adds_up(facts)

    # Changes

    def save(self, changes: Changes) -> int:
        """Write everything; how many rows that were."""
        tables = self.tables
        save_plans(tables, changes)
        if changes.subscriptions:
            save_subscriptions(tables, changes.subscriptions)
        if changes.history or changes.billing_due:
            save_billing(tables, changes)
        if changes.trials:
            save_trials(tables, changes.trials)
        if changes.members or changes.removed:
            save_members(tables, changes)
        if changes.events:
            save_events(tables, changes.events)
        if changes.counters:
            save_counters(tables, changes.counters)
        if changes.rollups:
            save_rollups(tables, changes.rollups)
        if changes.denials:
            save_denials(tables, changes.denials)
        if changes.responses:
            save_responses(tables, changes.responses)
        if changes.dimensions:
            save_dimensions(tables, changes.dimensions)
        if changes.tenants:
            save_tenant_sizes(tables, changes.tenants)
        if changes.answers:
            self._answers.save(changes.answers)
        self._answers.forget_places()
        for (holder, key), override in changes.overrides.items():
            save_override(tables, holder, key, override)
        if changes.grants or changes.grant_uses:
            save_grants(tables, changes)
        if changes.rates_cleared:
            save_rates_cleared(tables, changes.rates_cleared)
        if changes.offers:
            save_offers(tables, changes.offers)
        if changes.reservations:
            save_reservations(tables, changes.reservations.values())
        if changes.holds:
            save_holds(tables, changes.holds)
        if changes.sessions:
            save_sessions(tables, changes.sessions.values())
        if changes.audits:
            save_audits(tables, changes.audits)
        if changes.revocations:
            save_revocations(tables, changes.revocations)
        save_alerts(tables, changes)
        return len(changes.events) + len(changes.counters) + len(changes.rollups) + 2 * len(changes.answers)

    # Questions

    def answer(self, question: Query) -> Any:
        tables = self.tables
        match question:
            case UsageTotals():
                return usage_totals(tables, question)
            case EventPage():
                return event_page(tables, question)
            case NewestEvent():
                return newest_event(tables)
            case AuditTrail():
                return audit_trail(tables, question)
            case TenantSummary():
                return tenant_summary(tables, question)
            case TenantActivity():
                return tenant_activity(tables, question)
            case AccountPage():
                return account_page(tables, question)
            case OpenSessions():
                return sessions_open(tables, question)
            case FullestHolders():
                return fullest_holders(tables, question)
            case RevocationsSince():
                return revocations_since(tables, question.seq)
            case PlanHolders():
                return plan_holders(tables, question.now)
            case PlanRecords():
                return plan_records(tables, question)
            case AccountIds():
                return account_ids(tables, question)
            case MemberPage():
                return member_page(tables, question)
            case BillingOf():
                billing = billing_of(tables, question.account)
                return billing, {key: read_plan(tables, key) for key in billing.versions}
            case StatementOf():
                return statement_for(tables, question)
            case OverridesOf():
                return read_overrides(tables, (question.account, question.user))
            case GrantsOf():
                return read_all_grants(tables, (question.account, question.user))
            case AccountsToBill():
                return accounts_to_bill(tables, question)
            case AlertPage():
                return alert_page(tables, question)
            case DeliveriesDue():
                return deliveries_due(tables, question)
            case DeliveryPage():
                return delivery_page(tables, question)
            case DeliveryCounts():
                return delivery_counts(tables)
            case Conversions():
                return conversions(tables, question)
            case Denials():
                return denials(tables, question)
            case Responses():
                return responses(tables, question)
            case SessionSpans():
                return session_spans(tables, question)
