//! Finds the scalars of a Datasette configuration that YAML 1.1 and YAML 1.2 read differently.
//!
//! Datasette reads YAML 1.1, in which a bare `2020`, `on` or `2024-01-01` is not text, `012` is ten and `1e3` is not a
//! number.  An allow block that is read in two ways could admit an actor here whom it denies there.

use std::sync::LazyLock;

use regex::Regex;

use super::raw::{Node, Value};
use super::reader::Reader;

/// Keys whose mappings have names as keys.
const NAMED: [&str; 4] = ["databases", "tables", "queries", "permissions"];

/// Keys whose values are compared with actors, and actors themselves.
const COMPARED: [&str; 4] = ["allow", "allow_sql", "permissions", "actor"];

/// What a bare scalar is in YAML 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScalarKind {
    Text,
    /// A number that YAML 1.2 reads alike.
    Number,
    /// `true` or `false`, which YAML 1.2 reads alike.
    Bool,
    /// Null, which YAML 1.2 reads alike.
    Null,
    /// What only YAML 1.1 has: `yes`, a date, `0x1F`, `1_000`, `1:30`.
    Other(&'static str),
}

fn kind(text: &str) -> ScalarKind {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+][0-9]+)?)?$")
            .expect("a regular expression of our own")
    });
    static OLD_NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)^(?: [-+]?0b[0-1_]+ | [-+]?0x[0-9a-fA-F_]+ | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])*
            | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])*\.[0-9_]*(?:[eE][-+][0-9]+)? | [-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?
            | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN) )$",
        )
        .expect("a regular expression of our own")
    });
    static DATE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?$")
            .expect("a regular expression of our own")
    });
    match text {
        "true" | "false" => ScalarKind::Bool,
        "True" | "TRUE" | "False" | "FALSE" | "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "on" | "On"
        | "ON" | "off" | "Off" | "OFF" => ScalarKind::Other("true or false"),
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        _ if NUMBER.is_match(text) => ScalarKind::Number,
        _ if OLD_NUMBER.is_match(text) => ScalarKind::Other("a number"),
        _ if DATE.is_match(text) => ScalarKind::Other("a date"),
        _ => ScalarKind::Text,
    }
}

/// Records an error for every scalar that decides about access and that YAML 1.1 reads differently.
pub fn check<'t>(reader: &mut Reader<'t>, node: &'t Node, source: &str) {
    walk(reader, node, source, false, false);
}

fn walk<'t>(reader: &mut Reader<'t>, node: &'t Node, source: &str, is_named: bool, is_compared: bool) {
    match &node.value {
        Value::List(list) => {
            for element in list {
                walk(reader, element, source, false, is_compared);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let bare = source.get(entry.at.span()).filter(|written| *written == &*entry.key);
                if (is_named || is_compared)
                    && let Some(what) = bare.map(kind).and_then(as_what)
                {
                    reader.error(
                        &entry.at,
                        format!("Datasette reads this bare key as {what}, and no name is equal to that; put it in quotes"),
                    );
                }
                let is_named = NAMED.contains(&&*entry.key);
                let is_compared = is_compared || COMPARED.contains(&&*entry.key);
                walk(reader, &entry.value, source, is_named, is_compared);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) if is_compared => {
            let Some(written) = source.get(node.at.span()).filter(|written| !written.is_empty()) else {
                return;
            };
            let differs = match (&node.value, kind(written)) {
                // The source of a text in quotes or of several lines differs from its value.
                (Value::Text(text), kind) => (text.as_str() == written).then_some(kind).and_then(as_what),
                (Value::Number(_), ScalarKind::Number) => None,
                (Value::Number(_), ScalarKind::Text) => Some("text"),
                (Value::Number(_) | Value::Bool(_), ScalarKind::Other(what)) => Some(what),
                (Value::Number(_) | Value::Bool(_) | Value::Null, _) => None,
                (Value::List(_) | Value::Map(_) | Value::Unresolved { .. }, _) => None,
            };
            if let Some(what) = differs {
                reader.error(
                    &node.at,
                    format!("Datasette reads this bare value as {what}, which is another one here; put it in quotes, or write what is meant"),
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Unresolved { .. } => {}
    }
}

/// What a bare scalar that is text in YAML 1.2 is in YAML 1.1; `None` when it is text there, too.
fn as_what(kind: ScalarKind) -> Option<&'static str> {
    match kind {
        ScalarKind::Text => None,
        ScalarKind::Number => Some("a number"),
        ScalarKind::Bool => Some("true or false"),
        ScalarKind::Null => Some("nothing"),
        ScalarKind::Other(what) => Some(what),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::super::raw::from_yaml;
    use super::super::secrets::ProcessEnvironment;
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let tree = from_yaml(text).ok().unwrap();
        let mut reader = Reader::new(&tree, Path::new(""), &ProcessEnvironment, Timestamp::UNIX_EPOCH);
        check(&mut reader, &tree, text);
        let file: Arc<Path> = Path::new("x").into();
        reader.finish(&file, text).iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect()
    }

    #[test]
    fn what_yaml_1_1_reads_otherwise() {
        for (text, what) in [
            ("databases: {2020: {}}", "a number"),
            ("databases:\n  on:\n    allow: true", "true or false"),
            ("databases: {d: {tables: {2024-01-01: {}}}}", "a date"),
            ("databases: {d: {queries: {1_000: x}}}", "a number"),
            ("databases: {d: {tables: {0x1F: {}}}}", "a number"),
            ("databases: {d: {tables: {1:30: {}}}}", "a number"),
            ("databases: {d: {tables: {1.5: {}}}}", "a number"),
            ("databases: {d: {tables: {true: {}}}}", "true or false"),
            ("databases: {d: {allow: {id: yes}}}", "true or false"),
            ("allow: {id: [root, no]}", "true or false"),
            ("allow: {id: 012}", "a number"),
            ("allow: {id: 2024-01-01}", "a date"),
            ("allow: {id: 1e3}", "text"),
            ("allow: yes", "true or false"),
            ("permissions: {view-table: {id: off}}", "true or false"),
            ("plugins: {p: {tokens: [{actor: {id: 1:30}}]}}", "a number"),
        ] {
            let faults = faults(text);
            assert!(faults.len() == 1 && faults[0].contains(&format!(" as {what}, ")), "{text}: {faults:?}");
        }
        for text in [
            "databases: {\"2020\": {}, '2021': {}, on2: {}, a.b: {}, a-1: {}}",
            "databases: {d: {tables: {t: {sort: yes, size: 1_0, columns: {on: x, 1: y}}}}}",
            "title: 2024-01-01\nlicense: no",
            "allow: {id: [root, 5, 1.5, -3, true, null, ~, \"012\", 'yes', a:b], role: \"*\"}",
            "allow: true",
            "allow: null",
            "allow:",
            "allow: {id: 'a\n  b'}",
        ] {
            assert_eq!(faults(text), [""; 0], "{text}");
        }
    }
}
