//! Redaction: the masked line of a diagnostic, and the path of its key.
//!
//! Three things are shown: punctuation, keys that are in the [`SCHEMA`], in whatever spelling, or look like a plain word,
//! and scalars under keys whose values the schema says are not secret.  Everything else is masked, because a token in the
//! wrong place is still a token.

use std::collections::HashMap;
use std::fmt::Write;

use super::error::RedactedLine;
use super::raw::{Entry, Location, Node, Value};
use super::schema::{
    REFERENCE, SCHEMA, Schema, Visibility, is_configuration_key, is_name, is_plain_word,
    resembles_configuration_key, secrets_of_url, url_without_secrets,
};

/// Decides what diagnostics may show of one configuration.
pub struct Redactor<'t> {
    secrets: KnownSecrets<'t>,
}

/// The texts that are known to be secret, by their first [`KnownSecrets::PREFIX_BYTES`] bytes.
#[derive(Default)]
struct KnownSecrets<'t>(HashMap<&'t [u8], Vec<&'t [u8]>>);

impl<'t> KnownSecrets<'t> {
    /// Shorter secrets occur in other texts by chance: they are masked only where they are the whole text.
    const MIN_SUBSTRING_BYTES: usize = 4;
    /// Secrets are indexed by so many bytes, or by all if they are shorter.
    const PREFIX_BYTES: usize = 8;

    fn insert(&mut self, secret: &'t str) {
        let secret = secret.as_bytes();
        self.0.entry(&secret[..secret.len().min(Self::PREFIX_BYTES)]).or_default().push(secret);
    }

    /// Whether the text is a secret.
    fn contains(&self, text: &str) -> bool {
        let secrets = self.0.get(&text.as_bytes()[..text.len().min(Self::PREFIX_BYTES)]);
        secrets.is_some_and(|secrets| secrets.contains(&text.as_bytes()))
    }

    /// Whether the text is a secret or holds one: a URL with a token in it is as secret as the token.
    fn occur_in(&self, text: &str) -> bool {
        let is_whole = self.contains(text);
        let text = text.as_bytes();
        let is_secret = |rest: &[u8], length: usize| {
            let secrets = rest.get(..length).and_then(|head| self.0.get(head));
            secrets.is_some_and(|secrets| secrets.iter().any(|secret| rest.starts_with(secret)))
        };
        is_whole
            || (0..text.len()).any(|start| {
                (Self::MIN_SUBSTRING_BYTES..=Self::PREFIX_BYTES)
                    .any(|length| is_secret(&text[start..], length))
            })
    }
}

impl<'t> Redactor<'t> {
    /// Collects all secrets of the tree, so that they are masked in other places, too.
    pub fn new(root: &'t Node) -> Self {
        let mut redactor = Self { secrets: KnownSecrets::default() };
        redactor.collect(root, &SCHEMA);
        redactor
    }

