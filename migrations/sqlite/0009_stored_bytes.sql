-- How much each tenant stores: the results that its jobs keep, and what their downloads hold.
--
-- The figure of a job follows from what is written of it anyway, and the sum of a tenant from these, in the transaction of
-- the change: nobody else writes it, and a start reads a row a tenant.

-- As `Job::stored_bytes` has it.
ALTER TABLE jobs ADD COLUMN stored INTEGER GENERATED ALWAYS AS (
    CASE WHEN json_valid(moving)
        THEN coalesce(moving ->> '$.ended_bytes', 0) + coalesce(moving ->> '$.held.bytes', 0)
            - coalesce(moving ->> '$.skipped_bytes', 0)
        ELSE 0 END
) VIRTUAL;

CREATE TABLE tenant_usage (
    tenant INTEGER PRIMARY KEY, -- tenants.no
    stored INTEGER NOT NULL
);
INSERT INTO tenant_usage SELECT tenant, sum(stored) FROM jobs GROUP BY tenant;

CREATE TRIGGER jobs_stored AFTER UPDATE OF moving ON jobs WHEN new.stored <> old.stored
BEGIN
    INSERT INTO tenant_usage VALUES (new.tenant, new.stored - old.stored)
        ON CONFLICT (tenant) DO UPDATE SET stored = stored + excluded.stored;
END;

-- Not when it is hidden, but when its last row is removed, after its files.
CREATE TRIGGER jobs_removed AFTER DELETE ON jobs WHEN old.stored <> 0
BEGIN
    UPDATE tenant_usage SET stored = stored - old.stored WHERE tenant = old.tenant;
END;
