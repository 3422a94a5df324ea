-- The history of the store.

-- Made once.  A copy of the file keeps it.
ALTER TABLE api_revision ADD COLUMN identity TEXT NOT NULL DEFAULT '';
-- Random, and another one for each revision: two histories that reached the same number differ in it.
ALTER TABLE api_revision ADD COLUMN mark INTEGER NOT NULL DEFAULT 0;
-- The mark of the revision `pruned`.
ALTER TABLE api_revision ADD COLUMN pruned_mark INTEGER NOT NULL DEFAULT 0;
-- Another number whenever somebody accepts a history that was rewritten.
ALTER TABLE api_revision ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
-- The number of the oldest schema whose programs may still answer by what stands here.
ALTER TABLE api_revision ADD COLUMN oldest_reader INTEGER NOT NULL DEFAULT 2;

-- The mark of the revision.
ALTER TABLE api_changes ADD COLUMN mark INTEGER;
-- When, in whole seconds since 1970.
ALTER TABLE api_changes ADD COLUMN at INTEGER;
-- The order within a revision, which is one entry here.
ALTER TABLE api_changes ADD COLUMN seq INTEGER GENERATED ALWAYS AS (revision) VIRTUAL;

UPDATE api_revision SET identity = lower(hex(randomblob(16))), mark = random();
UPDATE api_revision SET pruned_mark = CASE WHEN pruned = value THEN mark ELSE random() END;
-- The present revision with its mark, for those who read it before the next change.
INSERT OR IGNORE INTO api_changes (revision) SELECT value FROM api_revision;
UPDATE api_changes SET mark = (SELECT mark FROM api_revision), at = unixepoch()
    WHERE revision = (SELECT value FROM api_revision);

DROP TRIGGER api_keys_inserted;
DROP TRIGGER api_keys_updated;
DROP TRIGGER api_keys_renumbered;
DROP TRIGGER api_keys_deleted;
DROP TRIGGER api_sessions_inserted;
DROP TRIGGER api_sessions_updated;
DROP TRIGGER api_sessions_renumbered;
DROP TRIGGER api_sessions_deleted;
DROP TRIGGER api_changes_pruned;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, key_id) SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

-- Not last_used_at: that a key was used changes nothing for those that check it.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF id, name, role, actor, policies, digest, previous_digest, previous_until, created_at,
    created_by, expires_at, revoked_at, revoked_by
ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, key_id) SELECT value, mark, unixepoch(), NEW.id FROM api_revision;
END;

CREATE TRIGGER api_keys_renumbered AFTER UPDATE OF id ON api_keys WHEN OLD.id <> NEW.id BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, key_id) SELECT value, mark, unixepoch(), OLD.id FROM api_revision;
END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, key_id) SELECT value, mark, unixepoch(), OLD.id FROM api_revision;
END;

CREATE TRIGGER api_sessions_inserted AFTER INSERT ON api_sessions BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, session)
        SELECT value, mark, unixepoch(), NEW.digest FROM api_revision;
END;

-- With last_used_at: a session lives on by being used, so every replica must know of it.
CREATE TRIGGER api_sessions_updated AFTER UPDATE ON api_sessions BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, session)
        SELECT value, mark, unixepoch(), NEW.digest FROM api_revision;
END;

CREATE TRIGGER api_sessions_renumbered AFTER UPDATE OF digest ON api_sessions WHEN OLD.digest <> NEW.digest BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, session)
        SELECT value, mark, unixepoch(), OLD.digest FROM api_revision;
END;

CREATE TRIGGER api_sessions_deleted AFTER DELETE ON api_sessions BEGIN
    UPDATE api_revision SET value = value + 1, mark = random();
    INSERT INTO api_changes (revision, mark, at, session)
        SELECT value, mark, unixepoch(), OLD.digest FROM api_revision;
END;

-- The log holds the last hour, and at least as many entries as there are keys: a program that is further behind
-- reads everything.
CREATE TRIGGER api_changes_pruned AFTER INSERT ON api_changes WHEN NEW.revision % 1000 = 0 BEGIN
    UPDATE api_revision SET (pruned, pruned_mark) = (
        SELECT revision, coalesce(mark, pruned_mark) FROM api_changes
        WHERE revision <= NEW.revision - max(100000, (SELECT count(*) FROM api_keys))
            AND coalesce(at, 0) < unixepoch() - 3600
        ORDER BY revision DESC LIMIT 1)
    WHERE EXISTS (
        SELECT 1 FROM api_changes
        WHERE revision <= NEW.revision - max(100000, (SELECT count(*) FROM api_keys))
            AND coalesce(at, 0) < unixepoch() - 3600);
    DELETE FROM api_changes WHERE revision <= (SELECT pruned FROM api_revision);
END;
