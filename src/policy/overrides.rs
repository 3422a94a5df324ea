//! Headers with which a request names another path, host or method than the one that Envoy routed.
//!
//! An upstream that trusts such a header serves another request than the rules decided about.  All names that decisions
//! read for this are in [`Override::ALL`], and nowhere else.

use super::route::normalize_host;
use crate::attributes::{Http, trim_blanks};

/// One of these headers, or the query parameter `_method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// The name: lower-case letters and `-`; of the parameter, `_method`.
    pub name: &'static str,
    /// The part of the request that it overrides.
    pub kind: OverrideKind,
}

/// The part of a request that a header overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideKind {
    /// The path, or a part of it.
    Path,
    /// The host: the value is a host or a list of hosts.
    Host,
    /// `Forwarded` (RFC 7239), whose `host=` names the host.
    Forwarded,
    /// The method.
    Method,
    /// The method, as a parameter in the query of a POST.
    MethodParameter,
    /// The target of COPY and MOVE (RFC 4918 section 10.3).
    Destination,
}

const fn named(name: &'static str, kind: OverrideKind) -> Override {
    Override { name, kind }
}

impl Override {
    /// All of them.
    pub const ALL: [Self; 18] = [
        named("script-name", OverrideKind::Path),
        named("path-info", OverrideKind::Path),
        named("x-script-name", OverrideKind::Path),
        named("x-original-url", OverrideKind::Path),
        named("x-original-uri", OverrideKind::Path),
        named("x-rewrite-url", OverrideKind::Path),
        named("x-forwarded-prefix", OverrideKind::Path),
        named("x-forwarded-path", OverrideKind::Path),
        named("x-forwarded-uri", OverrideKind::Path),
        named("x-forwarded-host", OverrideKind::Host),
        named("x-original-host", OverrideKind::Host),
        named("x-host", OverrideKind::Host),
        named("forwarded", OverrideKind::Forwarded),
        named("x-http-method-override", OverrideKind::Method),
        named("x-http-method", OverrideKind::Method),
        named("x-method-override", OverrideKind::Method),
        named("_method", OverrideKind::MethodParameter),
        named("destination", OverrideKind::Destination),
    ];

    /// The position of this name in [`Override::ALL`].
    pub fn position(name: &str) -> Option<usize> {
        Self::ALL.iter().position(|known| known.name == name)
    }

    /// Whether it is a header.  Ordinary clients do not send these, so Envoy can remove those that are not permitted
    /// before any filter reads them.
    pub fn is_header(&self) -> bool {
        self.kind != OverrideKind::MethodParameter
    }
}

/// The overrides that a trusted proxy before Envoy sets (`overrides.permit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermittedOverrides(u32);

impl PermittedOverrides {
    /// Permits the override at this position of [`Override::ALL`].
    pub fn insert(&mut self, position: usize) {
        self.0 |= 1 << position;
    }

    /// Whether the override at this position is permitted.
    pub fn contains(self, position: usize) -> bool {
        self.0 & 1 << position != 0
    }
}

/// The parts of a request that decide which policy governs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutedParts {
    /// The host.
    pub host: bool,
    /// The path.
    pub path: bool,
    /// The method.
    pub method: bool,
}

/// A request names another part than the one that was routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideError {
    /// Another path.
    Path,
    /// Another host.
    Host,
    /// Another method.
    Method,
}

/// The index, plus one, of a name with this length and last byte; 0 if there is none.
///
/// The length and the last letter together are unique, so that a header costs one lookup.
const SLOTS: [u8; 1 << 10] = {
    let mut slots = [0; 1 << 10];
    let mut position = 0;
    while position < Override::ALL.len() {
        let name = Override::ALL[position].name.as_bytes();
        if name[0] != b'_' {
            let slot = slot(name);
            assert!(slots[slot] == 0, "length and last letter tell the names apart");
            slots[slot] = position as u8 + 1;
        }
        position += 1;
    }
    slots
};

const fn slot(name: &[u8]) -> usize {
    // The lower five bits of a letter are the same in both cases.
    name.len() << 5 | (name[name.len() - 1] & 0x1f) as usize
}

