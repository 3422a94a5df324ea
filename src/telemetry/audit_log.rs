//! The writer of the audit log: a bounded queue and a thread that writes it to a file or to standard error.
//!
//! Unlike the ordinary log, the audit log drops no line of a change.  A change reserves its place in the queue before
//! it starts ([`AuditLog::reserve`]), and is denied when the queue is full.  The lines are `tracing` events with the
//! target [`TARGET`]; a layer of `tracing-subscriber` writes them into the queue, whatever the log level is.  A line
//! that the operating system does not accept stays at the head of the queue and is retried every second.
//!
//! Denials of unauthenticated callers are merged ([`AuditLog::log_unauthenticated`]), so that clients cannot fill the
//! log without a credential: the first denial of a kind is written at once, the further ones of the same minute are
//! written as one line with a count.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

use crate::file_problem::Unwritable;
use crate::person::ProviderName;

/// The target of the audit log's events.
pub const TARGET: &str = "audit";

/// How many lines may wait to be written, reservations included.
const MAX_LINES: usize = 10_000;
/// The limit for lines without a reservation, such as the line about a locked user.
const MAX_UNRESERVED_LINES: usize = 2 * MAX_LINES;
/// How often a failed line is retried, and how often merged denials are checked.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Denials of one kind within this time are merged into one line.
const MERGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a response waits for its line to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the process waits for the queue at its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The audit log.  Clones are the same log.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<LineQueue>,
    /// Wakes the writer thread.
    wake: Condvar,
    /// The number of lines written so far.
    written: watch::Sender<u64>,
    /// The number of denials whose row is not in the store.
    rows_not_stored: AtomicU64,
}

#[derive(Debug, Default)]
struct LineQueue {
    lines: VecDeque<Vec<u8>>,
    /// Reservations that are held.
    reserved: usize,
    /// The number of lines queued so far.
    pushed: u64,
    /// The number of lines dropped so far.
    lost: u64,
    unauthenticated: HashMap<UnauthenticatedAttempt, MergedDenials>,
    /// Whether the writer must reopen the file.
    reopen: bool,
    /// Until when the writer retries after [`AuditLog::close`].
    close_deadline: Option<Instant>,
    /// Whether the writer has stopped.
    is_closed: bool,
}

/// A denial of an unauthenticated caller.  Equal denials are merged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnauthenticatedAttempt {
    /// The message of the line.
    pub message: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The reason, one word.
    pub reason: &'static str,
    /// The user of the attempt, by password or from a provider.
    pub user: Option<Arc<str>>,
    /// The provider of a log-in.
    pub source: Option<ProviderName>,
}

#[derive(Debug)]
struct MergedDenials {
    count: u64,
    /// The address of the last denial.
    address: Arc<str>,
    /// When the last line of this kind was written.
    logged_at: Instant,
}

/// A place in the queue for the line of one change.  It is released on drop.
#[derive(Debug)]
pub struct Reservation(AuditLog);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.queue().reserved -= 1;
    }
}

/// Why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditLogError {
    /// The file cannot be opened.
    #[error("cannot open the audit log {}: {}", path.display(), Unwritable(.error))]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        error: io::Error,
    },
    /// The path is a symbolic link.
    #[error("the audit log {} is a symbolic link, which is not followed: name the file itself", .0.display())]
    Link(PathBuf),
    /// The path is a folder, a device or a pipe.
    #[error("the audit log {} is not a regular file: name a file, or leave --audit-log out to write the lines to \
        standard error", .0.display())]
    NotAFile(PathBuf),
    /// The writer thread cannot be started.
    #[error("cannot start the thread that writes the audit log: {0}")]
    Thread(#[source] io::Error),
}

