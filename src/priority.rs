//! Threads of lower priority than those that answer Checks.
//!
//! A sidecar often has one processor.  A thread of the same priority would hold up Checks for whole time slices of
//! several milliseconds.

/// The nice value (nice(2)) above that of the threads that answer Checks: of a processor that they keep busy, such a
/// thread gets about a tenth.
const NICENESS: i32 = 10;

/// Lowers the priority of this thread and of the threads that it starts.
pub fn lower() {
    // Some sandboxes allow nobody to set priorities.  The thread then costs Checks more time.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a background thread has the priority of those that answer Checks");
    }
}
