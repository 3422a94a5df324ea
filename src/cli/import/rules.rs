//! The permissions of Datasette, by the rules of 0.65 and of 1.0.
//!
//! Observed in 0.65.5 and 1.0a41, with which `tests/it/import_datasette.rs` compares it:
//!
//! - 0.65 reads `allow` and `allow_sql`.  Of the allow blocks of a table or a query, of its database and of the
//!   instance the nearest one decides alone.  It ignores `permissions`.
//! - 1.0 reads `permissions` as well: allow blocks by the name of the action.  The nearest level that says
//!   anything about an action decides; of several blocks of one level all must pass.  Running SQL and
//!   downloading take `view-database` besides.  Actions that write are closed unless a block opens them.
//! - In both, names of tables that differ only in the case of ASCII letters are the same.
//!
//! The file does not say which version reads it, so by default both must admit an actor.

use serde_json::Value;

use super::allow;

/// The Datasette that reads the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// 0.65 and earlier versions.
    #[value(name = "0.65")]
    Before1,
    /// 1.0 and its alpha versions.
    #[value(name = "1.0")]
    Since1,
}

/// The names of Datasette's actions.
pub mod action {
    pub const VIEW_INSTANCE: &str = "view-instance";
    pub const VIEW_DATABASE: &str = "view-database";
    pub const VIEW_TABLE: &str = "view-table";
    pub const VIEW_QUERY: &str = "view-query";
    pub const EXECUTE_SQL: &str = "execute-sql";
    pub const DOWNLOAD: &str = "view-database-download";
    pub const CREATE_TABLE: &str = "create-table";
    pub const INSERT_ROW: &str = "insert-row";
    pub const UPDATE_ROW: &str = "update-row";
    pub const DELETE_ROW: &str = "delete-row";
    pub const ALTER_TABLE: &str = "alter-table";
    pub const DROP_TABLE: &str = "drop-table";
    pub const SET_COLUMN_TYPE: &str = "set-column-type";

    /// The actions that have routes.
    pub const ALL: [&str; 13] = [
        VIEW_INSTANCE,
        VIEW_DATABASE,
        VIEW_TABLE,
        VIEW_QUERY,
        EXECUTE_SQL,
        DOWNLOAD,
        CREATE_TABLE,
        INSERT_ROW,
        UPDATE_ROW,
        DELETE_ROW,
        ALTER_TABLE,
        DROP_TABLE,
        SET_COLUMN_TYPE,
    ];
}
use action::{CREATE_TABLE, DOWNLOAD, EXECUTE_SQL, VIEW_DATABASE, VIEW_INSTANCE, VIEW_QUERY, VIEW_TABLE};

/// A permission: the actors that all of these allow blocks admit.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule(Vec<Value>);

impl Rule {
    /// No one.
    pub fn no_one() -> Self {
        Self(vec![Value::Bool(false)])
    }

    /// `None` when there are no blocks.
    fn of(blocks: Vec<&Value>) -> Option<Self> {
        let mut all = Vec::with_capacity(blocks.len());
        for block in blocks {
            if !all.contains(block) {
                all.push(block.clone());
            }
        }
        (!all.is_empty()).then_some(Self(all))
    }

    /// The rule that admits the actors that both admit.  A missing rule admits everyone.
    pub fn both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(Self(one)), Some(Self(other))) => Self::of(one.iter().chain(&other).collect()),
            (rule, None) | (None, rule) => rule,
        }
    }

    /// The rule as a single allow block; `None` when no single block can express it.
    pub fn to_allow(&self) -> Option<Value> {
        self.0.iter().try_fold(Value::Bool(true), |all, block| allow::both(&all, block))
    }
}

/// The allow blocks of one mapping: of the instance, of a database, of a table or of a query.
#[derive(Debug, Default)]
pub struct Blocks {
    /// `allow`
    pub allow: Option<Value>,
    /// `allow_sql`
    pub allow_sql: Option<Value>,
    /// `permissions`: actions, and the actors who may do them.
    pub permissions: Vec<(String, Value)>,
    /// A block that may deny something could not be read, so nothing is allowed.
    pub is_unclear: bool,
}

const NO_ONE: &Value = &Value::Bool(false);

