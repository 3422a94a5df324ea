//! A Datasette configuration as one of ours.
//!
//! What decides in Datasette (0.44 to 1.0 alike): of the allow blocks of a table or a query, of its
//! database and of the whole instance the nearest one that is there; where there is none, everybody may.
//! SQL of one's own (`?sql=`, `?_where=`) needs `allow_sql` besides, and a route sees no query.
//!
//! Here nothing is opened that no allow block speaks of, and what cannot be expressed is closed and reported.

use serde_json::{Map, Value, json};

use super::super::Complaint;
use super::paths::{Name, OTHER_SPELLINGS};
use super::{allow, tokens};

const PLUGIN: &str = "datasette-auth-tokens";

/// Who holds the line where a request brings SQL of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sql {
    /// We do: a page that could be asked for SQL is closed to whoever may not.
    NotGuarded,
    /// Datasette goes on doing so.
    GuardedByDatasette,
}

/// A configuration, and what somebody must know who uses it.
pub struct Imported {
    /// Our configuration as YAML.
    pub config: String,
    /// What could not be expressed, and what else is different.
    pub report: Vec<String>,
}

/// Translates a Datasette configuration.
///
/// # Errors
/// It is none, or nothing would be left of it.
pub fn import(document: &Value, sql: Sql) -> Result<Imported, Complaint> {
    let root = document.as_object().ok_or("it is not a mapping")?;
    let mut report = Vec::new();
    let plugin = read_plugin(root, &mut report)?;
    let mut import = Import { sql, settings_allow_sql: None, routes: Vec::new(), report };
    import.read_settings(root)?;
    import.read_instance(root)?;
    let Import { routes, mut report, .. } = import;
    add_what_is_different(&plugin, &routes, &mut report);
    let config = write(&plugin, &routes);
    tokens::check(&config).map_err(|why| format!("what comes out is no valid configuration: {why}"))?;
    Ok(Imported { config, report })
}

/// What the plugin's configuration says.
struct Plugin {
    tokens: Vec<Value>,
    query: Option<String>,
}

fn read_plugin(root: &Map<String, Value>, report: &mut Vec<String>) -> Result<Plugin, Complaint> {
    let plugins = root.get("plugins").and_then(Value::as_object);
    for name in plugins.into_iter().flat_map(Map::keys).filter(|name| *name != PLUGIN) {
        report
            .push(format!("plugins.{}: what this plugin permits or forbids is not known here", shown(name)));
    }
    let (list, param) = match plugins.and_then(|plugins| plugins.get(PLUGIN)) {
        None | Some(Value::Null) => (&[][..], None),
        Some(Value::Array(list)) => (&list[..], None),
        Some(Value::Object(plugin)) => {
            for key in plugin.keys().filter(|key| !["tokens", "param"].contains(&key.as_str())) {
                report.push(format!(
                    "plugins.{PLUGIN}.{}: left out; tokens that Datasette keeps in a database are unknown here",
                    shown(key)
                ));
            }
            let list = match plugin.get("tokens") {
                None | Some(Value::Null) => &[][..],
                Some(Value::Array(list)) => &list[..],
                Some(_) => return Err(format!("plugins.{PLUGIN}.tokens is not a list")),
            };
            (list, plugin.get("param"))
        }
        Some(_) => return Err(format!("plugins.{PLUGIN} is neither a list nor a mapping")),
    };
    let query = match param {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if !name.is_empty() && !name.contains(char::is_control) => {
            Some(name.clone())
        }
        Some(_) => {
            report.push(format!(
                "plugins.{PLUGIN}.param: left out, because it is no name of a query parameter"
            ));
            None
        }
    };
    Ok(Plugin { tokens: tokens::translate(list, report), query })
}

/// A route of ours.
struct Route {
    /// Where it comes from.
    comment: String,
    path_regex: String,
    methods: &'static [&'static str],
    allow: Value,
}

