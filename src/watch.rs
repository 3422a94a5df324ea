//! A watcher that waits until files change.
//!
//! An event means that a file may have changed; the content decides whether it has.  Folders are watched, not
//! files: when a file is replaced (by an editor's or `mv`'s rename, or by Kubernetes' swap of the link `..data`),
//! a watch on the file stays with the old one.  The content is also read at a long interval, because some file
//! systems, such as those of a network, send no events.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::config::Files;

/// Events that follow each other within this time belong together …
const QUIET_INTERVAL: Duration = Duration::from_millis(100);
/// … until this long after the first one.
const MAX_SETTLING_TIME: Duration = Duration::from_secs(2);
/// A file is read when it was not written to for this long …
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);
/// … and after this long in any case.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the content is compared when there are events …
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// … and when the system gives none.
const POLL_INTERVAL_WITHOUT_EVENTS: Duration = Duration::from_secs(10);
/// The number of links that Linux follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Waits for changes of files.
pub struct Watch {
    /// `None`: the operating system gives no events.
    watcher: Option<RecommendedWatcher>,
    /// The folders that are watched, each with its identity when the watch was set.
    watched: BTreeMap<PathBuf, FolderIdentity>,
    /// Folders that cannot be watched, so that each is logged once.
    unwatched: BTreeSet<PathBuf>,
    /// How often the content is compared when there are no events.
    poll_interval_without_events: Duration,
    calls: Arc<Calls>,
}

/// Device and inode, which identify a folder whatever its name.
type FolderIdentity = (u64, u64);

/// Ends the waits of a [`Watch`] from another thread.  When it is dropped, every wait ends.
#[derive(Debug)]
pub struct WatchHandle(Arc<Calls>);

/// Why a wait may end, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Stop,
    Force,
    Event,
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The content of a file has changed.
    Changed,
    /// The caller forced it.
    Forced,
    /// The caller stopped the watch, or was dropped.
    Stopped,
}

impl WatchHandle {
    /// Ends the current wait, or the next one, with [`Cause::Forced`].
    pub fn force(&self) {
        self.0.send(Call::Force);
    }

