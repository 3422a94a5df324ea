//! Texts for people at a terminal, in addition to the results on standard output.

use std::io::Write;

/// A text as one word of a shell's command, for a message.
pub(super) fn in_shell(text: &str) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || matches!(char, '_' | '.' | '/' | ':' | '@' | '-');
    let text = escape_controls(text);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        return text;
    }
    let dashes = if text.starts_with('-') { "-- " } else { "" };
    format!("{dashes}'{}'", text.replace('\'', r"'\''"))
}

/// Escapes the control characters of a text from the server: a terminal would obey them.
pub(super) fn escape_controls(text: &str) -> String {
    let is_control = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if is_control(char) {
            escaped.extend(char.escape_unicode());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// Prints to standard error what is not the command's result.  Standard error may be closed.
pub(super) fn print_note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::escape_controls;

    #[test]
    fn nothing_that_is_shown_steers_the_terminal() {
        assert_eq!(escape_controls("a\u{1b}[31mb\u{202e}c\n"), "a\\u{1b}[31mb\\u{202e}c\\u{a}");
        assert_eq!(escape_controls("שלום 🔑"), "שלום 🔑");
    }
}
