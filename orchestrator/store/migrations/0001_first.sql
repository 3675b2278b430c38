-- The first schema. Times are microseconds since 1970-01-01 UTC; booleans are 0 and 1; JSON is canonical text.
-- A migration that was released never changes: its checksum stands in every database that it made.

CREATE TABLE projects (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    id          TEXT PRIMARY KEY,
    project_id  TEXT NOT NULL REFERENCES projects (id),
    name        TEXT NOT NULL,
    prefix      TEXT NOT NULL,
    hash        BLOB NOT NULL UNIQUE,  -- SHA-256 of the key; the key itself is nowhere
    is_operator INTEGER NOT NULL,
    created     INTEGER NOT NULL,
    revoked     INTEGER
) STRICT;

CREATE TABLE environments (
    id            TEXT PRIMARY KEY,
    project_id    TEXT NOT NULL REFERENCES projects (id),
    status        TEXT NOT NULL,
    sandbox_id    TEXT,
    sandbox_ref   TEXT,
    spec          TEXT NOT NULL,
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL
) STRICT;

CREATE INDEX environments_by_time ON environments (created DESC, id);
CREATE INDEX environments_of_project ON environments (project_id, created DESC, id);

-- No reference to environments: interactions outlive the environment that they ran in.
CREATE TABLE interactions (
    id             TEXT PRIMARY KEY,
    project_id     TEXT NOT NULL REFERENCES projects (id),
    conversation   TEXT NOT NULL,
    previous_id    TEXT,
    environment_id TEXT,
    agent          TEXT NOT NULL,
    status         TEXT NOT NULL,
    is_background  INTEGER NOT NULL,
    generation     INTEGER NOT NULL,
    created        INTEGER NOT NULL,
    updated        INTEGER NOT NULL
) STRICT;

CREATE INDEX interactions_by_time ON interactions (created DESC, id);
CREATE INDEX interactions_of_project ON interactions (project_id, created DESC, id);
CREATE INDEX interactions_of_environment ON interactions (environment_id, created DESC, id);
CREATE INDEX interactions_by_status ON interactions (status, created DESC, id);

-- Apart from its row, which every append rewrites: a request may have megabytes.
CREATE TABLE requests (
    interaction_id TEXT PRIMARY KEY REFERENCES interactions (id) ON DELETE CASCADE,
    body           TEXT NOT NULL
) STRICT;

-- With a rowid, because new events of all logs then fill the same pages: measured with 50 logs growing at once, 1.6 times
-- the appends per second of a table that is clustered by log, whose every commit rewrites a page per log.
CREATE TABLE events (
    log_id TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (log_id, seq)
) STRICT;

CREATE TRIGGER events_never_change BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;

-- A log goes with its owner and not before: whoever deletes events must have deleted the owner's row first.
CREATE TRIGGER events_go_with_their_owner BEFORE DELETE ON events
WHEN EXISTS (SELECT 1 FROM interactions WHERE id = OLD.log_id)
  OR EXISTS (SELECT 1 FROM environments WHERE id = OLD.log_id)
BEGIN
    SELECT RAISE(ABORT, 'events go only with their owner');
END;

CREATE TRIGGER interaction_takes_its_log AFTER DELETE ON interactions
BEGIN
    DELETE FROM events WHERE log_id = OLD.id;
END;

CREATE TRIGGER environment_takes_its_log AFTER DELETE ON environments
BEGIN
    DELETE FROM events WHERE log_id = OLD.id;
END;

-- Where deleted rows stood in a listing, kept for a day, so that whoever deletes while listing finds the next page.
CREATE TABLE departed (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    created    INTEGER NOT NULL,
    deleted    INTEGER NOT NULL
) STRICT;

CREATE INDEX departed_by_time ON departed (deleted);

-- The last generation that was given; one row.
CREATE TABLE generations (
    last INTEGER NOT NULL
) STRICT;

INSERT INTO generations (last) VALUES (0);