struct Import {
    sql: Sql,
    settings_allow_sql: Option<Value>,
    routes: Vec<Route>,
    report: Vec<String>,
}

impl Import {
    fn read_settings(&mut self, root: &Map<String, Value>) -> Result<(), Complaint> {
        let settings = root.get("settings").and_then(Value::as_object);
        for (key, value) in settings.into_iter().flatten() {
            match (key.as_str(), value) {
                ("default_allow_sql", Value::Bool(true)) => {}
                ("default_allow_sql", _) => self.settings_allow_sql = Some(Value::Bool(false)),
                // Datasette then shows the same page under two paths.
                ("base_url", base) if base != "/" => {
                    return Err(
                        "settings.base_url is not `/`: take it out, and let Envoy take the prefix off"
                            .to_owned(),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_instance(&mut self, root: &Map<String, Value>) -> Result<(), Complaint> {
        let known = ["databases", "allow", "allow_sql", "permissions", "plugins", "settings"];
        let rule = self.rule(root, &known, "");
        let sql = self.sql_rule(root, "").or_else(|| self.settings_allow_sql.take());
        let databases = match root.get("databases") {
            None | Some(Value::Null) => &Map::new(),
            Some(Value::Object(databases)) => databases,
            Some(_) => return Err("`databases` is not a mapping".to_owned()),
        };
        for (name, database) in databases {
            self.read_database(name, database, rule.as_ref(), sql.as_ref());
        }
        if let Some(allow) = rule {
            self.add("the list of databases", r"/(?:\.jsono?)?".to_owned(), &["GET"], allow);
        }
        Ok(())
    }

    fn read_database(&mut self, name: &str, database: &Value, instance: Option<&Value>, sql: Option<&Value>) {
        let place = format!("databases.{}", shown(name));
        let nothing = Map::new();
        let Some(database) = as_mapping(database, &nothing) else {
            return self.report.push(format!("{place}: closed: it is not a mapping"));
        };
        let known = ["allow", "allow_sql", "permissions", "plugins", "tables", "queries"];
        let own = self.rule(database, &known, &place);
        let rule = own.as_ref().or(instance);
        let own_sql = self.sql_rule(database, &place);
        let sql = own_sql.as_ref().or(sql);

        let first = self.routes.len();
        let is_list_of_names =
            |key| database.get(key).is_none_or(|value| value.is_object() || value.is_null());
        let mut unclear = !(is_list_of_names("queries") && is_list_of_names("tables"));
        let Some(database_name) = Name::new(name) else {
            return self.report.push(format!("{place}: closed: {UNCLEAR_NAME}"));
        };
        for (name, query) in members(database, "queries") {
            let place = format!("{place}.queries.{}", shown(name));
            // A query without a block of its own may be no more than a text.
            let own = query.as_object().and_then(|query| self.rule(query, &QUERY, &place));
            match (Name::new(name), own.as_ref().or(rule)) {
                (None, _) => unclear = true,
                (Some(_), None) => {}
                (Some(name), Some(allow)) => {
                    self.add(&place, name.query(&database_name), &["GET", "POST"], allow.clone());
                }
            }
        }
        for (name, table) in members(database, "tables") {
            let place = format!("{place}.tables.{}", shown(name));
            let Some(table) = as_mapping(table, &nothing) else {
                unclear = true;
                continue;
            };
            let known = ["allow", "permissions", "plugins"];
            match (Name::new(name), self.rule(table, &known, &place)) {
                (None, _) => unclear = true,
                // The pages of the database are those of this table, too.
                (Some(_), None) => {}
                (Some(name), Some(allow)) => {
                    let allow = self.with_sql(&allow, sql, &place);
                    self.add(&place, name.table(&database_name), &["GET"], allow);
                }
            }
        }
        if unclear {
            // One of its tables could be read as another.
            self.routes.truncate(first);
            self.report.push(format!(
                "{place}: closed: one of its tables or queries is no mapping, or {UNCLEAR_NAME}"
            ));
            return;
        }
        let pages = database_name.database();
        match rule {
            Some(allow) => {
                let allow = self.with_sql(allow, sql, &place);
                self.add(&place, pages, &["GET"], allow);
            }
            None => self.report.push(format!(
                "{place}: closed but for what is listed: no allow block speaks of it, so that Datasette shows it to \
                 everybody; if that is right, add {{path_regex: {}, methods: [GET], allow: true}}",
                quoted(&pages)
            )),
        }
    }

    /// The allow block of a mapping; `None` where there is none.  What cannot be expressed is "no one".
    fn rule(&mut self, mapping: &Map<String, Value>, known: &[&str], place: &str) -> Option<Value> {
        let dot = if place.is_empty() { "" } else { "." };
        let mut problems = Vec::new();
        let mut rule = match mapping.get("allow") {
            None | Some(Value::Null) => None,
            Some(block) => match allow::translate(block) {
                Ok(allow) => Some(allow),
                Err(why) => {
                    problems.push(format!("{place}{dot}allow: {why}"));
                    None
                }
            },
        };
        for action in members(mapping, "permissions").map(|(action, _)| action.as_str()) {
            if action.starts_with("view-") || action == "execute-sql" {
                let action = shown(action);
                problems.push(format!("{place}{dot}permissions.{action}: only allow blocks are translated"));
            } else {
                let action = shown(action);
                self.report.push(format!("{place}{dot}permissions.{action}: left out; no route leads there"));
            }
        }
        if mapping
            .get("permissions")
            .is_some_and(|permissions| !permissions.is_object() && !permissions.is_null())
        {
            problems.push(format!("{place}{dot}permissions: it is not a mapping"));
        }
        for (key, value) in mapping.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            if speaks_of_permissions(key, value) {
                let key = shown(key);
                problems.push(format!(
                    "{place}{dot}{key}: a permission where Datasette has none that is known here"
                ));
            }
        }
        if !problems.is_empty() {
            rule = Some(Value::Bool(false));
        }
        self.report.extend(problems.into_iter().map(|problem| format!("{problem}; closed")));
        rule
    }

    fn sql_rule(&mut self, mapping: &Map<String, Value>, place: &str) -> Option<Value> {
        let block = mapping.get("allow_sql").filter(|block| !block.is_null())?;
        match allow::translate(block) {
            Ok(allow) => Some(allow),
            Err(why) => {
                let dot = if place.is_empty() { "" } else { "." };
                self.report.push(format!("{place}{dot}allow_sql: {why}; read as false"));
                Some(Value::Bool(false))
            }
        }
    }

    /// Who may see the pages and also run SQL on them.
    fn with_sql(&mut self, allow: &Value, sql: Option<&Value>, place: &str) -> Value {
        let (Some(sql), Sql::NotGuarded) = (sql, self.sql) else {
            return allow.clone();
        };
        let both = allow::both(allow, sql);
        if both.as_ref() != Some(allow) {
            self.report.push(format!(
                "{place}: allow_sql: pages under which SQL could be run are open to those alone who may run SQL{}; \
                 --datasette-guards-sql leaves that to Datasette",
                if both.is_some() { "" } else { ", which no single allow block can say, so they are closed" }
            ));
        }
        both.unwrap_or(Value::Bool(false))
    }

    fn add(&mut self, comment: &str, path_regex: String, methods: &'static [&'static str], allow: Value) {
        self.routes.push(Route { comment: comment.to_owned(), path_regex, methods, allow });
    }
}

const UNCLEAR_NAME: &str = "its name has spellings that a route cannot tell apart";

/// What a query can say beside its permissions.  `params` may well be called "allow".
const QUERY: [&str; 5] = ["allow", "permissions", "plugins", "sql", "params"];

/// A mapping; nothing at all is an empty one.
fn as_mapping<'v>(value: &'v Value, nothing: &'v Map<String, Value>) -> Option<&'v Map<String, Value>> {
    if value.is_null() { Some(nothing) } else { value.as_object() }
}

fn members<'v>(mapping: &'v Map<String, Value>, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    mapping.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// Whether an allow block or the like stands here or below.
fn speaks_of_permissions(key: &str, value: &Value) -> bool {
    let below = match value {
        Value::Object(members) => members.iter().any(|(key, value)| speaks_of_permissions(key, value)),
        Value::Array(list) => list.iter().any(|element| speaks_of_permissions("", element)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    below || key.starts_with("allow") || key == "permissions"
}

fn add_what_is_different(plugin: &Plugin, routes: &[Route], report: &mut Vec<String>) {
    if !plugin.tokens.is_empty() {
        report.push(
            "a token that nobody knows is refused; Datasette takes its bearer for anonymous".to_owned(),
        );
    }
    if routes.is_empty() {
        report.push(
            "no allow block, no route: everything is closed; `default: {}` admits any token, `default: {allow: true}` everybody"
                .to_owned(),
        );
        return;
    }
    report.push(
        "closed: databases that the file does not name, pages under /-/ but the static ones, methods but GET, HEAD \
         and the POST of queries, spellings of names that Datasette itself never writes"
            .to_owned(),
    );
    report.push(
        "Datasette should keep its file: its lists, labels and SQL go by these permissions, and it is shown the \
         credential for that (forward_credentials).  Whoever logs in to Datasette itself is anonymous here"
            .to_owned(),
    );
}

/// The configuration as YAML, for people.
fn write(plugin: &Plugin, routes: &[Route]) -> String {
    let mut text =
        "# Made from a Datasette configuration by `envoy-auth-tokens import datasette`.\n".to_owned();
    if plugin.tokens.is_empty() {
        text.push_str("\ntokens: []\n");
    } else {
        text.push_str("\ntokens:\n");
    }
    for token in &plugin.tokens {
        let members = token.as_object().into_iter().flatten();
        for (index, (key, value)) in members.enumerate() {
            let dash = if index == 0 { "-" } else { " " };
            text.push_str(&format!("{dash} {key}: {value}\n"));
        }
    }
    text.push_str("\n# Where the plugin looks for a token.\n");
    match &plugin.query {
        Some(name) => text.push_str(&format!("credentials: [bearer, {}]\n", json!({"query": name}))),
        None => text.push_str("credentials: [bearer]\n"),
    }
    if !routes.is_empty() {
        text.push_str(
            "\n# Datasette goes on applying its own permissions to lists, labels and SQL, and needs the token for that.
forward_credentials: true

routes:
# A name has one spelling: these are others that Datasette would read, too.\n",
        );
        text.push_str(&format!("- {{path_regex: {}, allow: false}}\n", quoted(OTHER_SPELLINGS)));
    }
    for Route { comment, path_regex, methods, allow } in routes {
        let (regex, methods) = (quoted(path_regex), methods.join(", "));
        text.push_str(&format!(
            "# {comment}\n- {{path_regex: {regex}, methods: [{methods}], allow: {allow}}}\n"
        ));
    }
    if !routes.is_empty() {
        text.push_str(
            "# What Datasette's pages are made of, and asks nobody about.
- {path_prefix: /-/static, methods: [GET], allow: true}
- {path_prefix: /-/static-plugins, methods: [GET], allow: true}
- {path: /favicon.ico, methods: [GET], allow: true}\n",
        );
    }
    text.push_str("\n# Nothing is open that the file did not speak of.\ndefault: {allow: false}\n");
    text
}

/// A text in single quotes, in which YAML knows no escapes; names with control characters do not get here.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name for a message or a comment.
fn shown(name: &str) -> String {
    name.escape_debug().to_string()
}
