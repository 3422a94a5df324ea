//! The redirect of a browser without a credential.

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};

use super::{MAX_RETURN_TO, RETURN_TO, is_under};
use crate::attributes::Http;
use crate::attributes::browser::navigates;
use crate::config::{AdminRules, PublicUrl, SessionRules};
use crate::credential::{self, CredentialLocation, CredentialLocations, query};
use crate::policy::normalize_host;

/// The path of the log-in page, below that of `admin.public_url`.
const LOG_IN_PATH: &str = "/login";

/// Bytes of a path and its query that a URL does not hold as they are; `#` would begin a fragment.
const UNPRINTABLE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// Bytes of a return address that a query's value does not hold as they are.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The redirects of browsers without a credential: the page of a log-in host for requests to that host, otherwise one
/// page for the hosts that get its cookie.
#[derive(Debug)]
pub struct LogInRedirect {
    scheme: &'static str,
    /// The page's host and port, and its path.
    page: (Authority, Box<str>),
    /// `admin.login_hosts`, each also as the configuration writes it.
    log_in_hosts: Box<[(Authority, Box<str>)]>,
    /// `session.domain`.
    domain: Option<Box<str>>,
}

/// Why a request without a credential is not redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRedirect {
    /// It is not a GET of a browser that navigates.
    #[error("this is not a GET by which a browser navigates (`Sec-Fetch-Mode`, or without it `Accept`)")]
    NoNavigation,
    /// An earlier location than that of sessions has content, so a session would never be read.
    #[error(
        "a location that is read before `session` carries something that is not a credential of this server"
    )]
    SessionsNotReached,
    /// A log-in would not give this host a cookie.
    #[error(
        "the request's host is neither that of the log-in page, nor one of `admin.login_hosts`, nor under `session.domain`"
    )]
    OtherHost,
    /// The request is for the log-in page itself: the redirect would loop.
    #[error("this is the log-in page: Envoy's route for it must go to the admin listener without a Check")]
    LogInPage,
}

impl LogInRedirect {
    /// The redirect of these rules: `admin.login_redirect` with `admin.public_url`, or else `session.log_in_url`.
    /// `None` without either, and where sessions are not accepted.
    pub fn new(
        admin: Option<&AdminRules>,
        session: &SessionRules,
        locations: &CredentialLocations,
    ) -> Option<Self> {
        if !locations.reads_sessions() {
            return None;
        }
        let own = admin.filter(|admin| admin.login_redirect).and_then(|admin| admin.public_url.as_ref());
        let (url, path) = match (own, &session.log_in_url) {
            (Some(url), _) => (url, format!("{}{LOG_IN_PATH}", url.path())),
            (None, Some(url)) if url.path().is_empty() => (url, "/".to_owned()),
            (None, Some(url)) => (url, url.path().to_owned()),
            (None, None) => return None,
        };
        let scheme = scheme(url);
        let page = Authority::parse(url.authority().as_bytes(), scheme)?;
        let log_in_hosts = admin.into_iter().flat_map(|admin| &admin.login_hosts).filter_map(|host| {
            let authority = Authority::parse(host.authority().as_bytes(), scheme)?;
            Some((authority, host.authority().into()))
        });
        Some(Self {
            scheme,
            page: (page, path.into()),
            log_in_hosts: log_in_hosts.collect(),
            domain: session.domain.clone(),
        })
    }

    /// The redirect of a browser that sent this request without a credential: the value of `location`, with the return
    /// address.  `None`: an ordinary denial.
    pub fn location(&self, http: &Http<'_>, locations: &CredentialLocations) -> Option<String> {
        self.try_location(http, locations).ok()
    }

