-- Whose work it is.
--
-- The number of a tenant is never given twice: a row stays when its tenant is deleted. 1 is `default`, which always exists
-- and has a row once somebody has changed it. What there was before belongs to it.

CREATE TABLE tenants (
    no  INTEGER PRIMARY KEY,
    row TEXT NOT NULL       -- JSON
);

ALTER TABLE jobs ADD COLUMN tenant INTEGER NOT NULL DEFAULT 1; -- tenants.no
-- Without those of `default`, which are all where nobody has made another tenant.
CREATE INDEX jobs_tenant ON jobs (tenant, id) WHERE tenant > 1 AND deleted = 0;

-- Labels are looked for within a tenant.
CREATE TABLE new_job_labels (
    tenant INTEGER NOT NULL, -- tenants.no
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    id     BLOB NOT NULL,    -- jobs.id
    PRIMARY KEY (tenant, key, value, id)
) WITHOUT ROWID;
INSERT INTO new_job_labels SELECT 1, key, value, id FROM job_labels;
DROP TABLE job_labels;
ALTER TABLE new_job_labels RENAME TO job_labels;
CREATE INDEX job_labels_id ON job_labels (id);

-- A request id belongs to who used it for which tenant.
CREATE TABLE new_requests (
    job       INTEGER PRIMARY KEY,
    id        TEXT NOT NULL,
    principal INTEGER NOT NULL DEFAULT 0, -- principals.no
    tenant    INTEGER NOT NULL DEFAULT 1, -- tenants.no
    digest    BLOB NOT NULL,
    UNIQUE (id, principal, tenant)
);
INSERT INTO new_requests SELECT job, id, principal, 1, digest FROM requests;
DROP TABLE requests;
ALTER TABLE new_requests RENAME TO requests;
