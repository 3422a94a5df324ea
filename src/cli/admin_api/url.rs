//! The URL of an admin listener.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};

use crate::config::Transport;

/// The URL of an admin listener: `https://host:port` or `http://host:port`, with a path where a proxy serves it
/// below one.
#[derive(Debug, Clone)]
pub struct AdminUrl {
    transport: Transport,
    authority: Authority,
    path: String,
}

impl AdminUrl {
    pub(super) fn is_plain(&self) -> bool {
        self.transport == Transport::Plain
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(match self.transport {
            Transport::Plain => 80,
            Transport::Tls => 443,
        })
    }

    /// The path below which the listener serves, without a slash at its end.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        let address = self.host().parse::<std::net::IpAddr>();
        address.map_or_else(|_| self.host() == "localhost", |address| address.is_loopback())
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Plain => "http",
            Transport::Tls => "https",
        };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// A text is not the URL of an admin listener.  No variant holds the text: a password may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdminUrlError {
    /// It is not an `http` or `https` URL.
    #[error("write it like http://127.0.0.1:9192")]
    Syntax,
    /// It has user info.
    #[error("the URL must not contain a user or a password: use --user and --password-file")]
    UserInfo,
    /// It has a query.
    #[error("the URL of an admin listener has no query: remove `?` and what follows")]
    Query,
}

impl FromStr for AdminUrl {
    type Err = AdminUrlError;

    fn from_str(text: &str) -> Result<Self, AdminUrlError> {
        let uri: Uri = text.parse().map_err(|_| AdminUrlError::Syntax)?;
        let transport = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => Transport::Plain,
            Some(scheme) if *scheme == Scheme::HTTPS => Transport::Tls,
            Some(_) | None => return Err(AdminUrlError::Syntax),
        };
        let authority = uri.authority().ok_or(AdminUrlError::Syntax)?.clone();
        if authority.as_str().contains('@') {
            return Err(AdminUrlError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(AdminUrlError::Query);
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { transport, authority, path })
    }
}

#[cfg(test)]
mod tests {
    use super::{AdminUrl, Transport};

    #[test]
    fn urls_are_http_or_https_and_errors_repeat_nothing() {
        use Transport::{Plain, Tls};
        for (text, transport, host, port, path) in [
            ("http://127.0.0.1:9192", Plain, "127.0.0.1", 9192, ""),
            ("http://keys.example/", Plain, "keys.example", 80, ""),
            ("http://[::1]:9192/below/", Plain, "::1", 9192, "/below"),
            ("https://keys.example", Tls, "keys.example", 443, ""),
            ("https://127.0.0.1:9192/below", Tls, "127.0.0.1", 9192, "/below"),
        ] {
            let url: AdminUrl = text.parse().expect(text);
            let found = (url.transport, url.host(), url.port(), url.path());
            assert_eq!(found, (transport, host, port, path), "{text}");
        }
        for text in
            ["", "127.0.0.1:9192", "/", "ftp://x", "http://me:hunter2@x", "http://x/?a=hunter2", "http://"]
        {
            let error = text.parse::<AdminUrl>().expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
