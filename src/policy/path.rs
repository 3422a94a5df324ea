//! Paths as rules read them: percent-decoded once, and only if there is a single reading.
//!
//! If a gateway, a rule and an upstream read a path differently, the rule can be bypassed.  A path that allows two
//! readings is denied instead of interpreted.

use std::borrow::Cow;

/// Why a path can be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AmbiguousPath {
    /// It does not begin with `/` (`OPTIONS *` has no path).
    NotAbsolute,
    /// `//`: some readers merge slashes.
    EmptySegment,
    /// A `.` or `..` segment, raw, encoded, or followed by `;`.
    DotSegment,
    /// `;` or `%3b`: some readers cut path parameters off.
    Parameters,
    /// `%2f`, `%5c` or `\`: some readers take them for a slash.
    EncodedSlash,
    /// `%25` followed by two hexadecimal digits: a reader that decodes twice reads another path.
    DoubleEncoding,
    /// A `%` without two hexadecimal digits.
    InvalidEscape,
    /// A control character, raw or encoded.
    ControlCharacter,
    /// Bytes that are not UTF-8 when decoded.
    NotUtf8,
    /// `#`: a request has no fragment, and some readers cut it off.
    Fragment,
    /// `%3f` or `%23`: some readers cut a query or a fragment off after decoding.
    EncodedDelimiter,
}

/// The kinds of ambiguous path that the operator lets through (`paths.permit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermittedPaths {
    /// `//`.
    pub empty_segment: bool,
    /// `%2f`, `%5c` and `\`.
    pub encoded_slash: bool,
    /// `;`, though never with dot segments.
    pub parameters: bool,
    /// `%3f` and `%23`.
    pub encoded_delimiter: bool,
}

/// A path as routes compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedPath<'a> {
    /// The path, percent-decoded once.  Empty for a request that has none.
    pub text: Cow<'a, str>,
    /// Other readings of a permitted spelling by upstreams.  Each must select the same policy.
    pub readings: Vec<String>,
}

impl DecodedPath<'_> {
    /// The path of a request without one (CONNECT), or of one with a path that no rule reads.
    pub const NONE: Self = Self { text: Cow::Borrowed(""), readings: Vec::new() };
}

/// A placeholder for an encoded slash while readings are made.  No path contains it: control characters are denied.
const ENCODED_SLASH: char = '\u{1}';

/// The path as routes compare it, and how upstreams may read a permitted spelling of it.
///
/// # Errors
/// As [`decode`].
pub fn read<'a>(raw: &'a [u8], permitted: &PermittedPaths) -> Result<DecodedPath<'a>, AmbiguousPath> {
    if let Some(path) = plain(raw) {
        return Ok(DecodedPath { text: Cow::Borrowed(path), readings: Vec::new() });
    }
    let text = decode_odd(raw, permitted)?;
    let readings = readings(raw, &text, permitted);
    Ok(DecodedPath { text, readings })
}

/// Every subset of the permitted changes: parameters cut off, the text after a delimiter cut off, then `\` and `%2f` as
/// slashes, then slashes merged.
fn readings(raw: &[u8], text: &str, permitted: &PermittedPaths) -> Vec<String> {
    let is_odd = text.contains([';', '\\', '?', '#']) || text.contains("//");
    let has_encoded_slash =
        permitted.encoded_slash && raw.windows(3).any(|window| window.eq_ignore_ascii_case(b"%2f"));
    if !is_odd && !has_encoded_slash {
        return Vec::new();
    }
    let marked = mark_encoded_slashes(raw);
    let marked = match percent_decode(&marked).map(|decoded| String::from_utf8(decoded.bytes.into_owned())) {
        Ok(Ok(marked)) => marked,
        // `decode` has read it.
        Ok(Err(_)) | Err(_) => return Vec::new(),
    };
    let mut found = vec![marked.clone()];
    // Whether an encoded slash ends a parameter depends on which program decodes first.
    let ends: [&[char]; 2] = [&['/'], &['/', '\\', ENCODED_SLASH]];
    if permitted.parameters {
        found.extend(ends.map(|ends| cut_parameters(&marked, ends)));
    }
    if permitted.encoded_delimiter {
        let cut = |path: &String| path.split(['?', '#']).next().unwrap_or_default().to_owned();
        found.extend(found.iter().map(cut).collect::<Vec<_>>());
    }
    let kept = found.iter().map(|path| path.replace(ENCODED_SLASH, "%2f"));
    let mut all: Vec<String> = kept.collect();
    if permitted.encoded_slash {
        all.extend(found.iter().map(|path| path.replace(['\\', ENCODED_SLASH], "/")));
    }
    // Also where only a cut has made an empty segment.
    all.extend(all.iter().map(|path| merge_slashes(path)).collect::<Vec<_>>());
    all.sort();
    all.dedup();
    all.retain(|path| path != text);
    all
}