    /// The same, with the reason.
    ///
    /// # Errors
    /// [`NoRedirect`].
    pub fn try_location(
        &self,
        http: &Http<'_>,
        locations: &CredentialLocations,
    ) -> Result<String, NoRedirect> {
        if !navigates(http) {
            return Err(NoRedirect::NoNavigation);
        }
        if !credential::reaches_sessions(http, locations) {
            return Err(NoRedirect::SessionsNotReached);
        }
        let own = Authority::parse(http.host, self.scheme).ok_or(NoRedirect::OtherHost)?;
        let (page_authority, page_path) = &self.page;
        let (authority, path, return_authority) = if let Some(written) = self.log_in_host(&own) {
            (written.to_owned(), LOG_IN_PATH, written.to_owned())
        } else if own.name == page_authority.name
            || self.domain.as_ref().is_some_and(|domain| is_under(&own.name, domain))
        {
            (page_authority.to_string(), &**page_path, own.to_string())
        } else {
            return Err(NoRedirect::OtherHost);
        };
        if authority == return_authority && is_log_in_path(http.path_without_query(), path) {
            return Err(NoRedirect::LogInPage);
        }
        let mut location = format!("{}://{authority}{path}", self.scheme);
        if let Some(return_to) = self.return_to(&return_authority, http, locations) {
            let return_to = utf8_percent_encode(&return_to, QUERY_VALUE);
            location.push_str(&format!("?{RETURN_TO}={return_to}"));
        }
        Ok(location)
    }

    /// The log-in host with this name, as the configuration writes it.  Envoy's `strip_matching_host_port` removes the
    /// port, so a host without a port also matches if there is only one port.
    fn log_in_host(&self, own: &Authority) -> Option<&str> {
        let find = |is_it: &dyn Fn(&Authority) -> bool| {
            self.log_in_hosts.iter().find(|(authority, _)| is_it(authority)).map(|(_, written)| &**written)
        };
        find(&|authority| authority == own)
            .or_else(|| find(&|authority| own.port.is_none() && authority.name == own.name))
    }

    /// The return address, without credentials in its query; `None` if it is not an address, or too long.
    fn return_to(&self, authority: &str, http: &Http<'_>, locations: &CredentialLocations) -> Option<String> {
        let path = http.path_without_query();
        if !path.starts_with(b"/") || path.len() > MAX_RETURN_TO {
            return None;
        }
        let mut address = format!("{}://{authority}{}", self.scheme, percent_encode(path, UNPRINTABLE));
        let is_credential = |raw: &[u8]| {
            let name = query::decode(raw);
            locations.order().iter().any(|location| match location {
                CredentialLocation::Query { name: ours } => ours.as_bytes() == &*name,
                CredentialLocation::Bearer
                | CredentialLocation::Basic { .. }
                | CredentialLocation::Session { .. }
                | CredentialLocation::Header { .. }
                | CredentialLocation::Cookie { .. } => false,
            })
        };
        let kept = query::parameters(http).filter(|(raw, _)| !is_credential(raw));
        for (index, (_, parameter)) in kept.enumerate() {
            address.push(if index == 0 { '?' } else { '&' });
            address.extend(percent_encode(parameter, UNPRINTABLE));
            if address.len() > MAX_RETURN_TO {
                return None;
            }
        }
        (address.len() <= MAX_RETURN_TO).then_some(address)
    }
}

fn scheme(url: &PublicUrl) -> &'static str {
    if url.is_https() { "https" } else { "http" }
}

