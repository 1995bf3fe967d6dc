-- Which database this is, for the notices that servers leave in inboxes (lading.staging.serving). The row is made by the first
-- server that asks, not here: databases copied from a prepared one that never served are different databases.
CREATE TABLE identity (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    id      uuid NOT NULL
);
