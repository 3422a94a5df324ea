-- Keys, sessions, and the log of their changes.
-- A migration that was released is never edited: a change is a new file with the next number.

-- An instant that every reader can represent; neither infinity is one.
CREATE DOMAIN api_instant AS TIMESTAMPTZ
    CHECK (VALUE BETWEEN to_timestamp(0) AND to_timestamp(253402207200));

CREATE TABLE api_keys (
    -- GENERATED ALWAYS: the id of a deleted key is never used again.
    id              BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            TEXT        NOT NULL,
    role            TEXT        NOT NULL CHECK (role IN ('Viewer', 'Editor', 'Admin')),
    -- JSON and not JSONB: members keep their order.
    actor           JSON        NOT NULL DEFAULT '{}' CHECK (json_typeof(actor) = 'object'),
    policies        JSON        CHECK (json_typeof(policies) = 'array'),
    -- SHA-256 of the secret; the secret itself is nowhere.
    digest          BYTEA       NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    previous_digest BYTEA       CHECK (octet_length(previous_digest) = 32),
    previous_until  api_instant,
    created_at      api_instant NOT NULL,
    created_by      TEXT        NOT NULL,
    expires_at      api_instant,
    last_used_at    api_instant,
    revoked_at      api_instant,
    revoked_by      TEXT,
    CHECK ((previous_digest IS NULL) = (previous_until IS NULL))
);

-- Names are unique among live keys only, and what is live the clock decides: whoever creates looks.
CREATE INDEX api_keys_by_name ON api_keys (name);

CREATE TABLE api_sessions (
    digest          BYTEA       PRIMARY KEY CHECK (octet_length(digest) = 32),
    user_name       TEXT        NOT NULL,
    -- SHA-256 of the stored password hash: another password ends the session.
    password_digest BYTEA       NOT NULL CHECK (octet_length(password_digest) = 32),
    created_at      api_instant NOT NULL,
    last_used_at    api_instant NOT NULL
);

-- The number of the newest change, and of the newest that is no longer in the log.
-- Its one row is the lock of everybody who changes anything.
CREATE TABLE api_revision (
    only_row BOOLEAN PRIMARY KEY CHECK (only_row),
    value    BIGINT  NOT NULL,
    pruned   BIGINT  NOT NULL
) WITH (fillfactor = 10);

INSERT INTO api_revision (only_row, value, pruned) VALUES (true, 0, 0);

CREATE TABLE api_changes (
    revision BIGINT NOT NULL,
    key_id   BIGINT,
    session  BYTEA
);

CREATE INDEX api_changes_by_revision ON api_changes (revision);

-- Before a statement changes anything: takes the lock, which is held until the transaction ends.
-- So numbers become visible in their order, and none can be skipped.
CREATE FUNCTION api_raise_revision() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE api_revision SET value = value + 1;
    PERFORM pg_notify('envoy_auth_tokens', '');
    RETURN NULL;
END
$$;

CREATE FUNCTION api_log_key() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO api_changes (revision, key_id) SELECT value, OLD.id FROM api_revision;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.id <> OLD.id) THEN
        INSERT INTO api_changes (revision, key_id) SELECT value, NEW.id FROM api_revision;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION api_log_session() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO api_changes (revision, session) SELECT value, OLD.digest FROM api_revision;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.digest <> OLD.digest) THEN
        INSERT INTO api_changes (revision, session) SELECT value, NEW.digest FROM api_revision;
    END IF;
    RETURN NULL;
END
$$;

-- The log is kept short: whoever is further behind reads everything.
CREATE FUNCTION api_prune_changes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    oldest BIGINT;
BEGIN
    IF (SELECT value % 100 = 0 FROM api_revision) THEN
        SELECT revision INTO oldest FROM api_changes ORDER BY revision DESC OFFSET 10000 LIMIT 1;
        IF oldest IS NOT NULL THEN
            DELETE FROM api_changes WHERE revision <= oldest;
            UPDATE api_revision SET pruned = greatest(pruned, oldest);
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- Which rows a TRUNCATE removed nobody says: everything is to be read again.
CREATE FUNCTION api_forget_changes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM api_changes;
    UPDATE api_revision SET pruned = value;
    RETURN NULL;
END
$$;

-- Not last_used_at: that a key was used changes nothing for whoever checks it.
CREATE TRIGGER api_keys_raise BEFORE INSERT OR DELETE OR TRUNCATE OR UPDATE OF id, name, role, actor, policies,
    digest, previous_digest, previous_until, created_at, created_by, expires_at, revoked_at, revoked_by
    ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION api_raise_revision();
CREATE TRIGGER api_keys_log AFTER INSERT OR DELETE OR UPDATE OF id, name, role, actor, policies,
    digest, previous_digest, previous_until, created_at, created_by, expires_at, revoked_at, revoked_by
    ON api_keys FOR EACH ROW EXECUTE FUNCTION api_log_key();
CREATE TRIGGER api_keys_prune AFTER INSERT OR DELETE OR UPDATE OF id, name, role, actor, policies,
    digest, previous_digest, previous_until, created_at, created_by, expires_at, revoked_at, revoked_by
    ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION api_prune_changes();
CREATE TRIGGER api_keys_forget AFTER TRUNCATE
    ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION api_forget_changes();

-- With last_used_at: a session lives on by being used, so every replica must know of it.
CREATE TRIGGER api_sessions_raise BEFORE INSERT OR DELETE OR TRUNCATE OR UPDATE
    ON api_sessions FOR EACH STATEMENT EXECUTE FUNCTION api_raise_revision();
CREATE TRIGGER api_sessions_log AFTER INSERT OR DELETE OR UPDATE
    ON api_sessions FOR EACH ROW EXECUTE FUNCTION api_log_session();
CREATE TRIGGER api_sessions_prune AFTER INSERT OR DELETE OR UPDATE
    ON api_sessions FOR EACH STATEMENT EXECUTE FUNCTION api_prune_changes();
CREATE TRIGGER api_sessions_forget AFTER TRUNCATE
    ON api_sessions FOR EACH STATEMENT EXECUTE FUNCTION api_forget_changes();
