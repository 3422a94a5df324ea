//! The paths of Datasette's databases, tables and queries, as regular expressions.
//!
//! Datasette writes names in its own "tilde encoding": letters, digits, `_` and `-` as they are, a blank as
//! `+`, every other byte as `~` and two hexadecimal digits.  It reads more spellings than it writes:
//! `s~65cret` is `secret`, too.  [`OTHER_SPELLINGS`] matches those, so that a name has one spelling in every other
//! rule.  To SQLite names of tables that differ only in the case of ASCII letters are the same, and so the routes ignore
//! case there.

use std::fmt::Write;

/// Paths with a `~` that Datasette reads and never writes: an escape of what needs none, lower-case digits,
/// no digits.
pub const OTHER_SPELLINGS: &str = ".*~(?:.?|[^0-9A-F].*|.[^0-9A-F].*|2[0D].*|3[0-9].*|4[1-9A-F].*|5[0-9AF].*\
    |6[1-9A-F].*|7[0-9A].*)";

/// SQLite's own statistics, which Datasette 1.0 does not serve.
pub const STATISTICS: &str = r"/[^/]+/(?i-u:sqlite_stat[1-4])(?:\.\w+|/.*)?";

/// The end of a path: a format such as `.json` or `.csv`, for a database also `.db`.
const FORMAT: &str = r"\.\w+";

/// A table or a view of any name.  Paths below `/-/` are not tables.
const ANY_TABLE: &str = "(?:[^-/][^/]*|-[^/]+)";

/// Pages of 1.0 below a table that only need `view-table`.
const TABLE_PAGES: &str = r"/-/(?:autocomplete|fragment|schema(?:\.\w+)?)";

/// A name in a path.
#[derive(Debug)]
pub struct Name {
    text: String,
    /// Where only slashes separate names, dots may stand unescaped.
    with_dots: String,
}

impl Name {
    /// The name of a database, a table or a query; `None` when it has spellings that cannot be distinguished.
    pub fn new(name: &str) -> Option<Self> {
        // Datasette reads a raw `%41` as three characters, other programs as `A`; bytes that are not UTF-8 become the
        // replacement character.
        let is_ambiguous = |c: char| c == '%' || c == '\u{fffd}' || c.is_control();
        let is_legal = !name.is_empty() && !name.contains(is_ambiguous);
        is_legal.then(|| Self { text: spellings(name, false), with_dots: spellings(name, true) })
    }

    /// The page of a query.
    pub fn query(&self, database: &Self) -> String {
        format!("/{}/{}(?:{FORMAT})?", database.text, self.text)
    }

    /// The pages of a table or a view: itself and its rows.
    pub fn table(&self, database: &Self) -> String {
        let Self { text, with_dots } = self;
        let database = &database.text;
        if text == with_dots {
            return format!("/{database}/(?i-u:{text})(?:{FORMAT}|/[^/]+|{TABLE_PAGES})?");
        }
        format!("/{database}/(?:(?i-u:{text})(?:{FORMAT}|{TABLE_PAGES})?|(?i-u:{with_dots})/[^/]+)")
    }

    /// Where 1.0 writes to a table.
    pub fn table_write(&self, database: &Self, what: &str) -> String {
        format!("/{}/(?i-u:{})/-/{what}", database.text, self.text)
    }

    /// Where 1.0 writes to a row of a table.
    pub fn row_write(&self, database: &Self, what: &str) -> String {
        format!("/{}/(?i-u:{})/[^/]+/-/{what}", database.text, self.with_dots)
    }

    /// The page of the database itself.
    pub fn page(&self) -> String {
        format!("/{}(?:{FORMAT})?", self.text)
    }

    /// The database as a file.
    pub fn download(&self) -> String {
        format!(r"/{}\.db", self.text)
    }

    /// The pages of all tables and views of the database.
    pub fn tables(&self) -> String {
        format!("/{}/{ANY_TABLE}(?:/[^/]+|{TABLE_PAGES})?", self.text)
    }

    /// A database's own page and those of all its tables and views.
    pub fn database(&self) -> String {
        format!("/{}(?:{FORMAT}|/{ANY_TABLE}(?:/[^/]+|{TABLE_PAGES})?)?", self.text)
    }

    /// Where 1.0 runs SQL on the database.
    pub fn sql(&self) -> String {
        format!("/{}/-/query(?:{FORMAT}|/parameters)?", self.text)
    }

    /// Where 1.0 makes tables.
    pub fn create(&self) -> String {
        format!("/{}/-/create", self.text)
    }

    /// Where 1.0 writes to any table of the database.
    pub fn any_table_write(&self, what: &str) -> String {
        format!("/{}/{ANY_TABLE}/-/{what}", self.text)
    }

    /// Where 1.0 writes to a row of any table of the database.
    pub fn any_row_write(&self, what: &str) -> String {
        format!("/{}/{ANY_TABLE}/[^/]+/-/{what}", self.text)
    }
}

