-- A correction is an event that takes another one back: it names it, and there is one of each at the most.
ALTER TABLE event ADD COLUMN corrects BLOB;
CREATE UNIQUE INDEX event_corrected ON event (tenant, corrects) WHERE corrects IS NOT NULL;
