-- Who may call: principals, their tokens, and whose jobs are.
--
-- The number of a principal is never given twice: a row stays when its principal is deleted, so that jobs keep their
-- creator and a new principal of the same name owns none of them. 0 is `local`, whose everything was before there were
-- principals. Of a token there is a hash of its text, which cannot be made from it.

CREATE TABLE principals (
    no  INTEGER PRIMARY KEY,
    row TEXT NOT NULL       -- JSON
);

CREATE TABLE tokens (
    id   TEXT PRIMARY KEY,
    hash BLOB NOT NULL,     -- SHA-256 of the whole token
    row  TEXT NOT NULL      -- JSON
) WITHOUT ROWID;

ALTER TABLE jobs ADD COLUMN created_by INTEGER NOT NULL DEFAULT 0; -- principals.no
CREATE INDEX jobs_creator ON jobs (created_by, id) WHERE created_by > 0 AND deleted = 0;

-- A request id belongs to who used it: nobody learns of those of others.
CREATE TABLE new_requests (
    job       INTEGER PRIMARY KEY,
    id        TEXT NOT NULL,
    principal INTEGER NOT NULL DEFAULT 0, -- principals.no
    digest    BLOB NOT NULL,
    UNIQUE (id, principal)
);
INSERT INTO new_requests SELECT job, id, 0, digest FROM requests;
DROP TABLE requests;
ALTER TABLE new_requests RENAME TO requests;
