//! The program: it reports an error and chooses the exit code.  Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use envoy_auth_tokens::cli::{self, CommandOutcome};

/// glibc's allocator costs a sidecar about as much again per Check.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code with which `explain` reports a denial.  clap uses 2 for a command line that cannot be parsed.
const DENIED: u8 = 3;

fn main() -> ExitCode {
    use_small_pages();
    match cli::run() {
        Ok(CommandOutcome::Success) => ExitCode::SUCCESS,
        Ok(CommandOutcome::Failure) => ExitCode::FAILURE,
        Ok(CommandOutcome::Denied) => ExitCode::from(DENIED),
        Err(error) => {
            // Standard error may be closed: the exit code still reports the error.
            let _ = writeln!(std::io::stderr(), "{}", error.report());
            ExitCode::FAILURE
        }
    }
}

/// Keeps the memory of this process out of transparent huge pages.
///
/// A huge page is resident as a whole: where the kernel's setting is `always`, an idle server would hold twice the memory,
/// and an issued key nearly twice the bytes.  Checks are no faster by huge pages.
fn use_small_pages() {
    // A kernel or a seccomp profile without this call costs memory, and nothing else.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
