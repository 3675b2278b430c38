-- What an environment's sandbox may take and what it begins with. All three are NULL for one that is as the server's
-- settings say.
ALTER TABLE environments ADD COLUMN profile TEXT;   -- JSON: image, runtime, resources
ALTER TABLE environments ADD COLUMN template TEXT;  -- of which it is a fork
ALTER TABLE environments ADD COLUMN snapshot TEXT;  -- name at the driver; until the sandbox has begun with it

-- Apart from environments: a hundred forks of one template hold its files once.
CREATE TABLE templates (
    name TEXT PRIMARY KEY,
    base TEXT NOT NULL  -- JSON of an environment object
) STRICT;

CREATE INDEX environments_of_template ON environments (template) WHERE template IS NOT NULL;
