//! The audit log's way out: a queue and a thread of its own, so that it loses nothing that the log may lose.
//!
//! Whoever begins a change takes a place first ([`AuditLog::reserve`]); the lines themselves are `tracing` events of the
//! target [`TARGET`], which a layer of their own writes into the queue, whatever the log's level is.  A line that the
//! operating system does not take stays at the head of the queue and is tried every second.
//!
//! Denials of strangers are merged ([`AuditLog::deny_stranger`]): the first of a kind is told at once, and those that
//! follow within a minute as one line with their count.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

/// The target of the audit log's events.
pub const TARGET: &str = "audit";

/// Lines that may wait, those included for which a place is taken.
const MAX_LINES: usize = 10_000;
/// Lines for which nobody took a place, such as that of a lock, may go beyond it, and not without an end.
const MAX_LINES_WITHOUT_PLACE: usize = 2 * MAX_LINES;
/// How long to wait before a line is tried again, and how often what was merged is looked at.
const RETRY: Duration = Duration::from_secs(1);
/// Denials of strangers within this time are one line.
const MERGED: Duration = Duration::from_secs(60);
/// How long an answer waits for its line.
const MAX_ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How long lines that wait may hold up the end of the process.
const MAX_CLOSE: Duration = Duration::from_secs(3);

/// The audit log.  Clones are the same log.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the thread that writes.
    wake: Condvar,
    /// How many lines were written.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Places that were taken for lines that did not come yet.
    reserved: usize,
    /// Lines that ever came.
    pushed: u64,
    lost: u64,
    strangers: HashMap<Denied, Merged>,
    /// Whether the file is to be opened anew.
    reopen: bool,
    close: Option<Instant>,
    is_closed: bool,
}

/// A kind of denial of somebody who showed no credential that counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Denied {
    /// What the line says.
    pub message: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// One word that says why.
    pub reason: &'static str,
    /// The configured user whose password was tried.
    pub user: Option<Arc<str>>,
}

#[derive(Debug)]
struct Merged {
    count: u64,
    /// The last address, and when the last line was written.
    address: Arc<str>,
    told: Instant,
}

/// A place in the queue, for one change; free again when it is dropped.
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
    /// The operating system says no.
    #[error("cannot open the audit log {}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// It is a link.
    #[error("the audit log {} is a symbolic link, which is not followed: name the file itself", .0.display())]
    Link(PathBuf),
    /// It is a folder, a device, a pipe.
    #[error("the audit log {} is not a regular file: without --audit-log its lines go to standard error", .0.display())]
    NotAFile(PathBuf),
    /// The operating system gives no thread.
    #[error("cannot start the thread that writes the audit log: {0}")]
    Thread(io::Error),
}

