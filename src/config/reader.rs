//! Reads values from the tree.  Every problem is recorded and reading continues, so that one run reports them all.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use strsim::osa_distance;
use zeroize::Zeroizing;

use super::error::{Diagnostic, Position, Severity};
use super::raw::{Entry, Location, Node, Text, Value};
use super::redact::Redactor;
use super::schema::{MERGE_KEY, Schema, is_boolean_word};
use super::secrets::{Environment, MAX_FILE_BYTES};
use super::syntax::MAX_DEPTH;

/// Reads a tree and records the problems in it.
pub struct Reader<'t> {
    root: &'t Node,
    /// The folder at which relative paths start.
    pub folder: &'t Path,
    /// The time against which expiries are checked.
    pub now: Timestamp,
    environment: &'t dyn Environment,
    /// Whether this process has the listeners of the configuration; their certificates are not read otherwise.
    pub serves_listeners: bool,
    /// Every file that was read, or could not be.
    pub files: BTreeSet<PathBuf>,
    /// The texts that allow blocks require as `role`.
    pub allowed_roles: Vec<(&'t Location, &'t str)>,
    problems: Vec<Problem<'t>>,
    redactor: OnceCell<Redactor<'t>>,
}

struct Problem<'t> {
    severity: Severity,
    at: &'t Location,
    message: String,
}

/// The message about a world-writable file.
pub const WORLD_WRITABLE: &str = "every user of this machine can write this file and so decide who is admitted; \
    remove the permission (chmod \
    o-w)";

/// The entries of a mapping whose keys have been checked.
#[derive(Clone, Copy)]
pub struct Fields<'t> {
    /// The position of the mapping.
    pub at: &'t Location,
    entries: &'t [Entry],
    /// The keys that are read, where the others are not ours.
    only: Option<&'static [&'static str]>,
    /// Keys that are not looked at.
    except: &'static [&'static str],
}