impl AuditLog {
    /// Starts the writer thread, which appends to this file, or writes to standard error without one.
    ///
    /// # Errors
    /// [`AuditLogError`]: the file cannot be opened, or the thread cannot be started.
    pub fn start(path: Option<&Path>) -> Result<Self, AuditLogError> {
        let sink = match path {
            Some(path) => Sink::File(AuditFile::open(path)?),
            None => Sink::StandardError { is_partial: false },
        };
        let log = Self::new();
        let writer = Writer { log: log.clone(), sink, is_failing: false };
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditLogError::Thread)?;
        Ok(log)
    }

    fn new() -> Self {
        let written = watch::Sender::new(0);
        let rows_not_stored = AtomicU64::new(0);
        Self(Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), written, rows_not_stored }))
    }

    /// A log that discards every line, for tests.
    pub fn silent() -> Self {
        let log = Self::new();
        log.queue().is_closed = true;
        log
    }

    /// Reserves a place for the line of one change; `None` when the queue is full.
    pub fn reserve(&self) -> Option<Reservation> {
        let mut queue = self.queue();
        if queue.lines.len() + queue.reserved >= MAX_LINES {
            return None;
        }
        queue.reserved += 1;
        Some(Reservation(self.clone()))
    }

    /// Waits until the lines queued so far are written, for a second at most.
    pub async fn flush(&self) {
        let (pushed, mut written) = {
            let queue = self.queue();
            (if queue.is_closed { 0 } else { queue.pushed }, self.0.written.subscribe())
        };
        // After the timeout the line is still queued, and will be written later.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, written.wait_for(|written| *written >= pushed)).await;
    }

    /// Logs the denial of an unauthenticated caller, at once or merged with equal ones.
    pub fn log_unauthenticated(&self, denial: &UnauthenticatedAttempt, address: &Arc<str>) {
        let is_first = self.queue().merge(denial, address, Instant::now());
        if is_first {
            denial.log(1, address);
        }
    }

    /// Reopens the file, for log rotation.
    pub fn reopen(&self) {
        self.queue().reopen = true;
        self.0.wake.notify_all();
    }

    /// The number of lines that wait to be written.
    pub fn waiting(&self) -> usize {
        self.queue().lines.len()
    }

    /// The number of lines that were dropped.
    pub fn lost(&self) -> u64 {
        self.queue().lost
    }

    /// Logs the merged denials and waits until all lines are written, for three seconds at most.
    pub fn close(&self) {
        let now = Instant::now();
        let merged: Vec<_> =
            self.queue().unauthenticated.drain().filter(|(_, merged)| merged.count > 0).collect();
        for (denial, merged) in merged {
            denial.log(merged.count, &merged.address);
        }
        let mut queue = self.queue();
        queue.close_deadline = Some(now + CLOSE_TIMEOUT);
        self.0.wake.notify_all();
        while !queue.is_closed && now.elapsed() < CLOSE_TIMEOUT {
            let waited = self.0.wake.wait_timeout(queue, CLOSE_TIMEOUT.saturating_sub(now.elapsed()));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts denials that are in this log but not in the store.
    pub fn count_rows_not_stored(&self, count: u64) {
        self.0.rows_not_stored.fetch_add(count, Ordering::Relaxed);
    }

    /// The number of denials that are in this log but not in the store.
    pub fn rows_not_stored(&self) -> u64 {
        self.0.rows_not_stored.load(Ordering::Relaxed)
    }

    fn push(&self, line: Vec<u8>) {
        let mut queue = self.queue();
        if queue.is_closed || queue.lines.len() >= MAX_UNRESERVED_LINES {
            queue.lost += 1;
            return;
        }
        queue.pushed += 1;
        queue.lines.push_back(line);
        self.0.wake.notify_all();
    }

    /// A poisoned lock is used all the same: no holder can panic in the middle of a change to the queue.
    fn queue(&self) -> MutexGuard<'_, LineQueue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineQueue {
    /// Counts a denial.  Whether it is the first of its kind, which is logged at once.
    fn merge(&mut self, denial: &UnauthenticatedAttempt, address: &Arc<str>, now: Instant) -> bool {
        if let Some(merged) = self.unauthenticated.get_mut(denial) {
            merged.count += 1;
            merged.address = Arc::clone(address);
            return false;
        }
        let merged = MergedDenials { count: 0, address: Arc::clone(address), logged_at: now };
        self.unauthenticated.insert(denial.clone(), merged);
        true
    }

    /// The merged denials whose minute is over, with their counts.  A kind without a new denial is removed.
    fn due(&mut self, now: Instant) -> Vec<(UnauthenticatedAttempt, u64, Arc<str>)> {
        let mut due = Vec::new();
        self.unauthenticated.retain(|denial, merged| {
            if now.duration_since(merged.logged_at) < MERGE_INTERVAL {
                return true;
            }
            if merged.count == 0 {
                return false;
            }
            due.push((denial.clone(), merged.count, Arc::clone(&merged.address)));
            (merged.count, merged.logged_at) = (0, now);
            true
        });
        due
    }
}

impl UnauthenticatedAttempt {
    fn log(&self, count: u64, address: &str) {
        let Self { message, status, reason, user, source } = self;
        tracing::warn!(
            target: TARGET,
            user = user.as_deref(),
            source = source.as_ref().map(ProviderName::as_str),
            address,
            status,
            reason,
            // How many denials the line stands for, where it is more than one.
            count = (count > 1).then_some(count),
            "{message}"
        );
    }
}

/// The layer of `tracing-subscriber` writes its lines into the queue.
impl<'w> MakeWriter<'w> for AuditLog {
    type Writer = LineWriter<'w>;

    fn make_writer(&'w self) -> LineWriter<'w> {
        LineWriter(self)
    }
}

/// Queues what is written to it: one `write` is one whole line.
#[derive(Debug)]
pub struct LineWriter<'w>(&'w AuditLog);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The state of the writer thread.
struct Writer {
    log: AuditLog,
    sink: Sink,
    /// Whether the last write failed.  The first failure is logged, and the first success after it.
    is_failing: bool,
}

impl Writer {
    fn run(mut self) {
        while let Some(line) = self.next() {
            match self.sink.write(&line) {
                Ok(()) => self.record_success(),
                Err(error) => {
                    self.record_failure(&error);
                    if self.wait_for_retry().is_none() {
                        break;
                    }
                }
            }
        }
        self.log.queue().is_closed = true;
        self.log.0.wake.notify_all();
    }

    /// Waits for the line at the head of the queue, which stays there until it is written; `None` after `close`.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut queue = self.log.queue();
            let due = queue.due(Instant::now());
            if !due.is_empty() {
                // Logging locks the queue.
                drop(queue);
                for (denial, count, address) in due {
                    denial.log(count, &address);
                }
                continue;
            }
            if std::mem::take(&mut queue.reopen) {
                drop(queue);
                self.sink.reopen();
                continue;
            }
            if let Some(line) = queue.lines.front() {
                return Some(line.clone());
            }
            if queue.close_deadline.is_some() {
                return None;
            }
            drop(self.log.0.wake.wait_timeout(queue, RETRY_INTERVAL).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn record_success(&mut self) {
        self.log.queue().lines.pop_front();
        self.log.0.written.send_modify(|written| *written += 1);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the audit log is written again");
        }
    }

    fn record_failure(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(
                %error,
                "the audit log cannot be written: its lines wait and are tried every second; when {MAX_LINES} wait, \
                 changes are denied"
            );
        }
    }

    /// Waits until the line is to be retried; `None` when the process ends and does not wait any longer.
    fn wait_for_retry(&self) -> Option<()> {
        let started = Instant::now();
        let mut queue = self.log.queue();
        while started.elapsed() < RETRY_INTERVAL && !queue.reopen {
            if queue.close_deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                queue.lost += u64::try_from(queue.lines.len()).unwrap_or(u64::MAX);
                return None;
            }
            let left = RETRY_INTERVAL.saturating_sub(started.elapsed());
            queue = self.log.0.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(())
    }
}

