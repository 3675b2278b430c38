-- What the driver calls the files that new environments of this version begin with; kept as long as a version has it.
ALTER TABLE agent_versions ADD COLUMN snapshot TEXT;

CREATE INDEX agent_versions_with_snapshot ON agent_versions (snapshot) WHERE snapshot IS NOT NULL;
