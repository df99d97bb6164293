-- The first schema.
--
-- Every job has a small internal number. What belongs to a job carries it in the upper half of a 64-bit key and its own
-- place (task index, lane, sequence) in the lower half: `id = (job << 32) | place`. So rows of a job lie together in the
-- order in which they were made, inserts append, and one integer joins a task's parts. The number of a purged job may be
-- given to another one; the order of jobs is that of their ids.
--
-- What is written once is apart from what moves, since an update costs the pages that it touches. JSON leaves out what
-- is unset. Times are microseconds since the Unix epoch.
--
-- The database must have `auto_vacuum = INCREMENTAL`, which can only be set before there is a table: whoever creates the
-- file sets it.

PRAGMA application_id = 1212241228; -- "HAUL"

CREATE TABLE settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE jobs (
    no          INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE,       -- UUIDv7
    state       INTEGER NOT NULL,           -- the contract's number
    deleted     INTEGER NOT NULL DEFAULT 0, -- 1: hidden, its rows are being removed
    total       INTEGER NOT NULL,           -- how many tasks it has
    downloads   INTEGER NOT NULL,           -- 1: at least one of them is a download
    create_time INTEGER NOT NULL,
    end_time    INTEGER,
    expire_time INTEGER,
    moving      TEXT NOT NULL               -- JSON: open, stop, counts, failure, sequence, other times
);
CREATE INDEX jobs_state ON jobs (state, id) WHERE deleted = 0;
-- A job enters and leaves each of these once in its life.
CREATE INDEX jobs_ended ON jobs (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX jobs_expiring ON jobs (expire_time) WHERE expire_time IS NOT NULL;
CREATE INDEX jobs_deleted ON jobs (no) WHERE deleted = 1;

CREATE TABLE job_specs (
    job  INTEGER PRIMARY KEY,
    spec TEXT NOT NULL
);

CREATE TABLE job_labels (
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    id    BLOB NOT NULL, -- jobs.id
    PRIMARY KEY (key, value, id)
) WITHOUT ROWID;
CREATE INDEX job_labels_id ON job_labels (id);

CREATE TABLE requests (
    job    INTEGER PRIMARY KEY,
    id     TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL
);

CREATE TABLE chunks (
    job    INTEGER NOT NULL,
    id     TEXT NOT NULL,
    first  INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (job, id)
) WITHOUT ROWID;

CREATE TABLE lanes (
    id   INTEGER PRIMARY KEY, -- job, lane
    host TEXT NOT NULL,
    head INTEGER NOT NULL     -- no task of the lane before this index is PENDING
);

CREATE TABLE tasks (
    id   INTEGER PRIMARY KEY, -- job, index
    lane INTEGER NOT NULL,    -- lanes.id
    spec TEXT NOT NULL
);
CREATE INDEX tasks_lane ON tasks (lane); -- with the id, which every index of SQLite ends in

CREATE TABLE task_keys (
    job  INTEGER NOT NULL,
    key  TEXT NOT NULL,
    task INTEGER NOT NULL, -- tasks.id
    PRIMARY KEY (job, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX task_keys_task ON task_keys (task);

-- A row is an attempt that runs. Small always: all that a restart has to look through.
CREATE TABLE claims (
    id            INTEGER PRIMARY KEY, -- tasks.id
    attempts      INTEGER NOT NULL,
    fence         INTEGER NOT NULL,
    crashes       INTEGER NOT NULL,
    start_time    INTEGER,
    attempt_start INTEGER NOT NULL
);

-- The state of a task that something happened to. None: PENDING from the start, or its first attempt runs.
CREATE TABLE task_states (
    id         INTEGER PRIMARY KEY, -- tasks.id
    state      INTEGER NOT NULL,    -- the contract's number; never RUNNING
    attempts   INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    crashes    INTEGER NOT NULL,
    due        INTEGER,
    start_time INTEGER,
    end_time   INTEGER,
    error,                          -- JSON, or the place of an error that many tasks of the job share (shared_errors)
    outcome    TEXT,
    log        TEXT
);
-- By state, and within a state those apart that never started. With the id, as every index.
CREATE INDEX task_states_state ON task_states (state, fence > 0);
CREATE INDEX task_states_due ON task_states (due) WHERE due IS NOT NULL;

-- The state row of a task as it was when a retry put the task back, for the events up to the sequence number `upto` that
-- show it. Later events show the row of then.
CREATE TABLE old_states (
    id         INTEGER NOT NULL, -- tasks.id
    upto       INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    crashes    INTEGER NOT NULL,
    due        INTEGER,
    start_time INTEGER,
    end_time   INTEGER,
    error,
    outcome    TEXT,
    PRIMARY KEY (id, upto)
) WITHOUT ROWID;

-- Errors that ended many tasks at once.
CREATE TABLE shared_errors (
    id    INTEGER PRIMARY KEY, -- job, place
    error TEXT NOT NULL        -- JSON
);

CREATE TABLE events (
    id       INTEGER PRIMARY KEY, -- job, sequence
    kind     INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    task     INTEGER,             -- its index
    snapshot TEXT                 -- JSON: the job as it was, for the kinds that show it
);

CREATE TABLE pages (
    task       INTEGER NOT NULL, -- tasks.id
    page       INTEGER NOT NULL,
    first_item INTEGER NOT NULL,
    items      INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    next       TEXT,
    file       TEXT,             -- a content file, or
    body       INTEGER,          -- bodies.id, or neither when there are no bytes
    PRIMARY KEY (task, page)
) WITHOUT ROWID;

CREATE TABLE bodies (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);
