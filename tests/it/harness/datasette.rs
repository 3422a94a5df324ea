//! A real Datasette.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::log::Log;
use super::tools::{self, DatasetteRelease};

/// A running Datasette; it dies with this value.
pub struct Datasette {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Datasette {
    /// One that shows no more than `_memory`.
    pub fn start(metadata: &str) -> Self {
        Self::showing(metadata, |_| Vec::new(), &[])
    }

    /// One with this metadata, the databases that `make` puts into its folder, and these variables.
    pub fn showing(
        metadata: &str,
        make: impl FnOnce(&Path) -> Vec<&'static str>,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::of(DatasetteRelease::Old, metadata, make, environment)
    }

    /// The same of this release.
    pub fn of(
        release: DatasetteRelease,
        metadata: &str,
        make: impl FnOnce(&Path) -> Vec<&'static str>,
        environment: &[(&str, &str)],
    ) -> Self {
        let folder = TempDir::new().expect("a fresh folder");
        let file = folder.path().join("metadata.json");
        std::fs::write(&file, metadata).expect("a file in a fresh folder");
        let mut command = tools::datasette(release);
        command.args(make(folder.path()));
        let option = if release == DatasetteRelease::Since1 { "--config" } else { "--metadata" };
        command.args(["--memory", "--host", "127.0.0.1", "--port", "0", option]).arg(&file);
        command.env("PYTHONUNBUFFERED", "1").envs(environment.iter().copied()).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let log = Log::of("Datasette", &mut child);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut datasette = Self { child, address: nowhere, folder };
        datasette.address = log.wait_for("saying where it runs", |line| {
            let (_, address) = line.split_once("running on http://")?;
            address.split(' ').next()?.parse().ok()
        });
        datasette
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file that it reads.
    pub fn metadata(&self) -> std::path::PathBuf {
        self.folder.path().join("metadata.json")
    }
}

impl Drop for Datasette {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
