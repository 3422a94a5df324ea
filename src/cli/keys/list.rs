//! `keys list`: the keys as a table, or as the API writes them.
//!
//! The list is read and printed in parts, so that its length costs no memory.

use std::fmt;

use clap::Args;
use comfy_table::{Table, presets};
use http::Method;
use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{CliError, ServerArgs, escape_controls, print};

/// How many keys are printed at once.
const PART: usize = 1000;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Show expired and revoked keys too
    #[arg(long)]
    expired: bool,
}

impl ListKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let query = if self.expired { "?includeExpired=true" } else { "" };
        let mut response = self.server.start_call(Method::GET, query, None)?;
        if self.server.json {
            return response.copy_to_stdout();
        }
        let mut printer = TablePrinter::new(Timestamp::now());
        let mut not_printed = None;
        let read = response.parse_with(|json| {
            json.deserialize_seq(ForEach(|key| {
                printer.add(key).map_err(|error| {
                    not_printed = Some(error);
                })
            }))
        });
        match not_printed {
            Some(error) => Err(error),
            None => {
                read?;
                printer.finish()
            }
        }
    }
}

/// A key as the API lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedKey {
    id: i64,
    name: String,
    role: String,
    #[serde(default, deserialize_with = "timestamp")]
    expiration: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    last_used_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    created: Option<Timestamp>,
    #[serde(default)]
    is_revoked: bool,
}

/// A time as the API writes it: RFC 3339.
fn timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

/// Reads a JSON array of keys, and calls this for each; an error ends the reading.
struct ForEach<F>(F);

impl<'de, F: FnMut(ListedKey) -> Result<(), ()>> Visitor<'de> for ForEach<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut keys: A) -> Result<(), A::Error> {
        while let Some(key) = keys.next_element()? {
            (self.0)(key).map_err(|()| A::Error::custom("the key cannot be printed"))?;
        }
        Ok(())
    }
}

/// Prints a table in parts.  Its columns are as wide as what was printed so far.
struct TablePrinter {
    now: Timestamp,
    keys: Vec<ListedKey>,
    /// The widths of the columns, in characters; `None` before the first part.
    widths: Option<Vec<u16>>,
}

impl TablePrinter {
    fn new(now: Timestamp) -> Self {
        Self { now, keys: Vec::new(), widths: None }
    }

    fn add(&mut self, key: ListedKey) -> Result<(), CliError> {
        self.keys.push(key);
        if self.keys.len() < PART { Ok(()) } else { print(&self.part()) }
    }

    fn finish(mut self) -> Result<(), CliError> {
        match (&self.widths, self.keys.is_empty()) {
            (None, true) => print("No keys.\n"),
            (Some(_), true) => Ok(()),
            (None | Some(_), false) => print(&self.part()),
        }
    }

    /// The lines of the keys that were added since the last part.
    fn part(&mut self) -> String {
        let mut table = Table::new();
        // No borders and one line a key, so that grep and cut work on it.
        table.load_style(presets::NOTHING);
        match &self.widths {
            None => table.set_header(["ID", "NAME", "ROLE", "STATUS", "EXPIRES", "LAST USED", "CREATED"]),
            // A header that is not printed gives the columns their width.
            Some(widths) => table.set_header(widths.iter().map(|width| "-".repeat(usize::from(*width)))),
        };
        for key in self.keys.drain(..) {
            table.add_row(row(&key, self.now));
        }
        let is_first = self.widths.replace(table.column_max_content_widths()).is_none();
        let mut text = String::new();
        for line in table.lines().skip(usize::from(!is_first)) {
            text.push_str(line.trim());
            text.push('\n');
        }
        text
    }
}

fn row(key: &ListedKey, now: Timestamp) -> [String; 7] {
    let status = match key.expiration {
        _ if key.is_revoked => "revoked",
        Some(expiration) if now >= expiration => "expired",
        Some(_) | None => "live",
    };
    let expires = key.expiration.map_or_else(
        || "No expiration date".to_owned(),
        |expiration| format!("{} ({})", absolute_time(expiration), relative_time(now, expiration)),
    );
    [
        key.id.to_string(),
        escape_controls(&key.name),
        escape_controls(&key.role),
        status.to_owned(),
        expires,
        key.last_used_at.map_or_else(|| "never".to_owned(), |used| relative_time(now, used)),
        key.created.map(absolute_time).unwrap_or_default(),
    ]
}

