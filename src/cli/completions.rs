//! `completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError, print};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), PROGRAM, &mut script);
        let script = String::from_utf8_lossy(&script);
        match self.shell {
            Shell::Bash => print(&with_consistent_names(&script)),
            _ => print(&script),
        }
    }
}

const PROGRAM: &str = env!("CARGO_PKG_NAME");

/// Mends the completion of subcommands in bash.
///
/// clap_complete 4.6 escapes a hyphen of the program's name as `__` where it records the typed command, and as
/// `__subcmd__` where it looks that command up.
fn with_consistent_names(script: &str) -> String {
    script.replace(&PROGRAM.replace('-', "__subcmd__"), &PROGRAM.replace('-', "__"))
}
