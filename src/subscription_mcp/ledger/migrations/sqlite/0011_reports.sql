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
