-- How often something was refused, by the hour: of the holder where they are known, else of their group or their tenant
-- as a whole (the holder without account and user).
CREATE TABLE denial (
    tenant INTEGER NOT NULL,
    hour   INTEGER NOT NULL,
    holder INTEGER NOT NULL,
    code   INTEGER NOT NULL,
    meter  INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (tenant, hour, holder, code, meter)
) STRICT, WITHOUT ROWID;

-- How long what events tell of took, and whether it failed, by the hour: of each holder and of a tenant as a whole. `cell`
-- is a stretch of milliseconds on a logarithmic scale; -1 where no time was told.
CREATE TABLE response (
    tenant INTEGER NOT NULL,
    hour   INTEGER NOT NULL,
    holder INTEGER NOT NULL,
    event  INTEGER NOT NULL,
    failed INTEGER NOT NULL CHECK (failed IN (0, 1)),
    cell   INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (tenant, hour, holder, event, failed, cell)
) STRICT, WITHOUT ROWID;

-- Of the events there are already they are counted here, as each event is from now on.
INSERT OR IGNORE INTO word (text)
SELECT '' WHERE EXISTS (SELECT 1 FROM event WHERE json_type(attributes, '$.response_ms') = 'integer'
    OR json_type(attributes, '$.status') IS NOT NULL);
INSERT OR IGNORE INTO holder (tenant, account_kind, account, user)
SELECT DISTINCT e.tenant, 0, w.id, w.id FROM event e JOIN word w ON w.text = ''
WHERE e.corrects IS NULL AND (json_type(e.attributes, '$.response_ms') = 'integer'
    OR json_type(e.attributes, '$.status') IS NOT NULL);
INSERT INTO response (tenant, hour, holder, event, failed, cell, count)
WITH RECURSIVE edge (cell, at) AS (
    SELECT 0, 0 UNION ALL SELECT cell + 1, max(at + 1, at * 11 / 10) FROM edge WHERE at <= 1000000000000
), told AS (
    SELECT tenant, occurred_at - occurred_at % 3600000000 AS hour, holder, event,
        CASE WHEN json_type(attributes, '$.status') IS NULL THEN 0
            WHEN attributes ->> '$.status' NOT GLOB '*[^0-9]*' THEN CAST(attributes ->> '$.status' AS INTEGER) >= 400
            ELSE lower(attributes ->> '$.status') NOT IN ('ok', 'success', 'succeeded', 'completed') END AS failed,
        coalesce((SELECT max(cell) FROM edge WHERE json_type(attributes, '$.response_ms') = 'integer'
            AND at <= attributes ->> '$.response_ms'), -1) AS cell
    FROM event WHERE corrects IS NULL AND (json_type(attributes, '$.response_ms') = 'integer'
        OR json_type(attributes, '$.status') IS NOT NULL)
)
SELECT tenant, hour, whose, event, failed, cell, count(*) FROM (
    SELECT tenant, hour, holder AS whose, event, failed, cell FROM told
    UNION ALL
    SELECT t.tenant, t.hour, h.id, t.event, t.failed, t.cell FROM told t JOIN word w ON w.text = ''
    JOIN holder h ON h.tenant = t.tenant AND h.account_kind = 0 AND h.account = w.id AND h.user = w.id
) GROUP BY 1, 2, 3, 4, 5, 6;
