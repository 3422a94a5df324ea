//! The header `traceparent` (W3C Trace Context, section 3.2).

/// The content of a valid `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traceparent<'a> {
    /// `trace-id`: 32 hexadecimal digits in lower case, not all of them 0.
    pub trace_id: &'a str,
    /// `parent-id`: 16 of them.
    pub parent_id: &'a str,
    /// The one flag that every version has.
    pub sampled: bool,
}

/// Reads `version "-" trace-id "-" parent-id "-" trace-flags`; later versions may go on behind another dash.
/// `None` for what is not valid.
pub(super) fn parse(value: &[u8]) -> Option<Traceparent<'_>> {
    const VERSION_0: usize = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len();
    let (version_0, rest) = std::str::from_utf8(value).ok()?.split_at_checked(VERSION_0)?;
    let mut fields = version_0.split('-');
    let mut field = |digits| fields.next().filter(|field| field.len() == digits && is_lower_hex(field));
    let (version, trace_id, parent_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let is_valid = match version {
        "ff" => false,
        "00" => rest.is_empty(),
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    if !is_valid || is_zero(trace_id) || is_zero(parent_id) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    Some(Traceparent { trace_id, parent_id, sampled })
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_valid_one_names_a_span() {
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            // Other flags mean nothing.
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("cc-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-of-the-future"), true),
        ] {
            let expected = Traceparent { trace_id: TRACE, parent_id: SPAN, sampled };
            assert_eq!(parse(value.as_bytes()), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_breaks_the_format_is_none() {
        for value in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("+0-{TRACE}-{SPAN}-01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{}{SPAN}-01", &TRACE[..31], &TRACE[31..]),
            format!("00{TRACE}--{SPAN}-01"),
            "00-42-42-01".to_owned(),
            "é".repeat(28),
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(parse(&[0xff; 55]), None);
    }
}
