//! The positions of keys in the file, for `explain`.
//!
//! They are read from the text on demand: a running server does not keep them.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use super::raw::{Entry, Location, Node, Value};
use super::{Position, Source, datasette, raw, secrets};

/// The positions of keys such as `routes[2]` and `policies.read.allow`, and the keys of tokens and users by name.
#[derive(Debug, Default)]
pub struct Positions {
    by_key: HashMap<String, Position>,
    tokens: HashMap<String, String>,
    users: HashMap<String, String>,
}

impl Positions {
    /// Reads the positions from a valid configuration.  JSON that is not YAML has none.
    pub fn of(text: &str, source: &Source<'_>) -> Self {
        let mut positions = Self::default();
        let Ok(mut tree) = raw::from_yaml(text) else {
            return positions;
        };
        // A name may be a secret reference.
        secrets::resolve(&mut tree, source.file.parent().unwrap_or(Path::new("")), source.environment, &[]);
        positions.walk(&tree, &mut String::new());
        let plugin = datasette::find(&tree).map(|plugin| match &plugin.value {
            Value::List(_) => (plugin, "plugins.datasette-auth-tokens"),
            _ => (get(plugin, "tokens").unwrap_or(plugin), "plugins.datasette-auth-tokens.tokens"),
        });
        if let Some((list, key)) = plugin.or_else(|| Some((get(&tree, "tokens")?, "tokens"))) {
            positions.tokens = named(list, key, "name", |number| Some(format!("token-{number}")));
        }
        if let Some(list) = get(&tree, "users") {
            positions.users = named(list, "users", "username", |_| None);
        }
        positions
    }

    /// The position of this key; `None` when it is not in the file.
    pub fn at(&self, key: &str) -> Option<Position> {
        self.by_key.get(key).copied()
    }

    /// The key of the token with this name, such as `tokens[5]`.
    pub fn token(&self, name: &str) -> Option<&str> {
        self.tokens.get(name).map(String::as_str)
    }

    /// The key of the user with this name, such as `users[0]`.
    pub fn user(&self, name: &str) -> Option<&str> {
        self.users.get(name).map(String::as_str)
    }

    fn walk(&mut self, node: &Node, key: &mut String) {
        let length = key.len();
        match &node.value {
            Value::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    write!(key, "[{index}]").expect("a String takes every character");
                    self.note(key, &element.at);
                    self.walk(element, key);
                    key.truncate(length);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    if length > 0 {
                        key.push('.');
                    }
                    key.push_str(&entry.key);
                    self.note(key, &entry.at);
                    self.walk(&entry.value, key);
                    key.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Unresolved { .. } => {}
        }
    }

    fn note(&mut self, key: &str, at: &Location) {
        if at.line > 0 {
            self.by_key.insert(key.to_owned(), Position { line: at.line, column: at.column });
        }
    }
}

fn get<'t>(node: &'t Node, key: &str) -> Option<&'t Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    entries.iter().find(|entry: &&Entry| &*entry.key == key).map(|entry| &entry.value)
}

/// The keys of a list's elements by their names: the value of `member`, or else `unnamed` of their number.
fn named(
    list: &Node,
    key: &str,
    member: &str,
    unnamed: impl Fn(usize) -> Option<String>,
) -> HashMap<String, String> {
    let Value::List(elements) = &list.value else {
        return HashMap::new();
    };
    let name = |index: usize, element: &Node| match get(element, member).map(|node| &node.value) {
        Some(Value::Text(text)) => Some(text.as_str().to_owned()),
        _ => unnamed(index + 1),
    };
    let elements = elements.iter().enumerate();
    elements.filter_map(|(index, element)| Some((name(index, element)?, format!("{key}[{index}]")))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::secrets::tests::Given;
    use super::*;

    fn of(text: &str) -> Positions {
        let environment = Given::default();
        let now = "2026-11-21T00:00:00Z".parse().unwrap();
        Positions::of(text, &Source { file: Path::new("config.yaml"), environment: &environment, now })
    }

    fn line(positions: &Positions, key: &str) -> Option<(u32, u32)> {
        positions.at(key).map(|position| (position.line, position.column))
    }

    #[test]
    fn keys_and_names_have_their_places() {
        let text = "tokens:\n- {sha256: a, actor: {}}\n- name: bot\n  sha256: b\nusers: [{username: rob}]\n\
                    policies:\n  read:\n    allow: {role: Admin}\n";
        let positions = of(text);
        assert_eq!(positions.token("token-1"), Some("tokens[0]"));
        assert_eq!(positions.token("bot"), Some("tokens[1]"));
        assert_eq!(positions.token("token-2"), None);
        assert_eq!(positions.user("rob"), Some("users[0]"));
        assert_eq!(line(&positions, "tokens[1]"), Some((3, 3)));
        assert_eq!(line(&positions, "users[0]"), Some((5, 9)));
        assert_eq!(line(&positions, "policies.read"), Some((7, 3)));
        assert_eq!(line(&positions, "policies.read.allow.role"), Some((8, 13)));
        assert_eq!(line(&positions, "default"), None);
    }

    #[test]
    fn the_seeds_file_and_json_have_places_too() {
        let positions =
            of("{\"plugins\": {\"datasette-auth-tokens\":\n [{\"token\": \"a\", \"actor\": {}}]}}");
        assert_eq!(positions.token("token-1"), Some("plugins.datasette-auth-tokens[0]"));
        assert_eq!(line(&positions, "plugins.datasette-auth-tokens[0]"), Some((2, 3)));
        let positions = of("plugins: {datasette-auth-tokens: {tokens: [{token: a}]}}");
        assert_eq!(positions.token("token-1"), Some("plugins.datasette-auth-tokens.tokens[0]"));
    }
}