/// Where the lines are written.
enum Sink {
    StandardError {
        /// Whether the last write failed half way: a newline is written before the next line.
        is_partial: bool,
    },
    File(AuditFile),
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::StandardError { is_partial } => {
                let mut stderr = io::stderr().lock();
                if *is_partial {
                    stderr.write_all(b"\n")?;
                    *is_partial = false;
                }
                *is_partial = true;
                stderr.write_all(line)?;
                *is_partial = false;
                Ok(())
            }
            Self::File(file) => file.write(line),
        }
    }

    fn reopen(&mut self) {
        match self {
            Self::StandardError { .. } => {}
            Self::File(file) => file.reopen(),
        }
    }
}

/// The file of `--audit-log`.
struct AuditFile {
    path: PathBuf,
    file: File,
    /// How many bytes of the line at the head were written: a full disk may accept a part of it.
    written: usize,
}

impl AuditFile {
    fn open(path: &Path) -> Result<Self, AuditLogError> {
        Ok(Self { path: path.to_owned(), file: open(path)?, written: 0 })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_moved() {
            self.reopen();
        }
        while self.written < line.len() {
            match self.file.write(&line[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written = 0;
        Ok(())
    }

    /// Whether the path names another file by now, or none.
    fn is_moved(&self) -> bool {
        let current =
            std::fs::symlink_metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        identity(&self.file) != current
    }

    /// Opens the path again.  When that fails, the open file is kept.
    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => {
                // A line that was partly written to the old file is written whole to the new one.
                if identity(&file) != identity(&self.file) {
                    self.written = 0;
                }
                self.file = file;
            }
            Err(error) => tracing::error!(%error, "the audit log continues in the file that was moved away"),
        }
    }
}

/// Device and inode, which identify a file whatever its name.
fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn open(path: &Path) -> Result<File, AuditLogError> {
    // Without NONBLOCK the opening of a pipe waits for a reader.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("Linux's flags fit into an int");
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(_) if path.is_symlink() => return Err(AuditLogError::Link(path.to_owned())),
        Err(error) => return Err(AuditLogError::Open { path: path.to_owned(), error }),
    };
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(AuditLogError::NotAFile(path.to_owned())),
        Err(error) => Err(AuditLogError::Open { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(reason: &'static str, user: Option<&str>) -> UnauthenticatedAttempt {
        UnauthenticatedAttempt {
            message: "log-in denied",
            status: 401,
            reason,
            user: user.map(Arc::from),
            source: None,
        }
    }

    #[test]
    fn denials_of_one_kind_are_one_line_a_minute() {
        let mut queue = LineQueue::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let unknown = denial("wrong_password", None);
        let address: Arc<str> = "192.0.2.1:5".into();
        assert!(queue.merge(&unknown, &address, at(0)), "the first is logged at once");
        for second in 1..60 {
            assert!(!queue.merge(&unknown, &"192.0.2.2:6".into(), at(second)));
        }
        assert!(queue.merge(&denial("wrong_password", Some("ada")), &address, at(1)), "another kind");
        assert!(queue.merge(&denial("cross_site", None), &address, at(1)), "another kind");
        assert!(queue.due(at(59)).is_empty());
        let due = queue.due(at(60));
        assert_eq!(due, [(unknown.clone(), 59, "192.0.2.2:6".into())]);
        assert!(queue.due(at(61)).is_empty());
        assert!(!queue.merge(&unknown, &address, at(62)));
        assert_eq!(queue.due(at(119)), []);
        assert_eq!(queue.due(at(120)), [(unknown.clone(), 1, Arc::clone(&address))]);
        assert_eq!(queue.due(at(180)), []);
        assert!(queue.unauthenticated.is_empty(), "a kind without a new denial is removed");
        assert!(queue.merge(&unknown, &address, at(181)));
    }

    #[test]
    fn reservations_are_bounded_and_released_on_drop() {
        let log = AuditLog::new();
        let reservations: Vec<_> = (0..MAX_LINES).map(|_| log.reserve().expect("a reservation")).collect();
        assert!(log.reserve().is_none());
        drop(reservations);
        for _ in 0..MAX_LINES - 1 {
            log.push(b"x\n".to_vec());
        }
        let last = log.reserve().expect("a reservation");
        assert!(log.reserve().is_none());
        // A line without a reservation is queued all the same.
        log.push(b"x\n".to_vec());
        assert_eq!((log.waiting(), log.lost()), (MAX_LINES, 0));
        drop(last);
        for _ in 0..MAX_LINES {
            log.push(b"x\n".to_vec());
        }
        log.push(b"x\n".to_vec());
        assert_eq!((log.waiting(), log.lost()), (MAX_UNRESERVED_LINES, 1));
    }

    #[test]
    fn the_file_is_readable_by_its_owner_alone_and_is_reopened_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = AuditFile::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        file.write(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        file.write(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write(b"three\n").unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("old"), read("audit.log")), ("one\n".to_owned(), "three\n".to_owned()));
        // Existing lines stay.
        AuditFile::open(&path).unwrap().write(b"four\n").unwrap();
        assert_eq!(read("audit.log"), "three\nfour\n");
    }

    #[test]
    fn a_path_that_is_not_a_regular_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
        for (path, expected) in [
            (at("link"), "is a symbolic link"),
            (at("pipe"), "pipe"),
            (at("no/such/folder"), "No such file"),
            (folder.path().to_owned(), "Is a directory"),
            ("/dev/null".into(), "is not a regular file"),
        ] {
            let error = AuditLog::start(Some(&path)).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", path.display());
        }
        assert!(!at("target").exists());
    }
}
