-- What the full wire needs of an interaction beside its log.
ALTER TABLE interactions ADD COLUMN is_model INTEGER NOT NULL DEFAULT 0;   -- `agent` names a model that is asked directly
ALTER TABLE interactions ADD COLUMN is_stored INTEGER NOT NULL DEFAULT 1;  -- 0: gone as soon as its caller has it
ALTER TABLE interactions ADD COLUMN tier TEXT NOT NULL DEFAULT 'standard'; -- whose turn comes first
ALTER TABLE interactions ADD COLUMN labels TEXT;                           -- JSON object of strings; NULL: none

CREATE INDEX interactions_not_stored ON interactions (id) WHERE is_stored = 0;

-- For how long ended interactions of the project are kept; NULL: as the server's setting says. 0: for ever.
ALTER TABLE projects ADD COLUMN retention_days INTEGER;

-- Create calls whose repetition must not run again: one with a key of its client, or whose answer never arrived.
CREATE TABLE creates (
    interaction_id TEXT PRIMARY KEY REFERENCES interactions (id) ON DELETE CASCADE,
    scope          TEXT NOT NULL,     -- who called: an API key, or the project in single-user mode
    key            TEXT,              -- Idempotency-Key
    digest         BLOB NOT NULL,     -- SHA-256 of the canonical request
    generation     INTEGER NOT NULL,  -- of the server that was to answer
    lost           INTEGER,           -- when the caller was seen to leave without an answer
    delivered      INTEGER            -- when it had one
) STRICT;

CREATE UNIQUE INDEX creates_by_key ON creates (scope, key) WHERE key IS NOT NULL;
CREATE INDEX creates_unanswered ON creates (scope, digest) WHERE delivered IS NULL;
