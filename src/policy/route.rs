//! Routes: the requests that a policy governs.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use regex::Regex;
use regex_syntax::hir::{Class, ClassUnicodeRange, Hir, HirKind};

use super::{PermittedPaths, Policy, path};

/// One route.  Every member that is given must match.
#[derive(Debug, Clone)]
pub struct Route {
    /// The request's host.
    pub host: Option<HostPattern>,
    /// The request's path: every one of these.
    pub paths: Box<[PathPattern]>,
    /// The request's method: one of these.
    pub methods: Option<Box<[MethodPattern]>>,
    /// The policy of the requests that match.
    pub policy: Arc<Policy>,
}

/// A host in lower case, or all hosts below a suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `api.example`
    Exact(Box<str>),
    /// `*.example`, kept with its dot: at least one label is in front.
    Below(Box<str>),
}

/// A path, percent-decoded.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// The whole path.
    Exact(Literal),
    /// The path or anything below it, by whole segments.
    Prefix(Literal),
    /// A regular expression that must match the whole path, in linear time.
    Regex {
        /// As written.
        as_written: Regex,
        /// The same without regard to case, where `paths.case` is `ignore`.
        any_case: Option<Regex>,
    },
}

/// A literal path: as written, and as compared.
#[derive(Debug, Clone)]
pub struct Literal {
    written: Box<str>,
    decoded: Box<str>,
    lower_case: Box<str>,
}

/// The tolerance for other spellings of a route's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpellingTolerance {
    /// With or without a slash at the end.
    Slash,
    /// With or without a slash at the end, in any letter case.
    SlashAndCase,
}

/// A method in upper case.  GET covers HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodPattern(Box<str>);

/// The part of a request that a route does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The host differs.
    Host,
    /// The path differs.
    Path,
    /// The method is not in the route.
    Method,
}

/// An example request that a route's patterns match.  Parts that the route does not restrict are invented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The host as routes compare it.
    pub host: String,
    /// The path, not decoded.
    pub path: String,
    /// The method.
    pub method: String,
}

/// Why a route cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Not a host name, or one with a port, a blank, or a `*` that is not its first label.
    #[error("a host is a name such as api.example or *.example, without a port")]
    Host,
    /// Not a path, or one with a query.
    #[error("a path begins with / and has no query and no fragment")]
    Path,
    /// A `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("an escape in a path is % and two hexadecimal digits, and the decoded path is UTF-8")]
    Escape,
    /// The regular expression does not compile.
    #[error("the regular expression does not compile: {0}")]
    Regex(String),
    /// Not upper case.
    #[error("a method is written in upper case, such as GET")]
    Method,
}

impl Route {
    /// Whether the route governs a request of this host (see [`normalize_host`]), decoded path and method.
    pub fn matches(&self, host: &str, path: &str, method: &[u8]) -> bool {
        self.mismatch(host, path, method).is_none()
    }

    /// The first part of such a request that the route does not match; `None` when the route governs it.
    pub fn mismatch(&self, host: &str, path: &str, method: &[u8]) -> Option<Mismatch> {
        if !self.host.as_ref().is_none_or(|pattern| pattern.matches(host)) {
            return Some(Mismatch::Host);
        }
        if !(self.paths.is_empty() || self.matches_path(path)) {
            return Some(Mismatch::Path);
        }
        let takes = |methods: &[MethodPattern]| methods.iter().any(|pattern| pattern.matches(method));
        (!self.methods.as_deref().is_none_or(takes)).then_some(Mismatch::Method)
    }

    fn matches_path(&self, path: &str) -> bool {
        // A path rule never matches a request without a path (CONNECT).
        !path.is_empty() && self.paths.iter().all(|pattern| pattern.matches(path))
    }

    /// Whether the route governs a request whose path is spelled nearly so.  `lower` is the path in lower case,
    /// empty where case matters.
    pub fn matches_nearly(
        &self,
        host: &str,
        (path, lower): (&str, &str),
        method: &[u8],
        tolerance: SpellingTolerance,
    ) -> bool {
        self.host.as_ref().is_none_or(|pattern| pattern.matches(host))
            && self.paths.iter().all(|pattern| pattern.matches_nearly(path, lower, tolerance))
            && self.methods.as_deref().is_none_or(|methods| methods.iter().any(|one| one.matches(method)))
    }

