-- Whose keys are: service accounts and people.  What keys are for, whether they are paused, how they are used.  The audit.
--
-- The new tables depend on nothing that older schemas have: pg_restore --clean of an older dump, which does not know these
-- tables, drops their domains and functions.  The tables that it left behind are of another history.

DROP TABLE IF EXISTS api_accounts;
CREATE TABLE api_accounts (
    -- GENERATED ALWAYS: the id of a deleted account is never used again.
    id          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        TEXT        NOT NULL,
    -- The form in which names are compared.
    folded_name TEXT        NOT NULL UNIQUE,
    description TEXT,
    role        TEXT        NOT NULL CHECK (role IN ('Viewer', 'Editor', 'Admin')),
    -- JSON and not JSONB: members keep their order.
    actor       JSON        NOT NULL DEFAULT '{}' CHECK (json_typeof(actor) = 'object'),
    policies    JSON        CHECK (json_typeof(policies) = 'array'),
    created_at  TIMESTAMPTZ NOT NULL CHECK (created_at BETWEEN to_timestamp(0) AND to_timestamp(253402207200)),
    created_by  TEXT        NOT NULL,
    disabled_at TIMESTAMPTZ CHECK (disabled_at BETWEEN to_timestamp(0) AND to_timestamp(253402207200))
);

ALTER TABLE api_keys
    ADD COLUMN description   TEXT,
    -- The form in which names are compared; NULL where a program of an older schema inserted the row.
    ADD COLUMN folded_name   TEXT,
    -- Whose it is: an account's, a person's, or nobody's.
    ADD COLUMN account_id    BIGINT REFERENCES api_accounts (id) ON DELETE CASCADE,
    ADD COLUMN owner_source  TEXT,
    ADD COLUMN owner_subject TEXT,
    ADD COLUMN disabled_at   api_instant,
    -- Since it was created, as far as uses were written; and from where the last one came.
    ADD COLUMN uses          BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN last_address  TEXT,
    -- When it came from elsewhere with the time of its creation there: before that nobody could use it here.
    ADD COLUMN imported_at   api_instant,
    ADD CONSTRAINT api_keys_owner CHECK (
        (owner_source IS NULL) = (owner_subject IS NULL) AND (account_id IS NULL OR owner_source IS NULL));

DROP INDEX IF EXISTS api_keys_by_name;
CREATE INDEX api_keys_by_folded_name ON api_keys (coalesce(folded_name, lower(name)));
CREATE INDEX api_keys_by_account ON api_keys (account_id) WHERE account_id IS NOT NULL;
CREATE INDEX api_keys_by_owner ON api_keys (owner_subject, owner_source) WHERE owner_subject IS NOT NULL;
CREATE INDEX api_keys_by_previous_digest ON api_keys (previous_digest) WHERE previous_digest IS NOT NULL;

-- Programs of older schemas pass over an entry that names nothing that they know.
ALTER TABLE api_changes ADD COLUMN account_id BIGINT;

CREATE OR REPLACE FUNCTION api_log_key() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO api_changes (revision, mark, at, key_id)
            SELECT value, mark, stamped_at, OLD.id FROM api_revision;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.id <> OLD.id) THEN
        INSERT INTO api_changes (revision, mark, at, key_id)
            SELECT value, mark, stamped_at, NEW.id FROM api_revision;
    END IF;
    -- A program that knows neither owners nor pauses would let too much through: from the first such key on it answers
    -- nobody.
    IF TG_OP <> 'DELETE' THEN
        IF NEW.account_id IS NOT NULL OR NEW.owner_source IS NOT NULL OR NEW.disabled_at IS NOT NULL THEN
            UPDATE api_revision SET oldest_reader = 6 WHERE oldest_reader < 6;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- Not last_used_at, uses, last_address, imported_at and description: they change nothing for those that check the key.
DROP TRIGGER IF EXISTS api_keys_log ON api_keys;
CREATE CONSTRAINT TRIGGER api_keys_log AFTER INSERT OR DELETE OR UPDATE OF id, name, role, actor, policies,
    digest, previous_digest, previous_until, created_at, created_by, expires_at, revoked_at, revoked_by,
    account_id, owner_source, owner_subject, disabled_at
    ON api_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_log_key();

