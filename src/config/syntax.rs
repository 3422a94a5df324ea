//! Syntax errors in words of our own: the parser's may quote the file.

use std::borrow::Cow;

use serde_saphyr::Error;

/// The maximum number of values in a file: lists, mappings and scalars, keys included.
pub const MAX_VALUES: usize = 10_000_000;

/// The maximum number of values that aliases may repeat.
pub const MAX_REPEATED: usize = 100_000;

/// The maximum nesting of lists and mappings.  The parser recurses, and a thread's stack is small.
pub const MAX_DEPTH: usize = 32;

/// Why a text is not YAML.
pub struct SyntaxError {
    /// The problem, in our own words: the parser's message might quote the file.
    pub message: Cow<'static, str>,
    /// The line, from 1; 0 when it is not known.
    pub line: u32,
    /// The column, in characters from 1.
    pub column: u32,
}

impl SyntaxError {
    /// Translates the parser's error.
    pub fn new(error: &Error) -> Self {
        let mut innermost = error.without_snippet();
        while let Error::AliasError { error, .. } = innermost {
            innermost = error;
        }
        let message: Cow<'static, str> = match innermost {
            Error::Eof { .. } => "the file ends too early".into(),
            Error::MultipleDocuments { .. } => {
                "a second document begins here; a configuration is one document".into()
            }
            Error::NullIntoString { .. } => "a key is expected; found nothing (null)".into(),
            Error::Unexpected { .. } => "a key is text; found a list or a mapping".into(),
            Error::UnsupportedTag { .. } => {
                "tags (`!name`) are not supported; a secret reference is {$env: NAME} or {$file: PATH}".into()
            }
            Error::UnknownAnchor { .. } => {
                "an alias (`*name`) without an anchor (`&name`); put text that begins with `*` in quotes".into()
            }
            Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias is inside its own anchor".into(),
            Error::NonFiniteFloat { .. } => {
                "a number must be finite; put it in quotes if it is a text".into()
            }
            Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. } => format!(
                "too large or too deep: at most {MAX_VALUES} values, {MAX_DEPTH} levels and {MAX_REPEATED} values repeated by aliases"
            )
            .into(),
            // The parser's own errors are texts.
            other => syntax_message(&other.to_string()).into(),
        };
        let at = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { message, line: narrow(at.line()), column: narrow(at.column()) }
    }
}

const NOT_YAML: &str = "this is not valid YAML";

/// A message of our own for the parser's, which is compared and never passed on.
fn syntax_message(parser_message: &str) -> &'static str {
    let table = [
        (
            "mapping values are not allowed",
            "a `:` where a key is not possible; put text that contains `: ` in quotes",
        ),
        (
            "illegal placement of ':'",
            "a `:` where a key is not possible; look for an open bracket or quote above",
        ),
        ("tab", "a tab where YAML allows only blanks"),
        (
            "trailing content after",
            "text after a closing quote; look for a missing `,` or `:`, or a quote inside the text",
        ),
        ("unexpected character", "a text cannot begin with this character; put it in quotes"),
        (
            "block sequence entries",
            "a list cannot begin on the line of its key; begin it on the next line, or write [a, b]",
        ),
        (
            "block scalar",
            "after `|` or `>` the line must end, and the lines below must have the same indentation",
        ),
        ("multiline quoted scalar", "a quoted text is not closed, or its next line is not indented"),
        ("unclosed", "a bracket or a quote is not closed"),
        ("unexpected eof", "the file ends inside a list, a mapping or a quoted text"),
        ("unexpected end", "the file ends inside a list, a mapping or a quoted text"),
        ("mismatched bracket", "a bracket is closed by one of another kind"),
        ("misplaced bracket", "a closing bracket without an opening one"),
        ("expected ',' or", "a `,` or a closing bracket is expected here"),
        ("simple key", "a `:` and a blank are expected after a key"),
        ("expected key", "a key is expected here; check the indentation of the lines"),
        ("'-' indicator", "a `-` is expected here; check the indentation of the lines of the list"),
        ("<document start>", "this line belongs to nothing above; check the indentation of the lines"),
        ("indent", "this line's indentation fits nothing above"),
        ("escape", "an unknown escape in a text in double quotes; single quotes have no escapes"),
        ("tag", "a malformed tag; put text that begins with `!` in quotes"),
        ("anchor", "a malformed anchor or alias; put text that begins with `&` or `*` in quotes"),
    ];
    let parser_message = parser_message.to_ascii_lowercase();
    let found = table.iter().find(|(part, _)| parser_message.contains(part));
    found.map_or(NOT_YAML, |(_, message)| message)
}
