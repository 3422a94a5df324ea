//! Response times that reveal nothing.
//!
//! A rejection is answered at the end of the caller's maximum wait, whatever the cause.  A verification that ends in a
//! rejection continues for as long as that of the costliest hash, so that the load does not distinguish users either.

use std::time::{Duration, Instant};

use super::lockout::AttemptResult;

/// How long a verification of a hash took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HashTime {
    /// The cost of the hash ([`PasswordHash::cost`](crate::password::PasswordHash::cost)).
    pub cost: u64,
    pub took: Duration,
}

/// The extra work after a hash, so that a rejection takes as long as that of the costliest hash.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtraWork {
    None,
    /// Wait until it has taken as long as the costliest hash took the last time.
    WaitFor(Duration),
    /// Verify the costliest hash as well, because its time is not known.
    VerifyCostliest,
}

impl ExtraWork {
    pub fn new(result: AttemptResult, cost: u64, costliest_cost: u64, costliest: Option<HashTime>) -> Self {
        match (result, costliest) {
            (AttemptResult::Right, _) => Self::None,
            (AttemptResult::Wrong | AttemptResult::Locked, _) if cost == costliest_cost => Self::None,
            (AttemptResult::Wrong | AttemptResult::Locked, Some(time)) if time.cost == costliest_cost => {
                Self::WaitFor(time.took)
            }
            (AttemptResult::Wrong | AttemptResult::Locked, _) => Self::VerifyCostliest,
        }
    }
}

/// When to answer a caller whose wait ends at `end`, if not at once.
pub(super) fn answer_at(result: &super::PasswordResult, end: Instant) -> Option<Instant> {
    match result {
        super::PasswordResult::Wrong | super::PasswordResult::Locked => Some(end),
        super::PasswordResult::Right(_) | super::PasswordResult::Unverified => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::PasswordResult;
    use super::super::tests::principal;
    use super::*;
    use crate::identity::{PASSWORD_ATTEMPT_TIMEOUT, Purpose};

    #[test]
    fn every_rejection_is_answered_at_the_end_of_the_wait_and_nothing_else() {
        let start = Instant::now();
        let right = PasswordResult::Right(Arc::new(principal("alice")));
        for deadline in [None, Some(0), Some(50), Some(200), Some(10_000)] {
            let purpose = Purpose::Check { deadline: deadline.map(Duration::from_millis) };
            let end = start + purpose.timeout();
            for rejection in [PasswordResult::Wrong, PasswordResult::Locked] {
                assert_eq!(answer_at(&rejection, end), Some(end), "{rejection:?}");
            }
            for other in [&right, &PasswordResult::Unverified] {
                assert_eq!(answer_at(other, end), None, "{other:?}");
            }
        }
        let wait =
            |milliseconds| Purpose::Check { deadline: Some(Duration::from_millis(milliseconds)) }.timeout();
        assert_eq!(
            [wait(0), wait(50), wait(200), wait(9999)].map(|wait| wait.as_millis()),
            [0, 25, 100, 100]
        );
        let check = Purpose::Check { deadline: None };
        assert_eq!(
            (check.timeout(), Purpose::Admin.timeout()),
            (PASSWORD_ATTEMPT_TIMEOUT, PASSWORD_ATTEMPT_TIMEOUT)
        );
    }

    #[test]
    fn a_rejection_takes_as_long_as_the_dearest_hash() {
        let took = Duration::from_millis(70);
        let time = |cost| Some(HashTime { cost, took });
        for rejection in [AttemptResult::Wrong, AttemptResult::Locked] {
            // Own cost, the costliest one's, what is known of that.
            assert_eq!(ExtraWork::new(rejection, 10, 30, time(30)), ExtraWork::WaitFor(took));
            assert_eq!(ExtraWork::new(rejection, 10, 30, None), ExtraWork::VerifyCostliest);
            let of_another = ExtraWork::new(rejection, 10, 30, time(10));
            assert_eq!(of_another, ExtraWork::VerifyCostliest, "known of another hash");
            assert_eq!(ExtraWork::new(rejection, 30, 30, time(30)), ExtraWork::None);
            assert_eq!(ExtraWork::new(rejection, 30, 30, None), ExtraWork::None);
        }
        for costliest in [None, time(30)] {
            let right = ExtraWork::new(AttemptResult::Right, 10, 30, costliest);
            assert_eq!(right, ExtraWork::None, "a right password waits for nothing");
        }
    }
}
