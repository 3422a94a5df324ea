//! The sections `ext_authz` and `probes`, and the addresses of all listeners.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::admin::AdminSection;
use super::raw::{Node, Value};
use super::reader::{Fields, Reader};
use super::schema;
use super::tls::{self, Protection, ServerTls, Transport};

/// `ext_authz`: the listener for Envoy's Checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthz {
    /// `ext_authz.listen`, by default `127.0.0.1:9191`.
    pub listen: Listen,
    /// Whether `ext_authz.tls` is there.
    pub transport: Transport,
    /// `ext_authz.max_request_bytes`: the largest request message, by default 16 MiB.
    pub max_request_bytes: usize,
    /// `ext_authz.max_connections`: how many connections may be open at a time, by default 4096.
    pub max_connections: usize,
}

/// `probes`: the listener for `/live`, `/ready` and `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probes {
    /// `probes.listen`, by default `127.0.0.1:9193`.
    pub listen: Listen,
}

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:9191`, `[::1]:9191`
    Tcp(SocketAddr),
    /// `unix:/run/app.sock`.  A relative path starts at the configuration's folder.
    Unix(PathBuf),
    /// `unix:@name`: a socket in Linux's abstract namespace.
    Abstract(String),
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Abstract(name) => write!(formatter, "unix:@{name}"),
        }
    }
}

/// A text is not the address of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an IP address with a port such as 127.0.0.1:9191, or unix:/run/app.sock, or unix:@name")]
pub struct ListenError;

impl std::str::FromStr for Listen {
    type Err = ListenError;

    /// Parses the value of a key `listen`; a relative path starts at the working directory.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        parse_listen(text, std::path::Path::new("")).ok_or(ListenError)
    }
}

const DEFAULT_EXT_AUTHZ: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9191);
const DEFAULT_PROBES: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9193);

/// A Unix socket's address holds 108 bytes, one of them the closing or the leading zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// A smaller message cannot hold the headers of a request; a larger limit is a mistake.
const REQUEST_BYTES: std::ops::RangeInclusive<u64> = KIB..=256 * MIB;
/// Envoy opens one connection for each of its workers; a process has at most as many as Linux lets it open files
/// (`fs.nr_open`).
const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=1_048_576;
const DEFAULT_CONNECTIONS: usize = 4096;

/// Reads both sections, and checks that no two listeners have the same address.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    sections: Fields<'t>,
    admin: Option<&AdminSection<'t>>,
) -> (ExtAuthz, Probes, Option<ServerTls>) {
    let ext_authz = sections.get("ext_authz").and_then(|node| {
        reader.fields(node, "a mapping such as {listen: \"127.0.0.1:9191\"}", &schema::EXT_AUTHZ)
    });
    let probes = sections.get("probes").and_then(|node| {
        reader.fields(node, "a mapping such as {listen: \"127.0.0.1:9193\"}", &schema::PROBES)
    });
    let ext_authz_node = ext_authz.and_then(|fields| fields.get("listen"));
    let probes_node = probes.and_then(|fields| fields.get("listen"));

    let tls = tls::read(reader, ext_authz.and_then(|fields| fields.get("tls")));
    let danger = "ask whether a token is valid";
    let listen = read_listen(reader, ext_authz_node, danger, tls.protection, DEFAULT_EXT_AUTHZ);
    let probes_listen =
        read_listen(reader, probes_node, "read the metrics", Protection::None, DEFAULT_PROBES);
    if let Some(node) = probes_node.or(ext_authz_node)
        && overlap(&listen, &probes_listen)
    {
        reader.error(
            &node.at,
            "`ext_authz` and `probes` listen on the same address; by default they are \
             127.0.0.1:9191 and 127.0.0.1:9193",
        );
    }
    if let Some(admin) = admin {
        let others = [("ext_authz", ext_authz_node, &listen), ("probes", probes_node, &probes_listen)];
        for (name, other_node, other) in others {
            if let Some(node) = admin.listen_node.or(other_node)
                && overlap(&admin.listen.listen, other)
            {
                reader.error(
                    &node.at,
                    format!("`admin` and `{name}` listen on the same address; by default `admin` is 127.0.0.1:9192"),
                );
            }
        }
    }
    let max_request_bytes = ext_authz.and_then(|fields| fields.get("max_request_bytes"));
    let max_request_bytes = read_size(reader, max_request_bytes);
    let max_connections = ext_authz.and_then(|fields| fields.get("max_connections"));
    let max_connections = read_connections(reader, max_connections);
    let ext_authz = ExtAuthz { listen, transport: tls.transport, max_request_bytes, max_connections };
    (ext_authz, Probes { listen: probes_listen }, tls.tls)
}

/// Reads a `listen`, and warns of an address that other machines reach and that has no other protection.
pub fn read_listen<'t>(
    reader: &mut Reader<'t>,
    node: Option<&'t Node>,
    danger: &str,
    protection: Protection,
    default: SocketAddr,
) -> Listen {
    let what = "text such as 127.0.0.1:9191, unix:/run/app.sock or unix:@name";
    if let Some(node) = node
        && let Value::Number(_) = node.value
    {
        reader.error(
            &node.at,
            format!("expected a whole address such as {default}, found a number: a port alone does not say which address"),
        );
        return Listen::Tcp(default);
    }
    let text = node.and_then(|node| Some((node, reader.text(node, what)?)));
    let Some((node, text)) = text else {
        return Listen::Tcp(default);
    };
    let Some(listen) = parse_listen(text.as_str(), reader.folder) else {
        reader.error(&node.at, address_advice(text.as_str(), default));
        return Listen::Tcp(default);
    };
    if let Listen::Unix(path) = &listen {
        reader.warn_of_folder(&node.at, path);
    }
    if protection == Protection::ClientCertificates {
        return listen;
    }
    if let Listen::Tcp(address) = &listen
        && !address.ip().to_canonical().is_loopback()
    {
        reader.warn(
            &node.at,
            format!(
                "everyone who reaches this address can {danger}; use a loopback address or a Unix socket if \
                 possible"
            ),
        );
    }
    if let Listen::Abstract(_) = &listen {
        reader.warn(
            &node.at,
            format!(
                "every process in this network namespace can {danger}: \
                 an abstract socket has no permissions; use a path if possible"
            ),
        );
    }
    listen
}

/// The message for a text that is not an address: what to write instead.
fn address_advice(text: &str, default: SocketAddr) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if text.starts_with("unix:") {
        "the path or name of a socket has 1 to 107 bytes and no zero byte".to_owned()
    } else if has_port && host.is_empty() {
        format!(
            "expected a whole address such as {default}, found a port alone, which does not say which address"
        )
    } else if has_port && host == "*" {
        format!("expected an IP address such as {default}; every address is 0.0.0.0, or [::] with IPv6")
    } else if has_port && host.eq_ignore_ascii_case("localhost") {
        format!("expected an IP address such as {default}, found a name")
    } else if text.parse::<IpAddr>().is_ok() {
        format!(
            "expected an IP address with a port such as {default}, or [::1]:{}, found no port",
            default.port()
        )
    } else if text.starts_with('/') {
        "expected an IP address with a port, or unix: before the path of a socket, found a path alone"
            .to_owned()
    } else {
        format!(
            "expected an IP address with a port such as {default}, or unix:/run/app.sock, or unix:@name, \
             found other text"
        )
    }
}

fn parse_listen(text: &str, folder: &std::path::Path) -> Option<Listen> {
    let Some(socket) = text.strip_prefix("unix:") else {
        return text.parse().ok().map(Listen::Tcp);
    };
    if let Some(name) = socket.strip_prefix('@') {
        let fits = (1..=MAX_SOCKET_PATH).contains(&name.len()) && !name.contains('\0');
        return fits.then(|| Listen::Abstract(name.to_owned()));
    }
    if socket.is_empty() || socket.contains('\0') {
        return None;
    }
    let path = folder.join(socket);
    (path.as_os_str().len() <= MAX_SOCKET_PATH).then_some(Listen::Unix(path))
}

/// Whether two listeners cannot both be bound.
fn overlap(one: &Listen, other: &Listen) -> bool {
    match (one, other) {
        // Port 0 asks for any free port.
        (Listen::Tcp(one), Listen::Tcp(other)) => {
            let same_host =
                one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() == other.port() && one.port() != 0 && same_host
        }
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        (Listen::Abstract(one), Listen::Abstract(other)) => one == other,
        (Listen::Tcp(_) | Listen::Unix(_) | Listen::Abstract(_), _) => false,
    }
}

fn read_size<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> usize {
    let default = 16 * MIB;
    let size = node.and_then(|node| {
        let size = match &node.value {
            Value::Number(number) => number.as_u64(),
            Value::Text(text) => parse_size(text.as_str()),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) | Value::Unresolved { .. } => {
                reader.expected(node, "a size such as 16MiB");
                return None;
            }
        };
        let legal = size.filter(|size| REQUEST_BYTES.contains(size));
        if legal.is_none() {
            reader.error(
                &node.at,
                "expected a size between 1KiB and 256MiB, such as 16MiB, 512KiB or 65536 (bytes)",
            );
        }
        legal
    });
    usize::try_from(size.unwrap_or(default)).unwrap_or(usize::MAX)
}

fn read_connections<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> usize {
    let Some(node) = node else {
        return DEFAULT_CONNECTIONS;
    };
    let number = match &node.value {
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        Value::Null
        | Value::Bool(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Unresolved { .. } => {
            reader.expected(node, "a whole number such as 4096");
            return DEFAULT_CONNECTIONS;
        }
    };
    number.filter(|number| CONNECTIONS.contains(number)).unwrap_or_else(|| {
        reader.error(&node.at, "expected a whole number of connections between 1 and 1048576, such as 4096");
        DEFAULT_CONNECTIONS
    })
}

/// A size in bytes: `65536`, `64KiB`, `16MiB`, `1GiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let units = [("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];
    let unit = units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    let digits = digits.trim_end();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        for (text, expected) in [
            ("127.0.0.1:9191", Some("127.0.0.1:9191")),
            ("[::1]:0", Some("[::1]:0")),
            ("unix:/run/a.sock", Some("unix:/run/a.sock")),
            ("unix:a.sock", Some("unix:/etc/app/a.sock")),
            ("unix:@name", Some("unix:@name")),
            ("localhost:9191", None),
            (":9191", None),
            ("127.0.0.1", None),
            ("unix:", None),
            ("unix:@", None),
            (&format!("unix:@{}", "x".repeat(108)), None),
            (&format!("unix:/{}", "x".repeat(107)), None),
            ("/run/a.sock", None),
        ] {
            let found = parse_listen(text, Path::new("/etc/app")).map(|listen| listen.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_said_of_a_text_that_is_no_address() {
        for (text, expected) in [
            ("9191", "a port alone"),
            (":9191", "a port alone"),
            ("*:9191", "0.0.0.0"),
            ("localhost:9191", "found a name"),
            ("LOCALHOST:1", "found a name"),
            ("127.0.0.1", "found no port"),
            ("::1", "found no port"),
            ("/run/a.sock", "unix: before"),
            ("unix:", "the path or name of a socket"),
            ("hunter2", "found other text"),
            ("127.0.0.1:http", "found other text"),
        ] {
            let advice = address_advice(text, DEFAULT_PROBES);
            assert!(advice.contains(expected) && !advice.contains("hunter2"), "{text}: {advice}");
        }
    }

    #[test]
    fn listeners_that_could_not_both_be_bound() {
        let listen = |text| parse_listen(text, Path::new("/etc/app")).unwrap();
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:a", "unix:/etc/app/a", true),
            ("unix:@a", "unix:@a", true),
            ("unix:@a", "unix:a", false),
        ] {
            assert_eq!(overlap(&listen(one), &listen(other)), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_size_is_a_number_with_a_binary_unit() {
        for (text, expected) in [
            ("65536", Some(65536)),
            ("64KiB", Some(64 * KIB)),
            ("16 MiB", Some(16 * MIB)),
            ("1GiB", Some(GIB)),
            ("16MB", None),
            ("MiB", None),
            ("-1", None),
            ("1.5MiB", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
