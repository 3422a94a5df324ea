//! Threads of lower priority than those that answer Checks.
//!
//! A sidecar often has one processor.  A thread of the same priority would hold up Checks for whole time slices of
//! several milliseconds.

/// The nice value (nice(2)) above that of the threads that answer Checks: of a processor that they keep busy, such a
/// thread gets about a tenth.
const NICENESS: i32 = 10;

/// How many rows of a store a thread works on before it gives way: about a tenth of a millisecond.
const ROWS_IN_TURN: usize = 128;

/// Lowers the priority of this thread and of the threads that it starts.
pub fn lower() {
    // Some sandboxes allow nobody to set priorities.  The thread then costs Checks more time.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a background thread has the priority of those that answer Checks");
    }
}

/// Rows of a store, between which the thread gives way to others that wait for its processor.
///
/// The kernel lets a thread finish its time slice of a millisecond or more, even where it has the lower priority: a Check
/// that arrives meanwhile would wait for that.
pub fn giving_way<R: IntoIterator>(rows: R) -> impl Iterator<Item = R::Item> {
    rows.into_iter().enumerate().map(|(number, row)| {
        give_way_after(number);
        row
    })
}

/// Gives way where the row of this number, from 0 on, ends a turn.
pub fn give_way_after(number: usize) {
    if number % ROWS_IN_TURN == ROWS_IN_TURN - 1 {
        std::thread::yield_now();
    }
}