/// The kind of a permitted spelling that turned out to be ambiguous.
pub(super) fn kind_of(text: &str) -> AmbiguousPath {
    if text.contains(['?', '#']) {
        AmbiguousPath::EncodedDelimiter
    } else if text.contains(';') {
        AmbiguousPath::Parameters
    } else if text.contains("//") {
        AmbiguousPath::EmptySegment
    } else {
        AmbiguousPath::EncodedSlash
    }
}

fn mark_encoded_slashes(raw: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        match rest {
            [b'%', b'2', b'f' | b'F', tail @ ..] => {
                marked.push(ENCODED_SLASH as u8);
                rest = tail;
            }
            _ => {
                marked.push(*byte);
                rest = tail;
            }
        }
    }
    marked
}

/// The path without each `;` and the rest of its segment.
fn cut_parameters(path: &str, ends: &[char]) -> String {
    let mut cut = String::with_capacity(path.len());
    let mut in_parameter = false;
    for character in path.chars() {
        if ends.contains(&character) {
            in_parameter = false;
        } else if character == ';' {
            in_parameter = true;
        }
        if !in_parameter {
            cut.push(character);
        }
    }
    cut
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// The path in lower case, character by character (Unicode's simple mapping).
pub fn lower_case(path: &str) -> String {
    path.chars().map(|character| character.to_lowercase().next().unwrap_or(character)).collect()
}

/// The path without a slash at its end; the root keeps its own.
pub fn without_trailing_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(shorter) => shorter,
    }
}

/// The path, without its query, percent-decoded once.
///
/// # Errors
/// [`AmbiguousPath`]: it can be read in two ways, and this way is not permitted.
pub fn decode<'a>(raw: &'a [u8], permitted: &PermittedPaths) -> Result<Cow<'a, str>, AmbiguousPath> {
    match plain(raw) {
        Some(path) => Ok(Cow::Borrowed(path)),
        None => decode_odd(raw, permitted),
    }
}

/// The path, if it cannot be read in two ways, as is usual.
fn plain(raw: &[u8]) -> Option<&str> {
    if raw.first() == Some(&b'/') && is_plain(raw) { std::str::from_utf8(raw).ok() } else { None }
}

/// As [`decode`], for a path that is not [`plain`].
fn decode_odd<'a>(raw: &'a [u8], permitted: &PermittedPaths) -> Result<Cow<'a, str>, AmbiguousPath> {
    if raw.first() != Some(&b'/') {
        return Err(AmbiguousPath::NotAbsolute);
    }
    if raw.contains(&b'#') {
        return Err(AmbiguousPath::Fragment);
    }
    let decoded = percent_decode(raw)?;
    if decoded.encoded_slash && !permitted.encoded_slash {
        return Err(AmbiguousPath::EncodedSlash);
    }
    let path = match decoded.bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
    };
    let path = path.ok_or(AmbiguousPath::NotUtf8)?;

    // All checks below read the decoded text, so that encoded and raw characters are treated alike.
    if path.chars().any(char::is_control) {
        return Err(AmbiguousPath::ControlCharacter);
    }
    if has_escape(path.as_bytes()) {
        return Err(AmbiguousPath::DoubleEncoding);
    }
    if has_dot_segment(&path) {
        return Err(AmbiguousPath::DotSegment);
    }
    if path.contains('\\') && !permitted.encoded_slash {
        return Err(AmbiguousPath::EncodedSlash);
    }
    if path.contains(['?', '#']) && !permitted.encoded_delimiter {
        return Err(AmbiguousPath::EncodedDelimiter);
    }
    if path.contains(';') && !permitted.parameters {
        return Err(AmbiguousPath::Parameters);
    }
    if path.contains("//") && !permitted.empty_segment {
        return Err(AmbiguousPath::EmptySegment);
    }
    Ok(path)
}