impl<'t> Fields<'t> {
    /// The value of this key.  Of duplicates, which are errors already, the first.
    pub fn get(&self, key: &str) -> Option<&'t Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry with this key.
    pub fn entry(&self, key: &str) -> Option<&'t Entry> {
        let counts = self.only.is_none_or(|only| only.contains(&key)) && !self.except.contains(&key);
        self.entries.iter().find(|entry| counts && &*entry.key == key)
    }

    /// The same without these keys.
    pub fn without(self, keys: &'static [&'static str]) -> Self {
        Self { except: keys, ..self }
    }

    /// Those of these keys that are present.
    pub fn present(&self, keys: &[&'static str]) -> Vec<&'static str> {
        keys.iter().copied().filter(|key| self.get(key).is_some()).collect()
    }
}

impl<'t> Reader<'t> {
    /// A reader of this tree.  It records what is wrong anywhere in it: duplicate keys, merge keys, unresolved
    /// references, numbers that lose digits.
    pub fn new(root: &'t Node, folder: &'t Path, environment: &'t dyn Environment, now: Timestamp) -> Self {
        let (files, problems, redactor) = (BTreeSet::new(), Vec::new(), OnceCell::new());
        let allowed_roles = Vec::new();
        let serves_listeners = true;
        let mut reader = Self {
            root,
            folder,
            now,
            environment,
            serves_listeners,
            files,
            allowed_roles,
            problems,
            redactor,
        };
        reader.check_everywhere(root, 1);
        reader
    }

    fn check_everywhere(&mut self, node: &'t Node, depth: usize) {
        if depth > MAX_DEPTH {
            self.error(&node.at, format!("too deep: at most {MAX_DEPTH} levels"));
            return;
        }
        match &node.value {
            Value::Null | Value::Bool(_) => {}
            Value::Text(text) => {
                let entries = text.reference().into_iter().flatten();
                for entry in entries.filter(|entry| &*entry.key == "$file") {
                    if let Value::Text(path) = &entry.value.value {
                        self.warn_of_open_file(&node.at, path.as_str());
                    }
                }
            }
            Value::Number(number) => {
                let whole = number.as_f64().filter(|value| number.is_f64() && value.fract() == 0.0);
                if whole.is_some_and(|value| value.abs() >= 2_f64.powi(53)) {
                    self.error(&node.at, "a number this large loses digits; put it in quotes");
                }
            }
            Value::Unresolved { why, .. } => self.error(&node.at, why.clone()),
            Value::List(list) => {
                list.iter().for_each(|element| self.check_everywhere(element, depth + 1));
            }
            Value::Map(entries) => {
                self.check_duplicates(entries);
                entries.iter().for_each(|entry| self.check_everywhere(&entry.value, depth + 1));
            }
        }
    }

    fn check_duplicates(&mut self, entries: &'t [Entry]) {
        let mut seen = HashSet::new();
        for (index, entry) in entries.iter().enumerate() {
            // Most mappings are small; for them a scan is cheaper than a set.
            let is_duplicate = if entries.len() <= 16 {
                entries[..index].iter().any(|earlier| earlier.key == entry.key)
            } else {
                !seen.insert(&*entry.key)
            };
            if is_duplicate {
                self.error(&entry.at, "this key is here twice, and one of the two would be lost");
            }
            if &*entry.key == MERGE_KEY {
                self.error(&entry.at, "merge keys (`<<`) are not supported; write the entries out");
            }
        }
    }

    /// Warns of a world-writable file.
    pub fn warn_of_open_file(&mut self, at: &'t Location, path: &str) {
        if self.environment.is_world_writable(&self.folder.join(path)) {
            self.warn(at, WORLD_WRITABLE);
        }
    }

    /// Warns of a directory in which this file cannot be created.
    pub fn warn_of_folder(&mut self, at: &'t Location, file: &Path) {
        if let Some(problem) = self.environment.folder_problem(file) {
            self.warn(at, problem.to_string());
        }
    }

    /// Records an error.
    pub fn error(&mut self, at: &'t Location, message: impl Into<String>) {
        self.problems.push(Problem { severity: Severity::Error, at, message: message.into() });
    }

    /// Records a warning.
    pub fn warn(&mut self, at: &'t Location, message: impl Into<String>) {
        self.problems.push(Problem { severity: Severity::Warning, at, message: message.into() });
    }

    /// Records that another kind of value is expected here.  An unresolved reference is an error already.
    pub fn expected(&mut self, node: &'t Node, what: &str) {
        if matches!(node.value, Value::Unresolved { .. }) {
            return;
        }
        let quotes = match node.value {
            Value::Number(_) | Value::Bool(_) if what.starts_with("text") => "; put it in quotes",
            _ => "",
        };
        self.error(&node.at, format!("expected {what}, found {}{quotes}", node.value.kind()));
    }

    /// A mapping with the keys of this schema.  Every other key is an error.
    pub fn fields(&mut self, node: &'t Node, what: &str, schema: &Schema) -> Option<Fields<'t>> {
        let entries = self.entries(node, what)?;
        for entry in entries.iter().filter(|entry| !schema.has_key(&entry.key)) {
            // A merge key is an error already.
            if &*entry.key == MERGE_KEY {
                continue;
            }
            let key = self.quote_key(&entry.key);
            let advice = match nearest(&entry.key, schema.keys()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("expected {}", alternatives(&schema.keys().collect::<Vec<_>>())),
            };
            self.error(&entry.at, format!("unknown key {key}; {advice}"));
        }
        Some(Fields { at: &node.at, entries, only: None, except: &[] })
    }

    /// An empty mapping at this place.
    pub fn no_fields(node: &'t Node) -> Fields<'t> {
        Fields { at: &node.at, entries: &[], only: None, except: &[] }
    }

    /// A mapping; only these keys are read.
    pub fn only_fields(node: &'t Node, only: &'static [&'static str]) -> Fields<'t> {
        match &node.value {
            Value::Map(entries) => Fields { at: &node.at, entries, only: Some(only), except: &[] },
            _ => Self::no_fields(node),
        }
    }

    /// A mapping with any keys.
    pub fn entries(&mut self, node: &'t Node, what: &str) -> Option<&'t [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            _ => {
                self.expected(node, what);
                None
            }
        }
    }

    /// A list.
    pub fn list(&mut self, node: &'t Node, what: &str) -> Option<&'t [Node]> {
        match &node.value {
            Value::List(list) => Some(list),
            _ => {
                self.expected(node, what);
                None
            }
        }
    }

    /// A text.
    pub fn text(&mut self, node: &'t Node, what: &str) -> Option<&'t Text> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.expected(node, what);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &'t Node) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) if is_boolean_word(text.as_str()) => {
                self.error(
                    &node.at,
                    "expected true or false, found text: `yes`, `no` and words in quotes are text",
                );
                None
            }
            _ => {
                self.expected(node, "true or false");
                None
            }
        }
    }

    /// Reads a file that the configuration names.  The bytes are wiped from memory when they are dropped.
    ///
    /// # Errors
    /// The file cannot be read, or is larger than [`MAX_FILE_BYTES`].
    pub fn read_file(&mut self, path: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let path = self.folder.join(path);
        let bytes = self.environment.read(&path, MAX_FILE_BYTES + 1).map(Zeroizing::new);
        self.files.insert(path);
        let bytes = bytes?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
        }
        Ok(bytes)
    }

    /// The name of a policy, token or header in backquotes, or `***`.
    pub fn quote_name(&self, name: &str) -> String {
        self.redactor().quote_name(name)
    }

    fn quote_key(&self, key: &str) -> String {
        self.redactor().quote_key(key)
    }

    fn redactor(&self) -> &Redactor<'t> {
        self.redactor.get_or_init(|| Redactor::new(self.root))
    }

    /// The diagnostics of all recorded problems, each with its key and its line.
    pub fn finish(self, file: &Arc<Path>, source: &str) -> Vec<Diagnostic> {
        if self.problems.is_empty() {
            return Vec::new();
        }
        let keys = self.keys();
        let spans = self.redactor().spans(self.root);
        let diagnostic = |problem: Problem<'t>| {
            let Location { line, column, offset, .. } = *problem.at;
            let position = (line > 0).then_some(Position { line, column });
            Diagnostic {
                severity: problem.severity,
                file: Arc::clone(file),
                position,
                key: keys.get(&address(problem.at)).cloned().unwrap_or_default(),
                message: problem.message,
                line: position.and_then(|_| spans.line(source, offset as usize)),
            }
        };
        self.problems.into_iter().map(diagnostic).collect()
    }

    /// The paths of the keys of all problems, by the addresses of their locations.
    fn keys(&self) -> HashMap<usize, String> {
        let wanted: HashSet<usize> = self.problems.iter().map(|problem| address(problem.at)).collect();
        let mut keys = HashMap::with_capacity(wanted.len());
        self.redactor().walk(self.root, &mut |at, path| {
            if wanted.contains(&address(at)) {
                keys.insert(address(at), path.to_owned());
            }
        });
        keys
    }
}

/// Identifies a location in the tree, also where positions were not read.
fn address(at: &Location) -> usize {
    std::ptr::from_ref(at).addr()
}

/// "`a`, `b` or `c`".
pub fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// The closest of these words, if at most a third of its letters differ: added, removed, replaced, or swapped with a
/// neighbour (optimal string alignment).
pub fn nearest<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase().replace('-', "_");
    words
        .map(|word| (osa_distance(&written, &word.to_lowercase().replace('-', "_")), word))
        .filter(|(distance, word)| distance * 3 <= word.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_probably_meant() {
        let words = ["tokens", "users", "policies", "actor_headers"];
        for (written, expected) in [
            ("token", Some("tokens")),
            ("tokesn", Some("tokens")),
            ("Users", Some("users")),
            ("actor-headers", Some("actor_headers")),
            ("polcies", Some("policies")),
            ("hunter2", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, words.into_iter()), expected, "{written}");
        }
    }

    #[test]
    fn a_list_of_alternatives_is_a_phrase() {
        assert_eq!(alternatives(&["a"]), "`a`");
        assert_eq!(alternatives(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
