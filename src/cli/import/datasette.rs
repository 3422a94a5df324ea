//! Translates a Datasette configuration into one of ours.
//!
//! [`super::rules`] has the permissions of Datasette.  Routes do not see the query of a request, and a client can ask
//! the page of a table for SQL of its own (`?sql=`, `?_where=`).  So such a page is open only to actors who may run
//! SQL, too.
//!
//! Nothing is opened without an allow block.  Parts that cannot be expressed are closed, with a note.

use serde_json::{Map, Value, json};

use super::paths::{Name, OTHER_SPELLINGS, STATISTICS};
use super::rules::{Blocks, Resource, Rule, Version, action};
use super::{Imported, allow, tokens};

const PLUGIN: &str = "datasette-auth-tokens";

/// Which program checks permissions of a request with its own SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sql {
    /// This server: a page that runs SQL is closed to actors who may not run it.
    NotGuarded,
    /// Datasette does.
    GuardedByDatasette,
}

/// Why a file has no translation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetteError {
    /// The document is not a mapping.
    #[error("it is {0}; expected {SHAPE}")]
    Shape(&'static str),
    /// A key is a comment or a template.
    #[error(
        "{0}: this key begins like a comment or a template; take the comments out (YAML's begin with `#`), or render \
         the template first"
    )]
    CommentKey(String),
    /// The result would have neither a token nor a route.
    #[error("the result would admit no request: {missing}; {advice}")]
    Empty {
        /// The missing part of the file.
        missing: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
    /// `plugins` is not a mapping.
    #[error("`plugins` is not a mapping from the names of plugins to their settings")]
    Plugins,
    /// `plugins` is a reference of this kind.
    #[error("plugins: it is a reference ({0}); write the plugins out here")]
    PluginsReference(String),
    /// The plugin's own configuration is not a list or a mapping.
    #[error("plugins.{PLUGIN} is neither a list nor a mapping")]
    Plugin,
    /// The plugin's tokens are not a list.
    #[error(
        "plugins.{PLUGIN}.tokens is not a list; write it out as [{{token: {{$env: NAME}}, actor: {{id: NAME}}}}, …]; a \
         `token` alone may be a reference"
    )]
    Tokens,
    /// `settings` is not a mapping.
    #[error("`settings` is not a mapping")]
    Settings,
    /// Every path has a prefix.
    #[error("settings.base_url is not `/`: remove it, and let Envoy remove the prefix from paths")]
    BaseUrl,
    /// Permissions of every database.
    #[error(
        "`{0}` with permissions is at the top level of the file, where Datasette 0.65 uses it for every database \
         that has no `{0}`; move it into `databases`"
    )]
    GlobalPermissions(&'static str),
    /// `databases` is not a mapping.
    #[error("`databases` is not a mapping from their names to what they hold")]
    Databases,
    /// Our own reader rejects the result.
    #[error("the result is not a valid configuration: {0}")]
    Invalid(String),
}

/// Translates a Datasette configuration; without a version, for every Datasette that may read it.
///
/// # Errors
/// [`DatasetteError`]: it is not a Datasette configuration, or nothing would be left of it.
pub fn import(document: &Value, sql: Sql, version: Option<Version>) -> Result<Imported, DatasetteError> {
    let root = match document {
        Value::Object(root) => root,
        Value::Null => return Err(DatasetteError::Shape("empty")),
        Value::Array(_) => return Err(DatasetteError::Shape("a list")),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err(DatasetteError::Shape("no mapping"));
        }
    };
    check_comments(root, "")?;
    let mut notes = Vec::new();
    let plugin = read_plugin(root, &mut notes)?;
    let mut import = Importer {
        sql,
        version,
        instance: Blocks::default(),
        no_sql_by_default: false,
        downloads_are_off: false,
        routes: Vec::new(),
        notes,
    };
    import.read_settings(root)?;
    import.read_instance(root)?;
    let Importer { routes, mut notes, .. } = import;
    if plugin.tokens.is_empty() && routes.is_empty() {
        return Err(empty_error(root));
    }
    add_differences(root, &plugin, &routes, &mut notes);
    let config = render(&plugin, &routes);
    tokens::check(&config).map_err(DatasetteError::Invalid)?;
    Ok(Imported { config, notes })
}

