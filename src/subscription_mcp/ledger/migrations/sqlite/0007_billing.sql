-- The history of each subscription: a row for every state a command left it in, and what was agreed to be charged for
-- that, line by line. Rows are never edited; invoices are worked out from them.
CREATE TABLE subscription_history (
    seq              INTEGER PRIMARY KEY,
    id               BLOB NOT NULL,
    tenant           INTEGER NOT NULL,
    account_kind     INTEGER NOT NULL,
    account          INTEGER NOT NULL,
    at               INTEGER NOT NULL,
    action           TEXT NOT NULL,
    plan             TEXT NOT NULL,
    version          INTEGER NOT NULL,
    origin           TEXT NOT NULL,
    anchor           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    interval         TEXT NOT NULL,
    anchor_nudge     INTEGER NOT NULL,
    seats            INTEGER,
    trial_started_at INTEGER,
    trial_ends_at    INTEGER,
    prepaid_until    INTEGER,
    ended_at         INTEGER,
    ended_as         TEXT,
    past_due_since   INTEGER,
    suspended_at     INTEGER,
    paid_micros      INTEGER,
    paid_until       INTEGER,
    claimed_at       INTEGER,
    scheduled_at     INTEGER,
    scheduled_reason TEXT,
    next_plan        TEXT,
    next_version     INTEGER,
    next_interval    TEXT,
    next_seats       INTEGER,
    charge           TEXT
) STRICT;
CREATE INDEX subscription_history_of ON subscription_history (tenant, account_kind, account);

-- What is known of those there are: as they are now. What was charged before is not known.
INSERT INTO subscription_history (id, tenant, account_kind, account, at, action, plan, version, origin, anchor,
    created_at, interval, anchor_nudge, seats, trial_started_at, trial_ends_at, prepaid_until, ended_at, ended_as,
    past_due_since, suspended_at, paid_micros, paid_until, claimed_at, scheduled_at, scheduled_reason, next_plan,
    next_version, next_interval, next_seats)
SELECT randomblob(16), tenant, account_kind, account,
    max(created_at, coalesce((SELECT value FROM ledger_info WHERE name = 'last_commit_at'), 0),
        coalesce((SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1), 0)),
    'subscription.known', plan, version, origin, anchor, created_at, interval, anchor_nudge, seats, trial_started_at,
    trial_ends_at, prepaid_until, ended_at, ended_as, past_due_since, suspended_at, paid_micros, paid_until, claimed_at,
    scheduled_at, scheduled_reason, next_plan, next_version, next_interval, next_seats
FROM subscription ORDER BY tenant, account_kind, account;

-- Invoices as they were closed, and what a provider was paid for them; neither is ever edited.
CREATE TABLE invoice (
    tenant       INTEGER NOT NULL,
    account_kind INTEGER NOT NULL,
    account      INTEGER NOT NULL,
    number       TEXT NOT NULL,
    issued_at    INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    period_end   INTEGER,
    currency     TEXT NOT NULL,
    lines        TEXT NOT NULL,
    closed_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant, account_kind, account, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE payment (
    tenant       INTEGER NOT NULL,
    account_kind INTEGER NOT NULL,
    account      INTEGER NOT NULL,
    number       TEXT NOT NULL,
    provider     TEXT NOT NULL,
    reference    TEXT NOT NULL,
    paid_at      INTEGER NOT NULL,
    PRIMARY KEY (tenant, account_kind, account, number)
) STRICT, WITHOUT ROWID;

-- When somebody has to look at an account next: to close an invoice, or to be paid for one.
CREATE TABLE billing_due (
    tenant       INTEGER NOT NULL,
    account_kind INTEGER NOT NULL,
    account      INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    PRIMARY KEY (tenant, account_kind, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX billing_due_at ON billing_due (due_at);
INSERT INTO billing_due (tenant, account_kind, account, due_at)
SELECT tenant, account_kind, account, 0 FROM subscription;
