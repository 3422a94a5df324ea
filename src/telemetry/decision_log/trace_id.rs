//! The trace that a request belongs to, so that logs and traces can be joined.

use super::super::traceparent;
use crate::attributes::Headers;

/// The trace id in the request's `traceparent`: 32 lower-case hexadecimal digits.
/// `None` without one that is valid.
pub(super) fn of<'a>(headers: &Headers<'a>) -> Option<&'a str> {
    let mut values = headers.all("traceparent");
    // "If more than one traceparent header is received, the receiver MUST NOT use any."
    match (values.next(), values.next()) {
        (Some(value), None) => traceparent::parse(value).map(|traceparent| traceparent.trace_id),
        (_, Some(_)) | (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Encoding, Header};

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn two_of_them_are_none() {
        let header = Header { name: b"traceparent", value: VALID.as_bytes() };
        let one = Headers::new(Encoding::Lines, vec![header]);
        assert_eq!(of(&one), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert!(of(&Headers::new(Encoding::Lines, vec![header, header])).is_none());
        let joined = format!("{VALID},{VALID}");
        let joined = Header { name: b"traceparent", value: joined.as_bytes() };
        assert!(of(&Headers::new(Encoding::Joined, vec![joined])).is_none());
    }
}
