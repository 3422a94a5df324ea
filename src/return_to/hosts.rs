//! The return address of a browser after log-in.

use url::{Host, Url};

use super::{MAX_RETURN_TO, is_under};
use crate::config::{LoginHost, PublicUrl, SessionRules};

/// The hosts that browsers are sent back to after log-in.
#[derive(Debug)]
pub struct ReturnHosts {
    scheme: &'static str,
    /// The host of the page.
    page: Option<Host>,
    log_in_hosts: Box<[(LoginHost, Host)]>,
    /// `session.domain`.
    domain: Option<Box<str>>,
}

impl ReturnHosts {
    /// The hosts of `admin.public_url`, `admin.login_hosts` and `session.domain`.
    pub fn new(public_url: Option<&PublicUrl>, login_hosts: &[LoginHost], session: &SessionRules) -> Self {
        let is_https = public_url.is_none_or(PublicUrl::is_https);
        let scheme = if is_https { "https" } else { "http" };
        let host_of = |authority: &str| {
            let url = Url::parse(&format!("{scheme}://{authority}")).ok()?;
            url.host().map(|host| host.to_owned())
        };
        let log_in_host = |host: &LoginHost| Some((host.clone(), host_of(host.authority())?));
        Self {
            scheme,
            page: public_url.and_then(|url| host_of(url.authority())),
            log_in_hosts: login_hosts.iter().filter_map(log_in_host).collect(),
            domain: session.domain.clone(),
        }
    }

    /// The rewritten return address, if it is valid: ASCII, fit for `location`.  `log_in_host` is the host where the
    /// person logs in: one of `admin.login_hosts`, or the page itself.
    ///
    /// It has the scheme of `admin.public_url` and no user info.  Its host is that of the page, that of the log-in, or
    /// `session.domain` or below, with any port.
    pub fn parse(&self, return_to: &str, log_in_host: Option<&LoginHost>) -> Option<String> {
        self.parse_url(return_to, log_in_host).map(String::from)
    }

    /// Whether the application under this return address gets the application's cookie of a log-in here.  Cookies
    /// ignore ports (RFC 6265 section 8.5).
    pub fn receives_cookie(&self, return_to: &str, log_in_host: Option<&LoginHost>) -> bool {
        let Some(url) = self.parse_url(return_to, log_in_host) else {
            return false;
        };
        let Some(log_in_host) = self.host(log_in_host) else {
            return false;
        };
        let returned = url.host().map(|host| host.to_owned());
        match &self.domain {
            // A browser takes a cookie for a domain only from a host that is in it.
            Some(_) => {
                [returned.as_ref(), Some(log_in_host)].into_iter().flatten().all(|host| self.has(host))
            }
            None => returned.as_ref() == Some(log_in_host),
        }
    }

    fn parse_url(&self, return_to: &str, log_in_host: Option<&LoginHost>) -> Option<Url> {
        // The parser of browsers ignores line ends, blanks at the ends, and missing slashes or backslashes.  Addresses
        // of applications do not contain these.
        let (scheme, rest) = return_to.split_once("://")?;
        let is_odd = |character: char| character.is_control() || character == ' ';
        let begins_oddly = rest.starts_with(['/', '\\']);
        if return_to.len() > MAX_RETURN_TO
            || !scheme.eq_ignore_ascii_case(self.scheme)
            || begins_oddly
            || return_to.contains(is_odd)
        {
            return None;
        }
        let url = Url::parse(return_to).ok()?;
        let is_plain = url.scheme() == self.scheme && url.username().is_empty() && url.password().is_none();
        let host = url.host()?.to_owned();
        let is_known =
            self.page.as_ref() == Some(&host) || self.host(log_in_host) == Some(&host) || self.has(&host);
        (is_plain && is_known && url.as_str().len() <= MAX_RETURN_TO).then_some(url)
    }

    /// The host at which a person logs in.
    fn host(&self, log_in_host: Option<&LoginHost>) -> Option<&Host> {
        match log_in_host {
            None => self.page.as_ref(),
            Some(own) => self.log_in_hosts.iter().find(|(host, _)| host == own).map(|(_, host)| host),
        }
    }