    /// Ends every wait with [`Cause::Stopped`].
    pub fn stop(&self) {
        self.0.send(Call::Stop);
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Pending calls.  They are a set, so that calls without a receiver do not pile up.
#[derive(Debug, Default)]
struct Calls {
    pending: Mutex<BTreeSet<Call>>,
    called: Condvar,
}

impl Calls {
    fn send(&self, call: Call) {
        // Nothing that holds the lock can panic.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
        self.called.notify_one();
    }

    /// The most urgent call; `None` after this wait without one.
    fn next(&self, wait: Duration) -> Option<Call> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.called.wait_timeout_while(pending, wait, |pending| pending.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_first()
    }
}

impl Watch {
    /// A watch without folders yet, and the handle that ends its waits.
    pub fn new() -> (Self, WatchHandle) {
        let calls = Arc::new(Calls::default());
        let events = Arc::clone(&calls);
        let on_event = move |event: notify::Result<Event>| {
            // An error may hide an event.
            if event.as_ref().map_or(true, may_be_a_change) {
                events.send(Call::Event);
            }
        };
        let watcher = notify::recommended_watcher(on_event).inspect_err(|error| {
            let every = POLL_INTERVAL_WITHOUT_EVENTS.as_secs();
            tracing::warn!(%error, "file events are not available: files are read every {every} s instead");
        });
        let (watched, unwatched) = (BTreeMap::new(), BTreeSet::new());
        let (watcher, poll_interval_without_events) = (watcher.ok(), POLL_INTERVAL_WITHOUT_EVENTS);
        let watch =
            Self { watcher, watched, unwatched, poll_interval_without_events, calls: Arc::clone(&calls) };
        (watch, WatchHandle(calls))
    }

    /// Blocks this thread until the content of a file differs from what was read of it, or the handle ends the wait.
    pub fn wait(&mut self, files: &Files) -> Cause {
        loop {
            if let Some(cause) = self.poll(files) {
                return cause;
            }
        }
    }

    /// Compares the files once and, if they are unchanged, waits for a call or for the time of the next comparison.
    /// `None`: there is no cause to end the wait.
    fn poll(&mut self, files: &Files) -> Option<Cause> {
        // The folders are watched before the content is compared, so that no change in between is lost.
        self.follow(files);
        let called = if files.have_changed() { Some(Cause::Changed) } else { self.next_call() };
        let cause = self.settle(called?, files);
        // The same content may have been written again.
        (cause != Cause::Changed || files.have_changed()).then_some(cause)
    }

    /// Waits until the files no longer change.  Returns the most urgent cause up to then.
    fn settle(&self, mut cause: Cause, files: &Files) -> Cause {
        let started = Instant::now();
        let mut stamps = files.stamps();
        while cause != Cause::Stopped && started.elapsed() < SETTLE_TIMEOUT {
            let until = Instant::now() + SETTLE_INTERVAL;
            loop {
                match self.calls.next(until.saturating_duration_since(Instant::now())) {
                    Some(Call::Stop) => return Cause::Stopped,
                    Some(Call::Force) => cause = Cause::Forced,
                    Some(Call::Event) => {}
                    None => break,
                }
            }
            let later = files.stamps();
            if later == stamps {
                break;
            }
            stamps = later;
        }
        cause
    }

    /// Waits for the next call that is more than an event; `None` when it is time to compare the content.
    fn next_call(&self) -> Option<Cause> {
        let has_events = self.watcher.is_some() && self.unwatched.is_empty();
        let mut wait = if has_events { POLL_INTERVAL } else { self.poll_interval_without_events };
        let mut unrest = None;
        loop {
            match self.calls.next(wait) {
                Some(Call::Force) => return Some(Cause::Forced),
                Some(Call::Stop) => return Some(Cause::Stopped),
                None => return None,
                Some(Call::Event) => {
                    let until = *unrest.get_or_insert_with(|| Instant::now() + MAX_SETTLING_TIME);
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    wait = QUIET_INTERVAL.min(left);
                }
            }
        }
    }

    /// Watches the folders whose entries lead to these files now, and no others.
    fn follow(&mut self, files: &Files) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let wanted: BTreeSet<PathBuf> = files.paths().flat_map(folders).collect();
        let (watched, unwatched) = (&mut self.watched, &mut self.unwatched);
        watched.retain(|folder, identity| {
            let stays = wanted.contains(folder) && identity_of(folder) == Some(*identity);
            if !stays {
                // The operating system may have forgotten it already, with the folder.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        unwatched.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            // The folder may be removed at any time: its parent is watched, too, and reports that.
            let Some(identity) = identity_of(&folder).filter(|_| !watched.contains_key(&folder)) else {
                continue;
            };
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    unwatched.remove(&folder);
                    watched.insert(folder, identity);
                }
                Err(error) => {
                    if unwatched.insert(folder.clone()) {
                        let every = POLL_INTERVAL_WITHOUT_EVENTS.as_secs();
                        tracing::warn!(
                            folder = %folder.display(),
                            %error,
                            "cannot watch a folder: its files are read every {every} s instead"
                        );
                    }
                }
            }
        }
    }
}

/// Whether the content of a file may have changed.  Our own reading is an event, too, and changes nothing.
fn may_be_a_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

fn identity_of(folder: &Path) -> Option<FolderIdentity> {
    let metadata = std::fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The folders whose entries decide where this path leads: that of the file, that of every link on the way, and
/// where the path breaks off, that in which the next component is missing.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else {
        return folders;
    };
    let mut here = PathBuf::from("/");
    let mut rest = components_of(&path);
    let mut links = 0;
    while let Some(component) = rest.pop() {
        if component == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&component);
        let target = std::fs::read_link(&next).ok().filter(|_| links < MAX_LINKS);
        match target {
            Some(target) => {
                links += 1;
                folders.insert(here.clone());
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(components_of(&target));
            }
            None if rest.is_empty() || !next.exists() => {
                folders.insert(here);
                return folders;
            }
            None => here = next,
        }
    }
    folders
}

