//! The trace that a request belongs to (W3C Trace Context, section 3.2), so that logs and traces can be joined.

use crate::attributes::Headers;

/// The trace id in the request's `traceparent`: 32 lower-case hexadecimal digits.
/// `None` without one that is valid.
pub(super) fn of<'a>(headers: &Headers<'a>) -> Option<&'a str> {
    let mut values = headers.all("traceparent");
    // "If more than one traceparent header is received, the receiver MUST NOT use any."
    match (values.next(), values.next()) {
        (Some(value), None) => trace_id(value),
        (_, Some(_)) | (None, None) => None,
    }
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`; later versions may go on behind another dash.
fn trace_id(value: &[u8]) -> Option<&str> {
    let (known, rest) = value.split_at_checked(55)?;
    let mut parts = known.split(|&byte| byte == b'-');
    let mut part = |length| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
    let (version, trace_id, parent_id, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let goes_on = rest.first().is_none_or(|&byte| byte == b'-');
    let is_valid = match version {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => goes_on,
    };
    let is_zero = |id: &[u8]| id.iter().all(|&byte| byte == b'0');
    if !is_valid || is_zero(trace_id) || is_zero(parent_id) {
        return None;
    }
    std::str::from_utf8(trace_id).ok()
}

fn is_lower_hex(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Encoding, Header};

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_valid_traceparent_has_a_trace_id() {
        let id = Some("4bf92f3577b34da6a3ce929d0e0e4736");
        for (value, expected) in [
            (VALID, id),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", id),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", None),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", None),
            ("", None),
        ] {
            assert_eq!(trace_id(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn two_of_them_are_none() {
        let header = Header { name: b"traceparent", value: VALID.as_bytes() };
        assert!(of(&Headers::new(Encoding::Lines, vec![header])).is_some());
        assert!(of(&Headers::new(Encoding::Lines, vec![header, header])).is_none());
        let joined = format!("{VALID},{VALID}");
        let joined = Header { name: b"traceparent", value: joined.as_bytes() };
        assert!(of(&Headers::new(Encoding::Joined, vec![joined])).is_none());
    }
}