const SHAPE: &str =
    "Datasette's datasette.yaml, metadata.yaml or metadata.json, a mapping with `plugins` and `databases`";

/// JSON has no comments, and YAML reads one as part of the next key, whose block would then be lost.
fn check_comments(mapping: &Map<String, Value>, path: &str) -> Result<(), DatasetteError> {
    for (key, value) in mapping {
        let path = if path.is_empty() { escaped(key) } else { format!("{path}.{}", escaped(key)) };
        if ["//", "/*", "{{", "{%"].iter().any(|start| key.trim_start().starts_with(start)) {
            return Err(DatasetteError::CommentKey(path));
        }
        if let Value::Object(inner) = value {
            check_comments(inner, &path)?;
        }
    }
    Ok(())
}

/// Why there is neither a token nor a route, and what to do.
fn empty_error(root: &Map<String, Value>) -> DatasetteError {
    let plugins = root.get("plugins").and_then(Value::as_object);
    let (missing, advice) = match plugins.and_then(|plugins| plugins.get(PLUGIN)) {
        _ if root.keys().any(|key| SETTINGS.contains(&key.as_str())) => (
            "it looks like Datasette's settings.json, which names no tokens and permissions",
            "import the datasette.yaml, metadata.yaml or metadata.json beside it",
        ),
        Some(Value::Object(plugin))
            if plugin.contains_key("manage_tokens") || plugin.contains_key("query") =>
        {
            (
                "its tokens are in a database, where they stay, and no allow block stands in it",
                "issue API keys here instead (`keys` in a configuration of your own)",
            )
        }
        Some(_) => (
            "none of its tokens can be used here, and no allow block stands in it",
            "give each token a `token` and an `actor`",
        ),
        None => (
            "it holds no token and no allow block, so that Datasette shows everything to everyone and there is \
             nothing to translate",
            "begin with a configuration of your own (README, `Quick start in 60 seconds`)",
        ),
    };
    DatasetteError::Empty { missing, advice }
}

/// Settings by which a settings.json of Datasette is recognised.
const SETTINGS: [&str; 8] = [
    "default_page_size",
    "max_returned_rows",
    "sql_time_limit_ms",
    "default_allow_sql",
    "allow_facet",
    "allow_download",
    "facet_time_limit_ms",
    "num_sql_threads",
];

/// The plugin's configuration, translated.
struct Plugin {
    tokens: Vec<Value>,
    query: Option<String>,
}

fn read_plugin(root: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Plugin, DatasetteError> {
    let plugins = match root.get("plugins") {
        None | Some(Value::Null) => None,
        Some(Value::Object(plugins)) => Some(plugins),
        Some(_) => return Err(DatasetteError::Plugins),
    };
    for name in plugins.into_iter().flat_map(Map::keys).filter(|name| *name != PLUGIN) {
        if name == "$env" || name == "$file" {
            return Err(DatasetteError::PluginsReference(name.clone()));
        }
        notes.push(format!(
            "plugins.{}: what this plugin permits or forbids is not known here",
            escaped(name)
        ));
    }
    let (list, param) = match plugins.and_then(|plugins| plugins.get(PLUGIN)) {
        None | Some(Value::Null) => (&[][..], None),
        Some(Value::Array(list)) => (&list[..], None),
        Some(Value::Object(plugin)) => {
            for key in plugin.keys().filter(|key| !["tokens", "param"].contains(&key.as_str())) {
                notes.push(format!(
                    "plugins.{PLUGIN}.{}: left out; tokens that Datasette keeps in a database are unknown here",
                    escaped(key)
                ));
            }
            let list = match plugin.get("tokens") {
                None | Some(Value::Null) => &[][..],
                Some(Value::Array(list)) => &list[..],
                Some(_) => return Err(DatasetteError::Tokens),
            };
            (list, plugin.get("param"))
        }
        Some(_) => return Err(DatasetteError::Plugin),
    };
    let query = match param {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if !name.is_empty() && !name.contains(char::is_control) => {
            Some(name.clone())
        }
        Some(_) => {
            notes.push(format!(
                "plugins.{PLUGIN}.param: left out, because it is no name of a query parameter"
            ));
            None
        }
    };
    Ok(Plugin { tokens: tokens::translate(list, notes), query })
}

/// A route of the result.
struct TranslatedRoute {
    /// The part of the file that it comes from.
    comment: String,
    path_regex: String,
    methods: &'static [&'static str],
    allow: Value,
}

