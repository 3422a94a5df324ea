//! The keys that an ambiguous name may mean, in a message.

use std::fmt;

use jiff::Timestamp;

use super::super::escape_controls;
use super::key::ListedKey;

/// How many keys a message lists.
const MAX_CANDIDATES: usize = 20;

/// The keys that a name may mean, for people.
#[derive(Debug)]
pub struct Candidates {
    lines: Vec<String>,
    more: usize,
}

impl Candidates {
    /// These keys, of which the first are named.
    pub fn new(keys: &[ListedKey], now: Timestamp) -> Self {
        let line = |key: &ListedKey| {
            let state = if key.is_live(now) { "live" } else { "dead" };
            format!("{}  {}, {}, {state}", key.id, escape_controls(&key.reference()), key.whose())
        };
        let lines = keys.iter().take(MAX_CANDIDATES).map(line).collect();
        Self { lines, more: keys.len().saturating_sub(MAX_CANDIDATES) }
    }
}

impl fmt::Display for Candidates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            write!(formatter, "\n  {line}")?;
        }
        if self.more > 0 { write!(formatter, "\n  and {} more", self.more) } else { Ok(()) }
    }
}
