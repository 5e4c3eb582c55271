-- What was used when in a rolling window, as far back as it counts: [[instant, quantity], ...], oldest first.
CREATE TABLE rolling (
    tenant INTEGER NOT NULL,
    window INTEGER NOT NULL,
    holder INTEGER NOT NULL,
    meter  INTEGER NOT NULL,
    cells  TEXT NOT NULL,
    PRIMARY KEY (tenant, window, holder, meter)
) STRICT, WITHOUT ROWID;

-- By what the usage of a tenant was ever grouped, and how many of that and of users it has: both are bounded.
CREATE TABLE dimension (
    tenant     INTEGER NOT NULL,
    dimensions INTEGER NOT NULL,
    PRIMARY KEY (tenant, dimensions)
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant_size (
    tenant     INTEGER PRIMARY KEY,
    users      INTEGER NOT NULL,
    dimensions INTEGER NOT NULL
) STRICT;

INSERT INTO dimension (tenant, dimensions) SELECT DISTINCT tenant, dimensions FROM rollup;

INSERT INTO tenant_size (tenant, users, dimensions)
SELECT t.tenant,
       (SELECT count(*) FROM subscription s WHERE s.tenant = t.tenant AND s.account_kind = 0)
           + (SELECT count(*) FROM member m WHERE m.tenant = t.tenant),
       (SELECT count(*) FROM dimension d WHERE d.tenant = t.tenant)
FROM (SELECT tenant FROM subscription UNION SELECT tenant FROM member UNION SELECT tenant FROM rollup) t;

-- The clock never runs backwards, whichever process and whatever was last written.
INSERT OR REPLACE INTO ledger_info (name, value)
SELECT 'last_commit_at', coalesce((SELECT max(recorded_at) FROM event), 0);
