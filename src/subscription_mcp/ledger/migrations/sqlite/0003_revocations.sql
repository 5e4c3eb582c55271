-- Access tokens that are no longer accepted: one by its id, or all that were issued up to an instant, to a
-- subject, in a tenant, or to a subject in a tenant. Rows are only appended.
CREATE TABLE revocation (
    seq           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL,
    tenant        TEXT,
    subject       TEXT,
    token_id      TEXT,
    issued_before INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    CHECK (token_id IS NOT NULL OR tenant IS NOT NULL OR subject IS NOT NULL)
) STRICT;

-- When the token was issued that named the plan, in seconds since 1970: an older token names an older plan.
ALTER TABLE subscription ADD COLUMN claimed_at INTEGER;
