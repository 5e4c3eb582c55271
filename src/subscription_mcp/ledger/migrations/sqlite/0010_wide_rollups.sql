-- Sums of the rollups that are wider: whole UTC days (span 86400000000) of each holder, and days and quarters of an hour
-- (span 900000000) of a tenant as a whole (holder 0). They follow from the rollups, and are kept in the same transaction.
CREATE TABLE rollup_wide (
    tenant     INTEGER NOT NULL,
    span       INTEGER NOT NULL,
    start      INTEGER NOT NULL,
    holder     INTEGER NOT NULL,
    meter      INTEGER NOT NULL,
    dimensions INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    quantity   INTEGER NOT NULL,
    PRIMARY KEY (tenant, span, start, holder, meter, dimensions)
) STRICT, WITHOUT ROWID;

INSERT INTO rollup_wide (tenant, span, start, holder, meter, dimensions, events, quantity)
SELECT tenant, 86400000000, quarter - quarter % 86400000000, holder, meter, dimensions, sum(events), sum(quantity)
FROM rollup GROUP BY 1, 3, 4, 5, 6;

INSERT INTO rollup_wide (tenant, span, start, holder, meter, dimensions, events, quantity)
SELECT tenant, 900000000, quarter, 0, meter, dimensions, sum(events), sum(quantity)
FROM rollup GROUP BY 1, 3, 5, 6;

INSERT INTO rollup_wide (tenant, span, start, holder, meter, dimensions, events, quantity)
SELECT tenant, 86400000000, quarter - quarter % 86400000000, 0, meter, dimensions, sum(events), sum(quantity)
FROM rollup GROUP BY 1, 3, 5, 6;
