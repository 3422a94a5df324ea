//! What fuzzing drives: targets that take any bytes, and panic where something is wrong.
//!
//! The programs under `fuzz/fuzz_targets` hand them to libFuzzer, which looks for inputs.  The tests below hand
//! them every input under `tests/corpus`, so that what was found once stays mended.  `fuzz/README.md` tells how
//! to run both.

pub mod admin_body;
pub mod authorization;
pub mod check_request;
pub mod configuration;
pub mod datasette_import;
pub mod introspection;
pub mod request_parts;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{Config, Environment, Source};
use crate::identity::Sources;
use crate::snapshot::{Snapshot, SnapshotStore};

/// Every target and the name of its corpus.
pub const TARGETS: [(&str, fn(&[u8])); 7] = [
    ("admin_body", admin_body::run),
    ("authorization", authorization::run),
    ("check_request", check_request::run),
    ("configuration", configuration::run),
    ("datasette_import", datasette_import::run),
    ("introspection", introspection::run),
    ("request_parts", request_parts::run),
];

/// The environment of a process that has neither variables nor files.
struct Empty;

impl Environment for Empty {
    fn variable(&self, _name: &str) -> Option<OsString> {
        None
    }

    fn read(&self, _path: &Path, _limit: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The snapshot of a configuration that is a target's own.
pub(crate) fn read_config(text: &str) -> Snapshot {
    snapshot(&try_config(text, &Empty).unwrap_or_else(|errors| panic!("{errors}")))
}

fn snapshot(config: &Config) -> Snapshot {
    Snapshot::build(config, None).unwrap_or_else(|error| panic!("{error}"))
}

fn try_config(text: &str, environment: &dyn Environment) -> Result<Config, crate::config::Errors> {
    Config::parse(text, &Source { file: Path::new("config.yaml"), environment, now: now() })
}

pub(crate) fn authorizer(snapshot: Snapshot) -> Authorizer {
    let sources = Sources::without_keys(Clock::from_fn(now)).expect("the operating system has randomness");
    Authorizer::new(SnapshotStore::new(snapshot), sources)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("an instant of this century")
}

/// Waits on a runtime of this thread's own.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Whether one text holds another.
fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn run_corpus(target: &str) {
        let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
        let folder = folder("tests/corpus").join(target);
        let inputs = names(&folder);
        assert!(!inputs.is_empty());
        for input in inputs {
            let data = fs::read(folder.join(&input)).unwrap();
            // The name comes before the panic, if there is one.
            println!("{target}/{input}");
            run(&data);
        }
    }

    #[test]
    fn the_corpus_of_admin_body_holds() {
        run_corpus("admin_body");
    }

    #[test]
    fn the_corpus_of_authorization_holds() {
        run_corpus("authorization");
    }

    #[test]
    fn the_corpus_of_check_request_holds() {
        run_corpus("check_request");
    }

    #[test]
    fn the_corpus_of_configuration_holds() {
        run_corpus("configuration");
    }

    #[test]
    fn the_corpus_of_datasette_import_holds() {
        run_corpus("datasette_import");
    }

    #[test]
    fn the_corpus_of_introspection_holds() {
        run_corpus("introspection");
    }

    #[test]
    fn the_corpus_of_request_parts_holds() {
        run_corpus("request_parts");
    }

    #[test]
    fn every_target_has_its_program_and_its_corpus() {
        let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&folder("tests/corpus")), targets);
        for target in &targets {
            assert!(include_str!("fuzzing.rs").contains(&format!("run_corpus(\"{target}\")")), "{target}");
        }
        // The programs are a package of their own, which no source package of ours holds.
        if !folder("fuzz").exists() {
            return;
        }
        let programs = targets.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names(&folder("fuzz/fuzz_targets")), programs);
        let manifest = fs::read_to_string(folder("fuzz/Cargo.toml")).unwrap();
        for target in &targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
    }
}
