//! Threads of lower priority than those that answer Checks.
//!
//! A sidecar often has one processor.  A thread of the same priority would hold up Checks for whole time slices of
//! several milliseconds.

/// The nice value (nice(2)) above that of the threads that answer Checks: of a processor that they keep busy, such a
/// thread gets about a tenth.
const NICENESS: i32 = 10;

/// After how many rows of a store a thread yields: about a tenth of a millisecond.
const ROWS_BEFORE_YIELD: usize = 128;

/// Lowers the priority of this thread and of the threads that it starts.
pub fn lower() {
    // Some sandboxes do not allow setting priorities.  The thread then costs Checks more time.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a background thread has the priority of those that answer Checks");
    }
}

/// Rows of a store, between which the thread yields to others that wait for its processor.
///
/// The kernel lets a thread finish its time slice of a millisecond or more, even where it has the lower priority: a Check
/// that arrives meanwhile would wait for that.
pub fn yielding<R: IntoIterator>(rows: R) -> impl Iterator<Item = R::Item> {
    rows.into_iter().enumerate().map(|(number, row)| {
        yield_after(number);
        row
    })
}

/// Yields the processor after the last row of such a number, counted from 0.
pub fn yield_after(number: usize) {
    if number % ROWS_BEFORE_YIELD == ROWS_BEFORE_YIELD - 1 {
        std::thread::yield_now();
    }
}