struct Importer {
    sql: Sql,
    version: Option<Version>,
    instance: Blocks,
    no_sql_by_default: bool,
    downloads_are_off: bool,
    routes: Vec<TranslatedRoute>,
    notes: Vec<String>,
}

/// A table or a query, with its settings in the file.
struct Member<'f> {
    name: &'f str,
    blocks: Blocks,
    /// The query as it is written.
    query: Option<&'f Value>,
}

/// The write calls of 1.0 on a table: the end of the path, and the actions, which must all be permitted.
const TABLE_WRITES: [(&str, &[&str]); 5] = [
    ("insert", &[action::INSERT_ROW]),
    ("upsert", &[action::INSERT_ROW, action::UPDATE_ROW]),
    ("alter", &[action::ALTER_TABLE]),
    ("drop", &[action::DROP_TABLE]),
    ("set-column-type", &[action::SET_COLUMN_TYPE]),
];

/// The same for a row.
const ROW_WRITES: [(&str, &[&str]); 2] =
    [("update", &[action::UPDATE_ROW]), ("delete", &[action::DELETE_ROW])];

const READ: &[&str] = &["GET"];
const READ_AND_POST: &[&str] = &["GET", "POST"];
const POST: &[&str] = &["POST"];

impl Importer {
    fn read_settings(&mut self, root: &Map<String, Value>) -> Result<(), DatasetteError> {
        let settings = match root.get("settings") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Object(settings)) => settings,
            Some(_) => return Err(DatasetteError::Settings),
        };
        for (key, value) in settings {
            match (key.as_str(), value) {
                ("default_allow_sql", value) => self.no_sql_by_default = *value != Value::Bool(true),
                ("allow_download", value) => self.downloads_are_off = *value != Value::Bool(true),
                // Datasette then shows the same page under two paths.
                ("base_url", base) if base != "/" => return Err(DatasetteError::BaseUrl),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_instance(&mut self, root: &Map<String, Value>) -> Result<(), DatasetteError> {
        for key in ["tables", "queries"] {
            if root.get(key).is_some_and(|value| has_permissions(key, value)) {
                return Err(DatasetteError::GlobalPermissions(key));
            }
        }
        let known = ["databases", "allow", "allow_sql", "permissions", "plugins", "settings"];
        self.instance = self.blocks(root, &known, "");
        let databases = match root.get("databases") {
            None | Some(Value::Null) => &Map::new(),
            Some(Value::Object(databases)) => databases,
            Some(_) => return Err(DatasetteError::Databases),
        };
        for (name, database) in databases {
            self.read_database(name, database);
        }
        let instance = Resource {
            instance: &self.instance,
            no_sql_by_default: self.no_sql_by_default,
            database: None,
            tables: &[],
            query: None,
        };
        let rule = instance.rule(self.version, action::VIEW_INSTANCE);
        // 1.0 shows the page about the caller's own actor to everyone.
        let of_actor = rule.clone().filter(|_| self.version != Some(Version::Since1));
        if databases.is_empty()
            && [action::VIEW_DATABASE, action::VIEW_TABLE]
                .iter()
                .any(|action| instance.rule(self.version, action).is_some())
        {
            self.notes.push(
                "the file names no database, so that none is open: name each, as in `databases: {NAME: {}}`, and \
                 import again"
                    .to_owned(),
            );
        }
        if let Some(rule) = rule {
            let allow = self.single(&rule, "the list of databases");
            self.add("the list of databases", r"/(?:\.jsono?)?".to_owned(), READ, allow);
        }
        if !self.routes.is_empty() {
            let allow = of_actor.map_or(Value::Bool(true), |rule| self.single(&rule, "/-/actor"));
            self.add("who asks", r"/-/actor(?:\.json)?".to_owned(), READ, allow);
        }
        Ok(())
    }

    fn read_database(&mut self, name: &str, database: &Value) {
        let key_path = format!("databases.{}", escaped(name));
        let nothing = Map::new();
        let Some(database) = as_mapping(database, &nothing) else {
            return self.notes.push(format!("{key_path}: closed: it is not a mapping"));
        };
        if name == "_internal" {
            return self.notes.push(format!("{key_path}: closed: Datasette keeps secrets in this database"));
        }
        if name == "-" {
            return self.notes.push(format!(
                "{key_path}: closed: Datasette has pages of its own under this name; rename it"
            ));
        }
        if name == ":memory:" {
            self.notes
                .push(format!("{key_path}: Datasette calls this database `_memory` since 0.55: rename it"));
        }
        let known = ["allow", "allow_sql", "permissions", "plugins", "tables", "queries"];
        let blocks = self.blocks(database, &known, &key_path);
        let Some(tables) = self.read_members(database, "tables", &key_path) else {
            return self.notes.push(format!("{key_path}: closed: `tables` or one of them is no mapping"));
        };
        let Some(queries) = self.read_members(database, "queries", &key_path) else {
            return self.notes.push(format!("{key_path}: closed: `queries` is no mapping"));
        };
        let names: Option<Vec<Name>> =
            tables.iter().chain(&queries).map(|member| Name::new(member.name)).collect();
        let (Some(name), Some(names)) = (Name::new(name), names) else {
            // One of its tables could be read as another.
            return self.notes.push(format!("{key_path}: closed: {UNCLEAR_NAME}"));
        };
        let (table_names, query_names) = names.split_at(tables.len());
        let instance = std::mem::take(&mut self.instance);
        let whole = Resource {
            instance: &instance,
            no_sql_by_default: self.no_sql_by_default,
            database: Some(&blocks),
            tables: &[],
            query: None,
        };
        for (query, query_name) in queries.iter().zip(query_names) {
            self.add_query(&key_path, &name, whole, &tables, query, query_name);
        }
        for (index, (table, table_name)) in tables.iter().zip(table_names).enumerate() {
            let is_first = !tables[..index].iter().any(|other| other.name.eq_ignore_ascii_case(table.name));
            if is_first {
                self.add_table(&key_path, &name, whole, (&tables, &queries), table.name, table_name);
            }
        }
        self.add_database(&key_path, &name, whole, &tables);
        self.instance = instance;
    }

    /// The tables or the queries of a database; `None` when they are no mapping of mappings.
    fn read_members<'f>(
        &mut self,
        database: &'f Map<String, Value>,
        key: &str,
        key_path: &str,
    ) -> Option<Vec<Member<'f>>> {
        let members = match database.get(key) {
            None | Some(Value::Null) => return Some(Vec::new()),
            Some(Value::Object(members)) => members,
            Some(_) => return None,
        };
        let nothing = Map::new();
        let read = |(name, value): (&'f String, &'f Value)| {
            let key_path = format!("{key_path}.{key}.{}", escaped(name));
            let is_query = key == "queries";
            let (known, query) = if is_query { (&QUERY[..], Some(value)) } else { (&TABLE[..], None) };
            // A query without a block of its own may be no more than a text.
            let mapping =
                if is_query { value.as_object().or(Some(&nothing)) } else { as_mapping(value, &nothing) };
            Some(Member { name, blocks: self.blocks(mapping?, known, &key_path), query })
        };
        members.iter().map(read).collect()
    }

    fn add_query(
        &mut self,
        key_path: &str,
        database: &Name,
        whole: Resource<'_>,
        tables: &[Member<'_>],
        query: &Member<'_>,
        name: &Name,
    ) {
        let key_path = format!("{key_path}.queries.{}", escaped(query.name));
        let says = |key: &str| query.query.and_then(|query| query.get(key));
        let is_on = |key: &str| says(key).is_some_and(is_true);
        let same_name = blocks_of(tables, query.name);
        let here = Resource { tables: &same_name, query: Some(&query.blocks), ..whole };
        let mut rule = here.rule(self.version, action::VIEW_QUERY);
        if !same_name.is_empty() {
            // 0.65 shows the query under this path, 1.0 the table.
            let table = here.rule(self.version, action::VIEW_TABLE);
            let table = table.map(|rule| self.with_sql(rule, here, &key_path));
            rule = Rule::both(rule, table);
            self.notes.push(format!(
                "{key_path}: a table has this name, too, and 1.0 shows that instead; open to those alone who may see both"
            ));
        }
        let is_trusted = says("is_trusted").is_none_or(is_true);
        let writes = is_on("write");
        if !is_trusted {
            // 1.0 asks for the rights that its SQL needs.
            let needed =
                if writes { Some(Rule::no_one()) } else { here.rule(self.version, action::EXECUTE_SQL) };
            self.notes.push(format!(
                "{key_path}: it is not trusted, so that 1.0 asks for the rights that its SQL needs: {}",
                if writes { "closed" } else { "open to those alone who may run SQL" }
            ));
            rule = Rule::both(rule, needed);
        }
        self.note_versions(here, action::VIEW_QUERY, &key_path);
        if let Some(rule) = rule {
            let allow = self.single(&rule, &key_path);
            let methods = if writes { READ_AND_POST } else { READ };
            self.add(&key_path, name.query(database), methods, allow);
        }
    }

    fn add_table(
        &mut self,
        key_path: &str,
        database: &Name,
        whole: Resource<'_>,
        (tables, queries): (&[Member<'_>], &[Member<'_>]),
        written: &str,
        name: &Name,
    ) {
        let key_path = format!("{key_path}.tables.{}", escaped(written));
        if written == "-" {
            return self
                .notes
                .push(format!("{key_path}: closed: 1.0 has pages of its own where its rows are; rename it"));
        }
        let blocks = blocks_of(tables, written);
        // The query with this name; its `permissions` apply to the table.
        let query = queries.iter().find(|query| query.name.eq_ignore_ascii_case(written));
        let here = Resource { tables: &blocks, query: query.map(|query| &query.blocks), ..whole };
        let rule = here.rule(self.version, action::VIEW_TABLE);
        // Otherwise the pages of the database are those of this table, too.
        if let Some(rule) =
            rule.filter(|rule| whole.rule(self.version, action::VIEW_TABLE).as_ref() != Some(rule))
        {
            self.note_versions(here, action::VIEW_TABLE, &key_path);
            let rule = self.with_sql(rule, here, &key_path);
            let allow = self.single(&rule, &key_path);
            self.add(&key_path, name.table(database), READ, allow);
        }
        for (what, actions) in TABLE_WRITES {
            if let Some(allow) = self.write_rule(here, Some(whole), actions, &key_path) {
                self.add(&format!("{key_path}: {what}"), name.table_write(database, what), POST, allow);
            }
        }
        for (what, actions) in ROW_WRITES {
            if let Some(allow) = self.write_rule(here, Some(whole), actions, &key_path) {
                self.add(&format!("{key_path}: {what} a row"), name.row_write(database, what), POST, allow);
            }
        }
    }

    /// The actors who may write; `None` where the rule of the database applies.
    fn write_rule(
        &mut self,
        here: Resource<'_>,
        whole: Option<Resource<'_>>,
        actions: &[&str],
        key_path: &str,
    ) -> Option<Value> {
        let of = |resource: Resource<'_>| {
            // Without a block no actor may write.
            let rules = actions.iter().map(|action| resource.rule(self.version, action));
            let all = rules.collect::<Option<Vec<Rule>>>()?;
            all.into_iter().map(Some).reduce(Rule::both).flatten()
        };
        let rule = of(here);
        if whole.is_some_and(|whole| of(whole) == rule) {
            return None;
        }
        let rule = rule?;
        Some(self.single(&rule, key_path))
    }

    fn add_database(&mut self, key_path: &str, name: &Name, whole: Resource<'_>, tables: &[Member<'_>]) {
        let page = whole.rule(self.version, action::VIEW_DATABASE);
        let sql = whole.rule(self.version, action::EXECUTE_SQL);
        let of_tables = whole.rule(self.version, action::VIEW_TABLE);
        // A stored query is shown under such a path, too.
        let of_queries = whole.rule(self.version, action::VIEW_QUERY);
        if let (Some(tables), Some(queries)) = (&of_tables, &of_queries)
            && tables != queries
        {
            self.notes.push(format!(
                "{key_path}: view-query: queries that are stored in Datasette have the paths of tables, so that tables without \
                 blocks of their own are open to those alone who may see both"
            ));
        }
        let of_tables = of_tables.and_then(|rule| Rule::both(Some(rule), of_queries));
        for action in [action::VIEW_DATABASE, action::VIEW_TABLE] {
            self.note_versions(whole, action, key_path);
        }

        if self.version != Some(Version::Before1) {
            let has_dash = tables.iter().any(|table| table.name == "-");
            if has_dash {
                self.notes.push(format!("{key_path}: /-/query is closed, because a table is called `-`"));
            } else if let Some(rule) = Rule::both(page.clone(), sql) {
                let allow = self.single(&rule, &format!("{key_path}: /-/query"));
                self.add(&format!("{key_path}: SQL"), name.sql(), READ, allow);
            }
            if let Some(allow) = self.write_rule(whole, None, &[action::CREATE_TABLE], key_path) {
                self.add(&format!("{key_path}: create"), name.create(), POST, allow);
            }
            for (what, actions) in TABLE_WRITES {
                if let Some(allow) = self.write_rule(whole, None, actions, key_path) {
                    self.add(&format!("{key_path}: {what}"), name.any_table_write(what), POST, allow);
                }
            }
            for (what, actions) in ROW_WRITES {
                if let Some(allow) = self.write_rule(whole, None, actions, key_path) {
                    self.add(&format!("{key_path}: {what} a row"), name.any_row_write(what), POST, allow);
                }
            }
        }

        if page.is_some() {
            self.add_download(key_path, name, whole);
        }
        let page = page.map(|rule| self.with_sql(rule, whole, key_path));
        let of_tables = of_tables.map(|rule| self.with_sql(rule, whole, key_path));
        match (&page, &of_tables) {
            (Some(page), Some(tables)) if page == tables => {
                let allow = self.single(page, key_path);
                self.add(key_path, name.database(), READ, allow);
            }
            (page, tables) => {
                if let Some(rule) = page {
                    let allow = self.single(rule, key_path);
                    self.add(key_path, name.page(), READ, allow);
                }
                if let Some(rule) = tables {
                    let allow = self.single(rule, key_path);
                    self.add(&format!("{key_path}: its tables"), name.tables(), READ, allow);
                }
            }
        }
        let closed = match (page.is_none(), of_tables.is_none()) {
            (true, true) => Some(name.database()),
            (true, false) => Some(name.page()),
            (false, true) => Some(name.tables()),
            (false, false) => None,
        };
        if let Some(pages) = closed {
            self.notes.push(format!(
                "{key_path}: closed but for what is listed: no allow block speaks of it, so that Datasette shows it to \
                 everyone; if that is right, add {{path_regex: {}, methods: [GET], allow: true}}",
                quoted(&pages)
            ));
        }
    }

    /// A download holds every table.  Datasette denies it for databases that can change, and the file does not say which
    /// these are.
    fn add_download(&mut self, key_path: &str, name: &Name, whole: Resource<'_>) {
        let blocks = [Some(whole.instance), whole.database];
        let mut permissions = blocks.into_iter().flatten().flat_map(|blocks| &blocks.permissions);
        let is_said = permissions.any(|(action, _)| action == action::DOWNLOAD);
        let path = name.download();
        if let Some(rule) =
            whole.rule(self.version, action::DOWNLOAD).filter(|_| is_said && !self.downloads_are_off)
        {
            let allow = self.single(&rule, &format!("{key_path}: {}", action::DOWNLOAD));
            self.notes.push(format!(
                "{key_path}: {}: closed, because Datasette denies it of databases that can change; if this one is immutable \
                 (-i), set `allow: {allow}` at the route {}",
                action::DOWNLOAD,
                quoted(&path)
            ));
        }
        self.add(&format!("{key_path}: download"), path, READ, Value::Bool(false));
    }

    /// The blocks of one mapping.  A block that cannot be expressed becomes "no one".
    fn blocks(&mut self, mapping: &Map<String, Value>, known: &[&str], key_path: &str) -> Blocks {
        let dot = if key_path.is_empty() { "" } else { "." };
        let mut blocks = Blocks::default();
        let mut problems = Vec::new();
        let mut read = |key: &str, block: &Value| match allow::translate(block) {
            Ok(allow) => allow,
            Err(why) => {
                problems.push(format!("{key_path}{dot}{key}: {why}; closed"));
                Value::Bool(false)
            }
        };
        let block = |key: &str| mapping.get(key).filter(|block| !block.is_null());
        blocks.allow = block("allow").map(|block| read("allow", block));
        if known.contains(&"allow_sql") {
            blocks.allow_sql = block("allow_sql").map(|block| read("allow_sql", block));
        }
        for (action, block) in members(mapping, "permissions").filter(|(_, block)| !block.is_null()) {
            let allow = read(&format!("permissions.{}", escaped(action)), block);
            blocks.permissions.push((action.clone(), allow));
        }
        if mapping
            .get("permissions")
            .is_some_and(|permissions| !permissions.is_object() && !permissions.is_null())
        {
            problems.push(format!(
                "{key_path}{dot}permissions: it is not a mapping from actions to allow blocks; closed"
            ));
            blocks.is_unclear = true;
        }
        for (key, value) in mapping.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            if has_permissions(key, value) {
                let key = escaped(key);
                problems.push(format!(
                    "{key_path}{dot}{key}: a permission where Datasette has none that is known here; closed"
                ));
                blocks.is_unclear = true;
            }
        }
        self.notes.extend(problems);
        for (action, _) in &blocks.permissions {
            let is_known = action::ALL.contains(&action.as_str());
            let action = escaped(action);
            if self.version == Some(Version::Before1) {
                self.notes
                    .push(format!("{key_path}{dot}permissions.{action}: left out; 0.65 does not read it"));
            } else if !is_known {
                self.notes
                    .push(format!("{key_path}{dot}permissions.{action}: left out; no route leads there"));
            }
        }
        blocks
    }

    /// The actors who may see the pages and also run SQL on them.
    fn with_sql(&mut self, rule: Rule, here: Resource<'_>, key_path: &str) -> Rule {
        let sql = here.rule(self.version, action::EXECUTE_SQL);
        let (Some(sql), Sql::NotGuarded) = (sql, self.sql) else {
            return rule;
        };
        let Some(both) = Rule::both(Some(rule.clone()), Some(sql)) else {
            return rule;
        };
        let allow = both.to_allow();
        if allow.is_none() || allow != rule.to_allow() {
            let line = format!(
                "{key_path}: allow_sql: pages under which SQL could be run (`?sql=`, `?_where=`) are open to those alone who \
                 may run SQL, which in 1.0 takes view-database{}; --datasette-guards-sql leaves that to Datasette",
                if allow.is_some() {
                    ""
                } else {
                    "; no single allow block can say who that is, so they are closed"
                }
            );
            if !self.notes.contains(&line) {
                self.notes.push(line);
            }
        }
        both
    }

    /// The rule as one allow block of ours; "no one" where no single block can express it.
    fn single(&mut self, rule: &Rule, key_path: &str) -> Value {
        rule.to_allow().unwrap_or_else(|| {
            let line =
                format!("{key_path}: closed: no single allow block can say who passes all that is asked for");
            if !self.notes.contains(&line) {
                self.notes.push(line);
            }
            Value::Bool(false)
        })
    }

    /// Notes where 1.0 admits actors that 0.65 does not.
    fn note_versions(&mut self, here: Resource<'_>, action: &str, key_path: &str) {
        if self.version.is_some() {
            return;
        }
        let both = here.rule(None, action).and_then(|rule| rule.to_allow());
        let since_1 = here.rule(Some(Version::Since1), action).and_then(|rule| rule.to_allow());
        if both != since_1 {
            self.notes.push(format!(
                "{key_path}: {action}: Datasette 0.65 and 1.0 decide differently, and only whom both let in passes; \
                 --datasette-version says which one it is"
            ));
        }
    }

    fn add(&mut self, comment: &str, path_regex: String, methods: &'static [&'static str], allow: Value) {
        self.routes.push(TranslatedRoute { comment: comment.to_owned(), path_regex, methods, allow });
    }
}