    /// Whether one of its patterns is the whole path in exactly this spelling.
    pub fn is_exactly(&self, path: &str) -> bool {
        let is_same = |pattern: &PathPattern| match pattern {
            PathPattern::Exact(literal) => literal.decoded.as_ref() == path,
            PathPattern::Prefix(_) | PathPattern::Regex { .. } => false,
        };
        self.paths.iter().any(is_same)
    }

    /// The whole paths that its patterns name, decoded.
    pub fn exact_paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().filter_map(|pattern| match pattern {
            PathPattern::Exact(literal) => Some(literal.decoded.as_ref()),
            PathPattern::Prefix(_) | PathPattern::Regex { .. } => None,
        })
    }

    /// A request that the route's patterns match; `None` where it has none for the path, or no example is found.
    pub fn example(&self) -> Option<Example> {
        let host = self.host.as_ref().map_or_else(|| "x".to_owned(), HostPattern::example);
        let method = self.methods.as_deref().and_then(|methods| methods.first());
        let method = method.map_or_else(|| "GET".to_owned(), |method| method.0.to_string());
        // The most specific pattern first: a whole path, before a prefix, before an expression.
        let path = self.paths.first()?.example()?;
        Some(Example { host, path, method })
    }

    /// Whether it is certain that no request reaches `later` after this route.
    pub fn covers(&self, later: &Route) -> bool {
        self.covers_host(later) && self.covers_path(later) && self.covers_methods(later)
    }

    /// Whether this route matches every host of `later`.
    pub fn covers_host(&self, later: &Route) -> bool {
        match (&self.host, &later.host) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(HostPattern::Exact(host))) => pattern.matches(host),
            (Some(HostPattern::Below(suffix)), Some(HostPattern::Below(later))) => {
                later.ends_with(suffix.as_ref())
            }
            (Some(HostPattern::Exact(_)), Some(HostPattern::Below(_))) => false,
        }
    }

    /// Whether this route matches every path of `later`, as far as that can be decided.
    pub fn covers_path(&self, later: &Route) -> bool {
        self.paths
            .iter()
            .all(|mine| mine.is_everything() || later.paths.iter().any(|theirs| mine.covers(theirs)))
    }

    fn covers_methods(&self, later: &Route) -> bool {
        match (&self.methods, &later.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(methods), Some(later)) => {
                later.iter().all(|method| methods.iter().any(|pattern| pattern.matches(method.0.as_bytes())))
            }
        }
    }
}

impl HostPattern {
    /// Reads `api.example` or `*.example`.  ASCII case and one trailing dot are ignored.
    ///
    /// # Errors
    /// [`RouteError::Host`].
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, text),
        };
        let is_name = !name.contains('*') && (!name.contains(':') || name.starts_with('['));
        let name = normalize_host(name.as_bytes()).filter(|_| is_name).ok_or(RouteError::Host)?;
        if name.starts_with('.') || (name.starts_with('[') && !text.ends_with(']')) {
            return Err(RouteError::Host);
        }
        Ok(if below { Self::Below(format!(".{name}").into()) } else { Self::Exact(name.into()) })
    }

    fn example(&self) -> String {
        match self {
            Self::Exact(name) => name.to_string(),
            Self::Below(suffix) => format!("x{suffix}"),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name.as_ref(),
            Self::Below(suffix) => host
                .strip_suffix(suffix.as_ref())
                .is_some_and(|front| front.split('.').all(|label| !label.is_empty())),
        }
    }
}

impl PathPattern {
    /// The whole path.
    ///
    /// # Errors
    /// [`RouteError`]: it is not a path, or an escape in it is not valid.
    pub fn exact(text: &str) -> Result<Self, RouteError> {
        Literal::parse(text).map(Self::Exact)
    }

    /// The path and everything below it, by whole segments: `/api` and `/api/` alike
    /// match `/api`, `/api/` and `/api/x`, not `/apix`.
    ///
    /// # Errors
    /// [`RouteError`]: it is not a path, or an escape in it is not valid.
    pub fn prefix(text: &str) -> Result<Self, RouteError> {
        Literal::parse(text).map(Self::Prefix)
    }

