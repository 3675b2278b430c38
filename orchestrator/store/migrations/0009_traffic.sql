-- What the programs of an environment have sent and received, which its budget is counted by.
ALTER TABLE environments ADD COLUMN traffic_bytes INTEGER NOT NULL DEFAULT 0;