const UNCLEAR_NAME: &str =
    "its name or one of a table or a query in it has spellings that a route cannot tell apart; rename it";

/// The keys of a query.  A parameter in `params` may be called "allow".
const QUERY: [&str; 5] = ["allow", "permissions", "plugins", "sql", "params"];

/// The keys of a table.  A column may be called "allow".
const TABLE: [&str; 6] = ["allow", "permissions", "plugins", "columns", "units", "column_types"];

/// The blocks of the tables of this name, whatever its case.
fn blocks_of<'f>(tables: &'f [Member<'f>], name: &str) -> Vec<&'f Blocks> {
    let same = tables.iter().filter(|table| table.name.eq_ignore_ascii_case(name));
    same.map(|table| &table.blocks).collect()
}

/// Whether Python takes a value for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// A mapping; nothing at all is an empty one.
fn as_mapping<'v>(value: &'v Value, nothing: &'v Map<String, Value>) -> Option<&'v Map<String, Value>> {
    if value.is_null() { Some(nothing) } else { value.as_object() }
}

fn members<'v>(mapping: &'v Map<String, Value>, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    mapping.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// Whether there is an allow block or the like under this key, at any depth.
fn has_permissions(key: &str, value: &Value) -> bool {
    if TABLE.contains(&key) && key != "allow" && key != "permissions" {
        return false;
    }
    let below = match value {
        Value::Object(members) => members.iter().any(|(key, value)| has_permissions(key, value)),
        Value::Array(list) => list.iter().any(|element| has_permissions("", element)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    let key = key.to_ascii_lowercase();
    below || key.starts_with("allow") || key.starts_with("permission")
}

fn add_differences(
    root: &Map<String, Value>,
    plugin: &Plugin,
    routes: &[TranslatedRoute],
    notes: &mut Vec<String>,
) {
    if plugin.tokens.is_empty() {
        let others = members(root, "plugins").map(|(name, _)| escaped(name));
        let others: Vec<_> = others.filter(|name| name.contains("auth") && name != PLUGIN).collect();
        let others = if others.is_empty() {
            String::new()
        } else {
            format!("; people who log in by {}", others.join(" or "))
        };
        notes.push(format!(
            "no token came out of the file, so that only the anonymous pass{others}: add `tokens`, `users` or `keys` with the \
             actors that the allow blocks speak of"
        ));
    } else {
        notes.push("an unknown token is denied; Datasette takes its bearer for anonymous".to_owned());
    }
    if routes.is_empty() {
        notes.push(
            "no allow block, no route: everything is closed; `default: {}` admits any token, `default: {allow: true}` everyone"
                .to_owned(),
        );
        return;
    }
    if routes.iter().any(|route| route.methods == POST) {
        notes.push(
            "the write API: what the body of a request asks for besides (`replace`, `alter`, `return`) Datasette goes on \
             deciding"
                .to_owned(),
        );
    }
    notes.push(
        "closed: databases that the file does not name, downloads of databases, pages under \
         /-/ but the static ones, /-/actor and /-/query, methods but GET, HEAD and the POST of writable queries and of the \
         write API, spellings of names that Datasette itself never writes"
            .to_owned(),
    );
    notes.push(
        "not in the file: what Datasette's command line says, such as --setting default_allow_sql off or --default-deny"
            .to_owned(),
    );
    notes.push(
        "Datasette should keep its file: its lists, labels and SQL go by these permissions, and it is shown the \
         credential for that (forward_credentials).  A user who logs in to Datasette itself is anonymous here"
            .to_owned(),
    );
}

/// Renders the configuration as YAML with comments.
fn render(plugin: &Plugin, routes: &[TranslatedRoute]) -> String {
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
        text.push_str("# SQLite's own statistics, which 1.0 shows to nobody.\n");
        text.push_str(&format!("- {{path_regex: {}, allow: false}}\n", quoted(STATISTICS)));
    }
    for TranslatedRoute { comment, path_regex, methods, allow } in routes {
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

/// A text in single quotes, in which YAML has no escapes.  Names with control characters are rejected before.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name for a message or a comment, its control characters escaped.
fn escaped(name: &str) -> String {
    name.escape_debug().to_string()
}
