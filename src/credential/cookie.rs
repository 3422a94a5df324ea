//! Cookies (RFC 6265 section 4.2), and the cookies that remain without ours.

use crate::attributes::{Encoding, Headers, count_comparison, trim_blanks};

/// The values of every cookie of this name, in all lines, in order.
pub fn values<'s, 'a: 's>(headers: &'s Headers<'a>, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
    let encoding = headers.encoding();
    headers.all("cookie").flat_map(move |line| pieces(line, encoding)).filter_map(move |piece| {
        let (found, value) = split_pair(piece)?;
        (found == name.as_bytes()).then_some(value)
    })
}

/// Name and value of every cookie whose name begins with `prefix`, in all lines, in order.
pub fn with_prefix<'s, 'a: 's>(
    headers: &'s Headers<'a>,
    prefix: &'s str,
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + 's {
    let encoding = headers.encoding();
    let all = headers.all("cookie").flat_map(move |line| pieces(line, encoding)).filter_map(split_pair);
    all.filter(|(name, _)| name.starts_with(prefix.as_bytes()))
}

/// The request's cookies without those that match `is_ours`; `None` when none matches.
///
/// The rest keeps its bytes.  A cut cookie takes the separator before it along, the first one that after it.
pub fn without(headers: &Headers<'_>, is_ours: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let encoding = headers.encoding();
    let is_cut = |piece: &[u8]| split_pair(piece).is_some_and(|(name, _)| is_ours(name));
    if !headers.all("cookie").any(|line| pieces(line, encoding).any(is_cut)) {
        return None;
    }
    let mut rest = Vec::new();
    for line in headers.all("cookie") {
        let mut separator: &[u8] = b"; ";
        for piece in pieces(line, encoding) {
            if !is_cut(piece) {
                if rest.is_empty() {
                    rest.extend_from_slice(trim_blanks(piece));
                } else {
                    rest.extend_from_slice(separator);
                    rest.extend_from_slice(piece);
                }
            }
            separator = separator_after(line, piece);
        }
    }
    Some(rest)
}

/// The pieces of a line between separators, blanks and all.
fn pieces(line: &[u8], encoding: Encoding) -> impl Iterator<Item = &[u8]> {
    line.split(move |&byte| byte == b';' || (byte == b',' && encoding == Encoding::Joined))
}

/// A piece's name and value; `None` for a piece without `=`, which names nothing.
fn split_pair(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    count_comparison();
    let equals = piece.iter().position(|&byte| byte == b'=')?;
    Some((trim_blanks(&piece[..equals]), trim_blanks(&piece[equals + 1..])))
}

/// The separator that follows a piece of this line; nothing after the last one.
fn separator_after<'a>(line: &'a [u8], piece: &[u8]) -> &'a [u8] {
    let end = piece.as_ptr() as usize + piece.len() - line.as_ptr() as usize;
    line.get(end..=end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Header;

    fn rest(encoding: Encoding, lines: &[&[u8]]) -> Option<String> {
        let entries = lines.iter().map(|&value| Header { name: b"cookie", value });
        let headers = Headers::new(encoding, entries.collect());
        without(&headers, |name| name == b"tok").map(|rest| rest.escape_ascii().to_string())
    }

    #[test]
    fn the_rest_keeps_its_bytes() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"a=1; tok=T; b=2", Some("a=1; b=2")),
            (b"tok=T; a=1;b=2", Some("a=1;b=2")),
            (b"a=1;  b=2 ;tok=T", Some("a=1;  b=2 ")),
            (b"tok=T", Some("")),
            (b"tok=T; tok=U", Some("")),
            (b"a; tok=T; =x; b='q'", Some("a; =x; b=\\'q\\'")),
            (b"a=\xff; tok=T", Some("a=\\xff")),
            (b"a=1; b=tok=T", None),
            (b"tok", None),
            (b"", None),
        ];
        for (line, expected) in cases {
            for encoding in [Encoding::Joined, Encoding::Lines] {
                assert_eq!(rest(encoding, &[line]).as_deref(), *expected, "{}", line.escape_ascii());
            }
        }
    }

    #[test]
    fn lines_are_joined_and_a_comma_separates_in_the_joined_form_alone() {
        assert_eq!(rest(Encoding::Lines, &[b"a=1", b"tok=T", b"b=2; c=3"]).as_deref(), Some("a=1; b=2; c=3"));
        assert_eq!(rest(Encoding::Lines, &[b"tok=T", b"b=1,2"]).as_deref(), Some("b=1,2"));
        assert_eq!(rest(Encoding::Joined, &[b"a=1,tok=T,b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(rest(Encoding::Joined, &[b"a=1,tok=T; b=2"]).as_deref(), Some("a=1; b=2"));
        assert_eq!(rest(Encoding::Lines, &[b"a=1,tok=T"]), None);
    }
}
