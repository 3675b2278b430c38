-- How much an environment held when it was last looked at. NULL: nobody has looked yet.
ALTER TABLE environments ADD COLUMN file_count INTEGER;
ALTER TABLE environments ADD COLUMN size_bytes INTEGER;
