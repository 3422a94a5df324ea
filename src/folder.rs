//! Checks of the folder in which a file is to be created, with messages that say what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Why a file cannot be created in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderProblem {
    /// The folder does not exist.
    Missing(PathBuf),
    /// The path is not a folder.
    NotAFolder(PathBuf),
    /// This process may not create files in it.
    NotWritable(PathBuf),
}

impl FolderProblem {
    /// The problem with the folder in which this file is to be created, if there is one.
    pub fn of_file(file: &Path) -> Option<Self> {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        match std::fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => {
                let access = accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
                access.is_err().then(|| Self::NotWritable(folder.to_owned()))
            }
            Ok(_) => Some(Self::NotAFolder(folder.to_owned())),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound => Some(Self::Missing(folder.to_owned())),
                std::io::ErrorKind::NotADirectory => Some(Self::NotAFolder(folder.to_owned())),
                _ => Some(Self::NotWritable(folder.to_owned())),
            },
        }
    }
}

impl fmt::Display for FolderProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(folder) => write!(
                formatter,
                "the folder {} does not exist; make it for the user that the server runs as, or name another",
                folder.display()
            ),
            Self::NotAFolder(folder) => {
                write!(formatter, "{} is no folder; name one that is", folder.display())
            }
            Self::NotWritable(folder) => write!(
                formatter,
                "this user may not write in the folder {}; give it to the user that the server runs as, or name another",
                folder.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        assert_eq!(FolderProblem::of_file(&path("new")), None);
        assert_eq!(FolderProblem::of_file(Path::new("new")), None);
        assert_eq!(FolderProblem::of_file(&path("a/b/new")), Some(FolderProblem::Missing(path("a/b"))));
        assert_eq!(FolderProblem::of_file(&path("file/new")), Some(FolderProblem::NotAFolder(path("file"))));
        assert_eq!(
            FolderProblem::of_file(&path("file/a/new")),
            Some(FolderProblem::NotAFolder(path("file/a")))
        );
        // Without write permission for anyone: root may still write, unless it is in a container without that
        // capability.
        std::fs::create_dir(path("closed")).unwrap();
        std::fs::set_permissions(path("closed"), std::fs::Permissions::from_mode(0o555)).unwrap();
        let may_write = std::fs::write(path("closed/probe"), "").is_ok();
        let expected = (!may_write).then(|| FolderProblem::NotWritable(path("closed")));
        assert_eq!(FolderProblem::of_file(&path("closed/new")), expected);
        let message = FolderProblem::NotWritable(path("closed")).to_string();
        assert!(message.contains(path("closed").to_str().unwrap()), "{message}");
    }
}
