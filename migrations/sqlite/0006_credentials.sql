-- Credentials: what the server sends to origins for those who may use it.
--
-- `sealed` has all of it but the name: binding and value are sealed as one, so that nobody who edits the file moves a value
-- to another binding. The bag opens in its row alone.

CREATE TABLE credentials (
    tenant INTEGER NOT NULL, -- 1 is `default`
    name   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
