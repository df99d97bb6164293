-- Secrets are sealed: what is left of a row has marks in their places.
--
-- Rows of before are plain, and are sealed while the server runs; how far that came is in `settings` under `sealing`.

ALTER TABLE job_specs ADD COLUMN sealed BLOB;
ALTER TABLE tasks ADD COLUMN sealed BLOB;
ALTER TABLE pages ADD COLUMN sealed BLOB; -- of `next`, which is NULL then

-- Keys, each wrapped by the root key, which is not in the database. The one with the highest number of its purpose is used.
CREATE TABLE data_keys (
    id      INTEGER PRIMARY KEY,
    purpose INTEGER NOT NULL, -- 1: seals bags; 2: digests and page tokens
    wrapped BLOB NOT NULL
);
