-- Pauses of hosts that a restart must not forget. Few: those that end first go where there are too many.

CREATE TABLE host_pauses (
    tenant   INTEGER NOT NULL, -- tenants.no
    host     TEXT NOT NULL,
    cause    INTEGER NOT NULL, -- 1 the host asked to wait, 2 connections to it failed
    time     INTEGER NOT NULL, -- when it asked last, or the last one failed, in microseconds since 1970
    until    INTEGER NOT NULL,
    failures INTEGER NOT NULL, -- connections that failed in a row
    reason   TEXT NOT NULL,
    PRIMARY KEY (tenant, host, cause)
) WITHOUT ROWID;