impl Blocks {
    /// The blocks that 1.0 reads about an action.
    fn of_action(&self, action: &str, shorthand: Option<&'static str>) -> Vec<&Value> {
        let mut blocks: Vec<_> =
            self.permissions.iter().filter(|(name, _)| name == action).map(|(_, block)| block).collect();
        blocks.extend(shorthand.and_then(|shorthand| match shorthand {
            "allow_sql" => self.allow_sql.as_ref(),
            _ => self.allow.as_ref(),
        }));
        blocks.extend(self.is_unclear.then_some(NO_ONE));
        blocks
    }

    fn allow(&self) -> Option<&Value> {
        if self.is_unclear { Some(NO_ONE) } else { self.allow.as_ref() }
    }

    fn allow_sql(&self) -> Option<&Value> {
        if self.is_unclear { Some(NO_ONE) } else { self.allow_sql.as_ref() }
    }
}

/// A resource of Datasette, with the blocks of everything above it.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'f> {
    /// The instance.
    pub instance: &'f Blocks,
    /// `default_allow_sql` is not `true`.
    pub no_sql_by_default: bool,
    /// The database.
    pub database: Option<&'f Blocks>,
    /// The tables and views of this name: several when they differ in case.
    pub tables: &'f [&'f Blocks],
    /// The query of this name.
    pub query: Option<&'f Blocks>,
}

