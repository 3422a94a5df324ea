//! Texts of Grafana's files, in which variables of the environment may stand, and how they are written in ours.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value as Json;

/// The references that Grafana replaces when it reads a file: `${NAME}`, `$__env{NAME}`, `$__file{PATH}`.
pub static VARIABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$(|__\w+)\{([^}]+)\}").expect("a regular expression of our own"));

/// A text of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// It is there itself.
    Plain(String),
    /// `{$env: NAME}`
    Variable(String),
    /// `{$file: PATH}`
    File(String),
}

impl Text {
    /// The meaning of the text.
    ///
    /// # Errors
    /// Why a variable in it has no counterpart.
    pub fn of(written: &str) -> Result<Self, &'static str> {
        let Some(found) = VARIABLE.captures(written) else {
            return Ok(Self::Plain(written.to_owned()));
        };
        let name = found[2].to_owned();
        match (&found[1], found[0].len() == written.len()) {
            (_, false) => Err("a variable inside other text cannot be converted: write the text out"),
            ("" | "__env", true) => Ok(Self::Variable(name)),
            ("__file", true) => Ok(Self::File(name)),
            (_, true) => Err("only variables of the environment and of files can be converted"),
        }
    }

    /// The text itself, where it is in the file.
    pub fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Variable(_) | Self::File(_) => None,
        }
    }
}

/// As YAML.
impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => write!(formatter, "{}", quoted(text)),
            Self::Variable(name) => write!(formatter, "{{$env: {}}}", quoted(name)),
            Self::File(path) => write!(formatter, "{{$file: {}}}", quoted(path)),
        }
    }
}

/// A text as YAML in quotes.  JSON is YAML.
pub fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

/// A key of the file for a message; an unknown one may be anything, and `***` stands for what may be a secret.
pub fn shown_key(key: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    if (1..=40).contains(&key.len()) && key.bytes().all(is_plain) && digits <= 3 { key } else { "***" }
}
