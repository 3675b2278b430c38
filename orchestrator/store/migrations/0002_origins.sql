-- What an environment's sandbox begins with and what it may take. All three are NULL for one that is as the server's
-- settings say.
ALTER TABLE environments ADD COLUMN profile TEXT;   -- JSON: image, runtime, resources
ALTER TABLE environments ADD COLUMN base TEXT;      -- JSON of an environment object: the template it is a fork of
ALTER TABLE environments ADD COLUMN snapshot TEXT;  -- name at the driver; until the sandbox has begun with it
