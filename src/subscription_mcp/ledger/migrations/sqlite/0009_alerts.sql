-- What an alert said and when. With no threshold it is about the service: of a tenant (no account in its holder) or of
-- all (tenant ''). Only read_at ever changes.
CREATE TABLE alert (
    seq            INTEGER PRIMARY KEY,
    id             BLOB NOT NULL,
    tenant         INTEGER NOT NULL,
    holder         INTEGER NOT NULL,
    meter          INTEGER NOT NULL,
    window         INTEGER NOT NULL,
    start          INTEGER NOT NULL,
    scope          TEXT NOT NULL,
    threshold      INTEGER,
    severity       TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    message        TEXT NOT NULL,
    recommendation TEXT NOT NULL,
    suggested_plan TEXT,
    used           INTEGER,
    maximum        INTEGER,
    created_at     INTEGER NOT NULL,
    read_at        INTEGER
) STRICT;

CREATE UNIQUE INDEX alert_by_id ON alert (tenant, id);
CREATE INDEX alert_by_holder ON alert (tenant, holder, seq);

-- Which thresholds of a limit have alerted in a period, so that each does once; `until` is until when usage is, or was,
-- at or above it, where it may fall below in the same period. `subject` tells troubles of the service apart.
CREATE TABLE alert_mark (
    tenant    INTEGER NOT NULL,
    start     INTEGER NOT NULL,
    window    INTEGER NOT NULL,
    holder    INTEGER NOT NULL,
    meter     INTEGER NOT NULL,
    scope     TEXT NOT NULL,
    subject   TEXT NOT NULL,
    threshold INTEGER NOT NULL,
    until     INTEGER NOT NULL,
    PRIMARY KEY (tenant, start, window, holder, meter, scope, subject, threshold)
) STRICT, WITHOUT ROWID;

-- Thresholds of an account in place of its plan's.
CREATE TABLE alert_setting (
    tenant     INTEGER NOT NULL,
    holder     INTEGER NOT NULL,
    thresholds TEXT NOT NULL,
    PRIMARY KEY (tenant, holder)
) STRICT, WITHOUT ROWID;

-- Messages to the webhook. One that is being sent has a lease: until next_attempt_at nobody else sends it.
CREATE TABLE delivery (
    seq             INTEGER PRIMARY KEY,
    id              BLOB NOT NULL,
    tenant          INTEGER NOT NULL,
    event           TEXT NOT NULL,
    payload         TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts        INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,
    lease           TEXT,
    last_error      TEXT,
    ended_at        INTEGER
) STRICT;

CREATE UNIQUE INDEX delivery_by_id ON delivery (id);
CREATE INDEX delivery_due ON delivery (next_attempt_at) WHERE state = 'pending';
CREATE INDEX delivery_dead ON delivery (seq) WHERE state = 'dead';
