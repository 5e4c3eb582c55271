-- Texts and holders live once; the hot tables hold integers. Key columns come first, in key order: the
-- integrity check of SQLite 3.40 reports false damage otherwise. The tenant comes first in every key, the
-- start of the window or the quarter hour second, so that what is written now lies on the same pages.

CREATE TABLE word (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- Whose usage: a user of an account, or ('' as user) a group as a whole. account_kind: 0 personal, 1 group.
CREATE TABLE holder (
    id           INTEGER PRIMARY KEY,
    tenant       INTEGER NOT NULL REFERENCES word (id),
    account_kind INTEGER NOT NULL CHECK (account_kind IN (0, 1)),
    account      INTEGER NOT NULL REFERENCES word (id),
    user         INTEGER NOT NULL REFERENCES word (id),
    UNIQUE (tenant, account_kind, account, user)
) STRICT;

-- A version of a plan never changes.
CREATE TABLE plan_version (
    id         INTEGER PRIMARY KEY,
    plan       TEXT NOT NULL,
    version    INTEGER NOT NULL CHECK (version > 0),
    origin     TEXT NOT NULL CHECK (origin IN ('file', 'runtime')),
    digest     TEXT NOT NULL,
    definition TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (plan, version)
) STRICT;

-- Which version of each plan new subscribers get, in the catalog's order.
CREATE TABLE plan_current (
    plan     TEXT NOT NULL PRIMARY KEY,
    version  INTEGER NOT NULL,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger_info (
    name  TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO ledger_info (name, value) VALUES ('plans_revision', 0);

-- The catalog this ledger counts by; no row before the first.
CREATE TABLE ledger_catalog (
    name         TEXT NOT NULL PRIMARY KEY,
    published_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE subscription (
    tenant       INTEGER NOT NULL,
    account_kind INTEGER NOT NULL,
    account      INTEGER NOT NULL,
    plan         TEXT NOT NULL,
    version      INTEGER NOT NULL,
    status       TEXT NOT NULL,
    origin       TEXT NOT NULL,
    interval     TEXT NOT NULL,
    anchor       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    next_plan    TEXT,
    next_version INTEGER,
    next_interval TEXT,
    next_plan_at INTEGER,
    PRIMARY KEY (tenant, account_kind, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE member (
    tenant    INTEGER NOT NULL,
    user      INTEGER NOT NULL,
    account   INTEGER NOT NULL,
    role      TEXT NOT NULL CHECK (role IN ('admin', 'member')),
    joined_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, user)
) STRICT, WITHOUT ROWID;

CREATE INDEX member_by_account ON member (tenant, account);

-- One event as it happened: a plain append. `gains` is what each meter gained, so that every total can be
-- made again from the rows without the catalog of that day.
CREATE TABLE event (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL,
    tenant      INTEGER NOT NULL,
    holder      INTEGER NOT NULL,
    event       INTEGER NOT NULL,
    plan        INTEGER NOT NULL,
    quantity    INTEGER NOT NULL,
    attributes  TEXT,
    gains       TEXT NOT NULL,
    source      INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL
) STRICT;

-- The events of one holder, without an index that every insert would tear at a random place: within each
-- run of 4,096 events the holders are sorted, so writes stay on a few pages and a reader seeks once a run.
CREATE INDEX event_by_block ON event (seq >> 12, holder);

CREATE TABLE counter (
    tenant INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    window INTEGER NOT NULL,
    holder INTEGER NOT NULL,
    meter  INTEGER NOT NULL,
    used   INTEGER NOT NULL CHECK (used >= 0),
    PRIMARY KEY (tenant, start, window, holder, meter)
) STRICT, WITHOUT ROWID;

-- Sums per quarter of an hour in UTC: days of every time zone are made of whole ones.
CREATE TABLE rollup (
    tenant     INTEGER NOT NULL,
    quarter    INTEGER NOT NULL,
    holder     INTEGER NOT NULL,
    meter      INTEGER NOT NULL,
    dimensions INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    quantity   INTEGER NOT NULL,
    PRIMARY KEY (tenant, quarter, holder, meter, dimensions)
) STRICT, WITHOUT ROWID;

-- An idempotency key by a 63-bit hash of (tenant, source, key): the only randomly written table.
CREATE TABLE key_index (
    hash INTEGER PRIMARY KEY,
    seq  INTEGER NOT NULL
) STRICT;

CREATE TABLE answer (
    seq    INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    source INTEGER NOT NULL,
    key    TEXT NOT NULL,
    digest BLOB NOT NULL,
    answer TEXT NOT NULL,
    at     INTEGER NOT NULL
) STRICT;

-- A maximum set by hand. NULL is unlimited.
CREATE TABLE limit_override (
    tenant     INTEGER NOT NULL,
    holder     INTEGER NOT NULL,
    meter      INTEGER NOT NULL,
    window     INTEGER NOT NULL,
    scope      TEXT NOT NULL,
    maximum    INTEGER,
    expires_at INTEGER,
    PRIMARY KEY (tenant, holder, meter, window, scope)
) STRICT, WITHOUT ROWID;

-- A change of plan that was offered; only the hash of the handle is kept.
CREATE TABLE offer (
    tenant     INTEGER NOT NULL,
    handle     BLOB NOT NULL,
    actor      TEXT NOT NULL,
    digest     BLOB NOT NULL,
    terms      TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    PRIMARY KEY (tenant, handle)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY,
    id         BLOB NOT NULL,
    tenant     INTEGER NOT NULL,
    holder     INTEGER NOT NULL,
    action     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    actor_role TEXT NOT NULL,
    reason     TEXT,
    before     TEXT,
    after      TEXT,
    at         INTEGER NOT NULL
) STRICT;

CREATE INDEX audit_by_holder ON audit (tenant, holder, seq);
