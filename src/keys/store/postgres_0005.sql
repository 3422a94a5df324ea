-- What attempts to log in at a provider need.  Neither table is in the change log: no replica keeps a copy in memory that it
-- would have to follow.
--
-- They depend on nothing that older schemas have: pg_restore --clean of an older dump, which does not know these tables, drops
-- their domains and functions.  The tables that it left behind are of another history.

-- Secrets that every process with this store must have in common.
DROP TABLE IF EXISTS api_secrets;
CREATE TABLE api_secrets (
    name       TEXT        PRIMARY KEY,
    value      BYTEA       NOT NULL CHECK (octet_length(value) = 32),
    created_at TIMESTAMPTZ NOT NULL CHECK (created_at BETWEEN to_timestamp(0) AND to_timestamp(253402207200))
);

-- The digests of the states of attempts that came back.  Each is good for once.
DROP TABLE IF EXISTS api_used_states;
CREATE TABLE api_used_states (
    digest  BYTEA       PRIMARY KEY CHECK (octet_length(digest) = 32),
    used_at TIMESTAMPTZ NOT NULL CHECK (used_at BETWEEN to_timestamp(0) AND to_timestamp(253402207200))
);

CREATE INDEX api_used_states_by_time ON api_used_states (used_at);

-- Whoever may read or write sessions may do the same here: a role that was granted each table by its name goes on, and so does
-- one that dumps the store.
DO $$
DECLARE
    granted RECORD;
BEGIN
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'api_sessions'::regclass AND grantee <> relowner
            AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON api_secrets, api_used_states TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
END
$$;