    /// A regular expression for the whole decoded path.  An escape such as `%20` stands for the
    /// character it encodes.
    ///
    /// # Errors
    /// [`RouteError::Regex`]: it does not compile; [`RouteError::Escape`]: an escape is not valid.
    pub fn regex(text: &str) -> Result<Self, RouteError> {
        let decoded = decode_escapes(text).ok_or(RouteError::Escape)?;
        // The inner group is parsed alone first: `a)|(b` must not become valid by the group around it.
        let error = |error: regex::Error| RouteError::Regex(last_line(&error.to_string()));
        Regex::new(&decoded).map_err(error)?;
        let as_written = Regex::new(&format!(r"\A(?:{decoded})\z")).map_err(error)?;
        Ok(Self::Regex { as_written, any_case: None })
    }

    /// The same pattern without regard to case.
    ///
    /// # Errors
    /// [`RouteError::Regex`]: the expression grows too large.
    pub fn ignoring_case(self) -> Result<Self, RouteError> {
        match self {
            Self::Regex { as_written, any_case: _ } => {
                let any_case = regex::RegexBuilder::new(as_written.as_str()).case_insensitive(true).build();
                let any_case = any_case.map_err(|error| RouteError::Regex(last_line(&error.to_string())))?;
                Ok(Self::Regex { as_written, any_case: Some(any_case) })
            }
            literal @ (Self::Exact(_) | Self::Prefix(_)) => Ok(literal),
        }
    }

    /// A path, not decoded, that it matches.
    fn example(&self) -> Option<String> {
        match self {
            Self::Exact(literal) | Self::Prefix(literal) => {
                let decoded = &literal.decoded;
                // Escapes stay where they must.
                let again = path::decode(decoded.as_bytes(), &PermittedPaths::default());
                let is_same = again.is_ok_and(|again| again == decoded.as_ref());
                Some(if is_same { decoded.to_string() } else { literal.written.to_string() })
            }
            Self::Regex { as_written, .. } => {
                let mut example = String::new();
                push_example(&regex_syntax::parse(as_written.as_str()).ok()?, &mut example)?;
                as_written.is_match(&example).then_some(example)
            }
        }
    }

    /// Whether it matches every spelling of the path within this tolerance.  An expression never tolerates a slash.
    fn matches_nearly(&self, path: &str, lower: &str, tolerance: SpellingTolerance) -> bool {
        let without_slash = path::without_trailing_slash;
        match (self, tolerance) {
            (Self::Exact(literal), SpellingTolerance::Slash) => {
                !path.is_empty() && without_slash(path) == without_slash(&literal.decoded)
            }
            (Self::Exact(literal), SpellingTolerance::SlashAndCase) => {
                !lower.is_empty() && without_slash(lower) == without_slash(&literal.lower_case)
            }
            (Self::Prefix(literal), SpellingTolerance::SlashAndCase) => is_below(lower, &literal.lower_case),
            (Self::Regex { any_case: Some(any_case), .. }, SpellingTolerance::SlashAndCase) => {
                any_case.is_match(path)
            }
            (Self::Prefix(_), SpellingTolerance::Slash)
            | (Self::Regex { .. }, SpellingTolerance::Slash | SpellingTolerance::SlashAndCase) => {
                self.matches(path)
            }
        }
    }

    /// Whether it is certain that every path of `later` matches this pattern, too.
    fn covers(&self, later: &PathPattern) -> bool {
        match (self, later) {
            (pattern, Self::Exact(literal)) => pattern.matches(&literal.decoded),
            (pattern @ Self::Prefix(_), Self::Prefix(literal)) => {
                pattern.matches(without_last_slash(&literal.decoded))
            }
            (Self::Regex { as_written, .. }, Self::Regex { as_written: later, .. }) => {
                as_written.as_str() == later.as_str()
            }
            (Self::Exact(_) | Self::Prefix(_), Self::Regex { .. })
            | (Self::Exact(_) | Self::Regex { .. }, Self::Prefix(_)) => false,
        }
    }

    /// Whether only paths that are denied as ambiguous could match it.
    pub fn is_unreachable(&self, permitted: &PermittedPaths) -> bool {
        match self {
            Self::Exact(literal) | Self::Prefix(literal) => {
                path::decode(literal.written.as_bytes(), permitted).is_err()
            }
            Self::Regex { .. } => false,
        }
    }

