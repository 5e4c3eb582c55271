-- What calls were charged by, each price once: an event keeps the one it was counted with, whatever it costs later.
-- Amounts are micro-units of the currency; NULL is a part that costs nothing.
CREATE TABLE price (
    id                        INTEGER PRIMARY KEY,
    source                    TEXT NOT NULL,
    currency                  TEXT NOT NULL,
    input_per_million_tokens  INTEGER,
    output_per_million_tokens INTEGER,
    per_unit                  INTEGER,
    unit                      TEXT
) STRICT;

ALTER TABLE event ADD COLUMN price INTEGER;

-- `estimated` says which of its attributes, or whether its quantity, were estimated: ["input_tokens", ...].
ALTER TABLE reservation ADD COLUMN price INTEGER;
ALTER TABLE reservation ADD COLUMN estimated TEXT;
