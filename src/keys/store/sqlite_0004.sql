-- People, and sessions that say whose they are, what they are good for and what was known of their person.

-- What a program of schema 3 inserts is what it means: an administrator's session of a configured user.  `user_name` is the
-- person's id in the source, and `password_digest` the digest of whatever must stay the same for the session to live.
ALTER TABLE api_sessions ADD COLUMN source TEXT NOT NULL DEFAULT 'config';
ALTER TABLE api_sessions ADD COLUMN scope TEXT NOT NULL DEFAULT 'admin' CHECK (scope IN ('admin', 'application'));
-- The administrator's session of the same log-in.
ALTER TABLE api_sessions ADD COLUMN parent BLOB CHECK (length(parent) = 32);
-- What the source said of the person when it was asked last, and when that was.
ALTER TABLE api_sessions ADD COLUMN claims TEXT
    CHECK (claims IS NULL OR (json_valid(claims) AND json_type(claims) = 'object'));
ALTER TABLE api_sessions ADD COLUMN checked_at INTEGER NOT NULL DEFAULT 0
    CHECK (checked_at BETWEEN 0 AND 253402207200);

CREATE INDEX api_sessions_by_person ON api_sessions (user_name, source);
CREATE INDEX api_sessions_by_parent ON api_sessions (parent) WHERE parent IS NOT NULL;

-- What those who decide people say of them, for processes that decide none.
CREATE TABLE api_people (
    -- AUTOINCREMENT: the id of a deleted person is never used again.
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    source   TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    actor    TEXT    NOT NULL CHECK (json_valid(actor) AND json_type(actor) = 'object'),
    role     TEXT    CHECK (role IN ('Viewer', 'Editor', 'Admin')),
    -- The digest of whatever must stay the same for this to hold.
    binding  BLOB    NOT NULL CHECK (length(binding) = 32),
    seen_at  INTEGER NOT NULL CHECK (seen_at BETWEEN 0 AND 253402207200),
    ended_at INTEGER CHECK (ended_at BETWEEN 0 AND 253402207200),
    UNIQUE (source, subject)
) STRICT;

-- Programs of schema 3 pass over an entry that names neither a key nor a session.
ALTER TABLE api_changes ADD COLUMN person_id INTEGER;

CREATE TRIGGER api_people_inserted AFTER INSERT ON api_people BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, person_id)
        SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

-- Not seen_at: that a person was seen changes nothing for those that take the actor from here.
CREATE TRIGGER api_people_updated AFTER UPDATE OF id, source, subject, actor, role, binding, ended_at ON api_people BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, person_id)
        SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

CREATE TRIGGER api_people_renumbered AFTER UPDATE OF id ON api_people WHEN OLD.id <> NEW.id BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, person_id)
        SELECT value, mark, unixepoch(), OLD.id FROM api_revision;
END;

CREATE TRIGGER api_people_deleted AFTER DELETE ON api_people BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, person_id)
        SELECT value, mark, unixepoch(), OLD.id FROM api_revision;
END;
