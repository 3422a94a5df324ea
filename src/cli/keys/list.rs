//! `keys list`: the keys as a table, or as the API writes them.
//!
//! The list is read and printed in parts, so that its length costs no memory.

use std::fmt;

use clap::{Args, ValueEnum};
use http::Method;
use jiff::Timestamp;
use serde::Deserializer;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::super::admin_api::{Body, Query, ServerArgs};
use super::super::grant_args::role_parser;
use super::super::table::TablePrinter;
use super::super::times::parse_seconds;
use super::super::{AdminApi, CliError, print};
use super::key::{HEADINGS, ListedKey};
use super::{KEYS, KeysError};

/// The most keys of a page.
const PAGE: usize = 1000;

/// The text instead of a table without rows.
const NO_KEYS: &str = "No keys.";

#[derive(Debug, Args)]
pub(in crate::cli) struct ListKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only keys whose name contains this text
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// Only keys with this role
    #[arg(long, value_parser = role_parser())]
    role: Option<String>,
    /// Only keys that the service account with this name or id owns
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only keys that this person owns: a user name, or the id at a directory or a provider
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only keys without an owner, of accounts, or of people
    #[arg(long, value_enum)]
    kind: Option<OwnerKind>,
    /// Only keys that the actor with this id created, of any owner
    #[arg(long, value_name = "ACTOR")]
    created_by: Option<String>,
    /// Only keys that expire within this time, such as 7d
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, allow_hyphen_values = true)]
    expiring: Option<i64>,
    /// Only keys that were not used for this time, such as 90d
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, allow_hyphen_values = true)]
    unused: Option<i64>,
    /// Show expired and revoked keys, too
    #[arg(long)]
    expired: bool,
    /// The order [default: by name]
    #[arg(long, value_enum)]
    sort: Option<SortKey>,
    /// Reverse the order
    #[arg(long)]
    reverse: bool,
}

/// The owner of the listed keys.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OwnerKind {
    None,
    Account,
    Person,
}

impl OwnerKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Account => "account",
            Self::Person => "person",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SortKey {
    Name,
    Created,
    Expiration,
    LastUsed,
    Role,
}

impl SortKey {
    /// As the API calls it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Created => "created",
            Self::Expiration => "expiration",
            Self::LastUsed => "lastUsedAt",
            Self::Role => "role",
        }
    }
}

impl ListKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (query, sort) = (self.query(), self.sort_parameter());
        let api = self.server.open().map_err(KeysError::from)?;
        match sort {
            None => print_whole(&api, &query.of(KEYS)),
            Some(sort) => print_pages(&api, &query.with("sort", Some(sort)).with("perpage", Some(PAGE))),
        }
    }

    fn query(&self) -> Query {
        Query::new()
            .with("query", self.query.as_ref())
            .with("role", self.role.as_ref())
            .with("account", self.account.as_ref())
            .with("owner", self.owner.as_ref())
            .with("kind", self.kind.map(OwnerKind::as_str))
            .with("createdBy", self.created_by.as_ref())
            .with("expiringSeconds", self.expiring)
            .with("unusedSeconds", self.unused)
            .with("includeExpired", self.expired.then_some(true))
    }

    fn sort_parameter(&self) -> Option<String> {
        let sort = self.sort.or(self.reverse.then_some(SortKey::Name));
        let minus = if self.reverse { "-" } else { "" };
        sort.map(|key| format!("{minus}{}", key.as_str()))
    }
}

/// Prints a list that comes as one answer, by name.
fn print_whole(api: &AdminApi, path: &str) -> Result<(), CliError> {
    let mut response = api.start_call(Method::GET, path, Body::Empty).map_err(KeysError::from)?;
    if api.wants_json() {
        return response.copy_to_stdout();
    }
    let now = Timestamp::now();
    let mut printer = TablePrinter::new(HEADINGS);
    let mut not_printed = None;
    let read = response.parse_with(|json| {
        json.deserialize_seq(ForEach(|key: ListedKey| {
            printer.add(key.row(now)).map_err(|error| {
                not_printed = Some(error);
            })
        }))
    });
    match not_printed {
        Some(error) => Err(error),
        None => {
            read.map_err(KeysError::from)?;
            printer.finish(NO_KEYS)
        }
    }
}

/// Prints a list that comes in pages: the API sorts no other one.
fn print_pages(api: &AdminApi, query: &Query) -> Result<(), CliError> {
    let now = Timestamp::now();
    let mut printer = TablePrinter::new(HEADINGS);
    let mut is_first = true;
    for number in 1_u64.. {
        let path = query.clone().with("page", Some(number)).of(KEYS);
        let response = api.get(&path).map_err(KeysError::from)?;
        let keys: Vec<Value> = response.parse().map_err(KeysError::from)?;
        let is_last = keys.len() < PAGE;
        for key in keys {
            if api.wants_json() {
                print(&format!("{}{key}", if is_first { "[" } else { "," }))?;
            } else {
                let key: ListedKey =
                    serde_json::from_value(key).map_err(|_| KeysError::from(response.unexpected()))?;
                printer.add(key.row(now))?;
            }
            is_first = false;
        }
        if is_last {
            break;
        }
    }
    match (api.wants_json(), is_first) {
        (true, true) => print("[]\n"),
        (true, false) => print("]\n"),
        (false, _) => printer.finish(NO_KEYS),
    }
}

/// Prints these keys as a table.
pub(super) fn print_table(keys: &[ListedKey]) -> Result<(), CliError> {
    let now = Timestamp::now();
    let mut printer = TablePrinter::new(HEADINGS);
    keys.iter().try_for_each(|key| printer.add(key.row(now)))?;
    printer.finish(NO_KEYS)
}

/// Prints all of these keys, with an empty line between two.
pub(super) fn print_details(keys: &[ListedKey]) -> Result<(), CliError> {
    let now = Timestamp::now();
    let details: Vec<_> = keys.iter().map(|key| key.details(now)).collect();
    print(&details.join("\n"))
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
