-- Keys, sessions, and the log of their changes.  Times are whole seconds since 1970 in UTC.
-- A migration that was released is never edited: a change is a new file with the next number.

CREATE TABLE api_keys (
    -- AUTOINCREMENT: the id of a deleted key is never used again.
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT    NOT NULL,
    role            TEXT    NOT NULL CHECK (role IN ('Viewer', 'Editor', 'Admin')),
    actor           TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(actor) AND json_type(actor) = 'object'),
    policies        TEXT    CHECK (policies IS NULL OR (json_valid(policies) AND json_type(policies) = 'array')),
    -- SHA-256 of the secret; the secret itself is nowhere.
    digest          BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    previous_digest BLOB    CHECK (length(previous_digest) = 32),
    previous_until  INTEGER CHECK (previous_until BETWEEN 0 AND 253402207200),
    created_at      INTEGER NOT NULL CHECK (created_at BETWEEN 0 AND 253402207200),
    created_by      TEXT    NOT NULL,
    expires_at      INTEGER CHECK (expires_at BETWEEN 0 AND 253402207200),
    last_used_at    INTEGER CHECK (last_used_at BETWEEN 0 AND 253402207200),
    revoked_at      INTEGER CHECK (revoked_at BETWEEN 0 AND 253402207200),
    revoked_by      TEXT,
    CHECK ((previous_digest IS NULL) = (previous_until IS NULL))
) STRICT;

-- Names are unique among live keys only, and what is live the clock decides: whoever creates looks.
CREATE INDEX api_keys_by_name ON api_keys (name);

CREATE TABLE api_sessions (
    digest          BLOB    PRIMARY KEY NOT NULL CHECK (length(digest) = 32),
    user_name       TEXT    NOT NULL,
    -- SHA-256 of the stored password hash: another password ends the session.
    password_digest BLOB    NOT NULL CHECK (length(password_digest) = 32),
    created_at      INTEGER NOT NULL CHECK (created_at BETWEEN 0 AND 253402207200),
    last_used_at    INTEGER NOT NULL CHECK (last_used_at BETWEEN 0 AND 253402207200)
) STRICT, WITHOUT ROWID;

-- The number of the newest change, and of the newest that is no longer in the log.
CREATE TABLE api_revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    value    INTEGER NOT NULL,
    pruned   INTEGER NOT NULL
) STRICT;

INSERT INTO api_revision (only_row, value, pruned) VALUES (1, 0, 0);

CREATE TABLE api_changes (
    revision INTEGER PRIMARY KEY,
    key_id   INTEGER,
    session  BLOB
) STRICT;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, key_id) SELECT value, NEW.id FROM api_revision;
END;

-- Not last_used_at: that a key was used changes nothing for whoever checks it.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF id, name, role, actor, policies, digest, previous_digest, previous_until, created_at,
    created_by, expires_at, revoked_at, revoked_by
ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, key_id) SELECT value, NEW.id FROM api_revision;
END;

CREATE TRIGGER api_keys_renumbered AFTER UPDATE OF id ON api_keys WHEN OLD.id <> NEW.id BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, key_id) SELECT value, OLD.id FROM api_revision;
END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, key_id) SELECT value, OLD.id FROM api_revision;
END;

CREATE TRIGGER api_sessions_inserted AFTER INSERT ON api_sessions BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, session) SELECT value, NEW.digest FROM api_revision;
END;

-- With last_used_at: a session lives on by being used, so every replica must know of it.
CREATE TRIGGER api_sessions_updated AFTER UPDATE ON api_sessions BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, session) SELECT value, NEW.digest FROM api_revision;
END;

CREATE TRIGGER api_sessions_renumbered AFTER UPDATE OF digest ON api_sessions WHEN OLD.digest <> NEW.digest BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, session) SELECT value, OLD.digest FROM api_revision;
END;

CREATE TRIGGER api_sessions_deleted AFTER DELETE ON api_sessions BEGIN
    UPDATE api_revision SET value = value + 1;
    INSERT INTO api_changes (revision, session) SELECT value, OLD.digest FROM api_revision;
END;

-- The log is kept short: whoever is further behind reads everything.
CREATE TRIGGER api_changes_pruned AFTER INSERT ON api_changes WHEN NEW.revision % 100 = 0 BEGIN
    DELETE FROM api_changes WHERE revision <= NEW.revision - 10000;
    UPDATE api_revision SET pruned = max(pruned, NEW.revision - 10000);
END;
