//! Secret references: `{$env: NAME}` and `{$file: PATH}`, anywhere in the document.
//!
//! They are resolved before anything of the document is interpreted, so that every key can hold one.  Variables and
//! files come from an [`Environment`], so that tests need no process environment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, Zeroizing};

use super::raw::{Entry, Node, Text, Value};
use crate::file_problem::Unreadable;
use crate::folder::FolderProblem;

/// The longest text that a `$file` may hold, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// The source of variables and files.
pub trait Environment {
    /// The value of an environment variable; `None` when it is not set.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The first `limit` bytes of a file, or all of them when there are fewer.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;

    /// The problem that keeps this file from being created, as far as it can be known.
    fn folder_problem(&self, _file: &Path) -> Option<FolderProblem> {
        None
    }

    /// Whether every user of this machine can write the file.
    fn is_world_writable(&self, _path: &Path) -> bool {
        false
    }
}

/// The environment and the files of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn folder_problem(&self, file: &Path) -> Option<FolderProblem> {
        FolderProblem::of_file(file)
    }

    fn is_world_writable(&self, path: &Path) -> bool {
        // A later write cannot change what was read from a pipe or a device.
        std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o002 != 0)
    }
}

/// Replaces every reference in the tree by its value, or by [`Value::Unresolved`].
///
/// The sections of these names stay as they are.
///
/// Returns the files that the references name, in alphabetical order, readable or not.
pub fn resolve(
    root: &mut Node,
    folder: &Path,
    environment: &dyn Environment,
    except: &[&str],
) -> Vec<PathBuf> {
    let mut resolver = Resolver { folder, environment, files: BTreeSet::new() };
    if let (Value::Map(sections), false) = (&mut root.value, except.is_empty()) {
        let resolved = sections.iter_mut().filter(|section| !except.contains(&&*section.key));
        resolved.for_each(|section| resolver.resolve(&mut section.value));
    } else {
        resolver.resolve(root);
    }
    resolver.files.into_iter().collect()
}

struct Resolver<'e> {
    folder: &'e Path,
    environment: &'e dyn Environment,
    files: BTreeSet<PathBuf>,
}

impl Resolver<'_> {
    fn resolve(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Unresolved { .. } => {}
            Value::List(list) => list.iter_mut().for_each(|element| self.resolve(element)),
            Value::Map(entries) if entries.iter().any(is_reference) => {
                let written = std::mem::take(entries).into_boxed_slice();
                // The value of a reference is always text, even if it looks like a reference itself.
                node.value = match self.follow(&written) {
                    Ok(text) => Value::Text(Text::referred(text, written)),
                    Err(why) => Value::Unresolved { why, written },
                };
            }
            Value::Map(entries) if entries.iter().any(lacks_blank) => {
                let written = std::mem::take(entries).into_boxed_slice();
                let why =
                    "a blank is missing after the colon: write {$env: NAME} or {$file: PATH}".to_owned();
                node.value = Value::Unresolved { why, written };
            }
            Value::Map(entries) => entries.iter_mut().for_each(|entry| self.resolve(&mut entry.value)),
        }
    }

    fn follow(&mut self, written: &[Entry]) -> Result<Zeroizing<String>, String> {
        let [entry] = written else {
            return Err(
                "there is another key next to `$env` or `$file`; a reference has no other key".to_owned()
            );
        };
        let Value::Text(target) = &entry.value.value else {
            let kind = entry.value.value.kind();
            return Err(match &*entry.key {
                "$env" => format!("the name of an environment variable is expected; found {kind}"),
                _ => format!("the path of a file is expected; found {kind}"),
            });
        };
        match &*entry.key {
            "$env" => self.variable(target.as_str()),
            _ => self.file(target.as_str()),
        }
    }

    fn variable(&self, name: &str) -> Result<Zeroizing<String>, String> {
        let shown = shown_name(name);
        let value = self.environment.variable(name);
        let value = value.ok_or_else(|| {
            format!("the environment variable {shown} is not set: set it in the environment of this process")
        })?;
        let text = value.into_string().map(Zeroizing::new).map_err(|value| {
            value.into_encoded_bytes().zeroize();
            format!("the environment variable {shown} is not UTF-8")
        })?;
        if text.is_empty() {
            return Err(format!("the environment variable {shown} is empty: set it to the secret"));
        }
        Ok(text)
    }

    fn file(&mut self, path: &str) -> Result<Zeroizing<String>, String> {
        let shown = shown_name(path);
        if path.is_empty() {
            return Err("the path of a file is expected; found an empty text".to_owned());
        }
        let path = self.folder.join(path);
        let bytes = self.environment.read(&path, MAX_FILE_BYTES + 1);
        self.files.insert(path);
        let bytes =
            bytes.map_err(|error| format!("the file {shown} cannot be read: {}", Unreadable(&error)))?;
        let mut text = String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
            error.into_bytes().zeroize();
            format!("the file {shown} is not UTF-8")
        })?;
        if text.len() > MAX_FILE_BYTES {
            return Err(format!("the file {shown} is larger than {MAX_FILE_BYTES} bytes"));
        }
        let length = without_line_ending(&text).len();
        text.truncate(length);
        if text.is_empty() {
            return Err(format!("the file {shown} is empty"));
        }
        Ok(text)
    }
}

