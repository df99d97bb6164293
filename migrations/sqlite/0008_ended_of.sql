-- Ended jobs of one principal, and of one tenant, in the order of their ends. Empty where nobody else calls.

CREATE INDEX jobs_creator_ended ON jobs (created_by, end_time, id)
    WHERE created_by > 0 AND deleted = 0 AND end_time IS NOT NULL;
CREATE INDEX jobs_tenant_ended ON jobs (tenant, end_time, id) WHERE tenant > 1 AND deleted = 0 AND end_time IS NOT NULL;
