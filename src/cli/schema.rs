//! `schema`

use clap::Args;

use super::{CliError, print};
use crate::config::json_schema;

/// Prints the JSON Schema of a configuration, for editors.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {}

impl SchemaArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        // The alternate form of a JSON value is indented.
        print(&format!("{:#}\n", json_schema()))
    }
}
