//! People: users of the configuration, and those whom a directory knows.

use jiff::Timestamp;
use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::token::TokenDigest;

/// The longest name of a person, in characters.
const MAX_NAME: usize = 190;

/// Where a person comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PersonSource {
    /// `users` of the configuration.
    Config,
    /// The directory of the section `ldap`.
    Ldap,
}

impl PersonSource {
    /// Every source.
    pub const ALL: [Self; 2] = [Self::Config, Self::Ldap];

    /// The word for the store, logs, metrics and metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Ldap => "ldap",
        }
    }

    /// The source of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == word)
    }
}

/// Who a person is: unique, whatever their actor says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonId {
    /// Where the person comes from.
    pub source: PersonSource,
    /// Which one there: the name of a configured user, or the id that the directory has for the person.
    pub subject: Box<str>,
}

/// A person who showed who they are, and what a session of theirs is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Who it is.
    pub id: PersonId,
    /// The digest of what must stay the same for a session to live: the stored hash of the password, or by which settings
    /// the directory was asked.
    pub binding: TokenDigest,
    /// What the directory said; `None` for a configured user, and in a session.
    pub claims: Option<Claims>,
}

/// What the source of a person said of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// What it said.
    pub members: Map<String, Value>,
    /// When it was asked.
    pub checked_at: Timestamp,
}

/// A name as people type it, in the one spelling by which names are compared: NFKC, without blanks at the ends, in
/// lower case.  `None` for one that no person has: empty, longer than 190 characters, or with characters that nobody
/// sees or that mean nothing (control, format, private use, unassigned).
pub fn normalized_name(name: &str) -> Option<String> {
    // A longer one is not worth the work: NFKC makes 18 characters of one at most.
    if name.len() > MAX_NAME * 4 {
        return None;
    }
    let compatible: String = name.nfkc().collect();
    // Lower case may bring forth what NFKC takes apart.
    let folded: String = compatible.trim().to_lowercase().nfkc().collect();
    let is_visible = |character: char| {
        !matches!(
            character.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::PrivateUse
                | GeneralCategory::Surrogate
                | GeneralCategory::Unassigned
        )
    };
    let is_name = !folded.is_empty() && folded.chars().count() <= MAX_NAME && folded.chars().all(is_visible);
    is_name.then_some(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_one_and_invisible_characters_are_none() {
        for (typed, name) in [
            ("ann", Some("ann")),
            (" Ann ", Some("ann")),
            ("ＡＮＮ", Some("ann")),
            ("ﬁona", Some("fiona")),
            ("ann\u{ad}", None),
            ("an\u{200b}n", None),
            ("an\0n", None),
            ("an\nn", None),
            ("\u{e000}", None),
            ("\u{378}", None),
            ("", None),
            (" \u{3000}", None),
            ("K", Some("k")),
        ] {
            assert_eq!(normalized_name(typed).as_deref(), name, "{typed:?}");
        }
        assert!(normalized_name(&"n".repeat(MAX_NAME)).is_some());
        assert!(normalized_name(&"n".repeat(MAX_NAME + 1)).is_none());
    }
}
