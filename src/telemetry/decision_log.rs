//! One line per decision, so that "why was I refused?" has an answer.

use std::time::Duration;

use crate::attributes::Http;
use crate::decision::{Decision, Refusal};

/// The longest value that a client sent, in bytes of the line.
const LONGEST_VALUE: usize = 256;

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogDecisions {
    /// Each of them.
    All,
    /// Refusals.
    Refused,
    /// None of them.
    None,
}

impl LogDecisions {
    /// Whether a decision that refused for this reason, or did not refuse, is logged.
    pub fn includes(self, refusal: Option<Refusal>) -> bool {
        match self {
            Self::All => true,
            Self::Refused => refusal.is_some(),
            Self::None => false,
        }
    }
}

/// Writes the line.  It never holds a token, a password, a cookie or a query.
pub fn write(decision: &Decision, refusal: Option<Refusal>, http: Option<&Http<'_>>, elapsed: Duration) {
    let known = decision.learned.known.as_ref();
    let header = |name| http.and_then(|http| http.headers.first(name));
    let (word, reason) = match refusal {
        None => ("allowed", "admitted"),
        Some(refusal) => ("refused", refusal.reason()),
    };
    tracing::info!(
        target: "decision",
        decision = word,
        reason,
        policy = decision.learned.policy.as_ref().map(|policy| policy.name().as_ref()),
        credential.kind = known.map(|known| known.kind.as_str()),
        credential.name = known.map(|known| shown(known.name.as_bytes())),
        method = http.map(|http| shown(http.method)),
        host = http.map(|http| shown(http.host)),
        path = http.map(|http| shown(http.path_without_query())),
        request_id = header("x-request-id").map(shown),
        duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        "{word}"
    );
}

/// What somebody sent, as printable ASCII that ends within [`LONGEST_VALUE`] bytes.
pub(super) fn shown(value: &[u8]) -> String {
    let mut text = String::new();
    for &byte in value {
        let escaped = byte.escape_ascii();
        if text.len() + escaped.len() > LONGEST_VALUE - "...".len() {
            text.push_str("...");
            break;
        }
        text.extend(escaped.map(char::from));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sent_cannot_break_the_line() {
        assert_eq!(shown(b"/a\r\n\x1b[31m\xff\"\\"), r#"/a\r\n\x1b[31m\xff\"\\"#);
        let long = shown(&[b'\n'; 1000]);
        assert!(long.len() <= LONGEST_VALUE && long.ends_with("\\n..."), "{long}");
        assert_eq!(shown(&[b'a'; 200]), "a".repeat(200));
    }

    #[test]
    fn which_decisions_are_logged() {
        let refusal = Some(Refusal::NoCredential);
        assert!(LogDecisions::All.includes(None) && LogDecisions::All.includes(refusal));
        assert!(!LogDecisions::Refused.includes(None) && LogDecisions::Refused.includes(refusal));
        assert!(!LogDecisions::None.includes(None) && !LogDecisions::None.includes(refusal));
    }
}
