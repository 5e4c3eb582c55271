-- What a long call costs instead, where a price says so: [[above so many input tokens, input, output, per_million], ...],
-- shortest first. A reservation keeps all of its price, since only what is settled says how long the call was; an event
-- keeps that of its own length, which is NULL here, like a price without tiers.
ALTER TABLE price ADD COLUMN tiers TEXT;
