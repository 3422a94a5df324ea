//! One line per decision, so that "why was I denied?" has an answer.
//!
//! The lines are written here and not through `tracing`, because its JSON formatting costs more than the decision.
//! They have the same format and destination.

mod line;
mod trace_id;

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use self::line::LogLine;
use super::CheckRecord;
use super::logging::LogWriter;
use crate::decision::Outcome;

/// The longest value of a field that a client chose, in bytes of the line.
pub const MAX_VALUE: usize = 256;

/// `policy_source` where Envoy's route names the policy; there is none where our routes choose it.
pub const POLICY_BY_ENVOY: &str = "context_extensions";

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum LogDecisions {
    /// All decisions.
    All,
    /// Denials, also those of policies that are not enforced.
    Denied,
    /// No decision.
    None,
}

impl LogDecisions {
    /// Whether a decision with this outcome is logged.
    pub fn includes(self, outcome: Outcome) -> bool {
        match self {
            Self::All => true,
            Self::Denied => outcome.deny_reason().is_some(),
            Self::None => false,
        }
    }
}

/// Where decisions are logged, and which.
#[derive(Debug, Clone)]
pub struct DecisionLog {
    which: LogDecisions,
    sample: Arc<Sampler>,
    lines: Option<LogWriter>,
}

impl DecisionLog {
    /// A log of these decisions, and of one in `sample` that were allowed; without lines it is silent.
    pub fn new(which: LogDecisions, sample: NonZeroU64, lines: Option<LogWriter>) -> Self {
        Self { which, sample: Arc::new(Sampler { of: sample, seen: AtomicU64::new(0) }), lines }
    }

    /// A log that writes nothing.
    pub fn silent() -> Self {
        Self::new(LogDecisions::None, NonZeroU64::MIN, None)
    }

    /// Writes the decision's line, if it is one that is logged.
    pub fn write(&self, check: &CheckRecord<'_>) {
        let outcome = check.decision.outcome();
        let Some(lines) = self.lines.as_ref().filter(|_| self.which.includes(outcome)) else {
            return;
        };
        let sample = match outcome {
            Outcome::Allowed => {
                if !self.sample.takes_next() {
                    return;
                }
                self.sample.of.get()
            }
            Outcome::Shadowed(_) | Outcome::Denied(_) => 1,
        };
        let line = LogLine::begin(lines.format, Timestamp::now(), "decision", outcome.as_str());
        lines.write(&written(line, check, sample));
    }
}

/// The whole line.  It never holds a token, a password, a cookie or a query.
fn written(mut line: LogLine, check: &CheckRecord<'_>, sample: u64) -> Vec<u8> {
    let CheckRecord { decision, request, elapsed, .. } = check;
    let outcome = decision.outcome();
    line.text("decision", outcome.as_str());
    line.text("reason", outcome.reason());
    if let Some(policy) = &decision.context.policy {
        line.text("policy", policy.name());
    }
    // Where to is not said: the address to come back to has the query.
    if decision.context.redirect().is_some() {
        line.flag("redirected");
    }
    // Routes did not choose the policy: without this `explain` could not decide the same again.
    if request.is_some_and(|request| request.policy.is_some()) {
        line.text("policy_source", POLICY_BY_ENVOY);
    }
    if let Some(principal) = &decision.context.principal {
        line.text("credential.kind", principal.kind.as_str());
        line.text("credential.name", &printable(principal.name.as_bytes()));
        if let Some(id) = principal.id {
            line.number("credential.id", id);
        }
        if let Some(owner) = principal.owner_name() {
            line.text("credential.owner", &printable(owner.as_bytes()));
        }
        if let Some(source) = principal.source() {
            line.text("credential.source", source.as_str());
        }
    } else if let Some(rejected) = decision.context.rejected() {
        line.text("credential.kind", rejected.kind.as_str());
        line.text("credential.name", &printable(rejected.name.as_bytes()));
        if let Some(id) = rejected.id {
            line.number("credential.id", id);
        }
    }
    if let Some(http) = check.http() {
        line.text("method", &printable(http.method));
        line.text("host", &printable(without_user_info(http.host)));
        line.text("path", &printable(http.path_without_query()));
        if let Some(id) = http.headers.first("x-request-id") {
            line.text("request_id", &printable(id));
        }
        if let Some(id) = trace_id::of(&http.headers) {
            line.text("trace_id", id);
        }
    }
    line.number("duration_us", i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX));
    // To estimate a number of Checks, multiply by this.
    if sample > 1 {
        line.number("sample", i64::try_from(sample).unwrap_or(i64::MAX));
    }
    line.end()
}

