//! `schema`

use clap::Args;

use super::{Complaint, print};
use crate::config::json_schema;

/// Prints what a configuration can say, for editors.
#[derive(Debug, Args)]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Result<(), Complaint> {
        // The alternate form of a JSON value is indented.
        print(&format!("{:#}\n", json_schema()))
    }
}