    /// Whether it matches every path.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Prefix(literal) if literal.decoded.as_ref() == "/")
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(literal) => path == literal.decoded.as_ref(),
            Self::Prefix(literal) => is_below(path, &literal.decoded),
            Self::Regex { as_written, .. } => as_written.is_match(path),
        }
    }
}

impl Literal {
    fn parse(text: &str) -> Result<Self, RouteError> {
        if !text.starts_with('/') || text.contains(['?', '#']) {
            return Err(RouteError::Path);
        }
        let decoded = path::percent_decode(text.as_bytes()).map_err(|_| RouteError::Escape)?;
        let decoded = String::from_utf8(decoded.bytes.into_owned()).map_err(|_| RouteError::Escape)?;
        let lower_case = path::lower_case(&decoded).into();
        Ok(Self { written: text.into(), decoded: decoded.into(), lower_case })
    }
}

impl MethodPattern {
    /// Reads a method (RFC 9110 section 9.1: case matters, and all standard ones are upper case).
    ///
    /// # Errors
    /// [`RouteError::Method`].
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        if text.is_empty() || !text.as_bytes().iter().all(is_method_byte) {
            return Err(RouteError::Method);
        }
        Ok(Self(text.into()))
    }

    fn matches(&self, method: &[u8]) -> bool {
        self.0.as_bytes() == method || (self.0.as_ref() == "GET" && method == b"HEAD")
    }
}

/// The host as routes compare it: in lower case, without port and without one trailing dot.
///
/// `None` if it is not a host: letters, digits, `-`, `_` and `.` without an empty label, or an IPv6 address in brackets
/// (RFC 3986 section 3.2.2).  A port is a colon and digits; an empty port counts as none.
pub fn normalize_host(host: &[u8]) -> Option<Cow<'_, str>> {
    let host = std::str::from_utf8(host).ok()?;
    let name_end =
        if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(name_end);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return None;
    }
    if let Some(address) = name.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(Cow::Owned(format!("[{address}]")));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    // An empty label is between two dots, or at an end.
    let mut after_dot = true;
    let mut has_upper_case = false;
    for byte in name.bytes() {
        match byte {
            b'.' if after_dot => return None,
            b'.' => after_dot = true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                after_dot = false;
                has_upper_case |= byte.is_ascii_uppercase();
            }
            _ => return None,
        }
    }
    if after_dot {
        return None;
    }
    Some(if has_upper_case { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// Whether the byte may be in a method that rules read.
pub(super) fn is_method_byte(byte: &u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
}

/// Whether the path is this prefix or is below it, by whole segments.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(without_last_slash(prefix)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn without_last_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Each run of escapes becomes the text it encodes, so that `%2E` is a dot and not any character.
fn decode_escapes(pattern: &str) -> Option<String> {
    let mut decoded = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(start) = rest.find('%') {
        decoded.push_str(&rest[..start]);
        rest = &rest[start..];
        let mut end = 0;
        while rest[end..].starts_with('%') {
            rest.get(end..end + 3)?;
            end += 3;
        }
        let run = path::percent_decode(&rest.as_bytes()[..end]).ok()?;
        decoded.push_str(&regex::escape(std::str::from_utf8(&run.bytes).ok()?));
        rest = &rest[end..];
    }
    decoded.push_str(rest);
    Some(decoded)
}

/// The longest example of an expression that is tried.
const MAX_EXAMPLE: usize = 4096;

/// Adds a text that the expression matches, ignoring boundaries: the fewest repetitions, and the first alternative.
/// `None` if there is none, or only a long one.
fn push_example(expression: &Hir, example: &mut String) -> Option<()> {
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => example.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(Class::Unicode(class)) => {
            let holds =
                |&wanted: &char| class.iter().any(|range| (range.start()..=range.end()).contains(&wanted));
            let first = || class.iter().next().map(ClassUnicodeRange::start);
            example.push(['x', 'X', '0'].into_iter().find(holds).or_else(first)?);
        }
        HirKind::Class(Class::Bytes(class)) => example.push(char::from(class.iter().next()?.start())),
        HirKind::Repetition(repetition) => {
            for _ in 0..repetition.min {
                push_example(&repetition.sub, example)?;
            }
        }
        HirKind::Capture(capture) => push_example(&capture.sub, example)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| push_example(part, example))?,
        HirKind::Alternation(alternatives) => push_example(alternatives.first()?, example)?,
    }
    (example.len() <= MAX_EXAMPLE).then_some(())
}