impl AuditLog {
    /// Begins to write to this file, or to standard error.
    ///
    /// # Errors
    /// [`AuditLogError`]: the file cannot be opened, or there is no thread.
    pub fn start(path: Option<&Path>) -> Result<Self, AuditLogError> {
        let sink = match path {
            Some(path) => Sink::File(AuditFile::open(path)?),
            None => Sink::StandardError { is_broken: false },
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
        Self(Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), written }))
    }

    /// A log that nobody reads, and that keeps nothing up.
    pub fn silent() -> Self {
        let log = Self::new();
        log.queue().is_closed = true;
        log
    }

    /// Takes a place for the line of one change; `None` when too many lines wait.
    pub fn reserve(&self) -> Option<Reservation> {
        let mut queue = self.queue();
        if queue.lines.len() + queue.reserved >= MAX_LINES {
            return None;
        }
        queue.reserved += 1;
        Some(Reservation(self.clone()))
    }

    /// Waits until the lines that came so far are written, for a second at most.
    pub async fn flush(&self) {
        let (pushed, mut written) = {
            let queue = self.queue();
            (if queue.is_closed { 0 } else { queue.pushed }, self.0.written.subscribe())
        };
        // Without it the line comes later: its place is taken.
        let _ = tokio::time::timeout(MAX_ANSWER_WAIT, written.wait_for(|written| *written >= pushed)).await;
    }

    /// Tells of a denial of somebody whom nobody knows, at once or merged with others of its kind.
    pub fn deny_stranger(&self, denied: &Denied, address: &Arc<str>) {
        let is_first = self.queue().merge(denied, address, Instant::now());
        if is_first {
            denied.tell(1, address);
        }
    }

    /// Has the file opened anew, as after it was moved away.
    pub fn reopen(&self) {
        self.queue().reopen = true;
        self.0.wake.notify_all();
    }

    /// Lines that wait to be written.
    pub fn waiting(&self) -> usize {
        self.queue().lines.len()
    }

    /// Lines that were lost.
    pub fn lost(&self) -> u64 {
        self.queue().lost
    }

    /// Tells what was merged, and waits for the lines to be written, for three seconds at most.
    pub fn close(&self) {
        let now = Instant::now();
        let merged: Vec<_> = self.queue().strangers.drain().filter(|(_, merged)| merged.count > 0).collect();
        for (denied, merged) in merged {
            denied.tell(merged.count, &merged.address);
        }
        let mut queue = self.queue();
        queue.close = Some(now + MAX_CLOSE);
        self.0.wake.notify_all();
        while !queue.is_closed && now.elapsed() < MAX_CLOSE {
            let waited = self.0.wake.wait_timeout(queue, MAX_CLOSE.saturating_sub(now.elapsed()));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, line: Vec<u8>) {
        let mut queue = self.queue();
        if queue.is_closed || queue.lines.len() >= MAX_LINES_WITHOUT_PLACE {
            queue.lost += 1;
            return;
        }
        queue.pushed += 1;
        queue.lines.push_back(line);
        self.0.wake.notify_all();
    }

    /// Nothing that holds the lock can panic half way through a change, so a poisoned one is as good as new.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether this denial is told at once: it is the first of its kind within a minute.
    fn merge(&mut self, denied: &Denied, address: &Arc<str>, now: Instant) -> bool {
        if let Some(merged) = self.strangers.get_mut(denied) {
            merged.count += 1;
            merged.address = Arc::clone(address);
            return false;
        }
        let merged = Merged { count: 0, address: Arc::clone(address), told: now };
        self.strangers.insert(denied.clone(), merged);
        true
    }

    /// What was merged for a minute, to be told now; a kind of which nothing came meanwhile is forgotten.
    fn due(&mut self, now: Instant) -> Vec<(Denied, u64, Arc<str>)> {
        let mut due = Vec::new();
        self.strangers.retain(|denied, merged| {
            if now.duration_since(merged.told) < MERGED {
                return true;
            }
            if merged.count == 0 {
                return false;
            }
            due.push((denied.clone(), merged.count, Arc::clone(&merged.address)));
            (merged.count, merged.told) = (0, now);
            true
        });
        due
    }
}

impl Denied {
    fn tell(&self, count: u64, address: &str) {
        let Self { message, status, reason, user } = self;
        tracing::warn!(
            target: TARGET,
            user = user.as_deref(),
            address,
            status,
            reason,
            // Whoever adds up lines multiplies by this.
            count = (count > 1).then_some(count),
            "{message}"
        );
    }
}

/// Takes the lines of the layer that writes the audit log's events.
impl<'w> MakeWriter<'w> for AuditLog {
    type Writer = LineWriter<'w>;

    fn make_writer(&'w self) -> LineWriter<'w> {
        LineWriter(self)
    }
}

/// Takes one whole line.
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

/// What the thread has.
struct Writer {
    log: AuditLog,
    sink: Sink,
    /// Whether the last try failed, which is told once.
    is_failing: bool,
}

impl Writer {
    fn run(mut self) {
        while let Some(line) = self.next() {
            match self.sink.write(&line) {
                Ok(()) => self.done(),
                Err(error) => {
                    self.failed(&error);
                    if self.rest() {
                        break;
                    }
                }
            }
        }
        self.log.queue().is_closed = true;
        self.log.0.wake.notify_all();
    }

