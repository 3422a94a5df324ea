//! Removes credentials for this server from requests to the upstream.

use std::collections::HashSet;
use std::fmt;

use super::{CredentialLocation, CredentialLocations, cookie, parts_of, query, split_scheme};
use crate::attributes::{Http, trim_blanks};

/// Our own session cookies: of the admin listener, plain and under TLS, and of Checks, plain, under TLS, and of a
/// domain.  They are always removed: no upstream uses them.
pub const SESSION_COOKIES: [&str; 5] = [
    ADMIN_COOKIES[0],
    ADMIN_COOKIES[1],
    APPLICATION_COOKIES[0],
    APPLICATION_COOKIES[1],
    APPLICATION_COOKIES[2],
];
/// The prefixes of cookies with a log-in at a provider in progress, under TLS and plain.  They are always removed as
/// well.
pub const LOG_IN_COOKIES: [&str; 2] = ["__Host-eat_login_", "eat_login_"];
/// Those of the admin listener, plain and under TLS.
pub const ADMIN_COOKIES: &[&str] = &["eat_session", "__Host-eat_session"];
/// Those of Checks, plain, under TLS, and of `session.domain`.
pub const APPLICATION_COOKIES: &[&str] = &["eat_app", "__Host-eat_app", "__Secure-eat_app"];

/// Whether a cookie of this name is our own, independent of the configuration.
pub fn is_own_cookie(name: &[u8]) -> bool {
    // Most other cookies have another prefix.
    matches!(name.first(), Some(b'e' | b'_'))
        && (SESSION_COOKIES.iter().any(|own| own.as_bytes() == name)
            || LOG_IN_COOKIES.iter().any(|beginning| name.starts_with(beginning.as_bytes())))
}

/// The parts to remove from a request.  It only names parts that the request has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CredentialStripping<'a> {
    /// Names of headers to remove.
    pub headers: Vec<&'a str>,
    /// The change of the `cookie` header.
    pub cookie: CookieChange,
    /// Query parameters to remove, by the raw names they were sent under.
    pub parameters: Vec<&'a [u8]>,
}

/// A change of the `cookie` header.
#[derive(Default, PartialEq, Eq)]
pub enum CookieChange {
    /// It stays as it is.
    #[default]
    None,
    /// It is removed: nothing is left, or the rest cannot be written.
    Remove,
    /// It is replaced by this.
    Set(String),
}

/// The remaining cookies of other programs are as secret as ours.
impl fmt::Debug for CookieChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("None"),
            Self::Remove => formatter.write_str("Remove"),
            Self::Set(rest) => write!(formatter, "Set({} bytes)", rest.len()),
        }
    }
}

/// Which configured locations are removed on the way to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward<'p> {
    /// All of them.
    Nothing,
    /// All except this one: its unknown token may belong to the upstream.
    Only(&'p CredentialLocation),
    /// None (`forward_credentials`).
    Everything,
}

impl CredentialStripping<'_> {
    /// The parts to remove from this request.
    pub fn of<'a>(
        http: &Http<'a>,
        locations: &'a CredentialLocations,
        forward: Forward<'_>,
    ) -> CredentialStripping<'a> {
        let is_emptied = |location: &&CredentialLocation| match forward {
            Forward::Nothing => true,
            Forward::Only(kept) => *location != kept && !share_header(location, kept),
            Forward::Everything => false,
        };
        let mut removal = CredentialStripping::default();
        for location in locations.order().iter().filter(is_emptied) {
            match location {
                CredentialLocation::Bearer => removal.remove_authorization(http, b"bearer"),
                CredentialLocation::Basic { .. } => removal.remove_authorization(http, b"basic"),
                CredentialLocation::Header { name } => removal.remove_header(http, name),
                CredentialLocation::Query { name } => {
                    // Removing a name removes all of its occurrences.
                    let mut named = HashSet::new();
                    removal.parameters.extend(query::raw_names(http, name).filter(|raw| named.insert(*raw)));
                }
                // Cookies are in one header, which is rewritten once.
                CredentialLocation::Session { .. } | CredentialLocation::Cookie { .. } => {}
            }
        }
        // Our own cookies are always removed.
        let is_ours = |cookie: &[u8]| {
            let is_kept = || match forward {
                Forward::Nothing => false,
                Forward::Only(CredentialLocation::Cookie { name, .. }) => name.as_bytes() == cookie,
                Forward::Only(_) => false,
                Forward::Everything => true,
            };
            is_own_cookie(cookie) || (locations.reads_cookie(cookie) && !is_kept())
        };
        removal.cookie = cut_cookies(http, is_ours);
        removal
    }
}