fn is_reference(entry: &Entry) -> bool {
    matches!(&*entry.key, "$env" | "$file")
}

/// YAML reads `{$env:NAME}` as a mapping with the key `$env:NAME`.
fn lacks_blank(entry: &Entry) -> bool {
    let has_scheme = ["$env:", "$file:"].iter().any(|scheme| entry.key.starts_with(scheme));
    has_scheme && matches!(entry.value.value, Value::Null)
}

/// The text without one trailing line ending, `\n` or `\r\n`.
fn without_line_ending(text: &str) -> &str {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text)
}

/// The name of a variable or a file for a message, masked where it may be something else, such as a secret.
pub(super) fn shown_name(name: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./ ~+@:\\".contains(&byte);
    if !name.is_empty() && name.len() <= 256 && name.bytes().all(is_plain) { name } else { "***" }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::super::raw;
    use super::*;

    /// Variables and files of a test.
    #[derive(Default)]
    pub(in super::super) struct Given {
        pub variables: HashMap<&'static str, OsString>,
        pub files: HashMap<&'static str, Vec<u8>>,
    }

    impl Environment for Given {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.variables.get(name).cloned()
        }

        fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
            let bytes = path.to_str().and_then(|path| self.files.get(path));
            let mut bytes = bytes.cloned().ok_or(io::ErrorKind::NotFound)?;
            bytes.truncate(limit);
            Ok(bytes)
        }
    }

    fn given() -> Given {
        use std::os::unix::ffi::OsStringExt;
        let variables = [
            ("FOO", "x"),
            ("JSON", r#"{"$env": "FOO"}"#),
            ("BOT_TOKEN", "this-is-the-secret-token"),
            ("NUMBER", "5"),
            ("EMPTY", ""),
        ];
        let mut variables: HashMap<_, _> =
            variables.into_iter().map(|(name, value)| (name, OsString::from(value))).collect();
        variables.insert("LATIN", OsString::from_vec(b"caf\xe9".to_vec()));
        let files: [(_, &[u8]); 11] = [
            ("/etc/app/plain", b"FROM_FILE"),
            ("/etc/app/newline", b"FROM_FILE\n"),
            ("/etc/app/crlf", b"FROM_FILE\r\n"),
            ("/etc/app/two", b"FROM_FILE\n\n"),
            ("/etc/app/cr", b"FROM_FILE\r"),
            ("/etc/app/blank", b" FROM_FILE "),
            ("/run/secrets/absolute", b"ABSOLUTE"),
            ("/etc/app/empty", b""),
            ("/etc/app/only-newline", b"\n"),
            ("/etc/app/latin", b"caf\xe9"),
            ("/etc/app/huge", &[b'x'; MAX_FILE_BYTES + 10]),
        ];
        Given { variables, files: files.into_iter().map(|(path, bytes)| (path, bytes.to_vec())).collect() }
    }

    fn resolved(config: &serde_json::Value) -> (Node, Vec<PathBuf>) {
        let mut tree = raw::from_json(&config.to_string()).ok().unwrap();
        let files = resolve(&mut tree, Path::new("/etc/app"), &given(), &[]);
        (tree, files)
    }

    /// The reason of the first unresolved reference.
    fn why(node: &Node) -> Option<String> {
        match &node.value {
            Value::Unresolved { why, .. } => Some(why.clone()),
            Value::List(list) => list.iter().find_map(why),
            Value::Map(entries) => entries.iter().find_map(|entry| why(&entry.value)),
            _ => None,
        }
    }

    #[test]
    fn references_are_resolved_at_any_depth() {
        let cases = [
            (json!({"foo": "bar"}), json!({"foo": "bar"})),
            (json!({"$env": "FOO"}), json!("x")),
            (json!({"k": {"$env": "FOO"}}), json!({"k": "x"})),
            (json!([{"k": {"$env": "FOO"}}, {"z": {"$env": "FOO"}}]), json!([{"k": "x"}, {"z": "x"}])),
            (json!({"k": [{"in_a_list": {"$env": "FOO"}}]}), json!({"k": [{"in_a_list": "x"}]})),
            (json!([[[{"$env": "FOO"}]], {"$env": "FOO"}]), json!([[["x"]], "x"])),
            (json!({"foo": {"$file": "plain"}}), json!({"foo": "FROM_FILE"})),
            (json!({"foo": {"$file": "/run/secrets/absolute"}}), json!({"foo": "ABSOLUTE"})),
            (
                json!({"tokens": [{"token": {"$env": "BOT_TOKEN"}, "actor": {"bot_id": "my-bot"}}], "param": "_auth_token"}),
                json!({"tokens": [{"token": "this-is-the-secret-token", "actor": {"bot_id": "my-bot"}}], "param": "_auth_token"}),
            ),
        ];
        for (config, expected) in cases {
            let (tree, _) = resolved(&config);
            assert_eq!(why(&tree), None, "{config}");
            assert_eq!(tree.to_json(), expected, "{config}");
        }
    }

    #[test]
    fn a_resolved_value_is_text_and_is_never_looked_at_again() {
        let cases = [
            // Always a text, never a number.
            (json!({"$env": "NUMBER"}), json!("5")),
            // Never resolved again.
            (json!({"$env": "JSON"}), json!(r#"{"$env": "FOO"}"#)),
            // Never interpolated inside other strings.
            (json!({"k": "a {$env: FOO} $FOO ${FOO}"}), json!({"k": "a {$env: FOO} $FOO ${FOO}"})),
            (json!("$env"), json!("$env")),
            // Keys are never resolved, and only these two keys refer.
            (json!({"$ENV": "FOO"}), json!({"$ENV": "FOO"})),
            (json!({"env": "FOO"}), json!({"env": "FOO"})),
            (json!({"$FOO": 1}), json!({"$FOO": 1})),
        ];
        for (config, expected) in cases {
            let (tree, _) = resolved(&config);
            assert_eq!(tree.to_json(), expected, "{config}");
        }
    }

    #[test]
    fn one_trailing_line_ending_is_removed() {
        for (file, expected) in [
            ("newline", "FROM_FILE"),
            ("crlf", "FROM_FILE"),
            ("two", "FROM_FILE\n"),
            ("cr", "FROM_FILE\r"),
            ("blank", " FROM_FILE "),
        ] {
            let (tree, files) = resolved(&json!({ "$file": file }));
            assert_eq!(tree.to_json(), json!(expected), "{file}");
            assert_eq!(files, [Path::new("/etc/app").join(file)]);
        }
    }

    #[test]
    fn what_leads_nowhere_is_never_null_and_never_empty() {
        let cases = [
            (
                json!({"$env": "UNSET"}),
                "the environment variable UNSET is not set: set it in the environment of this process",
            ),
            (json!({"$env": "EMPTY"}), "the environment variable EMPTY is empty: set it to the secret"),
            (json!({"$env": "LATIN"}), "the environment variable LATIN is not UTF-8"),
            (
                json!({"$env": "hunter2!"}),
                "the environment variable *** is not set: set it in the environment of this process",
            ),
            (
                json!({"$env": ""}),
                "the environment variable *** is not set: set it in the environment of this process",
            ),
            (json!({"$env": 5}), "the name of an environment variable is expected; found a number"),
            (json!({"$env": null}), "the name of an environment variable is expected; found nothing (null)"),
            (
                json!({"$env": {"$env": "FOO"}}),
                "the name of an environment variable is expected; found a mapping",
            ),
            (json!({"$file": ["plain"]}), "the path of a file is expected; found a list"),
            (json!({"$file": ""}), "the path of a file is expected; found an empty text"),
            (
                json!({"$file": "none"}),
                "the file none cannot be read: entity not found; correct the path, or put the file there",
            ),
            (json!({"$file": "empty"}), "the file empty is empty"),
            (json!({"$file": "only-newline"}), "the file only-newline is empty"),
            (json!({"$file": "latin"}), "the file latin is not UTF-8"),
            (json!({"$file": "huge"}), "the file huge is larger than 1048576 bytes"),
            (
                json!({"$env": "FOO", "default": "x"}),
                "there is another key next to `$env` or `$file`; a reference has no other key",
            ),
            (
                json!({"$env": "FOO", "$file": "plain"}),
                "there is another key next to `$env` or `$file`; a reference has no other key",
            ),
        ];
        for (config, expected) in cases {
            let (tree, _) = resolved(&json!([{ "k": config }]));
            assert_eq!(why(&tree).as_deref(), Some(expected), "{config}");
        }
    }

    #[test]
    fn every_file_is_remembered_for_watching() {
        let (_, files) = resolved(&json!([{"$file": "two"}, {"$file": "none"}, {"$file": "two"}]));
        assert_eq!(files, ["/etc/app/none", "/etc/app/two"].map(PathBuf::from));
    }

    #[test]
    fn the_process_environment_reads_real_files_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "FROM_FILE\n").unwrap();
        assert_eq!(ProcessEnvironment.read(&path, 4).unwrap(), b"FROM");
        assert_eq!(ProcessEnvironment.read(&path, 100).unwrap(), b"FROM_FILE\n");
        assert!(ProcessEnvironment.read(folder.path(), 100).is_err());
        assert_eq!(ProcessEnvironment.variable("ENVOY_AUTH_TOKENS_NEVER_SET"), None);
    }
}
