-- The engine's own tables. Procrastinate keeps its jobs beside them, in the schema `procrastinate`, in the same database:
-- so that "advance the stage" and "queue the next job" are one transaction.

CREATE TABLE deliveries (
    id             text PRIMARY KEY,
    inbox          text NOT NULL,
    route          text NOT NULL,
    repository     text NOT NULL DEFAULT '',
    project        text NOT NULL DEFAULT '',
    participant    text NOT NULL DEFAULT '',
    session        text NOT NULL DEFAULT '',
    sender         text NOT NULL DEFAULT '',
    priority       integer NOT NULL DEFAULT 0,
    stage          text NOT NULL,
    epoch          integer NOT NULL DEFAULT 1,      -- grows whenever somebody else takes the delivery over: the fence
    paused         boolean NOT NULL DEFAULT false,
    files          bigint NOT NULL DEFAULT 0,
    bytes          bigint NOT NULL DEFAULT 0,
    digest         text NOT NULL DEFAULT '',
    attempt        integer NOT NULL DEFAULT 0,      -- failed attempts at the present stage
    repairs        integer NOT NULL DEFAULT 0,      -- imports repeated because reading back disagreed
    failing_since  timestamptz,                     -- first failure of the present run of failures
    not_before     timestamptz,
    held_from      text,                            -- HELD: the stage that retry goes back to
    error          jsonb,                           -- LadingError.as_dict() of the last failure
    created_at     timestamptz NOT NULL DEFAULT now(),
    arrived_at     timestamptz NOT NULL DEFAULT now(),
    queued_at      timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX deliveries_moving ON deliveries (stage) WHERE stage NOT IN ('VERIFIED', 'REJECTED', 'CANCELLED');
CREATE INDEX deliveries_queue ON deliveries (repository, priority DESC, queued_at) WHERE stage = 'QUEUED';
CREATE INDEX deliveries_updated ON deliveries (updated_at);

CREATE TABLE events (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery  text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    stage     text NOT NULL,
    note      text NOT NULL DEFAULT '',
    seconds   real                                  -- how long the step that led here took
);
CREATE INDEX events_of_delivery ON events (delivery, id);

CREATE TABLE findings (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery  text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    step      text NOT NULL,                        -- who found it; a second run of the step replaces its findings
    code      text NOT NULL,
    severity  text NOT NULL,
    path      text NOT NULL DEFAULT '',
    message   text NOT NULL,
    hint      text NOT NULL DEFAULT ''
);
CREATE INDEX findings_of_delivery ON findings (delivery, id);

CREATE TABLE journal (
    delivery  text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    key       text NOT NULL,
    value     text NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (delivery, key)
);

CREATE TABLE repositories (
    name        text PRIMARY KEY,
    imports     integer NOT NULL CHECK (imports > 0),  -- how many at once, over all workers
    failures    integer NOT NULL DEFAULT 0,            -- unbroken failures to reach it
    down_since  timestamptz,
    retry_at    timestamptz,                           -- while it is down: when one delivery may try again
    note        text NOT NULL DEFAULT ''
);

CREATE TABLE pauses (
    target  text PRIMARY KEY,                          -- 'all', 'route:NAME', 'repository:NAME'
    at      timestamptz NOT NULL DEFAULT now()
);

-- Round robin: whoever was served longest ago comes first.
CREATE TABLE turns (
    repository  text NOT NULL,
    owner       text NOT NULL,                         -- project and sender
    turn        bigint NOT NULL,
    PRIMARY KEY (repository, owner)
);
CREATE SEQUENCE turn_numbers;

-- Finding a delivery's live jobs, for the reaper and for resume.
CREATE INDEX lading_jobs_of_delivery ON procrastinate_jobs ((args ->> 'delivery')) WHERE status IN ('todo', 'doing');
