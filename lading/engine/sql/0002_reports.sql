-- Who was told what. A delivery at rest whose mark differs from what was told is news; a mark is written in the same
-- transaction as the report that tells it.

-- What there is to tell: the stage; for a refusal also the attempt (a mended delivery that is refused again is news), for a
-- held one the reason.
CREATE FUNCTION lading_mark(stage text, epoch integer, error jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT stage || '/' || CASE stage WHEN 'REJECTED' THEN epoch::text WHEN 'HELD' THEN coalesce(error ->> 'code', '')
                                      ELSE '' END
$$;

ALTER TABLE deliveries ADD COLUMN told_person text NOT NULL DEFAULT '', ADD COLUMN told_admin text NOT NULL DEFAULT '';
-- What ended before there were reports is history.
UPDATE deliveries SET told_person = lading_mark(stage, epoch, error), told_admin = lading_mark(stage, epoch, error)
    WHERE stage IN ('VERIFIED', 'REJECTED', 'HELD');
CREATE INDEX deliveries_untold_person ON deliveries (updated_at)
    WHERE stage IN ('VERIFIED', 'REJECTED', 'HELD') AND told_person <> lading_mark(stage, epoch, error);
CREATE INDEX deliveries_untold_admin ON deliveries (updated_at)
    WHERE stage IN ('VERIFIED', 'REJECTED', 'HELD') AND told_admin <> lading_mark(stage, epoch, error);

CREATE TABLE reports (
    id          text PRIMARY KEY,
    place       text NOT NULL,                         -- 'mail', or a name of [reporters]
    readers     text[] NOT NULL,
    subject     text NOT NULL,
    body        text NOT NULL,
    at          timestamptz NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    not_before  timestamptz NOT NULL DEFAULT now(),
    done_at     timestamptz,
    given_up    text NOT NULL DEFAULT ''
);
CREATE INDEX reports_waiting ON reports (at) WHERE done_at IS NULL;

CREATE TABLE alarms (
    key         text PRIMARY KEY,
    what        text NOT NULL,
    since       double precision NOT NULL,             -- seconds since the epoch
    raised      boolean NOT NULL DEFAULT false,
    well_since  double precision NOT NULL DEFAULT 0
);
