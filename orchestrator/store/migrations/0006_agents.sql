-- Agents that projects define. Every change is a version, and versions never change.
CREATE TABLE agents (
    id         TEXT PRIMARY KEY,  -- never given twice; what callers know is the name
    project_id TEXT NOT NULL REFERENCES projects (id),
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,  -- the latest
    created    INTEGER NOT NULL,
    deleted    INTEGER            -- gone for callers; here as long as a run needs it
) STRICT;

CREATE UNIQUE INDEX agents_by_name ON agents (project_id, name) WHERE deleted IS NULL;
CREATE INDEX agents_of_project ON agents (project_id, created DESC, id);
CREATE INDEX agents_deleted ON agents (id) WHERE deleted IS NOT NULL;

CREATE TABLE agent_versions (
    agent_id   TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    version    INTEGER NOT NULL,  -- 1, 2, 3 … without gaps
    created    INTEGER NOT NULL,
    summary    TEXT NOT NULL,     -- JSON: what listings show of it
    definition TEXT NOT NULL,     -- JSON: what was given; may have megabytes
    lineage    TEXT NOT NULL,     -- JSON: what it is built on, and what it has from there
    PRIMARY KEY (agent_id, version)
) STRICT;

-- The version that an interaction runs; NULL: an agent of the server, or a model.
ALTER TABLE interactions ADD COLUMN agent_id TEXT;
ALTER TABLE interactions ADD COLUMN agent_version INTEGER;
