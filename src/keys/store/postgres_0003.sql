-- The history of the store, and a lock of all changes that is held no longer than a COMMIT takes.

ALTER TABLE api_revision
    -- Made once.  A dump and a standby keep it.
    ADD COLUMN identity      UUID        NOT NULL DEFAULT gen_random_uuid(),
    -- Random, and another one for each revision: two histories that reached the same number differ in it.
    ADD COLUMN mark          BIGINT      NOT NULL DEFAULT 0,
    -- The mark of the revision `pruned`.
    ADD COLUMN pruned_mark   BIGINT      NOT NULL DEFAULT 0,
    -- Another number whenever somebody accepts a history that was rewritten.
    ADD COLUMN accepted      BIGINT      NOT NULL DEFAULT 0,
    -- The number of the oldest schema whose programs may still answer by what stands here.
    ADD COLUMN oldest_reader BIGINT      NOT NULL DEFAULT 2,
    -- The transaction that raised the number last: one transaction is one revision.
    ADD COLUMN raised_by     XID8,
    -- When somebody last wrote here, changes or not: a standby shows by it how old it is.
    ADD COLUMN stamped_at    TIMESTAMPTZ NOT NULL DEFAULT now();

ALTER TABLE api_changes
    -- The mark of the revision.
    ADD COLUMN mark BIGINT,
    ADD COLUMN at   TIMESTAMPTZ;

CREATE FUNCTION api_random() RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint
$$;

UPDATE api_revision SET mark = api_random(), pruned_mark = api_random();
-- The present revision with its mark, for those who read it before the next change.
INSERT INTO api_changes (revision, mark, at) SELECT value, mark, clock_timestamp() FROM api_revision;

DROP TRIGGER api_keys_raise ON api_keys;
DROP TRIGGER api_keys_log ON api_keys;
DROP TRIGGER api_keys_prune ON api_keys;
DROP TRIGGER api_sessions_raise ON api_sessions;
DROP TRIGGER api_sessions_log ON api_sessions;
DROP TRIGGER api_sessions_prune ON api_sessions;
DROP FUNCTION api_prune_changes();

-- The log holds the last hour, and at least as many entries as there are keys: a program that is further behind
-- reads everything.
CREATE FUNCTION api_prune_changes() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    entries BIGINT;
    oldest  BIGINT;
BEGIN
    SELECT greatest(100000, reltuples::bigint) INTO entries FROM pg_class WHERE oid = 'api_keys'::regclass;
    SELECT revision INTO oldest FROM api_changes ORDER BY revision DESC OFFSET entries LIMIT 1;
    SELECT max(revision) INTO oldest FROM api_changes
        WHERE revision < oldest AND coalesce(at, '-infinity') < clock_timestamp() - interval '1 hour';
    IF oldest IS NOT NULL THEN
        UPDATE api_revision SET pruned = oldest, pruned_mark = coalesce(
            (SELECT mark FROM api_changes WHERE revision = oldest AND mark IS NOT NULL LIMIT 1), pruned_mark)
            WHERE pruned < oldest;
        DELETE FROM api_changes WHERE revision <= oldest;
    END IF;
END
$$;

-- Raises the number, once in a transaction, and takes the lock that is held until the transaction ends.
-- So numbers become visible in their order, and none can be skipped.
CREATE FUNCTION api_next_revision() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE api_revision
        SET value = value + 1, mark = api_random(), raised_by = pg_current_xact_id(), stamped_at = clock_timestamp()
        WHERE raised_by IS DISTINCT FROM pg_current_xact_id();
    IF FOUND THEN
        PERFORM pg_notify('envoy_auth_tokens', '');
        IF (SELECT value % 1000 = 0 FROM api_revision) THEN
            PERFORM api_prune_changes();
        END IF;
    END IF;
END
$$;

-- At the end of the transaction: what it changed before waits for its COMMIT, and nobody else waits for it.
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
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION api_log_session() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO api_changes (revision, mark, at, session)
            SELECT value, mark, stamped_at, OLD.digest FROM api_revision;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.digest <> OLD.digest) THEN
        INSERT INTO api_changes (revision, mark, at, session)
            SELECT value, mark, stamped_at, NEW.digest FROM api_revision;
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER api_keys_log AFTER INSERT OR DELETE OR UPDATE OF id, name, role, actor, policies,
    digest, previous_digest, previous_until, created_at, created_by, expires_at, revoked_at, revoked_by
    ON api_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_log_key();
CREATE CONSTRAINT TRIGGER api_sessions_log AFTER INSERT OR DELETE OR UPDATE
    ON api_sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_log_session();

-- Which rows a TRUNCATE removed nobody says: everything is to be read again.
CREATE OR REPLACE FUNCTION api_forget_changes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM api_next_revision();
    DELETE FROM api_changes;
    UPDATE api_revision SET pruned = value, pruned_mark = mark;
    RETURN NULL;
END
$$;
DROP FUNCTION api_raise_revision();