/// The override whose header's name this is, or one that folds onto it.
#[inline]
fn find(name: &[u8]) -> Option<usize> {
    if name.is_empty() || name.len() >= 1 << 5 {
        return None;
    }
    let position = usize::from(SLOTS[slot(name)].checked_sub(1)?);
    crate::actor::header::folds_onto(name, Override::ALL[position].name).then_some(position)
}

/// Whether a header asks for another method.
pub fn overrides_method(http: &Http<'_>) -> bool {
    http.headers.iter().any(|header| {
        find(header.name).is_some_and(|position| Override::ALL[position].kind == OverrideKind::Method)
    })
}

/// Looks for headers, and the parameter `_method`, that differ from the routed request.
///
/// A permission applies only to the exact name, not to names that fold onto it.  An empty value is ignored.
///
/// # Errors
/// The part of the request that is overridden.
pub fn check(http: &Http<'_>, read: RoutedParts, permitted: PermittedOverrides) -> Result<(), OverrideError> {
    let (mut method, mut destination) = (false, false);
    for header in http.headers.iter() {
        let Some(position) = find(header.name) else { continue };
        let known = Override::ALL[position];
        let is_permitted =
            permitted.contains(position) && header.name.eq_ignore_ascii_case(known.name.as_bytes());
        if is_permitted || trim_blanks(header.value).is_empty() {
            continue;
        }
        match known.kind {
            OverrideKind::Path if read.path => return Err(OverrideError::Path),
            OverrideKind::Host if read.host && !names_host(header.value, http.host) => {
                return Err(OverrideError::Host);
            }
            OverrideKind::Forwarded if read.host && !forwarded_names_host(header.value, http.host) => {
                return Err(OverrideError::Host);
            }
            OverrideKind::Method => method = true,
            OverrideKind::Destination => destination = true,
            OverrideKind::Path
            | OverrideKind::Host
            | OverrideKind::Forwarded
            | OverrideKind::MethodParameter => {}
        }
    }
    // In a request with a destination the method is always read: COPY and MOVE depend on it.
    if !read.method && !(destination && (read.host || read.path)) {
        return Ok(());
    }
    let parameter_permitted = || Override::position("_method").is_some_and(|at| permitted.contains(at));
    if method
        || http.method.eq_ignore_ascii_case(b"POST")
            && http.query().is_some_and(has_method_parameter)
            && !parameter_permitted()
    {
        return Err(OverrideError::Method);
    }
    Ok(())
}

/// Whether every element of a list names this host.
fn names_host(list: &[u8], host: &[u8]) -> bool {
    list.split(|&byte| byte == b',').all(|element| is_host(element, host))
}

fn is_host(value: &[u8], host: &[u8]) -> bool {
    let own = normalize_host(host);
    own.is_some() && normalize_host(trim_blanks(value)) == own
}

/// Whether every `host=` names this host, wherever it stands: readers differ about quotes and separators, so
/// each text that one of them could take for a host counts.
fn forwarded_names_host(value: &[u8], host: &[u8]) -> bool {
    const NAME: &[u8] = b"host";
    // Trimmed once, so that the blanks at the end are not scanned again for every name.
    let value = trim_blanks(value);
    let hosts = value.windows(NAME.len()).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(NAME));
    hosts.filter_map(|(start, _)| trim_blanks(&value[start + NAME.len()..]).strip_prefix(b"=")).all(|rest| {
        let end = rest.iter().position(|byte| matches!(byte, b',' | b';')).unwrap_or(rest.len());
        let value = trim_blanks(&rest[..end]);
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        is_host(quoted.unwrap_or(value), host)
    })
}

