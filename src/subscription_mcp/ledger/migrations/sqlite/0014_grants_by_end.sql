-- Grants that are in effect or ended lately are found among many that ended long ago.
CREATE INDEX allowance_grant_by_end ON allowance_grant (tenant, holder, window, ends_at);
