//! The form of an introspection, against a reader that knows no names: it is read as that reads it, or denied.

use percent_encoding::percent_decode_str;

use crate::admin::introspection::parse_form;

/// The target.
pub fn run(data: &[u8]) {
    let Ok(form) = parse_form(data) else {
        return;
    };
    let text = std::str::from_utf8(data).expect("what was read is UTF-8");
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = text.split('&').map(pair).collect();
    let of = |name: &[u8]| -> Vec<&[u8]> {
        pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value).collect()
    };
    assert_eq!(of(b"token"), [form.token.as_bytes()], "the one token");
    assert!(!form.token.is_empty());
    let policy = form.policy.as_deref().unwrap_or_default();
    assert_eq!(of(b"policy").first().copied().unwrap_or_default(), policy.as_bytes());
    assert!(of(b"policy").len() <= 1);
}

fn pair(text: &str) -> (Vec<u8>, Vec<u8>) {
    let mut parts = text.splitn(2, '=');
    let mut next = || {
        let part = parts.next().unwrap_or_default().replace('+', "%20");
        percent_decode_str(&part).collect::<Vec<u8>>()
    };
    (next(), next())
}
