//! Cross-site requests: a browser sends cookies and remembered Basic passwords by itself, for requests from any site.

use super::{CredentialError, CredentialLocation};
use crate::attributes::{Http, trim_blanks};

/// Whether a location is accepted in requests that another site caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossSite {
    /// Only the same site's requests, when they may change something.
    Deny,
    /// `allow_cross_site: true`.
    Allow,
}

/// Denies a credential that a browser may have sent on another site's behalf.
///
/// `Sec-Fetch-Site` decides (Fetch Metadata), or without it `Origin` (RFC 6454); a client that sends neither is not a
/// browser.
///
/// # Errors
/// [`CredentialError::CrossSite`].
pub fn check(http: &Http<'_>, location: &CredentialLocation) -> Result<(), CredentialError> {
    let own: &[&[u8]] = match location {
        CredentialLocation::Bearer | CredentialLocation::Header { .. } | CredentialLocation::Query { .. } => {
            return Ok(());
        }
        CredentialLocation::Basic { cross_site } | CredentialLocation::Cookie { cross_site, .. } => {
            match cross_site {
                CrossSite::Allow => return Ok(()),
                CrossSite::Deny => &[b"same-origin", b"same-site", b"none"],
            }
        }
        // Another host of the same site must not use our sessions.
        CredentialLocation::Session { .. } => &[b"same-origin", b"none"],
    };
    if may_change_something(http) && !comes_from(http, own) {
        return Err(CredentialError::CrossSite);
    }
    Ok(())
}

/// A WebSocket handshake is a GET, but opens a channel that can do anything.
fn may_change_something(http: &Http<'_>) -> bool {
    !matches!(http.method, b"GET" | b"HEAD" | b"OPTIONS") || http.headers.has("upgrade")
}

fn comes_from(http: &Http<'_>, own: &[&[u8]]) -> bool {
    let mut sites = http.headers.all("sec-fetch-site");
    if let Some(site) = sites.next() {
        return sites.next().is_none() && own.contains(&trim_blanks(site));
    }
    let mut origins = http.headers.all("origin");
    match origins.next() {
        None => true,
        Some(origin) => origins.next().is_none() && is_own_origin(origin, http.host),
    }
}

/// Whether the origin's host and port are the request's own.  `null` never matches.
fn is_own_origin(origin: &[u8], host: &[u8]) -> bool {
    let (Ok(origin), Ok(host)) = (std::str::from_utf8(trim_blanks(origin)), std::str::from_utf8(host)) else {
        return false;
    };
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let without_port = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_owned();
    !host.is_empty() && without_port(authority).eq_ignore_ascii_case(&without_port(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{ClientAddress, Encoding, Header, Headers};

    #[test]
    fn which_requests_count_as_the_sites_own() {
        let cases: &[(&str, &[(&str, &str)], bool)] = &[
            ("GET", &[("sec-fetch-site", "cross-site")], true),
            ("HEAD", &[("origin", "https://evil.example")], true),
            ("OPTIONS", &[("origin", "https://evil.example")], true),
            ("POST", &[], true),
            ("POST", &[("sec-fetch-site", "same-origin")], true),
            ("POST", &[("sec-fetch-site", "same-site")], true),
            ("POST", &[("sec-fetch-site", "none")], true),
            ("POST", &[("sec-fetch-site", "cross-site")], false),
            ("POST", &[("sec-fetch-site", "same-origin,cross-site")], false),
            ("POST", &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
            ("POST", &[("sec-fetch-site", "cross-site"), ("origin", "http://h:8080")], false),
            ("POST", &[("sec-fetch-site", "")], false),
            ("DELETE", &[("origin", "http://h:8080")], true),
            ("DELETE", &[("origin", "https://H:8080")], true),
            ("DELETE", &[("origin", "http://h")], false),
            ("DELETE", &[("origin", "http://evil.example")], false),
            ("DELETE", &[("origin", "http://h:8080.evil.example")], false),
            ("DELETE", &[("origin", "null")], false),
            ("DELETE", &[("origin", "file://h:8080")], false),
            ("get", &[("origin", "http://evil.example")], false),
            ("GET", &[("upgrade", "websocket"), ("origin", "http://evil.example")], false),
            ("GET", &[("upgrade", "websocket"), ("origin", "http://h:8080")], true),
        ];
        for (method, headers, expected) in cases {
            let entries =
                headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
            let headers = Headers::new(Encoding::Lines, entries.collect());
            let http = Http {
                method: method.as_bytes(),
                host: b"h:8080",
                path: b"/",
                headers,
                client: ClientAddress::UNKNOWN,
            };
            let cookie = |cross_site| CredentialLocation::Cookie { name: "c".into(), cross_site };
            assert_eq!(
                check(&http, &cookie(CrossSite::Deny)).is_ok(),
                *expected,
                "{method} {:?}",
                http.headers
            );
            assert_eq!(check(&http, &cookie(CrossSite::Allow)), Ok(()));
            assert_eq!(check(&http, &CredentialLocation::Bearer), Ok(()));
            let session = CredentialLocation::Session { cookies: &["eat_session"] };
            let from_neighbour = http.headers.first("sec-fetch-site") == Some(b"same-site");
            assert_eq!(
                check(&http, &session).is_ok(),
                *expected && !from_neighbour,
                "{method} {:?}",
                http.headers
            );
        }
    }

    #[test]
    fn a_default_port_is_no_difference() {
        assert!(is_own_origin(b"https://h", b"h:443"));
        assert!(is_own_origin(b"https://h:443", b"h"));
        assert!(!is_own_origin(b"https://h", b"h:80"));
        assert!(!is_own_origin(b"https://", b""));
    }
}