    /// The line at the head of the queue, which stays there; `None` at the end.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut queue = self.log.queue();
            let due = queue.due(Instant::now());
            if !due.is_empty() {
                // To tell takes the lock.
                drop(queue);
                for (denied, count, address) in due {
                    denied.tell(count, &address);
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
            if queue.close.is_some() {
                return None;
            }
            drop(self.log.0.wake.wait_timeout(queue, RETRY).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn done(&mut self) {
        self.log.queue().lines.pop_front();
        self.log.0.written.send_modify(|written| *written += 1);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the audit log is written again");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(
                %error,
                "the audit log cannot be written: its lines wait and are tried every second; when {MAX_LINES} wait, \
                 changes are denied"
            );
        }
    }

    /// Waits before the next try.  Whether there is none, since the process ends.
    fn rest(&self) -> bool {
        let begun = Instant::now();
        let mut queue = self.log.queue();
        while begun.elapsed() < RETRY && !queue.reopen {
            if queue.close.is_some_and(|close| Instant::now() >= close) {
                queue.lost += u64::try_from(queue.lines.len()).unwrap_or(u64::MAX);
                return true;
            }
            let left = RETRY.saturating_sub(begun.elapsed());
            queue = self.log.0.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

/// Where lines go.
enum Sink {
    StandardError {
        /// Whether a part of a line was written: the next one begins on a line of its own.
        is_broken: bool,
    },
    File(AuditFile),
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::StandardError { is_broken } => {
                let mut stderr = io::stderr().lock();
                if *is_broken {
                    stderr.write_all(b"\n")?;
                    *is_broken = false;
                }
                *is_broken = true;
                stderr.write_all(line)?;
                *is_broken = false;
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

/// The file that the operator named.
struct AuditFile {
    path: PathBuf,
    file: File,
    /// How much of the line at the head was written: a full disk may have taken a part of it.
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

    /// Whether another file, or none, stands at the path.
    fn is_moved(&self) -> bool {
        let there =
            std::fs::symlink_metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        identity(&self.file) != there
    }

    /// Goes on in the file that stands at the path now; where there is none to be had, in the one that is open.
    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => {
                // A line of which a part stands in another file is written whole into this one.
                if identity(&file) != identity(&self.file) {
                    self.written = 0;
                }
                self.file = file;
            }
            Err(error) => tracing::error!(%error, "the audit log goes on in the file that was moved away"),
        }
    }
}

/// Device and inode: which file it is, whatever its name.
fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn open(path: &Path) -> Result<File, AuditLogError> {
    // A pipe that nobody reads must not hold the start up.
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

    fn denied(reason: &'static str, user: Option<&str>) -> Denied {
        Denied { message: "log-in denied", status: 401, reason, user: user.map(Arc::from) }
    }

    #[test]
    fn denials_of_one_kind_are_one_line_a_minute() {
        let mut queue = Queue::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let unknown = denied("wrong_password", None);
        let address: Arc<str> = "192.0.2.1:5".into();
        assert!(queue.merge(&unknown, &address, at(0)), "the first is told at once");
        for second in 1..60 {
            assert!(!queue.merge(&unknown, &"192.0.2.2:6".into(), at(second)));
        }
        assert!(queue.merge(&denied("wrong_password", Some("ada")), &address, at(1)), "another kind");
        assert!(queue.merge(&denied("cross_site", None), &address, at(1)), "another kind");
        assert!(queue.due(at(59)).is_empty());
        let due = queue.due(at(60));
        assert_eq!(due, [(unknown.clone(), 59, "192.0.2.2:6".into())]);
        assert!(queue.due(at(61)).is_empty());
        assert!(!queue.merge(&unknown, &address, at(62)));
        assert_eq!(queue.due(at(119)), []);
        assert_eq!(queue.due(at(120)), [(unknown.clone(), 1, Arc::clone(&address))]);
        assert_eq!(queue.due(at(180)), []);
        assert!(queue.strangers.is_empty(), "what does not come again is forgotten");
        assert!(queue.merge(&unknown, &address, at(181)));
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let log = AuditLog::new();
        let places: Vec<_> = (0..MAX_LINES).map(|_| log.reserve().expect("a place")).collect();
        assert!(log.reserve().is_none());
        drop(places);
        for _ in 0..MAX_LINES - 1 {
            log.push(b"x\n".to_vec());
        }
        let last = log.reserve().expect("a place");
        assert!(log.reserve().is_none());
        // A lock is told all the same.
        log.push(b"x\n".to_vec());
        assert_eq!((log.waiting(), log.lost()), (MAX_LINES, 0));
        drop(last);
        for _ in 0..MAX_LINES {
            log.push(b"x\n".to_vec());
        }
        log.push(b"x\n".to_vec());
        assert_eq!((log.waiting(), log.lost()), (MAX_LINES_WITHOUT_PLACE, 1));
    }

    #[test]
    fn a_file_is_opened_for_its_owner_alone_and_anew_when_it_was_moved() {
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
        // What stood there stays.
        AuditFile::open(&path).unwrap().write(b"four\n").unwrap();
        assert_eq!(read("audit.log"), "three\nfour\n");
    }

    #[test]
    fn what_is_no_file_is_named() {
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