    /// Whether a host is in `session.domain`.
    fn has(&self, host: &Host) -> bool {
        match (host, &self.domain) {
            (Host::Domain(name), Some(domain)) => is_under(name, domain),
            (Host::Domain(_), None) | (Host::Ipv4(_) | Host::Ipv6(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(public_url: &str, domain: Option<&str>) -> ReturnHosts {
        let rules = SessionRules { domain: domain.map(Into::into), log_in_url: None };
        let log_in_hosts = ["app.other.example:8443", "app.other.example", "[::1]:8443"].map(log_in_host);
        ReturnHosts::new(Some(&public_url.parse().unwrap()), &log_in_hosts, &rules)
    }

    fn log_in_host(text: &str) -> LoginHost {
        LoginHost::parse(text, true).unwrap()
    }

    #[test]
    fn an_address_of_ours_is_rewritten() {
        let hosts = hosts("https://keys.example.com", Some("example.com"));
        for (return_to, written) in [
            ("https://keys.example.com", "https://keys.example.com/"),
            ("https://keys.example.com/a?b=c&d=%2F#e", "https://keys.example.com/a?b=c&d=%2F#e"),
            ("https://keys.example.com:8443/", "https://keys.example.com:8443/"),
            ("https://keys.example.com:443/", "https://keys.example.com/"),
            ("https://example.com/", "https://example.com/"),
            ("https://a.example.com/", "https://a.example.com/"),
            ("https://a.b.example.com:1/", "https://a.b.example.com:1/"),
            ("HTTPS://A.Example.COM/X", "https://a.example.com/X"),
            ("https://a.example%2Ecom/", "https://a.example.com/"),
            ("https://a.example\u{3002}com/", "https://a.example.com/"),
            ("https://\u{ff41}.example.com/", "https://a.example.com/"),
            ("https://b\u{fc}cher.example.com/", "https://xn--bcher-kva.example.com/"),
            ("https://a_b.example.com/", "https://a_b.example.com/"),
            ("https://a.example.com\\b", "https://a.example.com/b"),
            ("https://a.example.com/..//b/./\\c", "https://a.example.com//b//c"),
            ("https://a.example.com/?q=a\\b\"<>", "https://a.example.com/?q=a\\b%22%3C%3E"),
            (
                "https://a.example.com/?return_to=//evil.example",
                "https://a.example.com/?return_to=//evil.example",
            ),
            ("https://a.example.com//evil.example/", "https://a.example.com//evil.example/"),
            ("https://a.example.com/@evil.example", "https://a.example.com/@evil.example"),
            ("https://a.example.com?@evil.example", "https://a.example.com/?@evil.example"),
            ("https://a.example.com#@evil.example", "https://a.example.com/#@evil.example"),
            ("https://a.example.com/\u{fc}", "https://a.example.com/%C3%BC"),
        ] {
            assert_eq!(hosts.parse(return_to, None).as_deref(), Some(written), "{return_to}");
            // What was written again means the same to every reader.
            assert_eq!(hosts.parse(written, None).as_deref(), Some(written), "{return_to}");
        }
    }

    #[test]
    fn nothing_else_is_an_address_of_ours() {
        let hosts = hosts("https://keys.example.com", Some("example.com"));
        let long = format!("https://a.example.com/{}", "a".repeat(MAX_RETURN_TO));
        let grows = format!("https://a.example.com/{}", "\u{fc}".repeat(900));
        for return_to in [
            "",
            "/",
            "//keys.example.com/",
            "///keys.example.com/",
            "\\\\keys.example.com/",
            "/\\keys.example.com/",
            "keys.example.com",
            "https:keys.example.com",
            "https:/keys.example.com",
            "https:\\\\keys.example.com",
            "https:///keys.example.com",
            "https://\\keys.example.com",
            "https:",
            "https://",
            "https://evil.example/",
            "//evil.example/",
            "\\\\evil.example/",
            "/\\evil.example/",
            "https:evil.example",
            "https:/evil.example",
            "https:///evil.example",
            "https://evilexample.com/",
            "https://example.com.evil.example/",
            "https://keys.example.com.evil.example/",
            "https://example.com-evil.example/",
            "https://xexample.com/",
            "https://.example.com/",
            "https://a.example.com./",
            "https://keys.example.com./",
            "https://com/",
            "https://evil.example\\.example.com/",
            "https://evil.example%2F.example.com/",
            "https://evil.example%5C.example.com/",
            "https://evil.example%00.example.com/",
            "https://evil.example\u{ff0f}.example.com/",
            "https://evil.example\u{2488}example.com/",
            "https://evil.example#.example.com/",
            "https://evil.example#@keys.example.com/",
            "https://evil.example?.example.com/",
            "https://evil.example?@keys.example.com/",
            "https://keys.example.com@evil.example/",
            "https://keys.example.com:443@evil.example/",
            "https://evil.example\\@keys.example.com/",
            "https://user@keys.example.com/",
            "https://user:password@keys.example.com/",
            "https://:password@keys.example.com/",
            "https://keys.example.com:x/",
            "https://keys.example.com:99999/",
            "https://keys.example.com:443:443/",
            "http://keys.example.com/",
            "ftp://keys.example.com/",
            "wss://keys.example.com/",
            "blob:https://keys.example.com/",
            "view-source:https://keys.example.com/",
            "javascript:alert(1)",
            "javascript://keys.example.com/%0aalert(1)",
            "data:text/html,x",
            "https\t://keys.example.com/",
            "ht\ntps://keys.example.com/",
            "https://keys.example.com\t/",
            "https://keys.exa\nmple.com/",
            "https://keys.example.com/\r\nset-cookie: a=1",
            " https://keys.example.com/",
            "https://keys.example.com/ ",
            "\u{0}https://keys.example.com/",
            "https://a.example.com/\u{85}",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://2130706433/",
            "https://1.2.3.4.example.com.5/",
            "https://xn--a.example.com/",
            "https://app.other.example/",
            &long,
            &grows,
        ] {
            assert_eq!(hosts.parse(return_to, None), None, "{return_to:?}");
        }
        let just = format!("https://a.example.com/{}", "a".repeat(MAX_RETURN_TO - 22));
        assert_eq!(just.len(), MAX_RETURN_TO);
        assert!(hosts.parse(&just, None).is_some());
    }

    #[test]
    fn a_log_in_host_is_an_address_of_the_log_ins_there() {
        let hosts = hosts("https://keys.example.com", None);
        let app = log_in_host("app.other.example:8443");
        let parse = |return_to: &str, host: Option<&LoginHost>| hosts.parse(return_to, host).is_some();
        assert!(parse("https://app.other.example:8443/x", Some(&app)));
        assert!(parse("https://app.other.example/x", Some(&app)));
        assert!(parse("https://keys.example.com/", Some(&app)));
        assert!(!parse("https://app.other.example:8443/x", None));
        assert!(!parse("https://app.other.example:8443/x", Some(&log_in_host("[::1]:8443"))));
        assert!(parse("https://[0:0::1]/", Some(&log_in_host("[::1]:8443"))));
        assert!(!parse("https://app.other.example/", Some(&log_in_host("stranger.example"))));
        assert!(!parse("https://example.com/", Some(&app)));
        // Without the domain its hosts are strangers.
        assert!(!parse("https://a.example.com/", None));
    }

    #[test]
    fn on_loopback_the_scheme_is_that_of_the_page() {
        let hosts = hosts("http://127.0.0.1:9192", None);
        for (return_to, expected) in [
            ("http://127.0.0.1:10000/x", Some("http://127.0.0.1:10000/x")),
            ("http://127.1/", Some("http://127.0.0.1/")),
            ("https://127.0.0.1/", None),
            ("http://127.0.0.2/", None),
            ("http://localhost/", None),
        ] {
            assert_eq!(hosts.parse(return_to, None).as_deref(), expected, "{return_to}");
        }
        let none = ReturnHosts::new(None, &[], &SessionRules::default());
        assert_eq!(none.parse("https://keys.example.com/", None), None);
    }

    #[test]
    fn who_gets_the_cookie() {
        let alone = hosts("https://keys.example.com", None);
        let of_domain = hosts("https://keys.example.com", Some("example.com"));
        let app = log_in_host("app.other.example:8443");
        for (hosts, return_to, host, expected) in [
            (&alone, "https://keys.example.com:8443/", None, true),
            (&alone, "https://app.other.example/", Some(&app), true),
            // An address, but another host's than the cookie's.
            (&alone, "https://keys.example.com/", Some(&app), false),
            (&alone, "https://a.example.com/", None, false),
            (&of_domain, "https://a.example.com/", None, true),
            (&of_domain, "https://example.com/", None, true),
            (&of_domain, "https://keys.example.com/", None, true),
            // A browser takes no cookie for a domain from a host outside of it.
            (&of_domain, "https://app.other.example/", Some(&app), false),
            (&of_domain, "https://a.example.com/", Some(&app), false),
            (&of_domain, "https://evil.example/", None, false),
            (&of_domain, "", None, false),
        ] {
            assert_eq!(hosts.receives_cookie(return_to, host), expected, "{return_to} {host:?}");
        }
    }
}
