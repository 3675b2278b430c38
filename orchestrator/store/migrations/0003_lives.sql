-- What the lives of sandboxes and runs need so that they can be taken up where a crash left them.
ALTER TABLE environments ADD COLUMN target TEXT;          -- the status that it is being brought to; NULL when it is there
ALTER TABLE environments ADD COLUMN guest_id TEXT;        -- of the guest that was last greeted in its sandbox
ALTER TABLE environments ADD COLUMN stage_since INTEGER;  -- when `status` became what it is; NULL: it never changed

CREATE INDEX environments_by_use ON environments (status, last_accessed);
CREATE INDEX environments_with_target ON environments (target) WHERE target IS NOT NULL;

-- That somebody asked for the end of the run, so that it is remembered by whoever takes the run up.
ALTER TABLE interactions ADD COLUMN cancelling INTEGER NOT NULL DEFAULT 0;
