-- What calls were charged for a million of an attribute that has a price of its own, in micro-units:
-- {"cache_read_tokens":125000}. NULL is none.
ALTER TABLE price ADD COLUMN per_million TEXT;