/// Whether the path is plain: nothing to decode, nothing ambiguous, and no segment that begins with a dot.
fn is_plain(raw: &[u8]) -> bool {
    let mut after_slash = false;
    // It never stops early: most paths are plain, and a loop without branches is faster.
    raw.iter().fold(true, |so_far, &byte| {
        let is_slash = byte == b'/';
        let is_plain = IS_PLAIN[usize::from(byte)] & !(after_slash & (is_slash | (byte == b'.')));
        after_slash = is_slash;
        so_far & is_plain
    })
}

/// Whether a byte stands for itself in every reading: the slash, and RFC 3986's pchar less the escape and the semicolon.
const IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut byte: u8 = 0;
    while byte < 0x80 {
        is_plain[byte as usize] = matches!(byte,
            b'/' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'~' | b'!' | b'$' | b'&'
            | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@');
        byte += 1;
    }
    is_plain
};

/// A path's bytes after decoding, and whether a slash was among the encoded ones.
pub(super) struct Decoded<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) encoded_slash: bool,
}

/// Decodes every escape, once (RFC 3986 section 2.1).
pub(super) fn percent_decode(raw: &[u8]) -> Result<Decoded<'_>, AmbiguousPath> {
    if !raw.contains(&b'%') {
        return Ok(Decoded { bytes: Cow::Borrowed(raw), encoded_slash: false });
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut encoded_slash = false;
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        if *byte != b'%' {
            bytes.push(*byte);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else {
            return Err(AmbiguousPath::InvalidEscape);
        };
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
            return Err(AmbiguousPath::InvalidEscape);
        };
        let decoded = high << 4 | low;
        encoded_slash |= decoded == b'/';
        bytes.push(decoded);
        rest = tail;
    }
    Ok(Decoded { bytes: Cow::Owned(bytes), encoded_slash })
}

fn has_escape(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|window| window[0] == b'%' && window[1..].iter().all(u8::is_ascii_hexdigit))
}