impl<'a> CredentialStripping<'a> {
    /// An `authorization` of another scheme does not belong to this server.
    fn remove_authorization(&mut self, http: &Http<'a>, scheme: &[u8]) {
        if self.headers.contains(&"authorization") {
            return;
        }
        let is_ours = |part: &[u8]| split_scheme(part).0.eq_ignore_ascii_case(scheme);
        // The first part has the scheme of the whole value, and usually is the whole value.
        let carries = |value| is_ours(trim_blanks(value)) || parts_of(value).any(is_ours);
        if http.headers.all("authorization").any(carries) {
            self.headers.push("authorization");
        }
    }

    fn remove_header(&mut self, http: &Http<'a>, name: &'a str) {
        if http.headers.has(name) {
            self.headers.push(name);
        }
    }
}

/// Bearer and Basic are in one header.
fn share_header(a: &CredentialLocation, b: &CredentialLocation) -> bool {
    let in_authorization = |location: &CredentialLocation| {
        matches!(location, CredentialLocation::Bearer | CredentialLocation::Basic { .. })
    };
    in_authorization(a) && in_authorization(b)
}

fn cut_cookies(http: &Http<'_>, is_ours: impl Fn(&[u8]) -> bool) -> CookieChange {
    let Some(rest) = cookie::without(&http.headers, is_ours) else {
        return CookieChange::None;
    };
    // A header is set as text and must be valid; an invalid rest is not passed on.
    let is_legal = |text: &String| !text.is_empty() && !text.bytes().any(|byte| byte < b' ' || byte == 0x7f);
    match String::from_utf8(rest).ok().filter(is_legal) {
        Some(rest) => CookieChange::Set(rest),
        None => CookieChange::Remove,
    }
}

#[cfg(test)]
mod tests {
    use super::super::CrossSite;
    use super::*;
    use crate::attributes::{ClientAddress, Encoding, Header, Headers};

    fn locations() -> CredentialLocations {
        CredentialLocations::new(vec![
            CredentialLocation::Bearer,
            CredentialLocation::Basic { cross_site: CrossSite::Deny },
            CredentialLocation::Header { name: "x-api-key".into() },
            CredentialLocation::Query { name: "_auth_token".into() },
            CredentialLocation::Cookie { name: "tok".into(), cross_site: CrossSite::Deny },
        ])
    }

