//! `man`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::Man as Page;

use super::{CliError, examples, print};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this folder, such as envoy-auth-tokens-check.1, instead of one page
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
}

impl ManArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Some(folder) = self.out_dir else {
            let page = one_page().map_err(CliError::Render)?;
            return print(&String::from_utf8_lossy(&page));
        };
        std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(examples::command(), &folder))
            .map_err(|source| CliError::WriteInto { path: folder, source })
    }
}

/// The program's page, with every command and its options.
fn one_page() -> io::Result<Vec<u8>> {
    let mut program = examples::command().disable_help_subcommand(true);
    // Fills in every command's full name, such as `envoy-auth-tokens keys list`.
    program.build();
    let mut page = Vec::new();
    let own = Page::new(program.clone());
    own.render_title(&mut page)?;
    own.render_name_section(&mut page)?;
    own.render_synopsis_section(&mut page)?;
    own.render_description_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in program.get_subcommands() {
        write_command(command, &mut page)?;
    }
    own.render_version_section(&mut page)?;
    Ok(page)
}

fn write_command(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    if command.has_subcommands() {
        return command.get_subcommands().try_for_each(|inner| write_command(inner, page));
    }
    let mut sections = Vec::new();
    let own = Page::new(command.clone());
    own.render_synopsis_section(&mut sections)?;
    own.render_description_section(&mut sections)?;
    own.render_options_section(&mut sections)?;
    own.render_extra_section(&mut sections)?;
    let words = command.get_bin_name().unwrap_or(command.get_name());
    let words = words.strip_prefix(concat!(env!("CARGO_PKG_NAME"), " ")).unwrap_or(words);
    writeln!(page, ".SS \"{words}\"")?;
    // The sections of a command are paragraphs here: their headings say nothing that their text does not show.
    // The definition of the apostrophe stands at the top of the page already.
    let preamble = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    for line in String::from_utf8_lossy(&sections).lines().filter(|line| !preamble(line)) {
        writeln!(page, "{}", if line.starts_with(".SH ") { ".PP" } else { line })?;
    }
    Ok(())
}