fn spellings(name: &str, raw_dots: bool) -> String {
    // Datasette redirects from here to there.
    if name == "_memory" {
        return "(?:_memory|:memory:)".to_owned();
    }
    let mut pattern = String::with_capacity(name.len());
    for character in name.chars() {
        let escaped: String = character.to_string().bytes().fold(String::new(), |mut escaped, byte| {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "~{byte:02X}");
            escaped
        });
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => pattern.push(character),
            ' ' => pattern.push_str(r"\+"),
            '.' if raw_dots => pattern.push_str(r"(?:~2E|\.)"),
            // Unescaped, these are not possible or mean something else.
            '.' | '+' | '~' | '/' | '\\' => pattern.push_str(&escaped),
            '!'..='}' => {
                let _ = write!(pattern, "(?:{escaped}|{})", regex::escape(&character.to_string()));
            }
            _ => pattern.push_str(&escaped),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PathPattern;

    #[track_caller]
    fn assert_matches(pattern: &str, path: &str, expected: bool) {
        assert!(PathPattern::regex(pattern).is_ok(), "{pattern}");
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        assert_eq!(regex.is_match(path), expected, "{pattern} {path}");
    }

    #[test]
    fn a_table_is_found_under_its_own_paths() {
        let (database, table) = (Name::new("fixtures").unwrap(), Name::new("a b/c").unwrap());
        let pattern = table.table(&database);
        for path in
            ["/fixtures/a+b~2Fc", "/fixtures/a+b~2Fc.json", "/fixtures/a+b~2Fc/1", "/fixtures/a+b~2Fc/1.json"]
        {
            assert_matches(&pattern, path, true);
        }
        for path in [
            "/fixtures/a+b",
            "/fixtures/a+b~2Fc/",
            "/fixtures/a+b~2Fc/1/2",
            "/fixtures/a+b~2Fc/-/insert",
            "/x/a+b~2Fc",
        ] {
            assert_matches(&pattern, path, false);
        }
        let dotted = Name::new("a.b").unwrap().table(&database);
        for (path, expected) in [
            ("/fixtures/a~2Eb", true),
            ("/fixtures/a.b", false),
            ("/fixtures/a.b/1", true),
            ("/fixtures/a~2Eb/1", true),
        ] {
            assert_matches(&dotted, path, expected);
        }
        for (path, expected) in [
            ("/fixtures/A+B~2FC/1", true),
            ("/Fixtures/a+b~2Fc", false),
            ("/fixtures/a+b~2Fc/-/autocomplete", true),
            ("/fixtures/a+b~2Fc/-/schema.json", true),
        ] {
            assert_matches(&pattern, path, expected);
        }
        let insert = table.table_write(&database, "insert");
        let update = table.row_write(&database, "update");
        for (pattern, path, expected) in [
            (&insert, "/fixtures/a+b~2Fc/-/insert", true),
            (&insert, "/fixtures/a+b~2Fc/-/upsert", false),
            (&insert, "/fixtures/a+b~2Fc/1/-/insert", false),
            (&update, "/fixtures/A+b~2Fc/1/-/update", true),
            (&update, "/fixtures/a+b~2Fc/-/update", false),
            (&database.any_table_write("insert"), "/fixtures/t/-/insert", true),
            (&database.any_table_write("insert"), "/fixtures/-/-/insert", false),
            (&database.any_row_write("delete"), "/fixtures/t/1/-/delete", true),
            (&database.sql(), "/fixtures/-/query.json", true),
            (&database.sql(), "/fixtures/-/queries", false),
            (&STATISTICS.to_owned(), "/fixtures/SQLite_stat1.json", true),
            (&STATISTICS.to_owned(), "/fixtures/sqlite_stat4/1", true),
            (&STATISTICS.to_owned(), "/fixtures/sqlite_stat5", false),
        ] {
            assert_matches(pattern, path, expected);
        }
        let odd = Name::new("t(x)").unwrap().query(&database);
        assert_matches(&odd, "/fixtures/t(x).csv", true);
        assert_matches(&odd, "/fixtures/t~28x~29", true);
        assert!(Name::new("50%41").is_none() && Name::new("").is_none());
    }

    #[test]
    fn a_database_has_its_tables_and_nothing_below_the_dash() {
        let pattern = Name::new("_memory").unwrap().database();
        for path in
            ["/_memory", "/_memory.json", "/_memory.db", "/_memory/t", "/_memory/-t/1", "/:memory:/t.json"]
        {
            assert_matches(&pattern, path, true);
        }
        for path in ["/", "/_memory/", "/_memoryx", "/_memory/-/query", "/_memory/-", "/_memory/t/1/-/update"]
        {
            assert_matches(&pattern, path, false);
        }
    }

    #[test]
    fn other_spellings_are_those_that_datasette_never_writes() {
        for path in [
            "/db/s~65cret",
            "/db/~2d",
            "/db/a~2f",
            "/db/~",
            "/db/~4",
            "/db/~zz",
            "/db/a~20b",
            "/db/~5F",
            "/~7A/x",
        ] {
            assert_matches(OTHER_SPELLINGS, path, true);
        }
        for path in ["/db/a~2Fb", "/db/~C3~AB", "/db/~7E", "/db/~2B", "/db/~40~5B~60~7B", "/db/plain"] {
            assert_matches(OTHER_SPELLINGS, path, false);
        }
    }
}