/// A time for people, in UTC.
fn absolute_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `in 3 days`, `2 minutes ago`: rounded to the largest unit of which there is at least one.
fn relative_time(now: Timestamp, at: Timestamp) -> String {
    const UNITS: [(&str, u64, u64); 6] = [
        ("second", 1, 60),
        ("minute", 60, 60),
        ("hour", 3_600, 24),
        ("day", 86_400, 30),
        ("month", 2_629_800, 12),
        ("year", 31_557_600, u64::MAX),
    ];
    let seconds = at.as_second() - now.as_second();
    let away = seconds.unsigned_abs();
    if away == 0 {
        return "now".to_owned();
    }
    let counts = UNITS.map(|(unit, length, limit)| (unit, (away + length / 2) / length, limit));
    let (unit, count, _) =
        counts.into_iter().find(|(_, count, limit)| count < limit).unwrap_or(("year", 0, 0));
    let plural = if count == 1 { "" } else { "s" };
    if seconds > 0 { format!("in {count} {unit}{plural}") } else { format!("{count} {unit}{plural} ago") }
}

#[cfg(test)]
mod tests {
    use super::{ListedKey, TablePrinter, Timestamp, relative_time};

    #[test]
    fn distances_are_rounded_to_the_greatest_unit() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (away, expected) in [
            (0, "now"),
            (1, "in 1 second"),
            (59, "in 59 seconds"),
            (60, "in 1 minute"),
            (-3_599, "1 hour ago"),
            (259_199, "in 3 days"),
            (-86_400, "1 day ago"),
            (86_400 * 90, "in 3 months"),
            (31_536_000, "in 1 year"),
            (31_557_600 * 7_000, "in 7000 years"),
        ] {
            let at = Timestamp::from_second(now.as_second() + away).expect("a time before the year 10,000");
            assert_eq!(relative_time(now, at), expected, "{away}");
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_key() {
        let keys: Vec<ListedKey> = serde_json::from_str(
            r#"[
                {"id": 1, "name": "ci deploys", "role": "Editor", "created": "2025-12-01T00:00:00Z",
                 "expiration": "2026-01-04T00:00:00Z", "lastUsedAt": "2025-12-31T23:58:00Z"},
                {"id": 12, "name": "for ever", "role": "Viewer", "created": "2025-12-01T00:00:00Z"},
                {"id": 3, "name": "gone", "role": "Admin", "created": "2025-12-01T00:00:00Z", "isRevoked": true}
            ]"#,
        )
        .expect("keys");
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut printer = TablePrinter::new(now);
        printer.keys = keys;
        assert_eq!(
            printer.part(),
            "\
ID  NAME        ROLE    STATUS   EXPIRES                           LAST USED      CREATED
1   ci deploys  Editor  live     2026-01-04 00:00 UTC (in 3 days)  2 minutes ago  2025-12-01 00:00 UTC
12  for ever    Viewer  live     No expiration date                never          2025-12-01 00:00 UTC
3   gone        Admin   revoked  No expiration date                never          2025-12-01 00:00 UTC
"
        );
        // The next part has the same columns, or wider ones.
        for (name, line) in [
            (
                "x",
                "4   x           Viewer  live     No expiration date                never          2025-12-01 00:00 UTC\n",
            ),
            (
                "x is longer",
                "4   x is longer  Viewer  live     No expiration date                never          2025-12-01 00:00 UTC\n",
            ),
        ] {
            let key = format!(
                r#"{{"id": 4, "name": "{name}", "role": "Viewer", "created": "2025-12-01T00:00:00Z"}}"#
            );
            printer.keys.push(serde_json::from_str(&key).expect("a key"));
            assert_eq!(printer.part(), line);
        }
    }
}
