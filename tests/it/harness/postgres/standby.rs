//! Hot standbys, and what a fail-over loses.

use super::{Postgres, run};
use crate::harness::wait_until;

impl Postgres {
    /// A hot standby of this server, which answers reads: all that was committed here is there, or arrives.
    pub fn standby(&self) -> Self {
        let standby = Self::prepare(&self.settings);
        let mut backup = standby.command("pg_basebackup");
        backup.arg("--host").arg(self.folder.path()).args(["--port", &self.port.to_string()]);
        backup.args(["--username=keys", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        run(backup.arg("--pgdata").arg(standby.data()));
        standby.resume();
        standby.wait_for_receiver(true);
        standby
    }

    /// Waits until this standby has replayed all that was committed on the primary so far.
    #[track_caller]
    pub fn catch_up_with(&self, primary: &Self) {
        let position = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        wait_until("the standby catches up", || self.psql("postgres", &sql) == "t");
    }

    /// From here on this standby receives nothing: what is now committed on the primary, promoting this one loses.
    pub fn stop_receiving(&self) {
        self.receive("");
        self.wait_for_receiver(false);
    }

    /// This standby receives from that server (again).
    pub fn receive_from(&self, primary: &Self) {
        self.receive(&format!("user=keys host={} port={}", primary.folder.path().display(), primary.port));
        self.wait_for_receiver(true);
    }

    fn receive(&self, from: &str) {
        self.psql("postgres", &format!("ALTER SYSTEM SET primary_conninfo = '{from}'"));
        self.psql("postgres", "SELECT pg_reload_conf()");
    }

    fn wait_for_receiver(&self, streaming: bool) {
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let any = "SELECT count(*) FROM pg_stat_wal_receiver";
        let (sql, count) = if streaming { (sql, "1") } else { (any, "0") };
        wait_until("the standby's receiver", || self.psql("postgres", sql) == count);
    }

    /// What this standby receives is not shown to readers until [`Self::resume_replay`].
    pub fn pause_replay(&self) {
        self.psql("postgres", "SELECT pg_wal_replay_pause()");
        let sql = "SELECT pg_get_wal_replay_pause_state()";
        wait_until("replay is paused", || self.psql("postgres", sql) == "paused");
    }

    /// It goes on.
    pub fn resume_replay(&self) {
        self.psql("postgres", "SELECT pg_wal_replay_resume()");
    }

    /// This standby becomes a primary, which takes writes.
    pub fn promote(&self) {
        run(self.command("pg_ctl").args(["promote", "--wait", "--pgdata"]).arg(self.data()));
    }

    /// Whether this server is a standby.
    pub fn is_standby(&self) -> bool {
        self.psql("postgres", "SELECT pg_is_in_recovery()") == "t"
    }
}
