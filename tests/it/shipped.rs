//! What we ship: the image and the package, made of the one static release binary that `make dist` builds.
//!
//! That build takes minutes, so these tests are `#[ignore]`d for `make test`; `make test-shipped` runs them.

mod debian;
mod image;
mod memory;
mod module;
mod storage;

use std::path::{Path, PathBuf};

/// The static release binary; a failure that says what to do where there is none.
fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/envoy-auth-tokens");
    assert!(path.is_file(), "{} is missing: run `make dist`", path.display());
    path
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_binary_needs_no_library() {
    let file = std::process::Command::new("readelf").arg("-d").arg(binary()).output().unwrap();
    assert!(file.status.success(), "{}", String::from_utf8_lossy(&file.stderr));
    let dynamic = String::from_utf8(file.stdout).unwrap();
    assert!(dynamic.contains("FLAGS_1"), "no dynamic section was read:\n{dynamic}");
    assert!(!dynamic.contains("(NEEDED)"), "it needs libraries:\n{dynamic}");
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_binary_does_not_tell_where_or_when_it_was_built() {
    let bytes = std::fs::read(binary()).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let home =
        std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", std::env::var("HOME").unwrap()));
    for path in [env!("CARGO_MANIFEST_DIR"), &home] {
        assert!(!holds(path), "it holds {path}");
    }
    // The allocator's own words about its compilation, whose date is that of no day.
    assert!(holds("built on %s, %s") && holds("Jan  1 1970"), "it holds the day on which it was built");
}
