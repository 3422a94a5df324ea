//! `check`

use std::io::Write;

use clap::Args;

use super::{Complaint, ConfigFile, print};

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let config = self.config.load()?;
        for warning in &config.warnings {
            // Standard error may be closed: the exit code still tells.
            let _ = writeln!(std::io::stderr(), "{warning}");
        }
        let count = |number: usize, noun: &str| match number {
            1 => format!("1 {noun}"),
            number => format!("{number} {noun}s"),
        };
        print(&format!(
            "{} is valid: {}, {}, {}, {}\n",
            self.config.path.display(),
            count(config.rules.tokens.len(), "token"),
            count(config.rules.users.iter().count(), "user"),
            count(config.rules.policies.routes().len(), "route"),
            count(config.warnings.len(), "warning"),
        ))
    }
}
