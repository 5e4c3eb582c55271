-- The lifecycle of a subscription. Its status follows from these instants and is not kept: what is due has happened
-- without anybody writing it down. `scheduled_at` is when another plan, interval or number of seats begins or, with
-- no next_plan, the end; `scheduled_reason` is change, cancel or end.
ALTER TABLE subscription DROP COLUMN status;
ALTER TABLE subscription ADD COLUMN seats INTEGER;
ALTER TABLE subscription ADD COLUMN anchor_nudge INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscription ADD COLUMN trial_started_at INTEGER;
ALTER TABLE subscription ADD COLUMN trial_ends_at INTEGER;
ALTER TABLE subscription ADD COLUMN prepaid_until INTEGER;
ALTER TABLE subscription ADD COLUMN paid_micros INTEGER;
ALTER TABLE subscription ADD COLUMN paid_until INTEGER;
ALTER TABLE subscription RENAME COLUMN next_plan_at TO scheduled_at;
ALTER TABLE subscription ADD COLUMN scheduled_reason TEXT;
ALTER TABLE subscription ADD COLUMN next_seats INTEGER;
ALTER TABLE subscription ADD COLUMN ended_at INTEGER;
ALTER TABLE subscription ADD COLUMN ended_as TEXT;
ALTER TABLE subscription ADD COLUMN past_due_since INTEGER;
ALTER TABLE subscription ADD COLUMN suspended_at INTEGER;
UPDATE subscription SET scheduled_reason = 'change' WHERE scheduled_at IS NOT NULL;

-- Trials that were had, one for each user, also after they were erased: whose is only known as a hash. Those of groups
-- (`kind` group) are told apart from those of users (personal), and from users who began the trial of a group (founder).
CREATE TABLE trial (
    tenant       INTEGER NOT NULL,
    subject      BLOB NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('personal', 'group', 'founder')),
    plan         TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    ends_at      INTEGER NOT NULL,
    converted_at INTEGER,
    PRIMARY KEY (tenant, subject)
) STRICT, WITHOUT ROWID;

-- How each meter counts, or counted before it was taken out of the catalog: what was counted is not counted again.
CREATE TABLE ledger_meter (
    name       TEXT NOT NULL PRIMARY KEY,
    definition TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Plans archived at run time, which are no longer offered; a catalog file does not bring them back.
CREATE TABLE plan_archived (
    plan        TEXT NOT NULL PRIMARY KEY,
    archived_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who was removed from a group: access tokens issued before (real time, in microseconds) do not bring them back.
CREATE TABLE member_removed (
    tenant        INTEGER NOT NULL,
    user          INTEGER NOT NULL,
    account       INTEGER NOT NULL,
    tokens_before INTEGER NOT NULL,
    PRIMARY KEY (tenant, user, account)
) STRICT, WITHOUT ROWID;

-- How many administer a group: the last one stays.
CREATE INDEX member_admin ON member (tenant, account) WHERE role = 'admin';

-- When a rate was cleared by hand: nothing that was used before counts in the window any more.
CREATE TABLE rate_cleared (
    tenant INTEGER NOT NULL,
    window INTEGER NOT NULL,
    holder INTEGER NOT NULL,
    meter  INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (tenant, window, holder, meter)
) STRICT, WITHOUT ROWID;

-- How often a user was erased: what a process remembers of names does not hold after that.
INSERT OR IGNORE INTO ledger_info (name, value) VALUES ('erasures', 0);
