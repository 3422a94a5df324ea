-- The revision after which a session was opened: which of a user's is the oldest, within one second too.
-- Those that were opened before this column existed are older than all others.
ALTER TABLE api_sessions ADD COLUMN opened_after INTEGER NOT NULL DEFAULT 0;