    fn http<'a>(path: &'a str, headers: &[(&'a str, &'a [u8])]) -> Http<'a> {
        let entries = headers.iter().map(|&(name, value)| Header { name: name.as_bytes(), value });
        Http {
            method: b"GET",
            host: b"h",
            path: path.as_bytes(),
            headers: Headers::new(Encoding::Lines, entries.collect()),
            client: ClientAddress::UNKNOWN,
        }
    }

    #[test]
    fn every_place_that_carries_something_is_emptied_and_nothing_else() {
        let headers: &[(&str, &[u8])] =
            &[("authorization", b"bearer T"), ("x-api-key", b""), ("cookie", b"a=1; tok=T; eat_session=S")];
        let request = http("/?a=1&_auth%5Ftoken=T", headers);
        let locations = locations();
        let removal = CredentialStripping::of(&request, &locations, Forward::Nothing);
        assert_eq!(removal.headers, ["authorization", "x-api-key"]);
        assert_eq!(removal.cookie, CookieChange::Set("a=1".to_owned()));
        assert_eq!(removal.parameters, [b"_auth%5Ftoken"]);

        let plain = http("/?a=1", &[("authorization", b"Negotiate abc"), ("cookie", b"a=1")]);
        assert_eq!(
            CredentialStripping::of(&plain, &locations, Forward::Nothing),
            CredentialStripping::default()
        );
    }

    #[test]
    fn what_is_forwarded_stays_but_for_our_own_session() {
        let headers: &[(&str, &[u8])] = &[
            ("authorization", b"Bearer T"),
            ("x-api-key", b"U"),
            ("cookie", b"tok=T; __Host-eat_session=S"),
        ];
        let request = http("/?_auth_token=T", headers);
        let locations = locations();
        let everything = CredentialStripping::of(&request, &locations, Forward::Everything);
        assert_eq!(everything.headers, [""; 0]);
        assert_eq!(everything.cookie, CookieChange::Set("tok=T".to_owned()));
        assert_eq!(everything.parameters, [b""; 0]);
        let only_bearer =
            CredentialStripping::of(&request, &locations, Forward::Only(&CredentialLocation::Bearer));
        assert_eq!(only_bearer.headers, ["x-api-key"]);
        assert_eq!(only_bearer.cookie, CookieChange::Remove);
    }

    #[test]
    fn our_own_cookies_are_cut_whatever_is_read_and_forwarded() {
        let ours = [
            "eat_session",
            "__Host-eat_session",
            "eat_app",
            "__Host-eat_app",
            "__Secure-eat_app",
            "eat_login_0a1b2c3d",
            "__Host-eat_login_0a1b2c3d",
            "eat_login_",
        ];
        let others = ["eat", "eat_", "eat_appx", "x_eat_app", "__Secure-eat_session", "_", "e", "EAT_APP"];
        let cookie: Vec<_> = others.iter().chain(&ours).map(|name| format!("{name}=1")).collect();
        let cookie = cookie.join("; ");
        let headers: &[(&str, &[u8])] = &[("cookie", cookie.as_bytes())];
        let locations = locations();
        let kept: Vec<_> = others.iter().map(|name| format!("{name}=1")).collect();
        for forward in [Forward::Nothing, Forward::Everything] {
            let removal = CredentialStripping::of(&http("/", headers), &locations, forward);
            assert_eq!(removal.cookie, CookieChange::Set(kept.join("; ")), "{forward:?}");
        }
    }

    #[test]
    fn a_raw_name_is_removed_once_however_often_it_was_sent() {
        let locations = locations();
        for count in [1, 8_192] {
            let path = format!("/?{}", "_auth_token=a&_auth%5ftoken=b&".repeat(count));
            let request = http(&path, &[]);
            let removal = CredentialStripping::of(&request, &locations, Forward::Nothing);
            assert_eq!(removal.parameters, [b"_auth_token".as_slice(), b"_auth%5ftoken"], "{count}");
        }
    }

    #[test]
    fn debug_shows_no_cookie() {
        let locations = locations();
        let request = http("/?_auth_token=SECRET", &[("cookie", b"tok=SECRET; a=SECRET")]);
        let shown = format!("{:?}", CredentialStripping::of(&request, &locations, Forward::Nothing));
        assert!(shown.contains("Set(8 bytes)") && !shown.contains("SECRET"), "{shown}");
    }

    #[test]
    fn a_rest_that_cannot_be_written_down_goes_with_the_whole_header() {
        let locations = locations();
        for cookie in [b"a=\xff; tok=T".as_slice(), b"a=\x01; tok=T", b"tok=T"] {
            let headers: &[(&str, &[u8])] = &[("cookie", cookie)];
            let removal = CredentialStripping::of(&http("/", headers), &locations, Forward::Nothing);
            assert_eq!(removal.cookie, CookieChange::Remove, "{}", cookie.escape_ascii());
        }
    }
}
