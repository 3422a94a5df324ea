//! The program: it picks the exit code, everything else is the library's.

use std::process::ExitCode;

/// glibc's allocator costs a sidecar about as much again per Check.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    envoy_auth_tokens::cli::run()
}
