-- Secrets of projects. What is secret is sealed before it comes here, bound to its row.
CREATE TABLE credentials (
    id         TEXT PRIMARY KEY,  -- never given twice; what callers know is the name
    project_id TEXT NOT NULL REFERENCES projects (id),
    name       TEXT NOT NULL,
    type       TEXT NOT NULL,
    version    INTEGER NOT NULL,  -- counts the changes of what is sealed
    created    INTEGER NOT NULL,
    updated    INTEGER NOT NULL,  -- by a call
    key_id     TEXT NOT NULL,     -- which key it is sealed with
    sealed     BLOB               -- NULL: revoked
) STRICT;

CREATE UNIQUE INDEX credentials_by_name ON credentials (project_id, name);
CREATE INDEX credentials_of_project ON credentials (project_id, created DESC, id);
CREATE INDEX credentials_by_key ON credentials (key_id, id) WHERE sealed IS NOT NULL;