/// The error of a regular expression has several lines; the last one names the problem.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_case_port_and_trailing_dot() {
        let cases: &[(&str, &str, bool)] = &[
            ("api.example", "api.example", true),
            ("api.example", "API.Example:8080", true),
            ("API.example.", "api.example.", true),
            ("api.example", "api.example..", false),
            ("api.example", "x.api.example", false),
            ("*.example", "api.example", true),
            ("*.example", "a.b.example:1", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "a..example", false),
            ("*.example", "badexample", false),
            ("[::1]", "[::1]:8080", true),
            ("[::1]", "[::1]", true),
            ("[::1]", "[0:0:0:0:0:0:0:1]:80", true),
            ("[2001:DB8::a]", "[2001:db8::A]", true),
            ("api.example", "api.example:", true),
            ("a_b.example", "a_B.example", true),
            ("127.0.0.1", "127.0.0.1:10000", true),
        ];
        for (pattern, host, expected) in cases {
            let normalized = normalize_host(host.as_bytes());
            let found = normalized.is_some_and(|host| HostPattern::parse(pattern).unwrap().matches(&host));
            assert_eq!(found, *expected, "{pattern} {host}");
        }
    }

    #[test]
    fn what_is_no_host() {
        let hosts: &[&[u8]] = &[
            b"",
            b".",
            b"a@b",
            b"a,b",
            b"a/b",
            b"a b",
            b"a\tb",
            b"a:x",
            b"a:80:80",
            b":80",
            b"%61dmin.example",
            b"admin.example..",
            b"admin..example",
            b".admin.example",
            b"admin.example;x",
            b"admin.example?x",
            b"admin.example#x",
            b"a'b",
            b"a*b",
            b"a~b",
            b"[::1%25eth0]",
            b"[v1.a]",
            b"[::1].",
            b"::1",
            b"[::1",
            b"[::1]x",
            b"a\\b",
            b"a\x00",
            b"\xff",
            "ë".as_bytes(),
        ];
        for host in hosts {
            assert_eq!(normalize_host(host), None, "{}", host.escape_ascii());
        }
        for pattern in ["", "*", "*.", "a.*.b", "*a.b", "a:80", "a/b", "*.*.b", "[::1]:80", ".a"] {
            assert_eq!(HostPattern::parse(pattern), Err(RouteError::Host), "{pattern}");
        }
    }

    #[test]
    fn paths() {
        let exact = |text: &str| PathPattern::exact(text).unwrap();
        let prefix = |text: &str| PathPattern::prefix(text).unwrap();
        let regex = |text: &str| PathPattern::regex(text).unwrap();
        let cases: &[(PathPattern, &str, bool)] = &[
            (exact("/a"), "/a", true),
            (exact("/a"), "/A", false),
            (exact("/a"), "/a/", false),
            (exact("/a%20b"), "/a b", true),
            (prefix("/api"), "/api", true),
            (prefix("/api"), "/api/", true),
            (prefix("/api"), "/api/x", true),
            (prefix("/api"), "/apix", false),
            (prefix("/api/"), "/api", true),
            (prefix("/api/"), "/api/x", true),
            (prefix("/"), "/anything/at/all", true),
            (regex("/a|/b"), "/b", true),
            (regex("/a|/b"), "/bc", false),
            (regex("/a|/b"), "x/b", false),
            (regex(r"/[^/]+(\.\w+)?"), "/x.json", true),
            (regex("/a%2Eb%20c"), "/a.b c", true),
            (regex("/a%2Eb%20c"), "/axb c", false),
            (regex("/%C3%AB"), "/ë", true),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(pattern.matches(path), *expected, "{pattern:?} {path}");
        }
    }

    #[test]
    fn what_is_no_path() {
        for text in ["", "a", "/a?b", "/a#b"] {
            assert_eq!(PathPattern::exact(text).unwrap_err(), RouteError::Path, "{text}");
        }
        for text in ["/%", "/%zz", "/%ff"] {
            assert_eq!(PathPattern::prefix(text).unwrap_err(), RouteError::Escape, "{text}");
            assert_eq!(PathPattern::regex(text).unwrap_err(), RouteError::Escape, "{text}");
        }
        for text in ["(", "a)|(b", "[", r"(?=a)"] {
            assert!(matches!(PathPattern::regex(text), Err(RouteError::Regex(_))), "{text}");
        }
        for text in ["", "get", "Get", "GET ", "G,T"] {
            assert_eq!(MethodPattern::parse(text), Err(RouteError::Method), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_only_ambiguous_paths_could_match() {
        let permitted = PermittedPaths { parameters: true, ..PermittedPaths::default() };
        assert!(PathPattern::exact("/a//b").unwrap().is_unreachable(&permitted));
        assert!(PathPattern::prefix("/a/../b").unwrap().is_unreachable(&permitted));
        assert!(!PathPattern::exact("/a;b").unwrap().is_unreachable(&permitted));
        assert!(!PathPattern::prefix("/a/").unwrap().is_unreachable(&permitted));
    }

    #[test]
    fn every_given_member_must_match() {
        let route = Route {
            host: Some(HostPattern::parse("*.example").unwrap()),
            paths: [PathPattern::prefix("/api").unwrap(), PathPattern::regex(r".*\.json").unwrap()].into(),
            methods: Some([MethodPattern::parse("GET").unwrap()].into()),
            policy: Arc::new(Policy::new("p".into(), None)),
        };
        assert!(route.matches("a.example", "/api/x.json", b"GET"));
        assert!(!route.matches("example", "/api/x.json", b"GET"));
        assert!(!route.matches("a.example", "/x.json", b"GET"));
        assert!(!route.matches("a.example", "/api/x", b"GET"));
        assert!(!route.matches("a.example", "/api/x.json", b"POST"));
        assert_eq!(route.mismatch("a.example", "/api/x.json", b"HEAD"), None);
        assert_eq!(route.mismatch("example", "/x", b"POST"), Some(Mismatch::Host));
        assert_eq!(route.mismatch("a.example", "/x", b"POST"), Some(Mismatch::Path));
        assert_eq!(route.mismatch("a.example", "/api/x.json", b"POST"), Some(Mismatch::Method));
    }

    #[test]
    fn which_routes_hide_a_later_one() {
        let route = |host: &str, path: &str, methods: &[&str]| Route {
            host: (!host.is_empty()).then(|| HostPattern::parse(host).unwrap()),
            paths: match path.strip_suffix("/**") {
                Some(prefix) => [PathPattern::prefix(&format!("{prefix}/")).unwrap()].into(),
                None if path.is_empty() => [].into(),
                None => [PathPattern::exact(path).unwrap()].into(),
            },
            methods: (!methods.is_empty())
                .then(|| methods.iter().map(|method| MethodPattern::parse(method).unwrap()).collect()),
            policy: Arc::new(Policy::new("p".into(), None)),
        };
        let cases = [
            (route("", "", &[]), route("h", "/a", &["GET"]), true),
            (route("", "/a/**", &[]), route("", "/a/b/**", &[]), true),
            (route("", "/a/**", &[]), route("", "/a", &[]), true),
            (route("", "/**", &[]), route("", "/**", &[]), true),
            (route("", "/a", &[]), route("", "/a/**", &[]), false),
            (route("", "/a", &["GET"]), route("", "/a", &["HEAD"]), true),
            (route("", "/a", &["GET"]), route("", "/a", &[]), false),
            (route("", "/a", &["GET"]), route("", "/a", &["GET", "POST"]), false),
            (route("*.h", "/a", &[]), route("x.h", "/a", &[]), true),
            (route("*.h", "/a", &[]), route("*.x.h", "/a", &[]), true),
            (route("*.x.h", "/a", &[]), route("*.h", "/a", &[]), false),
            (route("h", "", &[]), route("", "", &[]), false),
        ];
        for (earlier, later, expected) in cases {
            assert_eq!(earlier.covers(&later), expected, "{earlier:?} {later:?}");
        }
    }
}