impl Resource<'_> {
    /// The actors who may do this; `None` if the file does not say.
    pub fn rule(&self, version: Option<Version>, action: &str) -> Option<Rule> {
        match version {
            Some(Version::Before1) => self.before_1(action),
            Some(Version::Since1) => self.since_1(action),
            None => Rule::both(self.before_1(action), self.since_1(action)),
        }
    }

    fn before_1(&self, action: &str) -> Option<Rule> {
        let instance = || self.instance.allow();
        let database = || self.database.and_then(Blocks::allow).or_else(instance);
        let block = match action {
            VIEW_INSTANCE => instance(),
            VIEW_DATABASE | DOWNLOAD => database(),
            VIEW_TABLE => {
                let tables = self.tables.iter().filter_map(|table| table.allow()).collect();
                if let Some(rule) = Rule::of(tables) {
                    return Some(rule);
                }
                database()
            }
            VIEW_QUERY => self.query.and_then(Blocks::allow).or_else(database),
            EXECUTE_SQL => self
                .database
                .and_then(Blocks::allow_sql)
                .or_else(|| self.instance.allow_sql())
                .or(self.no_sql_by_default.then_some(NO_ONE)),
            // 0.65 has no actions that write.
            _ => None,
        };
        Rule::of(block.into_iter().collect())
    }

    fn since_1(&self, action: &str) -> Option<Rule> {
        let of_children = |wanted: &str| (action == wanted).then_some("allow");
        let shorthand = match action {
            VIEW_INSTANCE | VIEW_DATABASE | VIEW_TABLE | VIEW_QUERY => Some("allow"),
            EXECUTE_SQL => Some("allow_sql"),
            _ => None,
        };
        // The `permissions` of a table hold for the query of its name, and the other way round, but not for actions on a
        // whole database.
        let mut nearest = Vec::new();
        if ![VIEW_INSTANCE, VIEW_DATABASE, EXECUTE_SQL, DOWNLOAD, CREATE_TABLE].contains(&action) {
            for table in self.tables {
                nearest.extend(table.of_action(action, of_children(VIEW_TABLE)));
            }
            if let Some(query) = self.query {
                nearest.extend(query.of_action(action, of_children(VIEW_QUERY)));
            }
        }
        let database =
            self.database.map(|database| database.of_action(action, shorthand)).unwrap_or_default();
        let mut instance = self.instance.of_action(action, shorthand);
        instance.extend((action == EXECUTE_SQL && self.no_sql_by_default).then_some(NO_ONE));
        let rule = [nearest, database, instance].into_iter().find_map(Rule::of);
        match action {
            EXECUTE_SQL | DOWNLOAD => Rule::both(rule, self.since_1(VIEW_DATABASE)),
            _ => rule,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn blocks(value: &Value) -> Blocks {
        let member = |key: &str| value.get(key).filter(|block| !block.is_null()).cloned();
        let permissions = value.get("permissions").and_then(Value::as_object);
        Blocks {
            allow: member("allow"),
            allow_sql: member("allow_sql"),
            permissions: permissions.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            is_unclear: false,
        }
    }

    /// The blocks of instance, database, table and query, an action, and who may do it in 0.65 and in 1.0.
    #[test]
    fn the_nearest_level_decides() {
        let (root, no) = (json!({"id": "root"}), json!(false));
        let none = || Value::Null;
        let cases = [
            (json!([{}, {}, {}, {}]), VIEW_TABLE, none(), none()),
            (json!([{"allow": root}, {}, {}, {}]), VIEW_TABLE, root.clone(), root.clone()),
            (json!([{"allow": no}, {"allow": root}, {}, {}]), VIEW_TABLE, root.clone(), root.clone()),
            (json!([{}, {"allow": no}, {"allow": true}, {}]), VIEW_TABLE, json!(true), json!(true)),
            (json!([{}, {"allow": no}, {"allow": true}, {}]), VIEW_QUERY, no.clone(), no.clone()),
            (json!([{}, {"allow": no}, {}, {"allow": root}]), VIEW_QUERY, root.clone(), root.clone()),
            // `permissions` are read by 1.0 alone, and of one level everything must pass.
            (json!([{"permissions": {"view-table": root}}, {}, {}, {}]), VIEW_TABLE, none(), root.clone()),
            (
                json!([{}, {"allow": true, "permissions": {"view-table": root}}, {}, {}]),
                VIEW_TABLE,
                json!(true),
                root.clone(),
            ),
            (json!([{}, {"permissions": {"view-database": root}}, {}, {}]), VIEW_TABLE, none(), none()),
            (
                json!([{"allow": no}, {}, {"permissions": {"view-table": root}}, {}]),
                VIEW_TABLE,
                no.clone(),
                root.clone(),
            ),
            (json!([{}, {}, {}, {"permissions": {"view-table": root}}]), VIEW_TABLE, none(), root.clone()),
            // Of a table it says nothing about SQL.
            (
                json!([{"allow_sql": no}, {}, {"permissions": {"execute-sql": root, "view-database": root}}, {}]),
                EXECUTE_SQL,
                no.clone(),
                no.clone(),
            ),
            // SQL takes view-database in 1.0.
            (json!([{}, {"allow": root}, {}, {}]), EXECUTE_SQL, none(), root.clone()),
            (
                json!([{"allow_sql": no}, {"allow_sql": root}, {}, {}]),
                EXECUTE_SQL,
                root.clone(),
                root.clone(),
            ),
            (json!([{}, {"permissions": {"insert-row": root}}, {}, {}]), "insert-row", none(), root.clone()),
            (json!([{}, {"allow": true}, {}, {}]), "insert-row", none(), none()),
        ];
        for (levels, action, before, since) in cases {
            let levels: Vec<_> = levels.as_array().unwrap().iter().map(blocks).collect();
            let resource = Resource {
                instance: &levels[0],
                no_sql_by_default: false,
                database: Some(&levels[1]),
                tables: &[&levels[2]],
                query: Some(&levels[3]),
            };
            let allow = |version| {
                resource.rule(Some(version), action).map_or(Value::Null, |rule| rule.to_allow().unwrap())
            };
            assert_eq!(allow(Version::Before1), before, "0.65 {action} {levels:?}");
            assert_eq!(allow(Version::Since1), since, "1.0 {action} {levels:?}");
            if (&before, &since) == (&no, &root) {
                assert_eq!(resource.rule(None, action).unwrap().to_allow(), Some(no.clone()));
            }
        }
    }

    #[test]
    fn sql_that_is_off_by_default_stays_off_for_the_whole_instance_in_1_0() {
        let (instance, database) = (blocks(&json!({"allow_sql": {"id": "root"}})), blocks(&json!({})));
        let resource = Resource {
            instance: &instance,
            no_sql_by_default: true,
            database: Some(&database),
            tables: &[],
            query: None,
        };
        let allow = |version| resource.rule(version, EXECUTE_SQL).and_then(|rule| rule.to_allow());
        assert_eq!(allow(Some(Version::Before1)), Some(json!({"id": "root"})));
        assert_eq!(allow(Some(Version::Since1)), Some(json!(false)));
        assert_eq!(allow(None), Some(json!(false)));
    }
}