/// A segment ends at a slash of either kind, and the text after a `;`, `?` or `#` is not part of its name.
fn has_dot_segment(path: &str) -> bool {
    path.contains('.')
        && path.split(['/', '\\']).any(|segment| {
            let name = segment.split([';', '?', '#']).next().unwrap_or_default();
            name == "." || name == ".."
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use AmbiguousPath::*;

    fn with(permitted: &str) -> PermittedPaths {
        PermittedPaths {
            empty_segment: permitted.contains("empty_segment"),
            encoded_slash: permitted.contains("encoded_slash"),
            parameters: permitted.contains("parameters"),
            encoded_delimiter: permitted.contains("encoded_delimiter"),
        }
    }

    #[test]
    fn a_path_is_read_in_one_way_or_not_at_all() {
        let cases: &[(&[u8], Result<&str, AmbiguousPath>)] = &[
            (b"/", Ok("/")),
            (b"/a/b", Ok("/a/b")),
            (b"/a/", Ok("/a/")),
            (b"/:memory:/show_version.json", Ok("/:memory:/show_version.json")),
            (b"/a%20b/%C3%AB", Ok("/a b/ë")),
            ("/ë".as_bytes(), Ok("/ë")),
            (b"/%41%3a", Ok("/A:")),
            (b"/.well-known/..a/a../...", Ok("/.well-known/..a/a../...")),
            (b"/100%25", Ok("/100%")),
            (b"/100%25/x", Ok("/100%/x")),
            (b"/a%23b", Err(EncodedDelimiter)),
            (b"/a%3fb", Err(EncodedDelimiter)),
            (b"/a/..%3fb", Err(DotSegment)),
            (b"/a/..%23", Err(DotSegment)),
            (b"", Err(NotAbsolute)),
            (b"*", Err(NotAbsolute)),
            (b"a/b", Err(NotAbsolute)),
            (b"http://h/a", Err(NotAbsolute)),
            (b"%2fa", Err(NotAbsolute)),
            (b"//", Err(EmptySegment)),
            (b"/a//b", Err(EmptySegment)),
            (b"/a/./b", Err(DotSegment)),
            (b"/a/../b", Err(DotSegment)),
            (b"/a/..", Err(DotSegment)),
            (b"/.", Err(DotSegment)),
            (b"/%2e%2e/b", Err(DotSegment)),
            (b"/%2E./b", Err(DotSegment)),
            (b"/..;x/b", Err(DotSegment)),
            (b"/..%3bx/b", Err(DotSegment)),
            (b"/a\\..\\b", Err(DotSegment)),
            (b"/a;x=1/b", Err(Parameters)),
            (b"/a%3Bx", Err(Parameters)),
            (b"/a%2fb", Err(EncodedSlash)),
            (b"/a%2Fb", Err(EncodedSlash)),
            (b"/a%5cb", Err(EncodedSlash)),
            (b"/a\\b", Err(EncodedSlash)),
            (b"/%2541", Err(DoubleEncoding)),
            (b"/%252e%252e/b", Err(DoubleEncoding)),
            (b"/%25%34%31", Err(DoubleEncoding)),
            (b"/%", Err(InvalidEscape)),
            (b"/%4", Err(InvalidEscape)),
            (b"/%zz", Err(InvalidEscape)),
            (b"/%u0041", Err(InvalidEscape)),
            (b"/%+1", Err(InvalidEscape)),
            (b"/a%00", Err(ControlCharacter)),
            (b"/a\x7f", Err(ControlCharacter)),
            (b"/a%0d%0ab", Err(ControlCharacter)),
            (b"/%C2%85", Err(ControlCharacter)),
            (b"/\xff", Err(NotUtf8)),
            (b"/%ff", Err(NotUtf8)),
            (b"/%c0%af", Err(NotUtf8)),
            (b"/a#b", Err(Fragment)),
        ];
        for (raw, expected) in cases {
            let found = decode(raw, &PermittedPaths::default());
            assert_eq!(found.as_deref().map_err(|&error| error), *expected, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn what_is_permitted_passes_and_nothing_else() {
        let cases: &[(&str, &[u8], Result<&str, AmbiguousPath>)] = &[
            ("empty_segment", b"/a//b", Ok("/a//b")),
            ("empty_segment", b"/a//../b", Err(DotSegment)),
            ("empty_segment", b"/a%2f%2fb", Err(EncodedSlash)),
            ("encoded_slash", b"/a%2Fb\\c%5cd", Ok("/a/b\\c\\d")),
            ("encoded_slash", b"/a%2f..%2fb", Err(DotSegment)),
            ("encoded_slash", b"/a%5c..", Err(DotSegment)),
            ("encoded_slash", b"/a%2f/b", Err(EmptySegment)),
            ("parameters", b"/a;x=1/b%3b", Ok("/a;x=1/b;")),
            ("parameters", b"/a/..;x/b", Err(DotSegment)),
            ("parameters", b"/a;/../b", Err(DotSegment)),
            ("empty_segment encoded_slash parameters", b"/%252f", Err(DoubleEncoding)),
            ("encoded_delimiter", b"/a%3fb%23", Ok("/a?b#")),
            ("encoded_delimiter", b"/a/..%3fb", Err(DotSegment)),
            ("encoded_delimiter", b"/a/..%23b", Err(DotSegment)),
        ];
        for (permitted, raw, expected) in cases {
            let found = decode(raw, &with(permitted));
            assert_eq!(
                found.as_deref().map_err(|&error| error),
                *expected,
                "{permitted} {}",
                raw.escape_ascii()
            );
        }
    }

    #[test]
    fn how_upstreams_may_read_a_permitted_spelling() {
        let all = "empty_segment encoded_slash parameters encoded_delimiter";
        let cases: &[(&str, &[u8], &[&str])] = &[
            (all, b"/admin", &[]),
            (all, b"/a%20b", &[]),
            (all, b"/admin;x=1", &["/admin"]),
            (all, b"//admin", &["/admin"]),
            (all, b"/%2fadmin", &["/%2fadmin", "/admin"]),
            (all, b"/a\\b", &["/a/b"]),
            (all, b"/admin%3fx", &["/admin"]),
            (all, b"/admin%23x", &["/admin"]),
            ("parameters", b"/;x/admin", &["//admin", "/admin"]),
            ("parameters encoded_slash", b"/a;x%2fb", &["/a", "/a%2fb", "/a/b", "/a;x%2fb"]),
            ("encoded_slash", b"/a%2Fb", &["/a%2fb"]),
        ];
        for (permitted, raw, expected) in cases {
            let found = read(raw, &with(permitted)).unwrap();
            assert_eq!(found.readings, *expected, "{permitted} {}", raw.escape_ascii());
        }
    }

    #[test]
    fn lower_case_keeps_one_character_for_one() {
        assert_eq!(lower_case("/ÀDMIN/İΣ"), "/àdmin/iσ");
        assert_eq!(without_trailing_slash("/a/"), "/a");
        assert_eq!(without_trailing_slash("/"), "/");
    }
}
