//! One line per decision, so that "why was I refused?" has an answer.

use std::borrow::Cow;
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
        credential.name = known.map(|known| shown(known.name.as_bytes())).as_deref(),
        credential.id = known.and_then(|known| known.id),
        method = http.map(|http| shown(http.method)).as_deref(),
        host = http.map(|http| shown(without_user_info(http.host))).as_deref(),
        path = http.map(|http| shown(http.path_without_query())).as_deref(),
        request_id = header("x-request-id").map(shown).as_deref(),
        duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        "{word}"
    );
}

/// A host with a user's name and password in front (RFC 3986 section 3.2.1) loses them.
pub(super) fn without_user_info(host: &[u8]) -> &[u8] {
    host.rsplit(|&byte| byte == b'@').next().unwrap_or_default()
}

/// What somebody sent, as printable ASCII that ends within [`LONGEST_VALUE`] bytes.
pub(super) fn shown(value: &[u8]) -> Cow<'_, str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if value.len() <= LONGEST_VALUE
        && value.iter().all(is_plain)
        && let Ok(text) = std::str::from_utf8(value)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(LONGEST_VALUE);
    for &byte in value {
        let escaped = byte.escape_ascii();
        if text.len() + escaped.len() > LONGEST_VALUE - "...".len() {
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

    #[test]
    fn what_a_client_sent_cannot_break_the_line() {
        assert_eq!(shown(b"/a\r\n\x1b[31m\xff\"\\"), r#"/a\r\n\x1b[31m\xff\"\\"#);
        let long = shown(&[b'\n'; 1000]);
        assert!(long.len() <= LONGEST_VALUE && long.ends_with("\\n..."), "{long}");
        assert_eq!(shown(&[b'a'; 200]), "a".repeat(200));
    }

    #[test]
    fn a_password_in_the_host_is_no_part_of_it() {
        assert_eq!(without_user_info(b"user:p@ss@h:80"), b"h:80");
        assert_eq!(without_user_info(b"h"), b"h");
        assert_eq!(without_user_info(b""), b"");
    }

    #[test]
    fn which_decisions_are_logged() {
        let refusal = Some(Refusal::NoCredential);
        assert!(LogDecisions::All.includes(None) && LogDecisions::All.includes(refusal));
        assert!(!LogDecisions::Refused.includes(None) && LogDecisions::Refused.includes(refusal));
        assert!(!LogDecisions::None.includes(None) && !LogDecisions::None.includes(refusal));
    }
}
