//! `keys import` and `keys export`: keys as JSON objects, one a line, with the digests of their tokens.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::super::admin_api::{Body, ServerArgs};
use super::super::{AdminApi, AdminApiError, CliError, Input, print};
use super::batches::{Batch, FailedBatch, PartError, part};
use super::{KEYS, KeysError};

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The file (`-`: standard input).  Each line is a JSON object with `name`, `sha256` (of the token), and optionally
    /// `role`, `description`, `account`, `owner`, `ownerSource`, `expiration`, `actor`, `policies`, `disabled`,
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
        let file = Input::from_argument(&self.file);
        if file == Input::Stdin && self.server.takes_stdin() {
            return Err(KeysError::StdinTwice("the keys").into());
        }
        let api = self.server.open().map_err(KeysError::from)?;
        let batches = read(&file)?;
        let mut imported = 0;
        for Batch { text, lines } in batches {
            imported += send(&api, &text).map_err(|source| {
                KeysError::ImportBatch(Box::new(FailedBatch { file: file.clone(), lines, imported, source }))
            })?;
        }
        if api.wants_json() {
            return print(&format!("{{\"created\":{imported}}}\n"));
        }
        let keys = if imported == 1 { "key is" } else { "keys are" };
        print(&format!("{imported} {keys} imported.\n"))
    }
}

/// Reads the file whole, and parts it into requests.
fn read(file: &Input) -> Result<Vec<Batch>, KeysError> {
    let batches = match file {
        Input::Stdin => part(io::stdin().lock()),
        Input::File(path) => {
            File::open(path).map_err(PartError::Unreadable).and_then(|opened| part(BufReader::new(opened)))
        }
    };
    batches.map_err(|error| match error {
        PartError::Unreadable(source) => KeysError::ImportFile { file: file.clone(), source },
        PartError::Line { line, problem } => KeysError::ImportLine { file: file.clone(), line, problem },
    })
}

/// Makes one request, and gives back how many keys it made.
fn send(api: &AdminApi, lines: &str) -> Result<u64, AdminApiError> {
    let response = api.call(Method::POST, &format!("{KEYS}/import"), Body::Lines(lines))?;
    let Imported { created } = response.parse()?;
    Ok(created)
}
