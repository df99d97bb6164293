-- Who changed what, in the transaction of the change.
--
-- `chain` is a keyed digest over the one before and this row, so that a row that is changed, missing or of somebody else is
-- found. `settings.audit_start` has the digest before the first row, where older ones were removed.

CREATE TABLE audit (
    seq   INTEGER PRIMARY KEY, -- from 1, without gaps
    time  INTEGER NOT NULL,    -- microseconds since 1970
    row   TEXT NOT NULL,       -- JSON
    chain BLOB NOT NULL
);