/// Whether a query has the parameter `_method` with a value.  The name is read as frameworks read it: decoded,
/// without blanks in front and an index behind, and folded as the names of headers are.
fn has_method_parameter(query: &[u8]) -> bool {
    query.split(|byte| matches!(byte, b'&' | b';')).any(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=');
        let (name, value) = equals.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        if value.is_empty() {
            return false;
        }
        let name: Vec<u8> = name.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        let Ok(decoded) = super::path::percent_decode(&name) else { return false };
        let name = decoded.bytes.trim_ascii_start();
        let end = name.iter().skip(1).position(|&byte| byte == b'[').map_or(name.len(), |at| at + 1);
        crate::actor::header::folds_onto(&name[..end], "_method")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{ClientAddress, Encoding, Header, Headers};

    const ALL_READ: RoutedParts = RoutedParts { host: true, path: true, method: true };

    fn checked(
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        read: RoutedParts,
        permit: &[&str],
    ) -> String {
        let entries =
            headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
        let http = Http {
            method: method.as_bytes(),
            host: b"App.example:8080",
            path: path.as_bytes(),
            headers: Headers::new(Encoding::Lines, entries.collect()),
            client: ClientAddress::UNKNOWN,
        };
        let mut permitted = PermittedOverrides::default();
        for name in permit {
            permitted.insert(Override::position(name).unwrap());
        }
        match check(&http, read, permitted) {
            Ok(()) => "ok".to_owned(),
            Err(overridden) => format!("{overridden:?}"),
        }
    }

    #[test]
    fn every_name_is_found_in_every_spelling_and_no_other() {
        for (position, known) in Override::ALL.iter().enumerate().filter(|(_, known)| known.is_header()) {
            for spelling in [
                known.name.to_owned(),
                known.name.to_ascii_uppercase(),
                known.name.replace('-', "_"),
                known.name.replace('-', "."),
                known.name.replace('-', "~"),
            ] {
                assert_eq!(find(spelling.as_bytes()), Some(position), "{spelling}");
            }
            assert_eq!(find(&known.name.as_bytes()[1..]), None, "{}", known.name);
            assert_eq!(find(format!("{}s", known.name).as_bytes()), None, "{}", known.name);
        }
        for name in ["", "a", "accept", "cookie", "authorization", "x-forwarded-for", "x-forwarded-proto"] {
            assert_eq!(find(name.as_bytes()), None, "{name}");
        }
        assert_eq!(find(&[b'x'; 300]), None);
    }

    #[test]
    fn what_names_another_path_host_or_method() {
        let cases: &[(&str, &str, &str)] = &[
            ("X-Script-Name", "/public", "Path"),
            ("SCRIPT_NAME", "/public", "Path"),
            ("path.info", "/x", "Path"),
            ("x-original-url", "/admin", "Path"),
            ("x_rewrite_url", "/admin", "Path"),
            ("x-script-name", "", "ok"),
            ("x-script-name", "  ", "ok"),
            ("x-forwarded-host", "app.example", "ok"),
            ("x-forwarded-host", "APP.example.:1", "ok"),
            ("x-forwarded-host", "app.example, app.example:80", "ok"),
            ("x-forwarded-host", "app.example, evil.example", "Host"),
            ("x-forwarded-host", "evil.example, app.example", "Host"),
            ("x-forwarded-host", "app.example,", "Host"),
            ("x_forwarded_host", "%61pp.example", "Host"),
            ("x-host", "evil.example", "Host"),
            ("x-original-host", "evil.example", "Host"),
            ("forwarded", "for=1.2.3.4;proto=https", "ok"),
            ("forwarded", "for=1.2.3.4;host=app.example;proto=https", "ok"),
            ("forwarded", "host=\"app.example:8080\"", "ok"),
            ("forwarded", "host=", "Host"),
            ("forwarded", "for=1;Host = evil.example", "Host"),
            ("forwarded", "host=app.example, host=evil.example", "Host"),
            ("forwarded", "for=\"a;host=evil.example\"", "Host"),
            ("forwarded", "for=1 host=evil.example", "Host"),
            ("forwarded", "host=\"app\\.example\"", "Host"),
            ("X.HTTP.Method.Override", "DELETE", "Method"),
            ("x-http-method", "PATCH", "Method"),
            ("x-method-override", "PUT", "Method"),
            ("x-forwarded-proto", "https", "ok"),
            ("x-forwarded-for", "1.2.3.4", "ok"),
        ];
        for (name, value, expected) in cases {
            let found = checked("GET", "/", &[(name, value)], ALL_READ, &[]);
            assert_eq!(found, *expected, "{name}: {value}");
            let nothing_read = RoutedParts { host: false, path: false, method: false };
            assert_eq!(checked("GET", "/", &[(name, value)], nothing_read, &[]), "ok", "{name}: {value}");
        }
    }

    #[test]
    fn a_destination_with_another_method_is_another_target() {
        let path = RoutedParts { host: false, path: true, method: false };
        let host = RoutedParts { host: true, path: false, method: false };
        let target = ("Destination", "/admin/x");
        for read in [path, host, ALL_READ] {
            for name in ["x-http-method-override", "X_HTTP_Method", "x.method.override"] {
                let result = |permit: &[&str]| checked("POST", "/a", &[(name, "MOVE"), target], read, permit);
                assert_eq!(result(&[]), "Method", "{name} {read:?}");
                assert_eq!(result(&["_method"]), "Method", "{name} {read:?}");
                assert_eq!(checked("POST", "/a", &[target, (name, "COPY")], read, &[]), "Method", "{name}");
                assert_eq!(
                    checked("POST", "/a", &[target, (name, "")], read, &["x-http-method"]),
                    "ok",
                    "{name}"
                );
            }
            let parameter = |permit: &[&str]| checked("POST", "/a?_method=MOVE", &[target], read, permit);
            assert_eq!((parameter(&[]), parameter(&["_method"])), ("Method".into(), "ok".into()), "{read:?}");
            assert_eq!(checked("MOVE", "/a", &[target], read, &[]), "ok", "{read:?}");
            let overridden = ("x-http-method", "MOVE");
            assert_eq!(
                checked("POST", "/a", &[overridden, target], read, &["x-http-method"]),
                "ok",
                "{read:?}"
            );
            if read != ALL_READ {
                assert_eq!(checked("POST", "/a", &[overridden], read, &[]), "ok", "{read:?}");
                assert_eq!(
                    checked("POST", "/a", &[overridden, target], read, &["destination"]),
                    "ok",
                    "{read:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_permitted_is_permitted_as_written() {
        let path = |name, permit: &[&str]| checked("GET", "/", &[(name, "/x")], ALL_READ, permit);
        assert_eq!(path("x-script-name", &["x-script-name"]), "ok");
        assert_eq!(path("X-Script-Name", &["x-script-name"]), "ok");
        assert_eq!(path("x_script_name", &["x-script-name"]), "Path");
        assert_eq!(path("script-name", &["x-script-name"]), "Path");
        let method = |permit: &[&str]| checked("POST", "/?_method=PUT", &[], ALL_READ, permit);
        assert_eq!(method(&["_method"]), "ok");
        assert_eq!(method(&["x-http-method"]), "Method");
    }

    #[test]
    fn a_method_in_the_query_of_a_post() {
        for (method, path, expected) in [
            ("POST", "/x?_method=DELETE", "Method"),
            ("POST", "/x?a=1&_method=DELETE", "Method"),
            ("POST", "/x?a=1;_method=DELETE", "Method"),
            ("POST", "/x?%5fmethod=DELETE", "Method"),
            ("POST", "/x?_%6Dethod=DELETE", "Method"),
            ("POST", "/x?_METHOD=DELETE", "Method"),
            ("POST", "/x?.method=DELETE", "Method"),
            ("POST", "/x?+_method=DELETE", "Method"),
            ("POST", "/x?_method%5B%5D=DELETE", "Method"),
            ("POST", "/x?_method=", "ok"),
            ("POST", "/x?_method", "ok"),
            ("POST", "/x?method=DELETE", "ok"),
            ("POST", "/x?a=_method", "ok"),
            ("GET", "/x?_method=DELETE", "ok"),
            ("POST", "/_method=DELETE", "ok"),
        ] {
            assert_eq!(checked(method, path, &[], ALL_READ, &[]), expected, "{method} {path}");
        }
    }
}
