//! The host names of the listener.
//!
//! A site can make its own name resolve to this listener's address (DNS rebinding).  The browser then takes the API for
//! the same origin as the site's page, and only `Host` shows the difference.  Hence only the listener's own names and
//! IP addresses, which cannot be rebound, are accepted.
//!
//! Log-in hosts are hosts of applications, whose scripts must reach neither the API nor the page: under them only
//! log-in and log-out are served.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::FromRequestParts;
use axum::http::header::HOST;
use axum::http::request::Parts;

use crate::config::{AdminRules, LoginHost};
use crate::policy::normalize_host;

/// The meaning of the host names of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostKind {
    /// The listener: all is answered.
    Listener,
    /// An application.
    LogIn(LoginHost),
}

/// The log-in host of the request, as an extractor; `None` where the listener's own name is asked.
pub(super) struct RequestHost(pub Option<LoginHost>);

impl<S: Sync> FromRequestParts<S> for RequestHost {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<LoginHost>().cloned()))
    }
}

/// The common meaning of every host name of the request; `None` when one is unknown, they differ, or there is none.
pub(super) fn kind_of(parts: &Parts, rules: &AdminRules) -> Option<HostKind> {
    let sent = parts.headers.get_all(HOST).iter().map(axum::http::HeaderValue::as_bytes);
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut kinds = sent.chain(authority).map(|name| kind_of_name(name, rules));
    let first = kinds.next()??;
    kinds.all(|kind| kind.as_ref() == Some(&first)).then_some(first)
}

fn kind_of_name(name: &[u8], rules: &AdminRules) -> Option<HostKind> {
    let host = normalize_host(name)?;
    // Of several entries of one host the one with the port that was sent.
    let with_port = |login_host: &&LoginHost| name.eq_ignore_ascii_case(login_host.authority().as_bytes());
    let same_host = |login_host: &&LoginHost| {
        normalize_host(login_host.authority().as_bytes()).is_some_and(|own| own == host)
    };
    let mut login_hosts = rules.login_hosts.iter();
    if let Some(login_host) = login_hosts.clone().find(with_port).or_else(|| login_hosts.find(same_host)) {
        return Some(HostKind::LogIn(login_host.clone()));
    }
    is_name_of(&host, rules).then_some(HostKind::Listener)
}

/// Whether this path is answered under log-in hosts.
pub(super) fn is_log_in_path(path: &str) -> bool {
    path == "/logout" || path == "/login" || path.starts_with("/login/")
}

/// Whether a host without port, in lower case, is one of the listener's.
fn is_name_of(name: &str, rules: &AdminRules) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    if address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) || name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let public = rules.public_url.as_ref().and_then(|url| normalize_host(url.authority().as_bytes()));
    name == "localhost"
        || public.is_some_and(|public| name == public)
        || rules.hosts.iter().any(|host| **host == *name)
        || rules.certificate_names.iter().any(|pattern| matches_pattern(name, pattern))
}

/// Whether a name of a certificate matches this host: `*` stands for one label (RFC 9525 section 6.3).
fn matches_pattern(name: &str, pattern: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::config::{Config, ProcessEnvironment, Source};

    #[test]
    fn only_the_names_of_the_listener_are_accepted() {
        let text = "keys: {store: 'sqlite:keys.db'}\n\
                    admin: {public_url: 'https://Keys.example:8443', hosts: [eat.svc, EAT.Svc.cluster.local.]}\n";
        let source = Source {
            file: std::path::Path::new("config.yaml"),
            environment: &ProcessEnvironment,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let config = Config::parse(text, &source).unwrap();
        let mut rules = config.rules.admin.unwrap();
        let inner = std::sync::Arc::get_mut(&mut rules).unwrap();
        inner.certificate_names = ["*.cert.example".into(), "cert.example".into()].into();
        let cases: &[(&str, &[&str], bool)] = &[
            ("/", &["127.0.0.1"], true),
            ("/", &["127.0.0.1:9192"], true),
            ("/", &["10.1.2.3:80"], true),
            ("/", &["[::1]:9192"], true),
            ("/", &["localhost"], true),
            ("/", &["LOCALHOST:9192"], true),
            ("/", &["localhost."], true),
            ("/", &["keys.example"], true),
            ("/", &["keys.example:8443"], true),
            ("/", &["eat.svc:9192"], true),
            ("/", &["eat.svc.cluster.local"], true),
            ("/", &["cert.example"], true),
            ("/", &["a.cert.example"], true),
            ("/", &["a.b.cert.example"], false),
            ("/", &[".cert.example"], false),
            ("/", &["evil.example"], false),
            ("/", &["evil.example:9192"], false),
            ("/", &["localhost.evil.example"], false),
            ("/", &["127.0.0.1.evil.example"], false),
            ("/", &["x.eat.svc"], false),
            ("/", &["localhost@evil.example"], false),
            ("/", &["[::1"], false),
            ("/", &["[zz]"], false),
            ("/", &[""], false),
            ("/", &[], false),
            ("/", &["localhost", "evil.example"], false),
            ("/", &["evil.example", "localhost"], false),
            ("http://evil.example/", &["localhost"], false),
            ("http://localhost/", &["evil.example"], false),
            ("http://localhost/", &["localhost"], true),
        ];
        for (uri, hosts, expected) in cases {
            let request = Request::get(*uri);
            let request = hosts.iter().fold(request, |request, host| request.header("host", *host));
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(kind_of(&parts, inner) == Some(HostKind::Listener), *expected, "{uri} {hosts:?}");
        }
    }
}
