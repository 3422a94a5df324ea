//! Checks of secrets that are written in the file itself: references of other programs, placeholders, short passwords.
//!
//! The values of secret references are not checked.

use super::raw::{Node, Text};
use super::reader::Reader;

/// A shorter password is a warning.
const MIN_PASSWORD_CHARACTERS: usize = 12;

/// Rejects a text that is written like another program's reference: the text itself would be the secret.
///
/// Returns whether it is one.
pub fn rejects_reference<'t>(reader: &mut Reader<'t>, node: &'t Node, text: &Text) -> bool {
    let is_reference = text.reference().is_none() && is_foreign_reference(text.as_str());
    if is_reference {
        reader.error(
            &node.at,
            "this looks like a reference of another program, which is not replaced here: the text itself would \
             be the secret; write {$env: NAME} or {$file: PATH}",
        );
    }
    is_reference
}

/// Warns of a text that examples use as a placeholder.  `own` are names next to it, such as the user's.
pub fn warn_of_placeholder<'t>(reader: &mut Reader<'t>, node: &'t Node, text: &Text, own: &[&str]) {
    if text.reference().is_none() && is_placeholder(text.as_str(), own) {
        reader.warn(
            &node.at,
            "this looks like a placeholder, which anyone can guess: replace it with a secret",
        );
    }
}

/// Warns of a short password.
pub fn warn_of_short_password<'t>(reader: &mut Reader<'t>, node: &'t Node, text: &Text) {
    if text.reference().is_none() && text.as_str().chars().count() < MIN_PASSWORD_CHARACTERS {
        reader.warn(
            &node.at,
            format!("a password of fewer than {MIN_PASSWORD_CHARACTERS} characters can be guessed"),
        );
    }
}

/// Whether the whole text is a reference in the syntax of shells, Compose, Kubernetes, Helm, Vault and others.
fn is_foreign_reference(text: &str) -> bool {
    let text = text.trim();
    let enclosed = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("%(", ")s"), ("<%", "%>")];
    let variable = text.strip_prefix('$').is_some_and(|name| {
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        !name.is_empty() && name.bytes().all(is_name)
    });
    let schemes =
        ["env:", "file:", "$env:", "$file:", "vault:", "op://", "ref+", "secretref:", "aws-sm:", "gcpsm:"];
    let begins = |scheme: &&str| {
        let head = text.get(..scheme.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(scheme)) && text.len() > scheme.len()
    };
    variable
        || enclosed.iter().any(|(open, close)| {
            text.len() >= open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
        })
        || schemes.iter().any(begins)
}

fn is_placeholder(text: &str, own: &[&str]) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let plain = letters(text);
    let words = [
        "secret",
        "password",
        "passw0rd",
        "example",
        "token",
        "admin",
        "test",
        "demo",
        "default",
        "placeholder",
        "todo",
        "tbd",
        "none",
        "null",
        "mysecret",
        "mypassword",
        "mytoken",
        "yoursecret",
        "yourpassword",
        "yourtoken",
        "letmein",
        "xxx",
    ];
    let beginnings = ["changeme", "replaceme", "changethis", "replacethis", "insertyour", "putyour"];
    let is_repeated = |character: char| plain.len() >= 3 && plain.chars().all(|other| other == character);
    words.contains(&plain.as_str())
        || beginnings.iter().any(|beginning| plain.starts_with(beginning))
        || is_repeated('x')
        || (!plain.is_empty() && own.iter().any(|name| letters(name) == plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_other_programs() {
        for text in [
            "${BOT_TOKEN}",
            "${bot.token}",
            "${BOT_TOKEN:-default}",
            "$BOT_TOKEN",
            "$A",
            "$(BOT_TOKEN)",
            "$(cat /x)",
            "{{ .Values.token }}",
            "{{token}}",
            " ${X} ",
            "env:BOT_TOKEN",
            "ENV:BOT_TOKEN",
            "env://BOT_TOKEN",
            "file:///run/secrets/x",
            "file:x",
            "vault:secret/data/x#y",
            "%(BOT_TOKEN)s",
        ] {
            assert!(is_foreign_reference(text), "{text}");
        }
        for text in [
            "",
            "$",
            "$argon2id$v=19$m=1,t=1,p=1$a$b",
            "$lower",
            "a$BOT_TOKEN",
            "${BOT_TOKEN}x",
            "x${BOT}",
            "{token}",
            "env",
            "env:",
            "file",
            "environment:x",
            "eat_0123456789",
            "a{{b}}c",
        ] {
            assert!(!is_foreign_reference(text), "{text}");
        }
    }

    #[test]
    fn placeholders() {
        for text in [
            "changeme",
            "CHANGE-ME",
            "CHANGE-ME-CHANGE-ME-CHANGE-ME",
            "change_me_please",
            "Secret",
            "PASSWORD",
            "example",
            "<your-token>",
            "xxxxxxxx",
            "XXX",
            "replace-me",
            "ada",
            "Ada",
            "todo",
        ] {
            assert!(is_placeholder(text, &["ada"]), "{text}");
        }
        for text in ["", "correct horse battery staple", "secret-0f3a9c71", "xyx", "adam", "examples-7"] {
            assert!(!is_placeholder(text, &["ada"]), "{text}");
        }
    }
}
