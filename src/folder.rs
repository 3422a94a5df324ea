//! Folders in which files of ours are made: what is wrong with one, told so that somebody can mend it.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// What keeps a file from being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderProblem {
    /// There is none at this path.
    Missing(PathBuf),
    /// What stands at this path is no folder.
    NotAFolder(PathBuf),
    /// This process may make nothing in it.
    NotWritable(PathBuf),
}

impl FolderProblem {
    /// What is wrong with the folder in which this file is to be made; `None` where nothing is.
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
        // Where nobody may write: root may all the same, unless it is in a container that took this away.
        std::fs::create_dir(path("closed")).unwrap();
        std::fs::set_permissions(path("closed"), std::fs::Permissions::from_mode(0o555)).unwrap();
        let may_write = std::fs::write(path("closed/probe"), "").is_ok();
        let expected = (!may_write).then(|| FolderProblem::NotWritable(path("closed")));
        assert_eq!(FolderProblem::of_file(&path("closed/new")), expected);
        let told = FolderProblem::NotWritable(path("closed")).to_string();
        assert!(told.contains(path("closed").to_str().unwrap()), "{told}");
    }
}
