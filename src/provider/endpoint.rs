//! The destination of a request to a provider.

use std::fmt;

use http::Uri;
use url::{Host, Url};

use super::error::{EndpointError, ProviderError, RequestProblem};

/// A URL to which something is sent: https, or http to this machine.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint(Url);

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub(super) fn parse(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text).map_err(|_| EndpointError::NotAUrl)?;
        let is_sent_in_private = match (url.scheme(), url.host()) {
            (_, None) => return Err(EndpointError::NotAUrl),
            ("https", Some(_)) => true,
            ("http", Some(Host::Domain(name))) => name == "localhost",
            ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
            ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
            (_, Some(_)) => false,
        };
        if !is_sent_in_private {
            return Err(EndpointError::NotHttps);
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(EndpointError::Excess);
        }
        Ok(Self(url))
    }

    /// This URL with more parameters after those that it has, as forms write them.
    pub(super) fn with_query(&self, parameters: &[(&str, &str)]) -> String {
        let mut url = self.0.clone();
        url.query_pairs_mut().extend_pairs(parameters);
        url.into()
    }

    /// The error of a request to it.
    pub(super) fn error(&self, problem: RequestProblem) -> ProviderError {
        ProviderError::Request { url: self.to_string(), problem }
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The value of `Host`, with the port unless it is the default of the scheme.
    pub(super) fn authority(&self) -> &str {
        self.0.authority()
    }

    /// The target of a request line.
    pub(super) fn target(&self) -> Option<Uri> {
        let target = match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        };
        target.parse().ok()
    }
}

/// Without the query, which may hold anything.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}{}", self.0.scheme(), self.0.authority(), self.0.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_stays_private() {
        for text in [
            "https://id.example.com",
            "https://id.example.com:8443/a/b?c=d",
            "https://192.0.2.1/token",
            "http://127.0.0.1/token",
            "http://127.9.8.7:1/token",
            "http://[::1]:1234/token",
            "http://localhost:1234/token",
            "HTTP://LOCALHOST/token",
        ] {
            assert!(Endpoint::parse(text).is_ok(), "{text}");
        }
        for (text, error) in [
            ("", EndpointError::NotAUrl),
            ("/token", EndpointError::NotAUrl),
            ("id.example.com/token", EndpointError::NotAUrl),
            ("https://", EndpointError::NotAUrl),
            ("urn:a:b", EndpointError::NotAUrl),
            ("http://id.example.com/token", EndpointError::NotHttps),
            ("http://localhost.example.com/token", EndpointError::NotHttps),
            ("http://localhost./token", EndpointError::NotHttps),
            ("http://a.localhost/token", EndpointError::NotHttps),
            ("http://128.0.0.1/token", EndpointError::NotHttps),
            ("http://[::2]/token", EndpointError::NotHttps),
            ("ftp://localhost/token", EndpointError::NotHttps),
            ("https://ann@id.example.com/token", EndpointError::Excess),
            ("https://:pw@id.example.com/token", EndpointError::Excess),
            ("https://id.example.com/token#a", EndpointError::Excess),
        ] {
            assert_eq!(Endpoint::parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn its_parts_are_those_of_a_request() {
        let endpoint = Endpoint::parse("https://ID.example.com:443/a%20b?tenant=x").unwrap();
        assert_eq!((endpoint.host().as_str(), endpoint.port()), ("id.example.com", 443));
        assert_eq!(endpoint.authority(), "id.example.com");
        assert_eq!(endpoint.target().unwrap().to_string(), "/a%20b?tenant=x");
        assert_eq!(endpoint.to_string(), "https://id.example.com/a%20b");
        let six = Endpoint::parse("http://[::1]:8080").unwrap();
        assert_eq!((six.host().as_str(), six.authority(), six.port()), ("::1", "[::1]:8080", 8080));
        assert_eq!(six.target().unwrap().to_string(), "/");
        assert_eq!(
            endpoint.with_query(&[("scope", "openid email"), ("state", "a&b")]),
            "https://id.example.com/a%20b?tenant=x&scope=openid+email&state=a%26b"
        );
    }
}