/// The components of a path, the first one last.
fn components_of(path: &Path) -> Vec<OsString> {
    let steps = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder whose own path has no links.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        (folder, path)
    }

    #[test]
    fn without_events_the_content_is_looked_at_all_the_same() {
        let (_folder, root) = folder();
        let path = root.join("config.yaml");
        std::fs::write(&path, "tokens: [{token: a-token-0123456789, actor: {id: a}}]").unwrap();
        let files =
            crate::config::Config::load_recording_files(&path, crate::config::PipeHandling::Read).files;
        let (watched, unwatched) = (BTreeMap::new(), BTreeSet::new());
        let poll_interval_without_events = Duration::from_millis(1);
        let mut watch =
            Watch { watcher: None, watched, unwatched, poll_interval_without_events, calls: Arc::default() };
        assert_eq!(watch.poll(&files), None, "the files are as they were read");
        std::fs::write(&path, "tokens: []").unwrap();
        assert_eq!(watch.poll(&files), Some(Cause::Changed));
    }

    #[test]
    fn calls_without_a_receiver_do_not_pile_up_and_the_most_urgent_comes_first() {
        let calls = Arc::new(Calls::default());
        let handle = WatchHandle(Arc::clone(&calls));
        for _ in 0..1_000 {
            calls.send(Call::Event);
            handle.force();
        }
        drop(handle);
        let heard: Vec<_> = std::iter::from_fn(|| calls.next(Duration::ZERO)).collect();
        assert_eq!(heard, [Call::Stop, Call::Force, Call::Event]);
    }

    #[test]
    fn our_own_reading_is_no_change_and_every_writing_is() {
        use notify::event::{CreateKind, ModifyKind, RemoveKind};
        let is_one = |kind| may_be_a_change(&Event::new(kind));
        assert!(!is_one(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_one(EventKind::Access(AccessKind::Read)));
        for kind in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::Any),
            EventKind::Modify(ModifyKind::Any),
            EventKind::Remove(RemoveKind::Any),
            EventKind::Other,
        ] {
            assert!(is_one(kind), "{kind:?}");
        }
    }

    #[test]
    fn every_folder_on_the_way_through_links_counts() {
        let (_folder, root) = folder();
        let found = |path: &Path| folders(path).into_iter().collect::<Vec<_>>();
        // As Kubernetes mounts a ConfigMap, and a link from elsewhere to it.
        for folder in ["volume", "volume/..1", "elsewhere"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("volume/..1/config.yaml"), "").unwrap();
        symlink("..1", root.join("volume/..data")).unwrap();
        symlink("..data/config.yaml", root.join("volume/config.yaml")).unwrap();
        symlink("../volume/config.yaml", root.join("elsewhere/config.yaml")).unwrap();
        assert_eq!(found(&root.join("volume/..1/config.yaml")), [root.join("volume/..1")]);
        let volume = [root.join("volume"), root.join("volume/..1")];
        assert_eq!(found(&root.join("volume/config.yaml")), volume);
        let all = [root.join("elsewhere"), root.join("volume"), root.join("volume/..1")];
        assert_eq!(found(&root.join("elsewhere/config.yaml")), all);
        assert_eq!(found(&root.join("elsewhere/.././elsewhere/config.yaml")), all);
    }

    #[test]
    fn where_the_way_ends_the_last_folder_counts() {
        let (_folder, root) = folder();
        let found = |path: &str| folders(&root.join(path)).into_iter().collect::<Vec<_>>();
        assert_eq!(found("none"), [root.as_path()]);
        assert_eq!(found("none/at/all"), [root.as_path()]);
        symlink("nowhere/x", root.join("dangling")).unwrap();
        assert_eq!(found("dangling"), [root.as_path()]);
        symlink("circle", root.join("circle")).unwrap();
        assert_eq!(found("circle"), [root.as_path()]);
    }
}
