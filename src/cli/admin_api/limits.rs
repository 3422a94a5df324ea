//! The life of a new key: the default of the server, and its limits.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::super::times::{time_and_distance, timestamp};
use super::{AdminApi, AdminApiError};

/// Where the admin API says what the caller may do.
const ACTOR: &str = "/api/auth/actor";

/// How long a new key works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Life {
    /// For this number of seconds.
    Seconds(i64),
    /// Forever, if the server allows it.
    Endless,
}

/// What the server says of the caller.  One of an older version leaves out what it does not know.
#[derive(Deserialize)]
struct Caller {
    #[serde(default)]
    permissions: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    max_seconds_to_live: Option<i64>,
    default_seconds_to_live: Option<i64>,
    #[serde(default, deserialize_with = "timestamp")]
    latest_expiration: Option<Timestamp>,
}

impl Life {
    /// The life that arguments ask for; where they are silent the one that the server proposes.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(in crate::cli) fn new(
        api: &AdminApi,
        ttl: Option<i64>,
        no_expiry: bool,
    ) -> Result<Self, AdminApiError> {
        match ttl {
            Some(seconds) => Ok(Self::Seconds(seconds)),
            None if no_expiry => Ok(Self::Endless),
            None => {
                let Caller { permissions } = api.get(ACTOR)?.parse()?;
                Ok(permissions.proposed(Timestamp::now()))
            }
        }
    }

    /// The seconds, as a member of a request; a key without an end has none.
    pub(in crate::cli) fn seconds(self) -> Option<i64> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::Endless => None,
        }
    }

    /// A sentence for people, about a key that is made now.
    pub(in crate::cli) fn sentence(self) -> String {
        let now = Timestamp::now();
        match self {
            Self::Endless => "It never expires.".to_owned(),
            Self::Seconds(seconds) => match now.checked_add(SignedDuration::from_secs(seconds)) {
                Ok(end) => format!("It works until {}.", time_and_distance(now, end)),
                // The server took it, so its clock is another one.
                Err(_) => format!("It works for {seconds} seconds."),
            },
        }
    }
}

impl Limits {
    /// As the page has it: what the configuration proposes, or the longest where that is too long or nothing is proposed.
    fn proposed(&self, now: Timestamp) -> Life {
        let left = self.latest_expiration.map(|end| end.as_second() - now.as_second());
        let longest = [self.max_seconds_to_live, left].into_iter().flatten().min();
        let proposed = [self.default_seconds_to_live, longest].into_iter().flatten().min();
        // Where none can be made, the server says so.
        proposed.filter(|seconds| *seconds > 0).map_or(Life::Endless, Life::Seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_proposal_counts_within_its_limits() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let proposed = |max, default, latest: Option<&str>| {
            let latest = latest.map(|at| at.parse().expect("a time"));
            let limits = Limits {
                max_seconds_to_live: max,
                default_seconds_to_live: default,
                latest_expiration: latest,
            };
            limits.proposed(now)
        };
        let soon = Some("2026-01-01T00:01:00Z");
        for (max, default, latest, expected) in [
            (None, None, None, Life::Endless),
            (None, Some(90), None, Life::Seconds(90)),
            (Some(30), Some(90), None, Life::Seconds(30)),
            (Some(30), None, None, Life::Seconds(30)),
            (Some(0), None, None, Life::Endless),
            (None, Some(90), soon, Life::Seconds(60)),
            (None, None, soon, Life::Seconds(60)),
        ] {
            assert_eq!(proposed(max, default, latest), expected, "{max:?} {default:?} {latest:?}");
        }
    }
}