/// Takes one of so many.
#[derive(Debug)]
struct Sampler {
    of: NonZeroU64,
    seen: AtomicU64,
}

impl Sampler {
    /// Whether the next one is taken: exactly one in each run of as many, and not always the same of a run,
    /// so that traffic that comes in a rhythm is seen as a whole.
    fn takes_next(&self) -> bool {
        if self.of == NonZeroU64::MIN {
            return true;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        let (run, position) = (seen / self.of, seen % self.of);
        position == scattered(run) % self.of
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): neighbours become unlike each other.
fn scattered(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A host with a user's name and password in front (RFC 3986 section 3.2.1) loses them.
pub(super) fn without_user_info(host: &[u8]) -> &[u8] {
    host.rsplit(|&byte| byte == b'@').next().unwrap_or_default()
}

/// What a client sent, as printable ASCII of at most [`MAX_VALUE`] bytes.
pub fn printable(value: &[u8]) -> Cow<'_, str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if value.len() <= MAX_VALUE
        && value.iter().all(is_plain)
        && let Ok(text) = std::str::from_utf8(value)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(MAX_VALUE);
    for &byte in value {
        let escaped = byte.escape_ascii();
        if text.len() + escaped.len() > MAX_VALUE - "...".len() {
            text.push_str("...");
            break;
        }
        text.extend(escaped.map(char::from));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deny_reason::DenyReason;

    #[test]
    fn what_a_client_sent_cannot_break_the_line() {
        assert_eq!(printable(b"/a\r\n\x1b[31m\xff\"\\"), r#"/a\r\n\x1b[31m\xff\"\\"#);
        let long = printable(&[b'\n'; 1000]);
        assert!(long.len() <= MAX_VALUE && long.ends_with("\\n..."), "{long}");
        assert_eq!(printable(&[b'a'; 200]), "a".repeat(200));
    }

    #[test]
    fn a_password_in_the_host_is_no_part_of_it() {
        assert_eq!(without_user_info(b"user:p@ss@h:80"), b"h:80");
        assert_eq!(without_user_info(b"h"), b"h");
        assert_eq!(without_user_info(b""), b"");
    }

    #[test]
    fn which_decisions_are_logged() {
        let refused = Outcome::Denied(DenyReason::NoCredential);
        let shadowed = Outcome::Shadowed(DenyReason::NoCredential);
        for (which, expected) in [
            (LogDecisions::All, [true, true, true]),
            (LogDecisions::Denied, [false, true, true]),
            (LogDecisions::None, [false, false, false]),
        ] {
            let found = [Outcome::Allowed, shadowed, refused].map(|outcome| which.includes(outcome));
            assert_eq!(found, expected, "{which:?}");
        }
    }

    #[test]
    fn one_of_each_run_is_taken_and_not_always_the_same() {
        let sample = |of| Sampler { of: NonZeroU64::new(of).unwrap(), seen: AtomicU64::new(0) };
        let every = sample(1);
        assert!((0..10).all(|_| every.takes_next()));
        let tenth = sample(10);
        let positions: Vec<_> = (0..100)
            .map(|run| {
                let taken: Vec<_> = (0..10).filter(|_| tenth.takes_next()).collect();
                assert_eq!(taken.len(), 1, "run {run}");
                taken[0]
            })
            .collect();
        assert!((0..10).all(|position| positions.contains(&position)), "{positions:?}");
    }
}
