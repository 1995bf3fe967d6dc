-- What only grows, for the figures: counting the proven deliveries of years at every look would cost more each day.
--
-- Only ever inserted into by those who move deliveries, so that nobody waits for anybody; now and then a chore adds the rows up
-- (lading.engine.chores.compact). `files` and `bytes` are numeric: a seal may claim anything, and sums must not overflow.
CREATE TABLE tallies (
    what    text NOT NULL,                             -- 'ended', or 'failed' for one attempt at a step
    route   text NOT NULL,
    word    text NOT NULL,                             -- ended: the stage; failed: the error's code
    number  bigint NOT NULL DEFAULT 1,
    files   numeric NOT NULL DEFAULT 0,
    bytes   numeric NOT NULL DEFAULT 0
);
INSERT INTO tallies SELECT 'ended', route, stage, count(*), sum(files), sum(bytes) FROM deliveries
    WHERE stage IN ('VERIFIED', 'REJECTED', 'HELD', 'CANCELLED') GROUP BY route, stage;

CREATE FUNCTION lading_tally_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lading.tallies (what, route, word, files, bytes)
        VALUES ('ended', NEW.route, NEW.stage, NEW.files, NEW.bytes);
    RETURN NULL;
END $$;
CREATE TRIGGER tally_ended AFTER UPDATE ON deliveries FOR EACH ROW
    WHEN (NEW.stage IN ('VERIFIED', 'REJECTED', 'HELD', 'CANCELLED') AND NEW.stage <> OLD.stage
          -- Held without an error: put aside for an errand that was asked for.
          AND NOT (NEW.stage = 'HELD' AND NEW.error IS NULL))
    EXECUTE FUNCTION lading_tally_ended();

CREATE FUNCTION lading_tally_failed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lading.tallies (what, route, word) VALUES ('failed', NEW.route, coalesce(NEW.error ->> 'code', ''));
    RETURN NULL;
END $$;
-- A failed attempt puts the delivery off, or has it held. Nothing else sets a later time while there is an error.
CREATE TRIGGER tally_failed AFTER UPDATE ON deliveries FOR EACH ROW
    WHEN (NEW.error IS NOT NULL AND (NEW.not_before IS NOT NULL AND NEW.not_before IS DISTINCT FROM OLD.not_before
                                     OR NEW.stage = 'HELD' AND OLD.stage <> 'HELD'))
    EXECUTE FUNCTION lading_tally_failed();

CREATE INDEX deliveries_refused ON deliveries (route) WHERE stage = 'REJECTED';