/// Whether the path is that of the log-in page, or one of those below, at which providers answer.
fn is_log_in_path(path: &[u8], log_in_path: &str) -> bool {
    path.strip_prefix(log_in_path.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// A host and its port, as browsers write them: in lower case, without a dot at the end and without the scheme's own
/// port.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    name: Box<str>,
    port: Option<u16>,
}

impl Authority {
    /// Reads a host and a port in the form of `Host`; `None` if it is not valid.
    fn parse(host: &[u8], scheme: &str) -> Option<Self> {
        let name = normalize_host(host)?;
        let default_port = if scheme == "https" { 443 } else { 80 };
        // The colons of an IPv6 address come before its bracket.
        let port = match host.iter().rposition(|byte| matches!(byte, b':' | b']')) {
            Some(colon) if host[colon] == b':' => &host[colon + 1..],
            Some(_) | None => b"",
        };
        let port = match std::str::from_utf8(port).ok()? {
            "" => None,
            digits => Some(digits.parse().ok()?),
        };
        Some(Self { name: name.into(), port: port.filter(|port| *port != default_port) })
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{ClientAddress, Encoding, Header, Headers};
    use crate::config::LoginHost;
    use crate::credential::CrossSite;
    use crate::policy::Policy;

    fn locations() -> Vec<CredentialLocation> {
        vec![
            CredentialLocation::Session { cookies: &["__Host-eat_app"] },
            CredentialLocation::Bearer,
            CredentialLocation::Query { name: "_auth token".into() },
            CredentialLocation::Query { name: "key".into() },
            CredentialLocation::Cookie { name: "tok".into(), cross_site: CrossSite::Deny },
        ]
    }

    fn rules(public_url: Option<&str>, log_in_hosts: &[&str]) -> AdminRules {
        AdminRules {
            allow: Policy::new("admin".into(), None),
            self_service: Policy::new("admin".into(), None),
            introspect: Policy::new("admin".into(), None),
            public_url: public_url.map(|url| url.parse().unwrap()),
            hosts: [].into(),
            certificate_names: [].into(),
            trusted_proxies: [].into(),
            org_name: "".into(),
            login_redirect: true,
            login_hosts: log_in_hosts.iter().map(|host| LoginHost::parse(host, true).unwrap()).collect(),
        }
    }

    fn domain(domain: &str) -> SessionRules {
        SessionRules { domain: Some(domain.into()), log_in_url: None }
    }

    const LOG_IN_HOSTS: &[&str] = &["app.other.example:8443", "two.example", "TWO.example:444"];

    /// Where a browser is sent that asks this host for this path.
    fn sent(
        redirect: &LogInRedirect,
        host: &[u8],
        path: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<String, NoRedirect> {
        let navigate = Header { name: b"sec-fetch-mode", value: b"navigate" };
        let headers =
            headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
        let headers = Headers::new(Encoding::Lines, headers.chain([navigate]).collect());
        let http = Http { method: b"GET", host, path, headers, client: ClientAddress::UNKNOWN };
        let locations = CredentialLocations::new(locations());
        let location = redirect.try_location(&http, &locations);
        assert_eq!(redirect.location(&http, &locations), location.clone().ok());
        location
    }

    fn redirect() -> LogInRedirect {
        let locations = CredentialLocations::new(locations());
        let rules = rules(Some("https://keys.example.com"), LOG_IN_HOSTS);
        LogInRedirect::new(Some(&rules), &domain("example.com"), &locations).unwrap()
    }

    /// A return address as the query's value.
    fn encoded(return_to: &str) -> String {
        return_to.replace('%', "%25").replace(':', "%3A").replace('/', "%2F").replace('?', "%3F")
    }

    #[test]
    fn a_browser_goes_to_the_page_of_its_host_and_comes_back_there() {
        let redirect = redirect();
        for (host, page, back) in [
            ("keys.example.com", "keys.example.com", "keys.example.com"),
            ("keys.example.com:10000", "keys.example.com", "keys.example.com:10000"),
            ("example.com", "keys.example.com", "example.com"),
            ("A.Example.Com.:443", "keys.example.com", "a.example.com"),
            ("a.b.example.com:80", "keys.example.com", "a.b.example.com:80"),
            ("a.example.com:", "keys.example.com", "a.example.com"),
            ("app.other.example:8443", "app.other.example:8443", "app.other.example:8443"),
            // As the configuration writes it; Envoy may have taken the port away.
            ("APP.other.example.:8443", "app.other.example:8443", "app.other.example:8443"),
            ("app.other.example", "app.other.example:8443", "app.other.example:8443"),
            ("two.example", "two.example", "two.example"),
            ("two.example:443", "two.example", "two.example"),
            ("two.example:444", "two.example:444", "two.example:444"),
        ] {
            let expected =
                format!("https://{page}/login?return_to={}", encoded(&format!("https://{back}/x")));
            assert_eq!(sent(&redirect, host.as_bytes(), b"/x", &[]), Ok(expected), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_not_redirected() {
        let redirect = redirect();
        for host in [
            "",
            "evil.example",
            "evilexample.com",
            "example.com.evil.example",
            "com",
            "app.other.example:8444",
            "other.example",
            "two.example:445",
            "x.two.example",
            "user@keys.example.com",
            "keys.example.com@evil.example",
            "keys.example.com,evil.example",
            "keys.example.com/",
            "keys.example.com\\.evil.example",
            "keys.example.com evil.example",
            "keys.example.com:99999",
            "keys.example.com:443:443",
            "keys.example.com:-1",
            ".example.com",
            "a..example.com",
            "%6beys.example.com",
            "keys.example.com..",
            "127.0.0.1",
            "[::1]",
            "k\u{e9}ys.example.com",
            "keys.example.com\r\n",
        ] {
            assert_eq!(sent(&redirect, host.as_bytes(), b"/", &[]), Err(NoRedirect::OtherHost), "{host:?}");
        }
        assert_eq!(sent(&redirect, b"a\xff.example.com", b"/", &[]), Err(NoRedirect::OtherHost));
    }

    #[test]
    fn the_address_to_come_back_to_has_no_credential_and_nothing_that_ends_it() {
        let redirect = redirect();
        for (path, back) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/?", "/?"),
            ("/?a=1&b=%20+&c", "/?a=1&b=%20+&c"),
            ("/?_auth+token=T", "/"),
            ("/?_auth%20token=T&a=1&%5fauth%20tok%65n&key=&KEY=k", "/?a=1&KEY=k"),
            ("/?a=1&key=T&b=2", "/?a=1&b=2"),
            ("/?akey=1&key2=2", "/?akey=1&key2=2"),
            ("/?a=key=T", "/?a=key=T"),
            ("/?a=1?key=T", "/?a=1?key=T"),
            ("//evil.example/%2f..", "//evil.example/%2f.."),
            ("/\\evil.example", "/\\evil.example"),
            ("/a#b \"<>\t?c#d", "/a%23b%20%22%3C%3E%09?c%23d"),
        ] {
            let sent = sent(&redirect, b"a.example.com", path.as_bytes(), &[]).unwrap();
            let (page, return_to) = sent.split_once("?return_to=").unwrap();
            assert_eq!(page, "https://keys.example.com/login");
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
            assert!(return_to.bytes().all(is_plain), "{return_to}");
            let decoded = percent_encoding::percent_decode_str(return_to).decode_utf8().unwrap();
            assert_eq!(decoded, format!("https://a.example.com{back}"), "{path}");
        }
        let odd = sent(&redirect, b"a.example.com", b"/\xff?\xfe", &[]).unwrap();
        assert!(odd.ends_with("%2F%25FF%3F%25FE"), "{odd}");
    }

    #[test]
    fn an_address_that_is_none_or_too_long_is_left_out() {
        let redirect = redirect();
        let page = "https://keys.example.com/login";
        let longest = MAX_RETURN_TO - "https://a.example.com".len();
        let path = |length: usize| format!("/{}", "a".repeat(length - 1)).into_bytes();
        let just = sent(&redirect, b"a.example.com", &path(longest), &[]).unwrap();
        assert!(just.starts_with(&format!("{page}?return_to=https")), "{just}");
        for path in [
            path(longest + 1),
            path(60_000),
            [&b"/?"[..], &b"a&".repeat(longest)].concat(),
            // Written as a URL writes it, it is.
            [&b"/"[..], &b"\xff".repeat(longest / 3 + 1)].concat(),
            b"".to_vec(),
            b"*".to_vec(),
            b"@evil.example/".to_vec(),
            b".evil.example/".to_vec(),
            b":80/".to_vec(),
        ] {
            assert_eq!(sent(&redirect, b"a.example.com", &path, &[]).as_deref(), Ok(page));
        }
        // What is left out does not count.
        let credential = [&b"/?a=1&key="[..], &b"T".repeat(4096)].concat();
        let sent = sent(&redirect, b"a.example.com", &credential, &[]).unwrap();
        assert!(sent.ends_with("%2F%3Fa%3D1"), "{sent}");
    }

    #[test]
    fn a_page_below_a_path_is_where_browsers_go() {
        let locations = CredentialLocations::new(locations());
        let rules = rules(Some("https://app.example.com/keys"), &["in.example.com"]);
        let redirect = LogInRedirect::new(Some(&rules), &SessionRules::default(), &locations).unwrap();
        let page = "https://app.example.com/keys/login?return_to=https%3A%2F%2Fapp.example.com%2Flogin";
        assert_eq!(sent(&redirect, b"app.example.com", b"/login", &[]).as_deref(), Ok(page));
        let itself = sent(&redirect, b"app.example.com", b"/keys/login/x/callback", &[]);
        assert_eq!(itself, Err(NoRedirect::LogInPage));
        // A log-in host answers at its root.
        let page = "https://in.example.com/login?return_to=https%3A%2F%2Fin.example.com%2Fkeys%2Flogin";
        assert_eq!(sent(&redirect, b"in.example.com", b"/keys/login", &[]).as_deref(), Ok(page));
    }

    #[test]
    fn no_browser_is_sent_to_and_fro() {
        let redirect = redirect();
        for (host, path) in [
            ("keys.example.com", "/login"),
            ("keys.example.com:443", "/login?return_to=x"),
            ("keys.example.com", "/login/corporate/callback?code=x"),
            ("app.other.example:8443", "/login"),
            ("app.other.example", "/login"),
        ] {
            let sent = sent(&redirect, host.as_bytes(), path.as_bytes(), &[]);
            assert_eq!(sent, Err(NoRedirect::LogInPage), "{host}{path}");
        }
        for (host, path) in [
            ("keys.example.com:8443", "/login"),
            ("a.example.com", "/login"),
            ("keys.example.com", "/loginx"),
            ("keys.example.com", "/a/login"),
        ] {
            assert!(sent(&redirect, host.as_bytes(), path.as_bytes(), &[]).is_ok(), "{host}{path}");
        }
    }

    #[test]
    fn what_keeps_a_session_from_being_read_keeps_from_the_log_in() {
        let negotiate: &[(&str, &str)] = &[("authorization", "Negotiate abc")];
        let cookie: &[(&str, &str)] = &[("cookie", "tok=abc")];
        let rules = rules(Some("https://keys.example.com"), &[]);
        let reordered = |order: Vec<CredentialLocation>, headers: &[(&str, &str)]| {
            let locations = CredentialLocations::new(order);
            let redirect = LogInRedirect::new(Some(&rules), &SessionRules::default(), &locations).unwrap();
            let navigate = Header { name: b"sec-fetch-mode", value: b"navigate" };
            let headers =
                headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
            let headers = Headers::new(Encoding::Lines, headers.chain([navigate]).collect());
            let http = Http {
                method: b"GET",
                host: b"keys.example.com",
                path: b"/",
                headers,
                client: ClientAddress::UNKNOWN,
            };
            redirect.try_location(&http, &locations).map(|_| ())
        };
        let mut last = locations();
        last.rotate_left(1);
        for headers in [negotiate, cookie] {
            assert_eq!(reordered(locations(), headers), Ok(()), "{headers:?}");
            assert_eq!(reordered(last.clone(), headers), Err(NoRedirect::SessionsNotReached), "{headers:?}");
        }
        assert_eq!(reordered(last.clone(), &[("cookie", "other=abc")]), Ok(()));
        // A session that has ended is in the location of sessions.
        assert_eq!(reordered(last, &[("cookie", "__Host-eat_app=abc")]), Ok(()));
    }

    #[test]
    fn which_rules_redirect() {
        let read = CredentialLocations::new(locations());
        let unread = CredentialLocations::new(vec![CredentialLocation::Bearer]);
        let page = |admin: Option<&AdminRules>, session: &SessionRules, locations| {
            let redirect = LogInRedirect::new(admin, session, locations)?;
            let (authority, path) = &redirect.page;
            Some(format!("{}://{authority}{path}", redirect.scheme))
        };
        let none = SessionRules::default();
        let elsewhere =
            SessionRules { domain: None, log_in_url: Some("https://log-in.example".parse().unwrap()) };
        let below = SessionRules {
            domain: None,
            log_in_url: Some("https://log-in.example/a/login".parse().unwrap()),
        };
        let mut admin = rules(Some("https://keys.example.com:8443"), &[]);
        let own = Some("https://keys.example.com:8443/login".to_owned());
        let others = Some("https://log-in.example/".to_owned());
        assert_eq!(page(Some(&admin), &none, &read), own);
        assert_eq!(page(Some(&admin), &elsewhere, &read), own);
        assert_eq!(page(Some(&admin), &none, &unread), None);
        assert_eq!(page(None, &none, &read), None);
        assert_eq!(page(None, &elsewhere, &read), others);
        assert_eq!(page(None, &elsewhere, &unread), None);
        assert_eq!(page(None, &below, &read).as_deref(), Some("https://log-in.example/a/login"));
        let with_path = rules(Some("https://app.example.com/keys"), &[]);
        let expected = Some("https://app.example.com/keys/login");
        assert_eq!(page(Some(&with_path), &none, &read).as_deref(), expected);
        admin.login_redirect = false;
        assert_eq!(page(Some(&admin), &none, &read), None);
        assert_eq!(page(Some(&admin), &elsewhere, &read), others);
        assert_eq!(page(Some(&rules(None, &[])), &none, &read), None);
        let loopback = rules(Some("http://localhost:9192"), &[]);
        assert_eq!(page(Some(&loopback), &none, &read).as_deref(), Some("http://localhost:9192/login"));
    }

    #[cfg(feature = "server")]
    #[test]
    fn an_address_that_a_check_makes_is_one_to_come_back_to() {
        let redirect = redirect();
        let rules = rules(Some("https://keys.example.com"), LOG_IN_HOSTS);
        let hosts = super::super::ReturnHosts::new(
            rules.public_url.as_ref(),
            &rules.login_hosts,
            &domain("example.com"),
        );
        for (host, log_in_host) in [
            ("a.example.com:10000", None),
            ("keys.example.com.", None),
            ("app.other.example", Some(&rules.login_hosts[0])),
            ("two.example", Some(&rules.login_hosts[1])),
        ] {
            for path in ["/", "/a?b=c&d=%2f%5c", "//evil.example/..", "/?\\\"<>#x", "/@evil.example:80"] {
                let sent = sent(&redirect, host.as_bytes(), path.as_bytes(), &[]).unwrap();
                let (_, return_to) = sent.split_once("?return_to=").unwrap();
                let return_to = percent_encoding::percent_decode_str(return_to).decode_utf8().unwrap();
                assert!(hosts.parse(&return_to, log_in_host).is_some(), "{return_to}");
                // The cookie of `session.domain` is for its hosts alone.
                assert_eq!(
                    hosts.receives_cookie(&return_to, log_in_host),
                    log_in_host.is_none(),
                    "{return_to}"
                );
            }
        }
    }
}
