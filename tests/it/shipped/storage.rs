//! Images by buildah, in a storage of their own, so that the machine's knows nothing of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::server::run;
use crate::harness::tools;

pub struct Storage {
    file: PathBuf,
}

impl Storage {
    /// An empty one in this folder, which is there.
    pub fn new(folder: &Path) -> Self {
        assert_eq!(
            fs::metadata("/proc/self").unwrap().uid(),
            0,
            "a container without an engine needs root: run it as root"
        );
        tools::buildah();
        let file = folder.join("storage.conf");
        let here = folder.display();
        let text =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{here}/images\"\nrunroot = \"{here}/run\"\n");
        fs::write(&file, text).unwrap();
        Self { file }
    }

    /// Lets a command that calls buildah work in it.
    pub fn of(&self, command: &mut Command) {
        command.env("CONTAINERS_STORAGE_CONF", &self.file).env("BUILDAH_ISOLATION", "chroot");
    }

    /// What buildah prints.
    pub fn buildah(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(tools::buildah());
        self.of(command.current_dir(tools::root()).args(arguments));
        let ran = run(command, "");
        assert_eq!(ran.code(), Some(0), "buildah {arguments:?}: {ran:?}");
        ran.stdout
    }

    /// The root of a new container of this image.
    pub fn root_of(&self, image: &str) -> PathBuf {
        let container = self.buildah(&["from", "--pull-never", image]);
        PathBuf::from(self.buildah(&["mount", container.trim()]).trim())
    }
}
