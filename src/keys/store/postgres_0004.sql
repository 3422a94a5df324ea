-- People, and sessions that say whose they are, what they are good for and what was known of their person.

ALTER TABLE api_sessions
    -- What a program of schema 3 inserts is what it means: an administrator's session of a configured user.  `user_name` is
    -- the person's id in the source, and `password_digest` the digest of whatever must stay the same for the session to
    -- live.
    ADD COLUMN source     TEXT        NOT NULL DEFAULT 'config',
    ADD COLUMN scope      TEXT        NOT NULL DEFAULT 'admin' CHECK (scope IN ('admin', 'application')),
    -- The administrator's session of the same log-in.
    ADD COLUMN parent     BYTEA       CHECK (octet_length(parent) = 32),
    -- What the source said of the person when it was asked last, and when that was.
    ADD COLUMN claims     JSON        CHECK (json_typeof(claims) = 'object'),
    ADD COLUMN checked_at api_instant NOT NULL DEFAULT to_timestamp(0);

CREATE INDEX api_sessions_by_person ON api_sessions (user_name, source);
CREATE INDEX api_sessions_by_parent ON api_sessions (parent) WHERE parent IS NOT NULL;

-- What those who decide people say of them, for processes that decide none.
--
-- It depends on nothing that older schemas have: pg_restore --clean of an older dump, which does not know this table, drops
-- their domains and functions.  The table that it left behind is of another history.
DROP TABLE IF EXISTS api_people;
CREATE TABLE api_people (
    -- GENERATED ALWAYS: the id of a deleted person is never used again.
    id       BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source   TEXT        NOT NULL,
    subject  TEXT        NOT NULL,
    actor    JSON        NOT NULL CHECK (json_typeof(actor) = 'object'),
    role     TEXT        CHECK (role IN ('Viewer', 'Editor', 'Admin')),
    -- The digest of whatever must stay the same for this to hold.
    binding  BYTEA       NOT NULL CHECK (octet_length(binding) = 32),
    seen_at  TIMESTAMPTZ NOT NULL CHECK (seen_at BETWEEN to_timestamp(0) AND to_timestamp(253402207200)),
    ended_at TIMESTAMPTZ CHECK (ended_at BETWEEN to_timestamp(0) AND to_timestamp(253402207200)),
    UNIQUE (source, subject)
);

-- Programs of schema 3 pass over an entry that names neither a key nor a session.
ALTER TABLE api_changes ADD COLUMN person_id BIGINT;

CREATE OR REPLACE FUNCTION api_log_person() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO api_changes (revision, mark, at, person_id)
            SELECT value, mark, stamped_at, OLD.id FROM api_revision;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.id <> OLD.id) THEN
        INSERT INTO api_changes (revision, mark, at, person_id)
            SELECT value, mark, stamped_at, NEW.id FROM api_revision;
    END IF;
    RETURN NULL;
END
$$;

-- Which rows a TRUNCATE removed nobody says: everything is to be read again.
CREATE OR REPLACE FUNCTION api_forget_people() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    DELETE FROM api_changes;
    UPDATE api_revision SET pruned = value, pruned_mark = mark;
    RETURN NULL;
END
$$;

-- Not seen_at: that a person was seen changes nothing for those that take the actor from here.
CREATE CONSTRAINT TRIGGER api_people_log
    AFTER INSERT OR DELETE OR UPDATE OF id, source, subject, actor, role, binding, ended_at
    ON api_people DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_log_person();
CREATE TRIGGER api_people_forget AFTER TRUNCATE
    ON api_people FOR EACH STATEMENT EXECUTE FUNCTION api_forget_people();

-- Whoever may read or write sessions may do the same with people: a role that was granted each table by its name goes on.
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
        EXECUTE format('GRANT %s ON api_people TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
END
$$;