    fn collect(&mut self, node: &'t Node, schema: &Schema) {
        match &node.value {
            Value::Text(text) if text.reference().is_some() || matches!(schema, Schema::Secret) => {
                self.secrets.insert(text.as_str());
                for secret in secrets_of_url(text.as_str()) {
                    self.secrets.insert(secret);
                }
            }
            Value::Text(text) if matches!(schema, Schema::Url) => {
                for secret in secrets_of_url(text.as_str()) {
                    self.secrets.insert(secret);
                }
            }
            Value::List(list) => list.iter().for_each(|element| self.collect(element, schema.of_element())),
            Value::Map(entries) => {
                entries.iter().for_each(|entry| self.collect(&entry.value, schema.under_key(&entry.key)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Unresolved { .. } => {}
        }
    }

    /// A key in backquotes, or `***`.
    pub fn quote_key(&self, key: &str) -> String {
        let shown = is_plain_word(key) || resembles_configuration_key(key);
        if shown && !self.secrets.occur_in(key) { format!("`{key}`") } else { "***".to_owned() }
    }

    /// A name in backquotes, or `***`.
    pub fn quote_name(&self, name: &str) -> String {
        if is_name(name) && !self.secrets.occur_in(name) { format!("`{name}`") } else { "***".to_owned() }
    }

    /// Calls `visit` with the location of every node and every key, and the path of its key.
    pub fn walk(&self, root: &'t Node, visit: &mut dyn FnMut(&'t Location, &str)) {
        self.walk_node(root, &SCHEMA, &mut String::new(), visit);
    }

    fn walk_node(
        &self,
        node: &'t Node,
        schema: &Schema,
        path: &mut String,
        visit: &mut dyn FnMut(&'t Location, &str),
    ) {
        visit(&node.at, path);
        let length = path.len();
        match &node.value {
            Value::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    // Writing to a String cannot fail.
                    let _ = write!(path, "[{index}]");
                    self.walk_node(element, schema.of_element(), path, visit);
                    path.truncate(length);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(if self.shows_key(entry, schema) { &entry.key } else { "***" });
                    visit(&entry.at, path);
                    self.walk_node(&entry.value, schema.under_key(&entry.key), path, visit);
                    path.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Unresolved { .. } => {}
        }
    }

    fn shows_key(&self, entry: &Entry, schema: &Schema) -> bool {
        schema.shows_key(&entry.key) && !self.secrets.occur_in(&entry.key)
    }

    /// The spans of all scalars of the file, with their visibility.
    pub fn spans(&self, root: &Node) -> ScalarSpans {
        let mut spans = Vec::new();
        self.collect_spans(root, &SCHEMA, &mut spans);
        spans.sort_by_key(|span| (span.start, span.end));
        // An anchored scalar is once in the file and several times in the tree: its lowest visibility counts.
        spans.dedup_by(|next, kept| {
            let overlaps = next.start < kept.end;
            if overlaps {
                kept.visibility = kept.visibility.min(next.visibility);
                kept.end = kept.end.max(next.end);
            }
            overlaps
        });
        ScalarSpans(spans)
    }

    fn collect_spans(&self, node: &Node, schema: &Schema, spans: &mut Vec<Span>) {
        match &node.value {
            Value::List(list) => {
                list.iter().for_each(|element| self.collect_spans(element, schema.of_element(), spans));
            }
            Value::Map(entries) => self.collect_entries(entries, schema, spans),
            Value::Unresolved { written, .. } => self.collect_entries(written, &REFERENCE, spans),
            Value::Text(text) if text.reference().is_some() => {
                self.collect_entries(text.reference().unwrap_or_default(), &REFERENCE, spans);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                spans.push(Span::new(&node.at, schema.visibility(&node.value)));
            }
            Value::Text(text) => {
                let visibility = schema.visibility(&node.value);
                let is_secret = match visibility {
                    Visibility::Hidden | Visibility::Full => self.secrets.occur_in(text.as_str()),
                    // Its own secrets are removed; the rest may hold secrets of other keys.
                    Visibility::UrlWithoutSecrets => url_without_secrets(text.as_str()).is_none_or(|rest| {
                        self.secrets.occur_in(&rest) || self.secrets.contains(text.as_str())
                    }),
                };
                let visibility = if is_secret { Visibility::Hidden } else { visibility };
                spans.push(Span::new(&node.at, visibility));
            }
        }
    }

    fn collect_entries(&self, entries: &[Entry], schema: &Schema, spans: &mut Vec<Span>) {
        for entry in entries {
            let visibility =
                if self.shows_key(entry, schema) { Visibility::Full } else { Visibility::Hidden };
            spans.push(Span::new(&entry.at, visibility));
            self.collect_spans(&entry.value, schema.under_key(&entry.key), spans);
        }
    }
}

/// The scalars of a file: their byte ranges, in ascending order, and their visibility.
pub struct ScalarSpans(Vec<Span>);

struct Span {
    start: usize,
    end: usize,
    visibility: Visibility,
}

impl Span {
    fn new(at: &Location, visibility: Visibility) -> Self {
        let bytes = at.span();
        Self { start: bytes.start, end: bytes.end, visibility }
    }
}

/// How many bytes of a line are shown on each side of the error: a JSON file may be one line.
const CONTEXT_BYTES: usize = 120;

impl ScalarSpans {
    /// The line at this byte offset, masked.
    pub fn line(&self, source: &str, offset: usize) -> Option<RedactedLine> {
        let offset = floor_boundary(source, offset.min(source.len()));
        let line_start = source[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = source[offset..].find('\n').map_or(source.len(), |newline| offset + newline);
        let start = floor_boundary(source, line_start.max(offset.saturating_sub(CONTEXT_BYTES)));
        let end = floor_boundary(source, line_end.min(offset + CONTEXT_BYTES));

        let mut line = MaskedLine { text: String::new(), caret: None, offset };
        if start > line_start {
            line.text.push('…');
        }
        let mut position = start;
        let first = self.0.partition_point(|span| span.end <= start);
        for span in self.0[first..].iter().take_while(|span| span.start < end) {
            if span.start > position
                && line.push_separator(&source[position..span.start], position) == Separator::Comment
            {
                return Some(line.finish(false));
            }
            line.push_scalar(source, span);
            position = span.end.max(position);
        }
        if position < end {
            line.push_separator(&source[position..end], position);
        }
        Some(line.finish(end < line_end))
    }
}

struct MaskedLine {
    text: String,
    caret: Option<usize>,
    offset: usize,
}

/// What separates two scalars of a line.
#[derive(PartialEq)]
enum Separator {
    Punctuation,
    Comment,
}

impl MaskedLine {
    fn push_scalar(&mut self, source: &str, span: &Span) {
        if (span.start..span.end.max(span.start + 1)).contains(&self.offset) {
            self.set_caret();
        }
        // A scalar of several lines is masked, since its lines cannot be distinguished; YAML ends lines at a
        // carriage return as well.  Other control characters would control a terminal.
        match source.get(span.start..span.end) {
            Some("") => {}
            Some(text) if !text.contains(char::is_control) => {
                match (span.visibility, url_without_secrets(text)) {
                    (Visibility::Full, _) => self.text.push_str(text),
                    (Visibility::UrlWithoutSecrets, Some(url)) => self.text.push_str(&url),
                    (Visibility::UrlWithoutSecrets, None) | (Visibility::Hidden, _) => self.mask(),
                }
            }
            _ => self.mask(),
        }
    }

    /// Adds the text between two scalars.  Punctuation is shown; anchors, aliases, tags and comments are masked.
    fn push_separator(&mut self, text: &str, start: usize) -> Separator {
        let mut before = None;
        for (index, character) in text.char_indices() {
            if start + index == self.offset {
                self.set_caret();
            }
            let begins_comment = character == '#' && before.is_none_or(|before: char| before.is_whitespace());
            if begins_comment {
                self.text.push_str("# ***");
                return Separator::Comment;
            }
            match character {
                '\r' => {}
                '\t' => self.text.push(' '),
                ' ' | '-' | ':' | ',' | '[' | ']' | '{' | '}' | '?' | '|' | '>' => self.text.push(character),
                _ => self.mask(),
            }
            before = Some(character);
        }
        Separator::Punctuation
    }

    fn mask(&mut self) {
        if !self.text.ends_with("***") {
            self.text.push_str("***");
        }
    }

    fn set_caret(&mut self) {
        self.caret.get_or_insert(self.text.chars().count());
    }

    fn finish(mut self, cut: bool) -> RedactedLine {
        let caret = self.caret.unwrap_or_else(|| self.text.chars().count());
        if cut {
            self.text.push('…');
        }
        RedactedLine { text: self.text.trim_end().to_owned(), caret }
    }
}

/// The masked line of a file that is not YAML.  It shows blanks, the punctuation before the first word, and that word if
/// it is one of our keys.
pub fn line_without_tree(source: &str, number: u32) -> Option<RedactedLine> {
    let index = usize::try_from(number.checked_sub(1)?).ok()?;
    let line = source.lines().nth(index)?;
    let start =
        line.find(|character: char| !matches!(character, ' ' | '-' | '{' | '[' | '"')).unwrap_or(line.len());
    let (lead, rest) = line.split_at(start);
    let lead: String = lead.chars().take(CONTEXT_BYTES).collect();
    let word = rest.split([':', '"']).next().unwrap_or_default();
    let is_key = is_configuration_key(word) && rest[word.len()..].starts_with([':', '"']);
    let text = match (is_key, rest.is_empty()) {
        (true, _) => {
            let quote = if rest[word.len()..].starts_with('"') { "\"" } else { "" };
            let has_value = rest[word.len() + quote.len()..].len() > 1;
            format!("{lead}{word}{quote}:{}", if has_value { " ***" } else { "" })
        }
        (false, true) => lead.clone(),
        (false, false) => format!("{lead}***"),
    };
    Some(RedactedLine { text: text.trim_end().to_owned(), caret: lead.chars().count() })
}

fn floor_boundary(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::secrets::tests::Given;
    use super::super::{raw, secrets};
    use super::*;

    /// The line that holds `mark`, masked.
    fn shown(source: &str, mark: &str) -> String {
        let mut tree = raw::from_yaml(source).ok().unwrap();
        secrets::resolve(&mut tree, Path::new(""), &Given::default(), &[]);
        let spans = Redactor::new(&tree).spans(&tree);
        let line = spans.line(source, source.find(mark).unwrap()).unwrap();
        format!("{}\n{}^", line.text, " ".repeat(line.caret))
    }

    #[test]
    fn a_line_shows_what_is_certainly_not_secret() {
        let cases = [
            ("realm: my api # hunter2", "realm", "realm: my api # ***\n^"),
            ("hunter2: 5", "hunter2", "***: ***\n^"),
            (
                "tokens: [{token: hunter2, name: x}]",
                "name",
                "tokens: [{token: ***, name: x}]\n                      ^",
            ),
            ("tokens:\n- token: {$env: BOT}\n", "{", "- token: {$env: BOT}\n         ^"),
            ("tokens:\n- token: &hunter2 x\n  name: *hunter2", "*", "  name: ***\n        ^"),
            ("tokens:\n- token: &a hunter2\n  name: *a", "token: &a", "- token: *** ***\n  ^"),
            ("tokens:\n- name: &a hunter2\n  token: *a", "name: &a", "- name: *** ***\n  ^"),
            ("realm: |\n  hunter2\n  more\n", "more", "***\n^"),
            ("realm: 'one\n  two'\n", "two", "***\n^"),
            ("realm: one\r  two\n", "one", "realm: ***\n       ^"),
            ("realm: 'one\ttwo'\n", "'", "realm: ***\n       ^"),
            ("default: hunter2", "default", "default: ***\n^"),
            ("default: {allow: null}", "null", "default: {allow: null}\n                 ^"),
            (
                "tokens: [{token: null, sha256: true}]",
                "null",
                "tokens: [{token: ***, sha256: ***}]\n                 ^",
            ),
            (
                "credentials: [bearer, hunter2, {cookie: c}]",
                "hunter2",
                "credentials: [bearer, ***, {cookie: c}]\n                      ^",
            ),
            (
                "policies: {hunter2: {allow: {id: hunter2}}}",
                "id",
                "policies: {hunter2: {allow: {id: ***}}}\n                             ^",
            ),
            ("policies: {hunter24711: {}}", "hunter", "policies: {***: {}}\n           ^"),
            (
                "users:\n- {password: hunter2, username: hunter2}",
                "username",
                "- {password: ***, username: ***}\n                  ^",
            ),
            ("other: {listen: hunter2}", "listen", "other: {listen: ***}\n        ^"),
            ("realm: \"a\\u202eb\"", "realm", "realm: ***\n^"),
            (
                "keys: {store: 'sqlite:/var/keys.db'}",
                "store",
                "keys: {store: 'sqlite:/var/keys.db'}\n       ^",
            ),
            (
                "keys: {store: postgres://eat:hunter2@db:5432/keys}",
                "store",
                "keys: {store: postgres://***@db:5432/keys}\n       ^",
            ),
            (
                "keys: {store: \"postgres://db/keys?password=hunter2\"}",
                "store",
                "keys: {store: \"postgres://db/keys?***\"}\n       ^",
            ),
            (
                "keys: {store: 'postgres://a:hun@ter2@db/keys'}",
                "store",
                "keys: {store: 'postgres://***@db/keys'}\n       ^",
            ),
            (
                "keys: {store: 'postgres://db/keys?password=hunter2@x'}",
                "store",
                "keys: {store: ***}\n       ^",
            ),
            ("keys: {store: \"postgres://a:hunter2\\x40db/keys\"}", "store", "keys: {store: ***}\n       ^"),
            ("keys: {store: hunter2@db}", "store", "keys: {store: ***}\n       ^"),
            (
                "keys: {store: sqlite:/var/hunter2/keys.db}\ntokens: [{token: hunter2}]",
                "store",
                "keys: {store: ***}\n       ^",
            ),
            (
                "keys: {store: 'postgres://a:hunter2@db/keys', prefix: hunter2}",
                "prefix",
                "keys: {store: 'postgres://***@db/keys', prefix: ***}\n                                        ^",
            ),
        ];
        for (source, mark, expected) in cases {
            assert_eq!(shown(source, mark), expected, "{source}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_place_at_fault() {
        let source =
            format!("{{\"a\": [{}\"realm\": 5]}}", "\"hunter2\", ".repeat(1000).replace("\"realm\"", ""));
        let tree_source = source.replace("\"realm\": 5", "5");
        let line = shown(&tree_source, "5]");
        assert!(line.starts_with("…") && line.len() < 300 && !line.contains("hunter2"), "{line}");
    }

    #[test]
    fn a_line_that_is_no_yaml_shows_its_first_key_at_most() {
        let shown = |line: &str| line_without_tree(line, 1).map(|shown| shown.text);
        for (line, expected) in [
            ("  - token: hunter2: x", "  - token: ***"),
            ("hunter2: x", "***"),
            ("listen hunter2", "***"),
            ("listen: hunter2", "listen: ***"),
            ("tokens:", "tokens:"),
            ("{\"tokens\": hunter2", "{\"tokens\": ***"),
            ("   ", ""),
            ("# hunter2", "***"),
        ] {
            assert_eq!(shown(line).as_deref(), Some(expected), "{line}");
        }
        assert_eq!(line_without_tree("a", 2), None);
    }
}
