//! `keys import` and `keys export`: keys as JSON objects, one a line, with the digests of their tokens.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::admin_api::{Body, ServerArgs};
use super::super::{AdminApi, CliError, print};
use super::{KEYS, KeysError};

/// The most lines of one request.
const MAX_LINES: usize = 1000;
/// The most bytes of one request.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The file, or standard input for `-`.  A line is a JSON object with `name`, `sha256`, which is the token's, and
    /// maybe `role`, `description`, `account`, `owner`, `ownerSource`, `expiration`, `actor`, `policies`, `disabled`,
    /// `created`, `createdBy`
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct Imported {
    created: u64,
}

impl ExportKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(KeysError::from)?;
        let response = api.start_call(Method::GET, &format!("{KEYS}/export"), Body::Empty);
        response.map_err(KeysError::from)?.copy_to_stdout()
    }
}

impl ImportKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let is_stdin = self.file == Path::new("-");
        if is_stdin && self.server.takes_stdin() {
            return Err(KeysError::StdinTwice("the keys").into());
        }
        let api = self.server.open().map_err(KeysError::from)?;
        let unreadable = |source| KeysError::ImportFile { path: self.file.clone(), source };
        let batches = if is_stdin {
            batches(io::stdin().lock(), unreadable)?
        } else {
            batches(BufReader::new(File::open(&self.file).map_err(unreadable)?), unreadable)?
        };
        let mut imported = 0;
        for batch in &batches {
            imported += batch.send(&api, imported)?;
        }
        if api.wants_json() {
            return print(&format!("{{\"created\":{imported}}}\n"));
        }
        let keys = if imported == 1 { "key is" } else { "keys are" };
        print(&format!("{imported} {keys} imported.\n"))
    }
}

/// The lines of one request, which the server takes whole or not at all.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    text: String,
    count: usize,
    /// Their numbers in the file, from 1.
    lines: RangeInclusive<usize>,
}

impl Batch {
    fn send(&self, api: &AdminApi, imported: u64) -> Result<u64, KeysError> {
        let response = api.call(Method::POST, &format!("{KEYS}/import"), Body::Lines(&self.text));
        let created = response.and_then(|response| response.parse::<Imported>());
        created.map(|Imported { created }| created).map_err(|source| KeysError::ImportBatch {
            first: *self.lines.start(),
            last: *self.lines.end(),
            imported,
            source: Box::new(source),
        })
    }
}

/// Parts the lines, all of which are looked at before any is sent.  Empty lines are left out.
fn batches(
    lines: impl BufRead,
    unreadable: impl Fn(io::Error) -> KeysError,
) -> Result<Vec<Batch>, KeysError> {
    let mut batches: Vec<Batch> = Vec::new();
    for (index, line) in lines.lines().enumerate() {
        let (line, number) = (line.map_err(&unreadable)?, index + 1);
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let object: Result<Map<String, Value>, _> = serde_json::from_str(line);
        object.map_err(|source| KeysError::ImportLine { line: number, source })?;
        if line.len() >= MAX_BYTES {
            return Err(KeysError::ImportLineTooLong(number));
        }
        let fits = |batch: &Batch| batch.count < MAX_LINES && batch.text.len() + line.len() < MAX_BYTES;
        match batches.last_mut().filter(|batch| fits(batch)) {
            Some(batch) => {
                batch.text.push_str(line);
                batch.count += 1;
                batch.lines = *batch.lines.start()..=number;
            }
            None => batches.push(Batch { text: line.to_owned(), count: 1, lines: number..=number }),
        }
        if let Some(batch) = batches.last_mut() {
            batch.text.push('\n');
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(text: &str) -> Result<Vec<Batch>, String> {
        let unreadable = |source| KeysError::ImportFile { path: PathBuf::from("-"), source };
        batches(text.as_bytes(), unreadable).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_parted_by_what_a_request_may_hold() {
        assert_eq!(parted("\n\n"), Ok(Vec::new()));
        let few = parted("{\"name\":\"a\"}\n\n {\"name\":\"b\"} \r\n").expect("two lines");
        assert_eq!(
            few,
            [Batch { text: "{\"name\":\"a\"}\n{\"name\":\"b\"}\n".to_owned(), count: 2, lines: 1..=3 }]
        );
        let many = parted(&"{}\n".repeat(2500)).expect("many lines");
        let numbers: Vec<_> = many.iter().map(|batch| (batch.count, batch.lines.clone())).collect();
        assert_eq!(numbers, [(1000, 1..=1000), (1000, 1001..=2000), (500, 2001..=2500)]);
        let long = format!("{{\"name\":\"{}\"}}\n", "a".repeat(MAX_BYTES / 2));
        let batches = parted(&long.repeat(3)).expect("long lines");
        assert!(batches.len() == 3 && batches.iter().all(|batch| batch.text.len() <= MAX_BYTES));
    }

    #[test]
    fn a_line_that_is_no_object_is_named_and_nothing_is_sent() {
        for (text, part) in [
            ("{}\n[]\n", "line 2 is not a JSON object"),
            ("{\n", "line 1 is not a JSON object"),
            ("{} {}\n", "line 1 is not a JSON object"),
        ] {
            let error = parted(text).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
        let long = format!("{{}}\n{{\"name\":\"{}\"}}\n", "a".repeat(MAX_BYTES));
        assert_eq!(parted(&long), Err("line 2 is longer than a request may be".to_owned()));
    }
}
