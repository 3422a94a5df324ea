//! URLs of https and http: which may be written where a browser or we ourselves are sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most characters of a host name (RFC 1035, section 2.3.4).
const MAX_HOST_NAME: usize = 253;
/// The most characters between its dots.
const MAX_LABEL: usize = 63;

/// The parts of a URL that is fit to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpUrl<'t> {
    /// The scheme is `https`.
    pub is_https: bool,
    /// Host and port.
    pub authority: Authority<'t>,
    /// Whether a query is there, be it empty.
    pub has_query: bool,
}

/// A host, and the port if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'t> {
    /// A name, or an address (IPv6 in brackets).
    pub host: &'t str,
    /// The port.
    pub port: Option<u16>,
}

/// Why a text is not a URL that this server or a browser may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpUrlError {
    /// The scheme is missing or is another one.
    #[error("expected a URL such as https://id.example.com")]
    Scheme,
    /// Requests to it would cross a network in plain text.
    #[error(
        "secrets would cross the network in plain text: write https:// (http:// is allowed only for 127.0.0.0/8, \
         [::1] and localhost)"
    )]
    NotEncrypted,
    /// It has user info.
    #[error("this URL must not contain a user name or a password")]
    UserInfo,
    /// It names a part of a document.
    #[error("this URL must not contain a fragment: remove `#` and what follows")]
    Fragment,
    /// The host or its port is not valid.
    #[error(
        "expected a host name or an IP address after the scheme, IPv6 in brackets, and a port from 1 to 65535"
    )]
    Authority,
    /// A character is there that a URL writes in another way.
    #[error(
        "the URL contains a blank, a backslash, a quote or a character that is not ASCII: write it \
         percent-encoded, such as %20"
    )]
    Character,
}

impl<'t> HttpUrl<'t> {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`HttpUrlError`].
    pub fn parse(text: &'t str) -> Result<Self, HttpUrlError> {
        if text.contains('#') {
            return Err(HttpUrlError::Fragment);
        }
        let is_legal = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte);
        if !text.bytes().all(is_legal) {
            return Err(HttpUrlError::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(HttpUrlError::Scheme)?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return Err(HttpUrlError::Scheme);
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(HttpUrlError::UserInfo);
        }
        let authority = Authority::parse(authority).ok_or(HttpUrlError::Authority)?;
        if !is_https && !is_loopback(authority.host) {
            return Err(HttpUrlError::NotEncrypted);
        }
        // What asks for it parses it so.
        text.parse::<http::Uri>().map_err(|_| HttpUrlError::Character)?;
        Ok(Self { is_https, authority, has_query: rest.contains('?') })
    }
}

impl<'t> Authority<'t> {
    /// Parses `host` or `host:port`; `None` when it is neither.
    pub fn parse(text: &'t str) -> Option<Self> {
        let end = match text.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(end);
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0)?)
            }
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        is_host.then_some(Self { host, port })
    }
}

/// Whether a text is the name of a host or an IPv4 address: labels of letters, digits, `-` and `_`, without a dot at
/// either end.
pub fn is_host_name(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(is_legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_HOST_NAME && text.split('.').all(is_label)
}

/// Whether a text is an IPv4 address, or what browsers take for one: its last label is a number.
pub fn is_ipv4(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
        || host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a host is this machine, so that no one on the network can read plain text: an address in 127.0.0.0/8, `::1`
/// (also in brackets), or exactly `localhost`.
pub fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_what_is_none() {
        for (text, expected) in [
            ("https://id.example.com", Ok((true, "id.example.com", None, false))),
            ("HTTPS://ID.example.com/realms/a?x=%20y", Ok((true, "ID.example.com", None, true))),
            ("https://id.example.com:8443/", Ok((true, "id.example.com", Some(8443), false))),
            ("https://[2001:db8::1]:443/a", Ok((true, "[2001:db8::1]", Some(443), false))),
            ("https://id.example.com?", Ok((true, "id.example.com", None, true))),
            ("http://localhost:9000/a", Ok((false, "localhost", Some(9000), false))),
            ("http://127.1.2.3", Ok((false, "127.1.2.3", None, false))),
            ("http://[::1]", Ok((false, "[::1]", None, false))),
            ("https://my_idp/authorize", Ok((true, "my_idp", None, false))),
            ("http://id.example.com", Err(HttpUrlError::NotEncrypted)),
            ("http://localhost.example.com", Err(HttpUrlError::NotEncrypted)),
            ("http://127.0.0.1.example.com", Err(HttpUrlError::NotEncrypted)),
            ("http://[::ffff:127.0.0.1]", Err(HttpUrlError::NotEncrypted)),
            ("http://app.localhost", Err(HttpUrlError::NotEncrypted)),
            ("https://user:hunter2@id.example.com", Err(HttpUrlError::UserInfo)),
            ("https://id.example.com@evil.example", Err(HttpUrlError::UserInfo)),
            ("https://id.example.com/#top", Err(HttpUrlError::Fragment)),
            ("https://id.example.com\\@evil.example", Err(HttpUrlError::Character)),
            ("https://id.example.com/a b", Err(HttpUrlError::Character)),
            ("https://bücher.example", Err(HttpUrlError::Character)),
            ("https://", Err(HttpUrlError::Authority)),
            ("https:///path", Err(HttpUrlError::Authority)),
            ("https://id.example.com:", Err(HttpUrlError::Authority)),
            ("https://id.example.com:0", Err(HttpUrlError::Authority)),
            ("https://id.example.com:65536", Err(HttpUrlError::Authority)),
            ("https://id.example.com:+1", Err(HttpUrlError::Authority)),
            ("https://id..example.com", Err(HttpUrlError::Authority)),
            ("https://.example.com", Err(HttpUrlError::Authority)),
            ("https://example.com.", Err(HttpUrlError::Authority)),
            ("https://::1", Err(HttpUrlError::Authority)),
            ("https://[::1", Err(HttpUrlError::Authority)),
            ("https://[::1]x", Err(HttpUrlError::Authority)),
            ("https://[x]", Err(HttpUrlError::Authority)),
            ("id.example.com", Err(HttpUrlError::Scheme)),
            ("ftp://id.example.com", Err(HttpUrlError::Scheme)),
            ("javascript:alert(1)", Err(HttpUrlError::Scheme)),
            ("//id.example.com", Err(HttpUrlError::Scheme)),
            ("", Err(HttpUrlError::Scheme)),
        ] {
            let found = HttpUrl::parse(text);
            let found =
                found.map(|url| (url.is_https, url.authority.host, url.authority.port, url.has_query));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_this_machine() {
        for (host, is_here) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.255.0.1", true),
            ("::1", true),
            ("[::1]", true),
            ("localhost.", false),
            ("a.localhost", false),
            ("128.0.0.1", false),
            ("0.0.0.0", false),
            ("[::]", false),
            ("127.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), is_here, "{host}");
        }
    }

    #[test]
    fn names_of_hosts() {
        let long = format!("{}.example", "a".repeat(64));
        for (text, is_name) in [
            ("example.com", true),
            ("xn--bcher-kva.example", true),
            ("a", true),
            ("10.0.0.1", true),
            ("", false),
            (".example.com", false),
            ("example.com.", false),
            ("a..b", false),
            ("-a.example", false),
            ("a-.example", false),
            ("*.example.com", false),
            ("a b", false),
            ("user@example.com", false),
            (long.as_str(), false),
        ] {
            assert_eq!(is_host_name(text), is_name, "{text}");
        }
        assert!(is_ipv4("10.0.0.1") && is_ipv4("example.1") && !is_ipv4("1.example"));
    }
}
