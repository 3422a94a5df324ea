-- Whose keys are: service accounts and people.  What keys are for, whether they are paused, how they are used.  The audit.

CREATE TABLE api_accounts (
    -- AUTOINCREMENT: the id of a deleted account is never used again.
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL,
    -- The form in which names are compared.
    folded_name TEXT    NOT NULL UNIQUE,
    description TEXT,
    role        TEXT    NOT NULL CHECK (role IN ('Viewer', 'Editor', 'Admin')),
    actor       TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(actor) AND json_type(actor) = 'object'),
    policies    TEXT    CHECK (policies IS NULL OR (json_valid(policies) AND json_type(policies) = 'array')),
    created_at  INTEGER NOT NULL CHECK (created_at BETWEEN 0 AND 253402207200),
    created_by  TEXT    NOT NULL,
    disabled_at INTEGER CHECK (disabled_at BETWEEN 0 AND 253402207200)
) STRICT;

ALTER TABLE api_keys ADD COLUMN description TEXT;
-- The form in which names are compared; NULL where a program of an older schema inserted the row.
ALTER TABLE api_keys ADD COLUMN folded_name TEXT;
-- Whose it is: an account's, a person's, or nobody's.
ALTER TABLE api_keys ADD COLUMN account_id INTEGER REFERENCES api_accounts (id) ON DELETE CASCADE;
ALTER TABLE api_keys ADD COLUMN owner_source TEXT;
ALTER TABLE api_keys ADD COLUMN owner_subject TEXT
    CHECK ((owner_source IS NULL) = (owner_subject IS NULL) AND (account_id IS NULL OR owner_source IS NULL));
ALTER TABLE api_keys ADD COLUMN disabled_at INTEGER CHECK (disabled_at BETWEEN 0 AND 253402207200);
-- Since it was created, as far as uses were written; and from where the last one came.
ALTER TABLE api_keys ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN last_address TEXT;
-- When it came from elsewhere with the time of its creation there: before that nobody could use it here.
ALTER TABLE api_keys ADD COLUMN imported_at INTEGER CHECK (imported_at BETWEEN 0 AND 253402207200);

CREATE INDEX api_keys_by_folded_name ON api_keys (coalesce(folded_name, lower(name)));
CREATE INDEX api_keys_by_account ON api_keys (account_id) WHERE account_id IS NOT NULL;
CREATE INDEX api_keys_by_owner ON api_keys (owner_subject, owner_source) WHERE owner_subject IS NOT NULL;
CREATE INDEX api_keys_by_previous_digest ON api_keys (previous_digest) WHERE previous_digest IS NOT NULL;

-- Programs of older schemas pass over an entry that names nothing that they know.
ALTER TABLE api_changes ADD COLUMN account_id INTEGER;

DROP TRIGGER api_keys_inserted;
DROP TRIGGER api_keys_updated;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, key_id) SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

-- Not last_used_at, uses, last_address, imported_at and description: they change nothing for those that check the key.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF id, name, role, actor, policies, digest, previous_digest, previous_until, created_at,
    created_by, expires_at, revoked_at, revoked_by, account_id, owner_source, owner_subject, disabled_at
ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, key_id) SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

-- A program that knows neither owners nor pauses would let too much through: from the first such key on it answers nobody.
CREATE TRIGGER api_keys_inserted_for_newer AFTER INSERT ON api_keys
WHEN NEW.account_id IS NOT NULL OR NEW.owner_source IS NOT NULL OR NEW.disabled_at IS NOT NULL BEGIN
    UPDATE api_revision SET oldest_reader = 6 WHERE oldest_reader < 6;
END;

CREATE TRIGGER api_keys_updated_for_newer AFTER UPDATE OF account_id, owner_source, disabled_at ON api_keys
WHEN NEW.account_id IS NOT NULL OR NEW.owner_source IS NOT NULL OR NEW.disabled_at IS NOT NULL BEGIN
    UPDATE api_revision SET oldest_reader = 6 WHERE oldest_reader < 6;
END;

CREATE TRIGGER api_accounts_inserted AFTER INSERT ON api_accounts BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, account_id)
        SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

CREATE TRIGGER api_accounts_updated AFTER UPDATE OF id, name, role, actor, policies, disabled_at ON api_accounts BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, account_id)
        SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

CREATE TRIGGER api_accounts_renumbered AFTER UPDATE OF id ON api_accounts WHEN OLD.id <> NEW.id BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, account_id)
        SELECT value, mark, unixepoch(), OLD.id FROM api_revision;
END;

CREATE TRIGGER api_accounts_deleted AFTER DELETE ON api_accounts BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, account_id)
        SELECT value, mark, unixepoch(), OLD.id FROM api_revision;
END;

-- What the source said of a person when it was asked last, so that their keys follow the rules in force and the directory is
-- asked about them although they have no session.  NULL for configured users and for people who ended.
ALTER TABLE api_people ADD COLUMN claims TEXT
    CHECK (claims IS NULL OR (json_valid(claims) AND json_type(claims) = 'object'));

DROP TRIGGER api_people_updated;
CREATE TRIGGER api_people_updated AFTER UPDATE OF id, source, subject, actor, role, binding, claims, ended_at ON api_people BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, person_id)
        SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

-- Who did what, when, to what.  It raises no revision: nobody holds it in memory.
CREATE TABLE api_audit (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    at           INTEGER NOT NULL CHECK (at BETWEEN 0 AND 253402207200),
    action       TEXT    NOT NULL,
    actor_id     TEXT,
    credential   TEXT,
    address      TEXT,
    key_id       INTEGER,
    key_name     TEXT,
    account_id   INTEGER,
    account_name TEXT,
    user_name    TEXT,
    source       TEXT,
    before       TEXT    CHECK (before IS NULL OR json_valid(before)),
    after        TEXT    CHECK (after IS NULL OR json_valid(after)),
    status       INTEGER,
    reason       TEXT,
    count        INTEGER,
    -- That of a deleted account: its name is not given again.
    folded_name  TEXT
) STRICT;

CREATE INDEX api_audit_by_time ON api_audit (at);
CREATE INDEX api_audit_by_actor ON api_audit (actor_id, id);
CREATE INDEX api_audit_by_key ON api_audit (key_id, id) WHERE key_id IS NOT NULL;
CREATE INDEX api_audit_by_account ON api_audit (account_id, id) WHERE account_id IS NOT NULL;
CREATE INDEX api_audit_by_folded_name ON api_audit (folded_name) WHERE folded_name IS NOT NULL;
