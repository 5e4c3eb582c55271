-- Extra allowance of one limit, given by hand: so much in all, in effect from starts_at until ends_at (NULL is for good).
CREATE TABLE allowance_grant (
    tenant    INTEGER NOT NULL,
    holder    INTEGER NOT NULL,
    id        BLOB NOT NULL,
    meter     INTEGER NOT NULL,
    window    TEXT NOT NULL,
    scope     TEXT NOT NULL,
    quantity  INTEGER NOT NULL CHECK (quantity > 0),
    starts_at INTEGER NOT NULL,
    ends_at   INTEGER,
    PRIMARY KEY (tenant, holder, id)
) STRICT, WITHOUT ROWID;

-- What a grant gave in each period of its window, which the events say: [[grant, start, quantity], ...].
CREATE TABLE grant_use (
    tenant   INTEGER NOT NULL,
    id       BLOB NOT NULL,
    start    INTEGER NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity >= 0),
    PRIMARY KEY (tenant, id, start)
) STRICT, WITHOUT ROWID;

ALTER TABLE event ADD COLUMN grants TEXT;
