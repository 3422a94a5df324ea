//! What an operator does with a SQLite file past the program.  It is done by Python's own SQLite, which is another
//! build than ours.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::log::Log;
use super::server::{Ran, run};
use super::stored_keys;

/// Opens the file, which must be there, and waits for locks as long as a test waits.
const OPEN: &str = "import hashlib, pathlib, sqlite3, sys
database = sqlite3.connect(pathlib.Path(sys.argv[1]).as_uri() + '?mode=rw', uri=True, timeout=60, isolation_level=None)
";

/// Runs SQL, of which one statement may give rows: a row a line, columns parted by `|`.
#[track_caller]
pub fn sql(file: &Path, sql: &str) -> String {
    let rows = "for row in database.execute(sys.argv[2]): print(*row, sep='|')";
    python(file, rows, &[sql]).trim().to_owned()
}

/// Copies the database, whoever has it open, by SQLite's online backup.
#[track_caller]
pub fn online_backup(file: &Path, to: &Path) {
    python(file, "with sqlite3.connect(sys.argv[2]) as copy: database.backup(copy)", &[to]);
}

/// Puts the contents of a copy back into the database, whoever has it open, by SQLite's online backup.
#[track_caller]
pub fn online_restore(file: &Path, from: &Path) {
    python(file, "with sqlite3.connect(sys.argv[2]) as copy: copy.backup(database)", &[from]);
}

/// Copies the database, whoever has it open, by `VACUUM INTO`.
#[track_caller]
pub fn vacuum_into(file: &Path, to: &Path) {
    python(file, "database.execute('VACUUM INTO ?', [sys.argv[2]])", &[to]);
}

/// Puts another file in its place, as `mv` does; its `-wal` and `-shm` stay.
pub fn replace(file: &Path, by: &Path) {
    let beside = beside(file, ".new");
    fs::copy(by, &beside).expect("a copy of the other file");
    fs::rename(&beside, file).expect("a file in its place");
}

/// `rm FILE*`.
pub fn remove(file: &Path) {
    fs::remove_file(file).expect("the file is there");
    for suffix in ["-wal", "-shm"] {
        // They are there while somebody has it open.
        let _ = fs::remove_file(beside(file, suffix));
    }
}

/// Inserts so many live keys, whose tokens are those of [`stored_keys::token`].
#[track_caller]
pub fn insert_keys(file: &Path, keys: usize) {
    let script = "database.create_function('sha256', 1, lambda text: hashlib.sha256(text.encode()).digest())
database.execute(pathlib.Path(sys.argv[2]).read_text(), {'keys': int(sys.argv[3])})";
    python(file, script, &[stored_keys::statement("sqlite").as_os_str(), OsStr::new(&keys.to_string())]);
}

/// A transaction that holds the lock of all writers until it is dropped.
pub struct Transaction(std::process::Child);

impl Transaction {
    /// Begins it, and runs this in it.
    pub fn begin(file: &Path, sql: &str) -> Self {
        let script = "database.execute('BEGIN IMMEDIATE')\nfor sql in sys.argv[2:]: database.execute(sql)
print('begun', flush=True)\nsys.stdin.read()";
        let mut command = command(file, script);
        command.args((!sql.is_empty()).then_some(sql));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let log = Log::of("the transaction", &mut child);
        let transaction = Self(child);
        log.wait_for("saying that it has begun", |line| (line == "begun").then_some(()));
        transaction
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

fn command(file: &Path, script: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-Ssc", &format!("{OPEN}{script}")]).arg(file);
    command
}

#[track_caller]
fn python<S: AsRef<OsStr>>(file: &Path, script: &str, arguments: &[S]) -> String {
    let mut command = command(file, script);
    command.args(arguments);
    let Ran { status, stdout, stderr } = run(command, "");
    assert!(status.success(), "{}: {stderr}", file.display());
    stdout
}
