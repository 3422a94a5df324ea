-- What attempts to log in at a provider need.  Neither table is in the change log: no replica keeps a copy in memory that it
-- would have to follow.

-- Secrets that every process with this store must have in common.
CREATE TABLE api_secrets (
    name       TEXT    NOT NULL PRIMARY KEY,
    value      BLOB    NOT NULL CHECK (length(value) = 32),
    created_at INTEGER NOT NULL CHECK (created_at BETWEEN 0 AND 253402207200)
) STRICT;

-- The digests of the states of attempts that came back.  Each is good for once.
CREATE TABLE api_used_states (
    digest  BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    used_at INTEGER NOT NULL CHECK (used_at BETWEEN 0 AND 253402207200)
) STRICT;

CREATE INDEX api_used_states_by_time ON api_used_states (used_at);
