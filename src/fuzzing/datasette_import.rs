//! The import of Datasette's configurations: what comes out opens nothing that Datasette closes.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Empty, authorizer, snapshot, try_config, wait_for};
use crate::attributes::{Attributes, ClientAddress, Encoding, Headers, Http};
use crate::authorizer::Authorizer;
use crate::cli::import::Imported;
use crate::cli::import::datasette::{Sql, import};
use crate::cli::import::rules::Version;
use crate::config::parse_foreign;

/// The target.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(document) = parse_foreign(text, Path::new("datasette.yaml")) else { return };
    let cases = [
        (Sql::NotGuarded, None),
        (Sql::GuardedByDatasette, None),
        (Sql::NotGuarded, Some(Version::Before1)),
        (Sql::GuardedByDatasette, Some(Version::Before1)),
    ];
    for (sql, version) in cases {
        let Ok(Imported { config, notes }) = import(&document, sql, version) else { continue };
        assert!(notes.iter().all(|note| !note.is_empty() && !note.contains('\n')), "{notes:?}");
        let Some(root) = document.as_object() else { panic!("imported although it is no mapping") };
        // A token that is read from elsewhere is not there, and has no part in who is anonymous.
        let Ok(config) = try_config(&config, &Empty) else { continue };
        check_what_is_open(&authorizer(snapshot(&config)), root, sql, version);
    }
}

/// Whom 0.65 denies something never passes; and what no block speaks of is closed.
fn check_what_is_open(
    authorizer: &Authorizer,
    root: &Map<String, Value>,
    sql: Sql,
    version: Option<Version>,
) {
    for (database_name, database) in members(root, "databases") {
        let Some(database) = database.as_object() else { continue };
        let blocks = [database.get("allow"), root.get("allow")];
        let default = members(root, "settings").find(|(key, _)| *key == "default_allow_sql");
        let closes_sql = default.is_some_and(|(_, value)| *value != Value::Bool(true));
        // 1.0 reads them, and they may open what no allow block speaks of.
        let has_permissions = version.is_none()
            && (root.contains_key("permissions") || speaks_of_permissions(&Value::Object(database.clone())));
        let sql_blocks = [database.get("allow_sql"), root.get("allow_sql")];
        let may_run_sql = match sql_blocks.into_iter().flatten().find(|block| !block.is_null()) {
            Some(block) => admits_anonymous(block),
            None => !closes_sql,
        };
        for (kind, is_query) in [("tables", false), ("queries", true)] {
            for (name, resource) in members(database, kind) {
                // Of a query and a table of one name the query is shown.
                if !is_query && members(database, "queries").any(|(query, _)| query == name) {
                    continue;
                }
                let own = resource.as_object().and_then(|resource| resource.get("allow"));
                let mut nearest = [own].into_iter().chain(blocks).flatten().filter(|block| !block.is_null());
                let is_open = nearest.next().map_or(has_permissions, admits_anonymous)
                    && (is_query || may_run_sql || sql == Sql::GuardedByDatasette);
                for format in ["", ".json"] {
                    let path = format!("/{}/{}{format}", written(database_name), written(name));
                    assert!(is_open || !passes(authorizer, &path), "{path} is open ({sql:?})");
                }
            }
        }
    }
}

fn speaks_of_permissions(value: &Value) -> bool {
    let Some(members) = value.as_object() else { return false };
    members.iter().any(|(key, value)| key == "permissions" || speaks_of_permissions(value))
}

fn members<'v>(mapping: &'v Map<String, Value>, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    mapping.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// As `datasette.utils.actor_matches_allow` has it.
fn admits_anonymous(block: &Value) -> bool {
    *block == Value::Bool(true) || block.get("unauthenticated") == Some(&Value::Bool(true))
}

fn passes(authorizer: &Authorizer, path: &str) -> bool {
    let headers = Headers::new(Encoding::Lines, Vec::new());
    let http = Http {
        method: b"GET",
        host: b"example.com",
        path: path.as_bytes(),
        headers,
        client: ClientAddress::UNKNOWN,
    };
    let request = Attributes { http: Some(http), policy: None, misspelled_policy: None };
    wait_for(authorizer.authorize(&request, None)).verdict.is_ok()
}

/// A name as Datasette writes it in paths.
fn written(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => text.push(char::from(byte)),
            b' ' => text.push('+'),
            _ => write!(text, "~{byte:02X}").expect("a String takes every text"),
        }
    }
    text
}
