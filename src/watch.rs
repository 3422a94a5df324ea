//! Hears of changed files.
//!
//! Events say that something may have happened; whether it has is decided by the files' content.  Watched are
//! folders, never files: a file that is replaced (an editor's or `mv`'s rename, Kubernetes' swap of the link
//! `..data`) leaves a watch on the old one behind.  A slow look at the content finds what events did not tell,
//! as on a network's file system.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::config::Files;

/// Whoever writes files is done when nothing has happened for so long …
const QUIET: Duration = Duration::from_millis(100);
/// … and somebody who is never done is not waited for any longer than this.
const LONGEST_UNREST: Duration = Duration::from_secs(2);
/// A file is read once nothing has been written to it for so long …
const STILL: Duration = Duration::from_millis(100);
/// … but at the latest after this.
const MAX_SETTLING: Duration = Duration::from_secs(30);
/// How often the content is looked at when there are events …
const LOOK: Duration = Duration::from_secs(30);
/// … and when there are none to be had.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_secs(10);
/// As many links as Linux follows in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Waits for changes of files.
pub struct Watch {
    /// `None`: the operating system gives no events.
    watcher: Option<RecommendedWatcher>,
    /// The folders that are watched, each with what it was when that began.
    watched: BTreeMap<PathBuf, FolderIdentity>,
    /// Folders that cannot be watched, so that it is said once.
    unwatched: BTreeSet<PathBuf>,
    /// How often the content is looked at when there are no events.
    look_without_events: Duration,
    calls: Arc<Calls>,
}

/// Device and inode: which folder it is, whatever its name.
type FolderIdentity = (u64, u64);

/// Calls whoever waits at a [`Watch`].
/// Dropped, it ends every wait.
#[derive(Debug)]
pub struct Caller(Arc<Calls>);

/// The most urgent one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Stop,
    Force,
    Event,
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A file's content is another one.
    Changed,
    /// Somebody asked, whatever the files say.
    Forced,
    /// Nobody wants to know any more.
    Stopped,
}

impl Caller {
    /// Ends the present wait, or the next one, as if a file had changed.
    pub fn force(&self) {
        self.0.send(Call::Force);
    }

    /// Ends every wait.
    pub fn stop(&self) {
        self.0.send(Call::Stop);
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Calls that were not heard yet.  No queue: however many come while nobody listens, each is one.
#[derive(Debug, Default)]
struct Calls {
    unheard: Mutex<BTreeSet<Call>>,
    called: Condvar,
}

impl Calls {
    fn send(&self, call: Call) {
        // Nothing that holds the lock can panic.
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
        self.called.notify_one();
    }

    /// The most urgent call; `None` when there was none for so long.
    fn next(&self, wait: Duration) -> Option<Call> {
        let unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.called.wait_timeout_while(unheard, wait, |unheard| unheard.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_first()
    }
}

impl Watch {
    /// A watch that watches nothing yet, and what calls whoever waits at it.
    pub fn new() -> (Self, Caller) {
        let calls = Arc::new(Calls::default());
        let events = Arc::clone(&calls);
        let tell = move |event: notify::Result<Event>| {
            // An error may hide an event.
            if event.as_ref().map_or(true, may_be_a_change) {
                events.send(Call::Event);
            }
        };
        let watcher = notify::recommended_watcher(tell).inspect_err(|error| {
            let every = LOOK_WITHOUT_EVENTS.as_secs();
            tracing::warn!(%error, "no events of files are to be had: they are read every {every} s instead");
        });
        let (watched, unwatched) = (BTreeMap::new(), BTreeSet::new());
        let (watcher, look_without_events) = (watcher.ok(), LOOK_WITHOUT_EVENTS);
        let watch = Self { watcher, watched, unwatched, look_without_events, calls: Arc::clone(&calls) };
        (watch, Caller(calls))
    }

    /// Waits, on this thread, until the files say something else than what was read of them.
    pub fn wait(&mut self, files: &Files) -> Cause {
        loop {
            if let Some(cause) = self.look(files) {
                return cause;
            }
        }
    }

    /// Looks at the files once and, where they are as they were, waits for a call or the time of the next look.
    /// `None`: there is no cause to end the wait.
    fn look(&mut self, files: &Files) -> Option<Cause> {
        // In this order no change is lost: what comes after the look is an event.
        self.follow(files);
        let called = if files.have_changed() { Some(Cause::Changed) } else { self.next_call() };
        let cause = self.settle(called?, files);
        // The same content may have been written again.
        (cause != Cause::Changed || files.have_changed()).then_some(cause)
    }

    /// Waits until nobody writes to the files any more.  Gives back the most urgent cause by then.
    fn settle(&self, mut cause: Cause, files: &Files) -> Cause {
        let begun = Instant::now();
        let mut stamps = files.stamps();
        while cause != Cause::Stopped && begun.elapsed() < MAX_SETTLING {
            let until = Instant::now() + STILL;
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

    /// The next call that is more than an event; `None` when it is time to look.
    fn next_call(&self) -> Option<Cause> {
        let has_events = self.watcher.is_some() && self.unwatched.is_empty();
        let mut wait = if has_events { LOOK } else { self.look_without_events };
        let mut unrest = None;
        loop {
            match self.calls.next(wait) {
                Some(Call::Force) => return Some(Cause::Forced),
                Some(Call::Stop) => return Some(Cause::Stopped),
                None => return None,
                Some(Call::Event) => {
                    let until = *unrest.get_or_insert_with(|| Instant::now() + LONGEST_UNREST);
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    wait = QUIET.min(left);
                }
            }
        }
    }

    /// Watches the folders on whose entries these files depend now, and no others.
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
            // It may go at any time: then its parent tells of that.
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
                        let every = LOOK_WITHOUT_EVENTS.as_secs();
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

/// Whether a file may say something else after this.  Our own reading is an event, too.
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

/// The folders in which an entry decides what this path leads to: that of the file, that of every link on the way,
/// and where the way ends, that in which the next step is missing.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else {
        return folders;
    };
    let mut here = PathBuf::from("/");
    let mut steps = steps_of(&path);
    let mut links = 0;
    while let Some(step) = steps.pop() {
        if step == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&step);
        let target = std::fs::read_link(&next).ok().filter(|_| links < MOST_LINKS);
        match target {
            Some(target) => {
                links += 1;
                folders.insert(here.clone());
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                steps.extend(steps_of(&target));
            }
            None if steps.is_empty() || !next.exists() => {
                folders.insert(here);
                return folders;
            }
            None => here = next,
        }
    }
    folders
}

/// The names on a path, the first one last.
fn steps_of(path: &Path) -> Vec<OsString> {
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
        let files = crate::config::Config::load_noting_files(&path, crate::config::Pipes::Read).files;
        let (watched, unwatched) = (BTreeMap::new(), BTreeSet::new());
        let look_without_events = Duration::from_millis(1);
        let mut watch =
            Watch { watcher: None, watched, unwatched, look_without_events, calls: Arc::default() };
        assert_eq!(watch.look(&files), None, "the files are as they were read");
        std::fs::write(&path, "tokens: []").unwrap();
        assert_eq!(watch.look(&files), Some(Cause::Changed));
    }

    #[test]
    fn calls_that_nobody_hears_do_not_pile_up_and_the_most_urgent_is_heard_first() {
        let calls = Arc::new(Calls::default());
        let caller = Caller(Arc::clone(&calls));
        for _ in 0..1_000 {
            calls.send(Call::Event);
            caller.force();
        }
        drop(caller);
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
