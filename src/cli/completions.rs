//! `completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Complaint, print};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell that is to complete our commands
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), PROGRAM, &mut script);
        let script = String::from_utf8_lossy(&script);
        match self.shell {
            Shell::Bash => print(&with_one_spelling(&script)),
            _ => print(&script),
        }
    }
}

const PROGRAM: &str = env!("CARGO_PKG_NAME");

/// clap_complete 4.6 writes a hyphen of the program's name in two ways, so that bash would find no command
/// within another: `__` where it notes which command was typed, `__subcmd__` where it looks for that.
fn with_one_spelling(script: &str) -> String {
    script.replace(&PROGRAM.replace('-', "__subcmd__"), &PROGRAM.replace('-', "__"))
}