CREATE OR REPLACE FUNCTION api_log_account() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO api_changes (revision, mark, at, account_id)
            SELECT value, mark, stamped_at, OLD.id FROM api_revision;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.id <> OLD.id) THEN
        INSERT INTO api_changes (revision, mark, at, account_id)
            SELECT value, mark, stamped_at, NEW.id FROM api_revision;
    END IF;
    RETURN NULL;
END
$$;

-- Which rows a TRUNCATE removed nobody says: everything is to be read again.
CREATE OR REPLACE FUNCTION api_forget_accounts() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    DELETE FROM api_changes;
    UPDATE api_revision SET pruned = value, pruned_mark = mark;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER api_accounts_log
    AFTER INSERT OR DELETE OR UPDATE OF id, name, role, actor, policies, disabled_at
    ON api_accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_log_account();
CREATE TRIGGER api_accounts_forget AFTER TRUNCATE
    ON api_accounts FOR EACH STATEMENT EXECUTE FUNCTION api_forget_accounts();

-- What the source said of a person when it was asked last, so that their keys follow the rules in force and the directory is
-- asked about them although they have no session.  NULL for configured users and for people who ended.
ALTER TABLE api_people ADD COLUMN claims JSON CHECK (json_typeof(claims) = 'object');

DROP TRIGGER IF EXISTS api_people_log ON api_people;
CREATE CONSTRAINT TRIGGER api_people_log
    AFTER INSERT OR DELETE OR UPDATE OF id, source, subject, actor, role, binding, claims, ended_at
    ON api_people DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_log_person();

-- Who did what, when, to what.  It raises no revision: nobody holds it in memory.
DROP TABLE IF EXISTS api_audit;
CREATE TABLE api_audit (
    id           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           TIMESTAMPTZ NOT NULL CHECK (at BETWEEN to_timestamp(0) AND to_timestamp(253402207200)),
    action       TEXT        NOT NULL,
    actor_id     TEXT,
    credential   TEXT,
    address      TEXT,
    key_id       BIGINT,
    key_name     TEXT,
    account_id   BIGINT,
    account_name TEXT,
    user_name    TEXT,
    source       TEXT,
    before       JSON,
    after        JSON,
    status       BIGINT,
    reason       TEXT,
    count        BIGINT,
    -- That of a deleted account: its name is not given again.
    folded_name  TEXT
);

CREATE INDEX api_audit_by_time ON api_audit (at);
CREATE INDEX api_audit_by_actor ON api_audit (actor_id, id);
CREATE INDEX api_audit_by_key ON api_audit (key_id, id) WHERE key_id IS NOT NULL;
CREATE INDEX api_audit_by_account ON api_audit (account_id, id) WHERE account_id IS NOT NULL;
CREATE INDEX api_audit_by_folded_name ON api_audit (folded_name) WHERE folded_name IS NOT NULL;

-- Deletes the oldest rows, at most so many: those older than 400 days, and those beyond the newest million.  Gives of each
-- whether it was one of the latter.  The role of a server need not be allowed to delete any other, nor to change one.
CREATE OR REPLACE FUNCTION api_forget_audit(most BIGINT) RETURNS SETOF BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    newest BIGINT;
BEGIN
    SELECT max(id) INTO newest FROM api_audit;
    RETURN QUERY WITH gone AS (
        SELECT id FROM api_audit
        WHERE at < clock_timestamp() - interval '400 days' OR id <= newest - 1000000
        ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED
    ) DELETE FROM api_audit USING gone WHERE api_audit.id = gone.id
    RETURNING api_audit.at >= clock_timestamp() - interval '400 days';
END
$$;
REVOKE ALL ON FUNCTION api_forget_audit(BIGINT) FROM PUBLIC;

-- Whoever may read or write sessions may do the same with accounts, and read and write the audit, where nothing is changed:
-- a role that was granted each table by its name goes on.
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
        EXECUTE format('GRANT %s ON api_accounts TO %s', granted.privilege_type, granted.grantee);
        IF granted.privilege_type IN ('SELECT', 'INSERT') THEN
            EXECUTE format('GRANT %s ON api_audit TO %s', granted.privilege_type, granted.grantee);
        END IF;
        IF granted.privilege_type = 'INSERT' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION api_forget_audit(BIGINT) TO %s', granted.grantee);
        END IF;
    END LOOP;
    -- Default privileges may have granted more: nobody but the owner changes what the audit says.
    FOR granted IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'api_audit'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON api_audit FROM %s', granted.grantee);
    END LOOP;
END
$$;
