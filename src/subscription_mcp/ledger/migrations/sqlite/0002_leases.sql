-- Quantity held for a while, and sessions. Both end by time; no row has to change for that.

-- `held` is what it holds of which counter: [[start, window, user, meter, quantity], ...]. `answer` is what
-- settling it answered, once.
CREATE TABLE reservation (
    tenant      INTEGER NOT NULL,
    id          BLOB NOT NULL,
    holder      INTEGER NOT NULL,
    event       INTEGER NOT NULL,
    plan        INTEGER NOT NULL,
    quantity    INTEGER NOT NULL,
    attributes  TEXT,
    source      INTEGER NOT NULL,
    held        TEXT NOT NULL,
    reserved_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    digest      BLOB,
    answer      TEXT,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

-- One row for each counter a live reservation holds of, so that reading the counter brings its holds.
CREATE TABLE hold (
    tenant      INTEGER NOT NULL,
    start       INTEGER NOT NULL,
    window      INTEGER NOT NULL,
    holder      INTEGER NOT NULL,
    meter       INTEGER NOT NULL,
    reservation BLOB NOT NULL,
    quantity    INTEGER NOT NULL CHECK (quantity > 0),
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, start, window, holder, meter, reservation)
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    tenant     INTEGER NOT NULL,
    id         BLOB NOT NULL,
    holder     INTEGER NOT NULL,
    plan       TEXT NOT NULL,
    source     INTEGER NOT NULL,
    opened_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    closed_at  INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX session_open ON session (tenant, holder, expires_at) WHERE closed_at IS NULL;
