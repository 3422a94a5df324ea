//! The URL of a directory's server (RFC 4516, as far as it names one).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

use super::super::url::is_loopback;

/// Characters that cannot be in the host of a URL.
const NOT_OF_A_HOST: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'/').add(b'?').add(b'#');

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapServer {
    /// `ldap://host:port`, in plain text or with StartTLS.
    Plain {
        /// A name in lower case, or an address (IPv6 without brackets).
        host: Box<str>,
        /// 389 unless the URL says otherwise.
        port: u16,
    },
    /// `ldaps://host:port`.
    Tls {
        /// A name in lower case, or an address (IPv6 without brackets).
        host: Box<str>,
        /// 636 unless the URL says otherwise.
        port: u16,
    },
    /// `ldapi://%2fpath%2fto%2fsocket`: a Unix socket.
    Socket(Box<Path>),
}

/// Why a text names no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LdapServerError {
    /// The scheme is another one.
    #[error("expected ldaps://HOST, ldap://HOST or ldapi://SOCKET")]
    Scheme,
    /// It has user info.
    #[error("the URL must not contain a user or a password: use `bind_dn` and `bind_password`")]
    UserInfo,
    /// It has a search.
    #[error(
        "the URL must end after the host and the port: use `search_base` and `search_filter` for the search"
    )]
    Search,
    /// There is no host.
    #[error("expected a host name or an IP address after the scheme, IPv6 in brackets")]
    Host,
    /// The port is not valid.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// The path of the socket is not valid.
    #[error(
        "expected the socket's absolute path with its slashes as %2F, such as ldapi://%2Frun%2Fslapd%2Fldapi"
    )]
    Socket,
}

impl LdapServer {
    /// Whether no one on the network can read plain text: a socket, 127.0.0.0/8, `::1`, or exactly `localhost`.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Plain { host, .. } | Self::Tls { host, .. } => is_loopback(host),
        }
    }
}

impl FromStr for LdapServer {
    type Err = LdapServerError;

    fn from_str(text: &str) -> Result<Self, LdapServerError> {
        let (scheme, rest) = text.split_once("://").ok_or(LdapServerError::Scheme)?;
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => 389,
            "ldaps" => 636,
            "ldapi" => return socket(rest),
            _ => return Err(LdapServerError::Scheme),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(LdapServerError::UserInfo);
        }
        if authority.contains(['/', '?', '#']) {
            return Err(LdapServerError::Search);
        }
        let (host, port) = host_and_port(authority)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(LdapServerError::Port)?,
            None => default_port,
        };
        Ok(if default_port == 389 { Self::Plain { host, port } } else { Self::Tls { host, port } })
    }
}

/// The host of an authority, without brackets, and what comes after the colon.
fn host_and_port(authority: &str) -> Result<(Box<str>, Option<&str>), LdapServerError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(LdapServerError::Host)?;
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| LdapServerError::Host)?;
        let port = match port {
            "" => None,
            port => Some(port.strip_prefix(':').ok_or(LdapServerError::Host)?),
        };
        return Ok((address.to_string().into(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || port.is_some_and(|port| port.contains(':')) || !host.bytes().all(is_legal) {
        return Err(LdapServerError::Host);
    }
    Ok((host.to_ascii_lowercase().into(), port))
}

fn socket(path: &str) -> Result<LdapServer, LdapServerError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.contains(['/', '?', '#']) {
        return Err(LdapServerError::Socket);
    }
    let path = percent_decode_str(path).decode_utf8().map_err(|_| LdapServerError::Socket)?;
    if !path.starts_with('/') || path.contains('\0') {
        return Err(LdapServerError::Socket);
    }
    Ok(LdapServer::Socket(PathBuf::from(&*path).into()))
}

/// As a URL, for messages: it holds no secret.
impl fmt::Display for LdapServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Plain { host, port } => ("ldap", host, port),
            Self::Tls { host, port } => ("ldaps", host, port),
            Self::Socket(path) => {
                let encoded = percent_encode(path.as_os_str().as_encoded_bytes(), NOT_OF_A_HOST);
                return write!(formatter, "ldapi://{encoded}");
            }
        };
        if host.contains(':') {
            write!(formatter, "{scheme}://[{host}]:{port}")
        } else {
            write!(formatter, "{scheme}://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_what_names_none() {
        for (text, expected) in [
            ("ldap://localhost", Ok("ldap://localhost:389")),
            ("LDAPS://LDAP.Example.COM/", Ok("ldaps://ldap.example.com:636")),
            ("ldaps://10.0.0.1:3269", Ok("ldaps://10.0.0.1:3269")),
            ("ldap://[::1]", Ok("ldap://[::1]:389")),
            ("ldaps://[2001:DB8:0::1]:1636", Ok("ldaps://[2001:db8::1]:1636")),
            ("ldapi://%2Frun%2Fslapd%2Fldapi", Ok("ldapi://%2Frun%2Fslapd%2Fldapi")),
            ("ldapi://%2frun%2fa-b.c%25 d/", Ok("ldapi://%2Frun%2Fa-b.c%25%20d")),
            ("", Err(LdapServerError::Scheme)),
            ("ldap.example.com", Err(LdapServerError::Scheme)),
            ("https://ldap.example.com", Err(LdapServerError::Scheme)),
            ("ldaps:/ldap.example.com", Err(LdapServerError::Scheme)),
            ("ldaps://reader:hunter2@ldap.example.com", Err(LdapServerError::UserInfo)),
            ("ldaps://ldap.example.com/dc=example", Err(LdapServerError::Search)),
            ("ldaps://ldap.example.com?x", Err(LdapServerError::Search)),
            ("ldaps://", Err(LdapServerError::Host)),
            ("ldaps:///", Err(LdapServerError::Host)),
            ("ldaps://a b", Err(LdapServerError::Host)),
            ("ldaps://::1", Err(LdapServerError::Host)),
            ("ldaps://[::1", Err(LdapServerError::Host)),
            ("ldaps://[::1]x", Err(LdapServerError::Host)),
            ("ldaps://a:", Err(LdapServerError::Port)),
            ("ldaps://a:0", Err(LdapServerError::Port)),
            ("ldaps://a:65536", Err(LdapServerError::Port)),
            ("ldapi://", Err(LdapServerError::Socket)),
            ("ldapi:///run/slapd/ldapi", Err(LdapServerError::Socket)),
            ("ldapi://run%2Fslapd", Err(LdapServerError::Socket)),
            ("ldapi://%2Fa%00b", Err(LdapServerError::Socket)),
        ] {
            let found = text.parse::<LdapServer>().map(|server| server.to_string());
            assert_eq!(found, expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn what_is_local() {
        for (text, is_local) in [
            ("ldap://localhost", true),
            ("ldap://LOCALHOST", true),
            ("ldap://127.8.9.1", true),
            ("ldap://[::1]", true),
            ("ldapi://%2Frun%2Fldapi", true),
            ("ldap://localhost.example.com", false),
            ("ldap://localhost.", false),
            ("ldap://[::ffff:127.0.0.1]", false),
            ("ldap://127.0.0.1.example.com", false),
            ("ldap://128.0.0.1", false),
            ("ldap://0.0.0.0", false),
        ] {
            assert_eq!(text.parse::<LdapServer>().unwrap().is_local(), is_local, "{text}");
        }
    }
}
