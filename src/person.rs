//! People: users of the configuration, and people of a directory or a provider.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::token::TokenDigest;

/// The longest name of a person, in characters.
const MAX_NAME: usize = 190;

/// The longest name of a provider.
const MAX_PROVIDER_NAME: usize = 32;

/// The source of a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PersonSource {
    /// `users` of the configuration.
    Config,
    /// The directory of the section `ldap`.
    Ldap,
    /// A provider of the section `oauth`.
    Provider(ProviderName),
}

impl PersonSource {
    /// The word for the store, logs, metrics and metadata.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Config => "config",
            Self::Ldap => "ldap",
            Self::Provider(name) => name.as_str(),
        }
    }

    /// The source with this word; `None` when no source can have it.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "config" => Some(Self::Config),
            "ldap" => Some(Self::Ldap),
            other => other.parse().ok().map(Self::Provider),
        }
    }
}

/// The name of a provider: it is in paths, logs, metrics and before the ids of actors.  1 to 32 of a-z, 0-9 and `-`,
/// beginning with a letter, and not a word of another source.  A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderName(Arc<str>);

/// A text is not the name of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 32 of a-z, 0-9 and `-`, beginning with a letter, and none of {}", RESERVED_PROVIDER_NAMES.join(", "))]
pub struct ProviderNameError;

/// Sources of other people, the beginnings of the ids of keys and service accounts, and a path below `/login`.
const RESERVED_PROVIDER_NAMES: [&str; 5] = ["config", "ldap", "key", "sa", "options"];

impl ProviderName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for ProviderName {
    type Err = ProviderNameError;

    fn from_str(text: &str) -> Result<Self, ProviderNameError> {
        let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.len() <= MAX_PROVIDER_NAME
            && text.bytes().all(is_legal)
            && !RESERVED_PROVIDER_NAMES.contains(&text);
        if is_name { Ok(Self(text.into())) } else { Err(ProviderNameError) }
    }
}

/// The identity of a person: unique, independent of the actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonId {
    /// Where the person comes from.
    pub source: PersonSource,
    /// The id within the source: the name of a configured user, or the id that the directory or the provider has for
    /// the person.
    pub subject: Box<str>,
}

/// An authenticated person, with the data for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// The identity.
    pub id: PersonId,
    /// The digest of the data that must stay the same for a session to live: the stored hash of the password, or the
    /// settings with which the directory was asked.
    pub binding: TokenDigest,
    /// The claims of the directory or the provider; `None` for a configured user, and in a session.
    pub claims: Option<Claims>,
}

/// The answer of a person's source about the person.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// The values.
    pub members: Map<String, Value>,
    /// When the source was asked.
    pub checked_at: Timestamp,
}

/// The normalised form of a name that a person typed, with which the directory is asked: NFKC, lower case, without
/// blanks at the ends, and with one blank for each run of blanks.  `None` for a name that no person can have: empty,
/// longer than 190 characters, or with invisible or meaningless characters (control, format, private use, unassigned,
/// variation selectors, fillers).
pub fn normalized_name(name: &str) -> Option<String> {
    // A longer name is not worth the work: NFKC expands one character to at most 18.
    if name.len() > MAX_NAME * 4 {
        return None;
    }
    let lower: String = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        let compatible: String = name.nfkc().collect();
        // Lower case may create characters that NFKC decomposes.
        compatible.to_lowercase().nfkc().collect()
    };
    // Before blanks become one: a line break is a control character, and a blank.
    if !lower.chars().all(is_visible) {
        return None;
    }
    let name = with_single_blanks(&lower);
    (!name.is_empty() && name.chars().count() <= MAX_NAME).then_some(name)
}

/// The form in which any names are compared.  Names that directories treat as equal (`caseIgnoreMatch`, RFC 4518) have
/// the same form: case is folded, which turns `ß` into `ss`, and invisible characters are removed.
pub fn comparable_name(name: &str) -> String {
    let compatible: String = name.nfkc().collect();
    // Lower case alone keeps letters apart that are equal in upper case, and the lower case of `ẞ` is `ß`.
    let folded: String = compatible.to_lowercase().to_uppercase().to_lowercase().nfkc().collect();
    // RFC 4518, section 2.2: line breaks are blanks, other controls nothing.
    let is_kept = |character: &char| is_visible(*character) || character.is_whitespace();
    with_single_blanks(&folded.chars().filter(is_kept).collect::<String>())
}

/// Without blanks at the ends, and with one for each run of blanks within (RFC 4518, section 2.6.1).
fn with_single_blanks(text: &str) -> String {
    let mut single = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !single.is_empty() {
            single.push(' ');
        }
        single.push_str(word);
    }
    single
}

/// Whether a character is visible or a blank.
fn is_visible(character: char) -> bool {
    let is_meaningless = matches!(
        character.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
            | GeneralCategory::Unassigned
    );
    // The other characters of Unicode's `Default_Ignorable_Code_Point`, some of which RFC 4518, section 2.2, maps to
    // nothing, and the object replacement character.
    let is_ignorable = matches!(
        character,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{1806}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{fffc}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !is_meaningless && !is_ignorable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_a_word_and_a_provider_none_of_another() {
        for word in ["config", "ldap", "corporate", "a", "idp-2"] {
            assert_eq!(PersonSource::parse(word).unwrap().as_str(), word);
        }
        let long = "p".repeat(MAX_PROVIDER_NAME + 1);
        for word in
            ["", "Corporate", "2nd", "-a", "a_b", "a.b", "a b", "a/b", "key", "sa", "options", "zoë", &long]
        {
            assert_eq!(PersonSource::parse(word), None, "{word}");
        }
    }

    #[test]
    fn spellings_of_one_name_are_one_and_a_name_with_an_invisible_character_is_rejected() {
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
            ("Ann\u{a0}  \u{2003}Example", Some("ann example")),
            ("ann\u{2028}example", Some("ann example")),
            ("ann\u{fe0f}", None),
            ("an\u{34f}n", None),
            ("ann\u{e0101}", None),
            ("an\u{180b}n", None),
            ("\u{ffa0}ann", None),
            ("\u{3164}ann", None),
            ("ann\u{fffc}", None),
            ("straße", Some("straße")),
        ] {
            assert_eq!(normalized_name(typed).as_deref(), name, "{typed:?}");
        }
        for (one, other) in [
            ("Ann  Example ", "\u{3000}ann example"),
            ("ann\u{fe0f}", "ANN"),
            ("an\u{34f}n", "ann"),
            ("an\u{ad}n", "ann"),
            ("ann\texample", "ann example"),
            ("STRASSE", "straße"),
            ("STRAẞE", "strasse"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
        ] {
            assert_eq!(comparable_name(one), comparable_name(other), "{one:?} {other:?}");
        }
        assert_ne!(comparable_name("ann"), comparable_name("anna"));
        assert!(normalized_name(&"n".repeat(MAX_NAME)).is_some());
        assert!(normalized_name(&"n".repeat(MAX_NAME + 1)).is_none());
    }
}
